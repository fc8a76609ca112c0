"""docs/how-to-interfaces.md has every key of the sinks, and examples that are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_mer.sinks import fhir, lsl, mqtt, ros2, web_address
from edge_mer.sinks.fhir_observations import ABSENT, CODES, STATUS
from edge_mer.sinks.registry import SINKS, open_sink

PAGE = (Path(__file__).resolve().parents[2] / "docs/how-to-interfaces.md").read_text(encoding="utf-8")

KEYS = {
    "MQTT": {*mqtt._KEYS, *web_address.TLS_KEYS},
    "LSL": set(lsl._KEYS),
    "ROS 2": set(ros2._KEYS),
    "FHIR": {*fhir._SERVER_KEYS, *web_address.TLS_KEYS},
}


def section(heading: str) -> str:
    return re.split(rf"^## {re.escape(heading)}$", PAGE, flags=re.MULTILINE)[1].partition("\n## ")[0]


@pytest.mark.parametrize("heading", KEYS)
def test_keys_of_uris(heading: str) -> None:
    table = section(heading).rpartition("| Key |")[2]
    rows = re.findall(r"^\| (`[^|]*) \|", table, flags=re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == KEYS[heading]


def test_examples_can_be_meant() -> None:
    found = re.findall(r"--sink '([^']+)'", PAGE)
    found += re.findall(r"^\| `([^`]+)` \|", PAGE.partition("\n## ")[0], flags=re.MULTILINE)
    assert {uri.partition(":")[0] for uri in found} >= {"mqtts", "lsl", "ros2", "fhir", "fhir+https"}
    for uri in found:
        open_sink(uri)


def test_every_sink_is_there() -> None:
    for scheme in set(SINKS) - {"jsonl", "log"}:
        assert f"{scheme}:" in PAGE


def test_what_observations_say() -> None:
    text = section("FHIR")
    assert f"`{CODES}`" in text
    assert f"`status` is always `{STATUS}`" in text
    assert all(f"`{code}`" in text for code in fhir_absent_codes())
    assert ABSENT.endswith("data-absent-reason")


def fhir_absent_codes() -> set[str]:
    from edge_mer.sinks.fhir_observations import _ABSENT_DISPLAYS

    return set(_ABSENT_DISPLAYS)


def test_numbers_are_those_of_the_code() -> None:
    assert f"{mqtt.MAX_WAITING} at most" in section("MQTT")
    assert f"gone for {mqtt.KEEPALIVE_S * 3 // 2} s" in section("MQTT")
    assert f"after {mqtt._MIN_RECONNECT_S} s at first and {mqtt._MAX_RECONNECT_S} s at most" in section(
        "MQTT"
    )
    assert f"after {fhir._MIN_RETRY_S} s at first and {fhir._MAX_RETRY_S} s at most" in section("FHIR")
    assert f"Up to {fhir.MAX_WAITING}\npredictions" in section("FHIR")
    assert (ros2._DEADLINE_HOPS, ros2._LEASE_HOPS, ros2._MIN_LEASE_S) == (2, 3, 2.0)

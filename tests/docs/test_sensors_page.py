"""docs/how-to-sensors.md has every key of the live sources, and examples that are right."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edge_mer.sources import brainflow_rows, lsl_choice, microphone
from edge_mer.sources.brainflow_rows import BrainFlowSettings
from edge_mer.sources.lsl_choice import LslSettings
from edge_mer.sources.microphone import MicrophoneSource
from edge_mer.sources.registry import open_source
from edge_mer.sources.serial_config import SerialConfig, SerialStream
from edge_mer.sources.serial_packets import CHECKSUMS

PAGE = (Path(__file__).resolve().parents[2] / "docs/how-to-sensors.md").read_text(encoding="utf-8")


PLAIN = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
"""The page without its blocks."""


def section(heading: str) -> str:
    return re.split(rf"^##+ {re.escape(heading)}$", PLAIN, flags=re.MULTILINE)[1].partition("\n## ")[0]


def keys(heading: str) -> list[str]:
    """What the first column of the first table below a heading names."""
    rows = re.search(r"(?:^\|.*\n)+", section(heading), flags=re.MULTILINE)
    assert rows is not None
    return [
        name
        for row in rows[0].splitlines()[2:]
        for name in re.findall(r"`([^`]+)`", row.split("|")[1])
        if "." not in name
    ]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_keys_of_uris() -> None:
    assert keys("A microphone") == list(microphone._KEYS)
    assert keys("A stream of the Lab Streaming Layer") == list(lsl_choice.KEYS)
    assert keys("A board that BrainFlow knows") == [*brainflow_rows.ROWS, "latency_ms"]
    for name in brainflow_rows.PARAMS:
        assert f"`{name}`" in section("A board that BrainFlow knows")
    known = {
        name.lower() for name in re.findall(r"`([^`]+)`", section("A stream of the Lab Streaming Layer"))
    }
    assert set(lsl_choice.TYPES) <= known


def test_the_description_of_a_serial_sensor() -> None:
    assert keys("What describes a sensor") == list(SerialConfig.model_fields)
    assert keys("What describes a stream") == list(SerialStream.model_fields)
    for name in CHECKSUMS:
        assert f"`{name}`" in section("What describes a sensor")
    (example,) = blocks("json")
    assert SerialConfig.of(json.loads(example), "the page").modulo == 256


URIS = re.findall(r"`((?:mic|serial|brainflow|lsl):[^`]+)`", PLAIN)
URIS += [
    uri
    for block in blocks("text")
    for uri in re.findall(
        r"^(?:.*--source ')?((?:mic|serial|brainflow|lsl):(?:[^'\n ]|'[^'\n]*'(?=&))+)", block, re.M
    )
]


@pytest.mark.parametrize("uri", URIS)
def test_examples(uri: str) -> None:
    assert open_source(uri).uri == uri


def test_all_kinds_of_examples_were_found() -> None:
    assert {uri.partition(":")[0] for uri in URIS} == {"mic", "serial", "brainflow", "lsl"}
    assert "lsl:name='Shimmer 3'&type=ECG&channel=LL-RA&unit=mV" in URIS
    assert "mic:USB%20Audio?rate=16000" in URIS


def test_what_the_examples_ask_for() -> None:
    assert MicrophoneSource("USB%20Audio?rate=16000")._name == "USB Audio"
    emotibit = next(uri for uri in blocks("text")[3].split() if "emotibit" in uri)
    assert BrainFlowSettings.parse(emotibit.removeprefix("brainflow:")).units == {"eda": "uS"}
    shimmer = blocks("text")[4].splitlines()[1].removeprefix("lsl:")
    assert LslSettings.parse(shimmer).predicate == "name='Shimmer 3' and type='ECG'"

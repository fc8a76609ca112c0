"""`edge-mer run` on every interface that needs no other machine: each shows what the file shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_mer.cli.main import main
from tests.helpers.fhir_server import FhirServer
from tests.helpers.mqtt_broker import Broker, Listener
from tests.helpers.system_packages import needs


@needs("mosquitto_passwd")
@pytest.mark.live
def test_all_interfaces_show_what_the_file_shows(
    shared_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("paho.mqtt.client", reason="needs pip install 'edge-mer[daemon]'")
    broker, server = Broker(tmp_path / "broker"), FhirServer()
    broker.start()
    server.start()
    listener = Listener(broker.port, "bed5")
    sinks = [
        f"jsonl:{tmp_path / 'out.jsonl'}",
        f"mqtt://127.0.0.1:{broker.port}/bed5?qos=1",
        f"fhir:{tmp_path / 'out.ndjson'}",
        f"fhir+http://127.0.0.1:{server.port}/r5",
    ]
    try:
        words = [word for sink in sinks for word in ("--sink", sink)]
        source = "sim:seed=4&person=2&duration_s=3&gaps=0.3"
        assert (
            main(
                [
                    "run",
                    str(shared_bundle),
                    "--source",
                    source,
                    "--missing",
                    "visual=abstain",
                    "--fast",
                    *words,
                ]
            )
            == 0
        )
        listener.until(lambda topic, text: (topic, text) == ("bed5/status", "offline"))
    finally:
        listener.close()
        broker.kill()
        server.stop()
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(records) == 11
    assert len({record["affect"] is None for record in records}) == 2
    heard = {topic: [json.loads(t) for top, t, _ in listener.heard if top == topic] for topic in NUMBERS}
    assert heard["bed5/prediction"] == records
    for topic, name in NUMBERS.items():
        if name:
            assert heard[topic] == [record["affect"] and record["affect"][name] for record in records]
    lines = (tmp_path / "out.ndjson").read_text(encoding="utf-8").splitlines()
    filed = [json.loads(line) for line in lines]
    posted = list(server.observations.values())
    for observations in (filed, posted):
        valences = [one for one in observations if one["code"]["coding"][0]["code"] == "valence"]
        assert [one.get("valueQuantity", {}).get("value") for one in valences] == [
            record["affect"] and round(record["affect"]["valence"], 6) for record in records
        ]
    assert "lacks" not in capsys.readouterr().err


NUMBERS = {"bed5/prediction": "", "bed5/valence": "valence", "bed5/arousal": "arousal"}
"""Topic -> the number on it."""

"""`edge-mer run` on every interface that needs no other machine: each shows what the file shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edge_mer
from edge_mer.cli.main import main
from edge_mer.sinks.sink_thread import SinkHealth
from tests.helpers.fhir_server import FhirServer
from tests.helpers.mqtt_broker import Broker, Listener
from tests.helpers.system_packages import needs
from tests.helpers.waiting import wait_until


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


@needs("mosquitto_passwd")
@pytest.mark.live
def test_a_session_outlives_its_broker(shared_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt.client", reason="needs pip install 'edge-mer[daemon]'")
    broker = Broker(tmp_path / "broker")
    broker.start()
    listener = Listener(broker.port, "bed5")
    uri = f"mqtt://127.0.0.1:{broker.port}/bed5"
    made: list[int] = []
    try:
        with edge_mer.open_session(
            shared_bundle,
            sources=["sim-live:seed=4"],
            sinks=[uri],
            on_prediction=lambda prediction: made.append(prediction.window_index),
        ) as session:

            def health() -> SinkHealth:
                (found,) = session.report.sinks()
                return found

            listener.until(lambda topic, _: topic == "bed5/prediction")
            broker.kill()
            wait_until(lambda: health().n_dropped > 0, "the sink lost a prediction")
            assert (health().name, health().away) == (uri, "the connection was lost")
            broker.start()
            listener.wait_subscribed()
            wait_until(lambda: health().away == "", "the sink is back")
            listener.until(lambda topic, _: topic == "bed5/prediction")
        listener.until(lambda topic, text: (topic, text) == ("bed5/status", "offline"))
    finally:
        listener.close()
        broker.kill()
    heard = [
        json.loads(text)["window_index"] for topic, text, _ in listener.heard if topic == "bed5/prediction"
    ]
    lost = sorted(set(made) - set(heard))
    assert lost == list(range(lost[0], lost[-1] + 1))
    assert len(lost) - health().n_dropped in (0, 1)  # one may have died with the broker that took it
    assert health().trouble == ""


NUMBERS = {"bed5/prediction": "", "bed5/valence": "valence", "bed5/arousal": "arousal"}
"""Topic -> the number on it."""

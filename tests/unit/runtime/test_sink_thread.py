"""How a sink is, said by the thread that it runs in."""

from __future__ import annotations

from pathlib import Path

from edge_mer.sinks.jsonl import JsonlSink
from edge_mer.sinks.mqtt import MqttSink
from edge_mer.sinks.sink_thread import SinkHealth, SinkThread, sink_health
from tests.helpers.sent import ok


def test_what_was_lost_here_and_there_is_added_up() -> None:
    sink = MqttSink("//broker.example/bed5?qos=1")
    sink.write(ok(0))
    thread = SinkThread(sink)
    thread.n_dropped = 2
    away = "nobody was called yet"
    assert thread.health() == SinkHealth(None, 3, "", "mqtt://broker.example/bed5", away)
    assert sink_health(sink) == SinkHealth(None, 1, "", "mqtt://broker.example/bed5", away)


def test_a_file_is_never_away(tmp_path: Path) -> None:
    sink = JsonlSink(str(tmp_path / "out.jsonl"))
    assert sink_health(sink, 4, "full") == SinkHealth(tmp_path / "out.jsonl", 4, "full")

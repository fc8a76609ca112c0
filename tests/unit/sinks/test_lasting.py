"""LastingSink: sinks of a service that begins before its network, on a real broker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.errors import MissingError, UsageError
from edge_mer.sinks.base import Introduced, Remote
from edge_mer.sinks.lasting import LastingSink
from edge_mer.sinks.mqtt import MqttSink
from edge_mer.types.facts import ModelFacts
from edge_mer.types.predictions import Prediction
from tests.helpers.mqtt_broker import Broker, Listener
from tests.helpers.sent import AFFECT, PAIN, ok, pain_of
from tests.helpers.system_packages import needs


class Far:
    """A sink that is missing what it needs until it is there."""

    target = None

    def __init__(self) -> None:
        self.log: list[str] = []
        self.missing: Exception | None = MissingError("no network", found="it rains")

    def introduce(self, model: ModelFacts) -> None:
        self.log.append(model.name)

    def open(self) -> None:
        self.log.append("open")
        if self.missing is not None:
            raise self.missing

    def write(self, prediction: Prediction) -> None:
        self.log.append(str(prediction.window_index))

    def close(self) -> None:
        self.log.append("close")

    def abandon(self) -> None:
        self.log.append("abandon")


def test_it_is_tried_again_less_and_less_often() -> None:
    far, clock = Far(), ManualClock()
    sink = LastingSink(far, "far:", clock)
    sink.open()
    sink.write(ok(0))
    assert (far.log, sink.n_lost, sink.away) == ([], 1, "no model is known yet")
    sink.introduce(AFFECT)
    tried_s = []
    for second in range(200):
        before = far.log.count("open")
        sink.write(ok(second))
        if far.log.count("open") > before:
            tried_s.append(second)
        clock.advance_ns(NS_PER_S)
    assert tried_s == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert (sink.away, sink.n_lost, sink.name) == ("it rains", 201, "far:")
    far.missing = None
    clock.advance_ns(60 * NS_PER_S)
    sink.write(ok(500))
    assert far.log[-2:] == ["open", "500"]
    assert (sink.away, sink.n_lost) == ("", 201)
    sink.close()
    sink.close()
    sink.abandon()
    assert far.log.count("close") == 1
    assert "abandon" not in far.log


def test_another_model_is_introduced_between_two_predictions() -> None:
    far = Far()
    far.missing = None
    sink = LastingSink(far, "far:")
    assert isinstance(sink, Remote)
    assert isinstance(sink, Introduced)
    sink.introduce(AFFECT)
    sink.write(ok(0))
    sink.write(ok(1))
    sink.introduce(PAIN)
    sink.write(pain_of(2, 0.5, 0.25, 0.25))
    sink.abandon()
    assert far.log == ["jmt-tiny", "open", "0", "1", "pain-tiny", "2", "abandon"]


def test_what_can_never_work_is_raised() -> None:
    far = Far()
    far.missing = UsageError("no such file")
    sink = LastingSink(far, "far:")
    sink.introduce(AFFECT)
    with pytest.raises(UsageError, match="no such file"):
        sink.write(ok(0))
    sink.abandon()
    assert far.log == ["jmt-tiny", "open"]


@needs("mosquitto_passwd")
@pytest.mark.live
def test_a_broker_that_starts_later_gets_what_comes_from_then_on(tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt.client", reason="needs pip install 'edge-mer[daemon]'")
    broker, clock = Broker(tmp_path / "broker"), ManualClock()
    sink = LastingSink(MqttSink(f"//127.0.0.1:{broker.port}/bed5"), "mqtt:", clock)
    sink.introduce(AFFECT)
    sink.write(ok(0))
    assert "refused" in sink.away
    broker.start()
    try:
        listener = Listener(broker.port, "bed5")
        sink.write(ok(1))  # too soon
        clock.advance_ns(NS_PER_S)
        sink.write(ok(2))
        _, text, _ = listener.until(lambda topic, _: topic == "bed5/prediction")
        assert json.loads(text)["window_index"] == 2
        assert (sink.n_lost, sink.away, sink.name) == (2, "", f"mqtt://127.0.0.1:{broker.port}/bed5")
        sink.close()
        listener.close()
    finally:
        broker.kill()

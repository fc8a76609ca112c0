"""LslSink, read by a real inlet."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edge_mer.errors import MissingError, UsageError
from edge_mer.sinks.lsl import LslSink
from edge_mer.sinks.registry import open_sink
from edge_mer.types.facts import ModelFacts
from edge_mer.types.predictions import Latency, Prediction
from tests.helpers.lsl_network import LslNetwork
from tests.helpers.sent import AFFECT, BUNDLE_ID, PAIN, STEP_NS, ok, pain_of, withheld
from tests.helpers.waiting import wait_until

NS = 1_000_000_000


@pytest.fixture
def pylsl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    LslNetwork(tmp_path_factory.mktemp("lsl"))
    return pytest.importorskip(
        "pylsl", reason="needs pip install 'edge-mer[daemon]'", exc_type=(ImportError, RuntimeError)
    )


@pytest.fixture
def opened(pylsl: Any) -> Iterator[Callable[..., LslSink]]:
    """Sinks that are closed in the end."""
    sinks: list[LslSink] = []

    def make(uri: str, model: ModelFacts = AFFECT) -> LslSink:
        sink = open_sink(uri)
        assert isinstance(sink, LslSink)
        sink.introduce(model)
        sink.open()
        sinks.append(sink)
        return sink

    yield make
    for sink in sinks:
        sink.close()


class Inlet:
    """Reads one stream."""

    def __init__(self, pylsl: Any, name: str) -> None:
        resolver = pylsl.ContinuousResolver(prop="name", value=name)
        wait_until(lambda: bool(resolver.results()), f"stream {name} is found")
        (info,) = resolver.results()
        self._inlet = pylsl.StreamInlet(info, recover=False)
        self._inlet.open_stream(timeout=10)
        self.info = self._inlet.info(timeout=10)

    def labels(self) -> list[tuple[str, str]]:
        channel = self.info.desc().child("channels").child("channel")
        found = []
        for _ in range(self.info.channel_count()):
            found.append((channel.child_value("label"), channel.child_value("unit")))
            channel = channel.next_sibling()
        return found

    def read(self, n: int) -> list[tuple[list[Any], float]]:
        found = [self._inlet.pull_sample(timeout=10) for _ in range(n)]
        assert all(stamp is not None for _, stamp in found)
        return found

    def close(self) -> None:
        self._inlet.close_stream()


def made_after(prediction: Prediction, end_to_end_ms: float) -> Prediction:
    from dataclasses import replace

    return replace(prediction, latency_ms=Latency(0.0, 0.0, 0.0, 0.0, 0.0, end_to_end_ms))


@pytest.mark.parametrize(
    ("uri", "said"),
    [("lsl:nam=x", "unknown key 'nam'.*did you mean name"), ("lsl:name=", "cannot use name=")],
)
def test_a_wrong_key_is_told(uri: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_sink(uri)


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pylsl", None)
    with pytest.raises(MissingError, match=r"pip install 'edge-mer\[daemon\]'"):
        open_sink("lsl:name=x").open()


@pytest.mark.live
def test_numbers_and_reasons_with_the_time_of_their_step(pylsl: Any, opened: Callable[..., LslSink]) -> None:
    sink = opened("lsl:name=Bed%205&source_id=bed5")
    numbers, reasons = Inlet(pylsl, "Bed 5"), Inlet(pylsl, "Bed 5 reasons")
    assert (numbers.info.type(), numbers.info.source_id(), numbers.info.nominal_srate()) == (
        "Affect",
        "bed5",
        0,
    )
    assert numbers.labels() == [
        ("valence", "-1 to 1"),
        ("arousal", "-1 to 1"),
        ("status", "0 ok, 1 degraded, 2 withheld"),
        ("person", "number"),
    ]
    described = numbers.info.desc()
    assert [described.child_value(key) for key in ("model", "bundle_id", "precision", "engine")] == [
        "jmt-tiny",
        BUNDLE_ID,
        "fp32",
        "onnxruntime-cpu",
    ]
    before_s = pylsl.local_clock()
    sink.write(made_after(ok(0, 0.25, -0.5), 40.0))
    after_s = pylsl.local_clock()
    sink.write(made_after(withheld(1, "audio_missing", "audio_stalled"), 40.0))
    sink.write(made_after(ok(2, 0.5, 0.125, status="degraded", reasons=("audio_gap",), person="p2"), 40.0))
    found = numbers.read(3)
    first, second, third = (values for values, _ in found)
    assert first[:3] == [0.25, -0.5, 0]
    assert math.isnan(first[3])
    assert second[2] == 2
    assert all(math.isnan(second[channel]) for channel in (0, 1, 3))
    assert third == [0.5, 0.125, 1, 2]
    said = reasons.read(3)
    assert [texts for texts, _ in said] == [
        ["ok"],
        ["withheld audio_missing audio_stalled"],
        ["degraded audio_gap"],
    ]
    assert [stamp for _, stamp in said] == [stamp for _, stamp in found]
    assert before_s - 0.04 <= found[0][1] <= after_s - 0.04
    for inlet in (numbers, reasons):
        inlet.close()


def test_stamps_follow_the_steps_and_not_when_they_were_handed_on(
    pylsl: Any, opened: Callable[..., LslSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = opened("lsl:name=stamps")
    stamps: list[float] = []
    monkeypatch.setattr(sink, "_numbers", _Kept(stamps))
    now_s = iter((100.0, 100.26, 101.0, 101.01, 500.0))
    monkeypatch.setattr(sink._pylsl, "local_clock", lambda: next(now_s))
    for index in (0, 1, 2, 3):
        sink.write(made_after(ok(index), 50.0))
    # the third was half a second in a queue
    assert stamps == pytest.approx([99.95, 100.2, 100.45, 100.7])
    sink.write(made_after(ok(0), 50.0))  # a session that began anew
    assert stamps[-1] == pytest.approx(499.95)
    assert STEP_NS == NS // 4


class _Kept:
    def __init__(self, stamps: list[float]) -> None:
        self._stamps = stamps

    def push_sample(self, _sample: list[float], stamp_s: float) -> None:
        self._stamps.append(stamp_s)


@pytest.mark.live
def test_another_model_brings_other_channels(pylsl: Any, opened: Callable[..., LslSink]) -> None:
    sink = opened("lsl:name=swapped")
    sink.introduce(PAIN)
    inlet = Inlet(pylsl, "swapped")
    assert [label for label, _ in inlet.labels()] == [
        "pain.expected",
        "pain.level_probs.none",
        "pain.level_probs.some",
        "pain.level_probs.much",
        "status",
        "person",
    ]
    sink.write(pain_of(0, 0.5, 0.25, 0.25))
    ((values, _),) = inlet.read(1)
    assert values[:5] == [0.75, 0.5, 0.25, 0.25, 0]
    inlet.close()

"""Sessions of skin conductance alone, without noise, sampled at any rate from one and the same curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.runtime.pipeline import Pipeline, PipelineSetup
from edge_mer.runtime.session import merged
from edge_mer.sources.registry import open_source
from edge_mer.sync.windower import lateness_ns
from edge_mer.types.model import ModelSpec, Signal, TensorSpec
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk, StreamSpec
from tests.helpers.tiny_model import audio_encoder, tiny_model, visual_encoder

RATE_HZ, SPAN_S = 64, 2
Play = Callable[[PipelineSetup, StreamSpec, Sequence[Chunk]], list[Prediction]]

START_NS = 5_000 * NS_PER_S
LATE_NS = 5_000_000


def skin_model(stream_hz: tuple[float, float] | None = None) -> ModelSpec:
    """The tiny model with skin in the voice's place: two seconds of it, of which all must be there."""
    eda = audio_encoder(
        stage="eda",
        modality="eda",
        preprocess=Signal(rate_hz=RATE_HZ, unit="uS", mean=4.0, std=2.0, stream_hz=stream_hz),
        input=TensorSpec(
            name="piece", axes=("batch", "channel", "sample"), shape=("batch", 1, SPAN_S * RATE_HZ)
        ),
        span=Fraction(SPAN_S),
        min_coverage=1.0,
        missing="mask",
    )
    return tiny_model(encoders=(visual_encoder(missing="mask"), eda))


def taking(model: ModelSpec, slowest_hz: float, fastest_hz: float) -> ModelSpec:
    """The same model, of which each biosignal may come at a rate in this range."""
    encoders = []
    for encoder in model.encoders:
        spec = encoder.preprocess
        if isinstance(spec, Signal):
            spec = Signal(**{**spec.model_dump(), "stream_hz": (slowest_hz, fastest_hz)})
        encoders.append(encoder.model_copy(update={"preprocess": spec}))
    return ModelSpec.model_validate(model.model_copy(update={"encoders": tuple(encoders)}).model_dump())


def skin(rate_hz: float, duration_s: float) -> tuple[StreamSpec, list[Chunk]]:
    """Skin conductance of a person in pain."""
    source = open_source(
        f"sim:seed=4&person=8&duration_s={duration_s}&streams=eda&eda_hz={rate_hz}&pain=1&noise=0"
    )
    source.ensure_ready()
    source.start()
    try:
        return source.specs[0], list(merged([source]))
    finally:
        source.ensure_stopped()


def recorded(setup: PipelineSetup, spec: StreamSpec, chunks: Sequence[Chunk]) -> list[Prediction]:
    """What a recording gives."""
    pipeline = Pipeline(setup, [spec], ManualClock())
    predictions = [prediction for chunk in chunks for prediction in pipeline.push(chunk)]
    return [*predictions, *pipeline.finish()]


def live(setup: PipelineSetup, spec: StreamSpec, chunks: Sequence[Chunk]) -> list[Prediction]:
    """What a device gives whose driver stamps each chunk, which comes a little after its last sample."""
    clock, given = ManualClock(START_NS), []
    pipeline = Pipeline(setup, [spec], clock, start_ns=START_NS, lateness_ns=lateness_ns(setup.model))
    assert spec.rate_hz is not None
    for chunk in chunks:
        comes_ns = chunk.t_ns + int(chunk.n_samples * NS_PER_S / spec.rate_hz) + LATE_NS
        clock.advance_ns(START_NS + comes_ns - clock.now_ns())
        given += pipeline.advance(comes_ns)
        given += pipeline.push(replace(chunk, arrived_ns=START_NS + comes_ns))
    return [*given, *pipeline.finish()]


def arousal(predictions: Sequence[Prediction]) -> NDArray[np.float64]:
    """(prediction,); of those that were withheld NaN."""
    return np.array([one.affect.arousal if one.affect else np.nan for one in predictions], np.float64)


def levels(predictions: Sequence[Prediction]) -> NDArray[np.float64]:
    """(prediction, level): probabilities of pain; of those that were withheld NaN."""
    n = max(len(one.pain.level_probs) for one in predictions if one.pain)
    rows = [list(one.pain.level_probs.values()) if one.pain else [np.nan] * n for one in predictions]
    return np.array(rows, np.float64)

"""Batches: whether an engine gives each row what it gives it alone, and whether they save time.

An engine may be right at one batch size and wrong at the next, silently: a kernel is chosen by the shape. So
each size that will be used is proven, and there are few of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.bundle.manifest import Golden
from edge_mer.clock import Clock
from edge_mer.engine.base import Array, Engine
from edge_mer.engine.sharing import OFFLINE_BATCH, batch_sizes, takes_batches
from edge_mer.engine.threads import available_threads
from edge_mer.runtime.pipeline import PipelineSetup, StepTrace
from edge_mer.types.model import Encoder, ModelSpec, Words

MIN_BATCH_GAIN = 0.1
"""Part of the time per step that a batch must save: each step in it waits for all of it."""

_TIMED_NS = 100_000_000
_MIN_RUNS = 3

Floats = NDArray[np.floating[Any]]
Feed = dict[str, Array]


@dataclass(frozen=True)
class BatchError:
    """How far an engine is off in a batch, in standard deviations of what it gives.

    Attributes:
        stage: Which.
        size: Of the batch.
        largest: The largest difference of a value; infinite where the engine failed.
        rms: The root mean square of the row that is off most.
    """

    stage: str
    size: int
    largest: float
    rms: float


@dataclass(frozen=True)
class BatchTimes:
    """What batches save of a stage's time.

    Attributes:
        ms_per_row: Size -> time per row in milliseconds, with all that this device has; of 1, where rows run
            alone, as many at once as it has processors, if the engine can do that.
        best: The size that takes least, if it saves `MIN_BATCH_GAIN`; else 1.
    """

    ms_per_row: Mapping[int, float]
    best: int

    def as_json(self) -> dict[str, Any]:
        """For a build record."""
        return asdict(self)


# -- numbers ---------------------------------------------------------------------------------------


def batch_errors(
    setup: PipelineSetup, golden: Golden, traces: Sequence[Sequence[StepTrace]], max_batch: int
) -> Iterator[BatchError]:
    """Run steps of golden sessions in batches, and hold each row against the same engine's batch of one.

    Encoders at every size up to `max_batch`, and up to `OFFLINE_BATCH`, to which work that is not live is
    cut; the fusion, which runs window by window there, up to `max_batch`. Utterances never share a batch.

    Args:
        setup: The engines.
        golden: Holds the deviation of every output and feature.
        traces: What the engines made of the golden sessions, step by step.
        max_batch: Of what sessions share.
    """
    model = setup.model
    steps = [trace for session in traces for trace in session]
    for encoder in model.encoders:
        rows = encoded(encoder, steps)
        if rows and not isinstance(encoder.preprocess, Words):
            deviation = {encoder.output.name: golden.deviation[f"feature.{encoder.stage}"]}
            most = max(max_batch, OFFLINE_BATCH)
            yield from _errors(setup.engines[encoder.stage], rows, deviation, most)
    fusion = setup.engines[model.fusion.stage]
    windows = [(feed, fusion.run(feed)) for feed in windows_of(model, steps)] if max_batch > 1 else []
    outputs = zip(model.outputs, model.fusion.outputs, strict=True)
    if windows:
        deviation = {spec.name: golden.deviation[output.name] for output, spec in outputs}
        yield from _errors(fusion, windows, deviation, max_batch)


def encoded(encoder: Encoder, steps: Sequence[StepTrace]) -> list[tuple[Feed, Feed]]:
    """Step tensors, and what was made of each as it was played, which is one by one."""
    there = [trace for trace in steps if encoder.stage in trace.inputs]
    return [
        (
            {encoder.input.name: t.inputs[encoder.stage]},
            {encoder.output.name: t.features[encoder.stage][:, -1]},
        )
        for t in there
    ]


def windows_of(model: ModelSpec, steps: Sequence[StepTrace]) -> Iterator[Feed]:
    """Whole windows as the fusion gets them."""
    for trace in steps:
        windows = list(trace.features.values())
        if any(one.shape[1] != model.fusion.n_steps for one in windows):
            continue
        feed: Feed = {spec.name: one for spec, one in zip(model.fusion.inputs, windows, strict=False)}
        if model.fusion.has_present_input:
            feed[model.fusion.inputs[-1].name] = trace.present[np.newaxis]
        yield feed


def _errors(
    engine: Engine, rows: Sequence[tuple[Feed, Feed]], deviation: Mapping[str, float], most: int
) -> Iterator[BatchError]:
    """Of each size but 1; the rows of one batch are far apart, each batch has others."""
    if not takes_batches(engine):
        return
    far_apart = np.random.default_rng(0).permutation(len(rows))
    for size in batch_sizes(most)[1:]:
        chosen = [rows[i] for i in np.resize(np.roll(far_apart, -size), size).tolist()]
        expected = _joined([made for _, made in chosen])
        try:
            found = engine.run(_joined([given for given, _ in chosen]))
        except Exception:  # whatever it raises: it cannot run such a batch
            yield BatchError(engine.stage, size, np.inf, np.inf)
            continue
        off = [off_by(found[name], expected[name], deviation[name]) for name in expected]
        yield BatchError(engine.stage, size, max(one[0] for one in off), max(one[1] for one in off))


def _joined(feeds: Sequence[Feed]) -> Feed:
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def off_by(found: Floats, expected: Floats, deviation: float) -> tuple[float, float]:
    """Largest difference, and the root mean square of the worst row, in deviations; NaN is infinitely off."""
    if found.shape != expected.shape:
        return np.inf, np.inf
    difference = (found.astype(np.float64) - expected).reshape(len(found), -1) / max(deviation, 1e-12)
    if not np.isfinite(difference).all():
        return np.inf, np.inf
    return float(np.abs(difference).max()), float(np.sqrt((difference**2).mean(axis=1)).max())


# -- time ------------------------------------------------------------------------------------------


def batch_times(setup: PipelineSetup, max_batch: int, clock: Clock) -> dict[str, BatchTimes]:
    """Stage -> what batches save of its time; without stages that never share one.

    Args:
        setup: The engines, whose buffers hold what they usually get.
        max_batch: Of the largest batch.
        clock: What times are taken from.
    """
    words = {e.stage for e in setup.model.encoders if isinstance(e.preprocess, Words)}
    return {
        stage: _times(engine, max_batch, clock)
        for stage, engine in setup.engines.items()
        if stage not in words and takes_batches(engine)
    }


def _times(engine: Engine, max_batch: int, clock: Clock) -> BatchTimes:
    ms_per_row = {1: _alone_ms(engine, clock)}
    for size in batch_sizes(max_batch)[1:]:
        feed = {name: np.repeat(array, size, axis=0) for name, array in engine.inputs.items()}
        ms_per_row[size] = _ms(partial(engine.run, feed), clock) / size
    best = min(ms_per_row, key=ms_per_row.__getitem__)
    return BatchTimes(ms_per_row, best if ms_per_row[best] <= (1 - MIN_BATCH_GAIN) * ms_per_row[1] else 1)


def _alone_ms(engine: Engine, clock: Clock) -> float:
    """Of rows that run alone, each on a thread of its own, where the engine may do several at once."""
    n = available_threads() if engine.exclusive is None else 1
    with ThreadPoolExecutor(n) as threads:
        return _ms(lambda: list(threads.map(engine.run, [engine.inputs] * n)), clock) / n


def _ms(work: Callable[[], object], clock: Clock) -> float:
    """Median time in milliseconds, warmed up once."""
    work()
    times_ns: list[int] = []
    while len(times_ns) < _MIN_RUNS or sum(times_ns) < _TIMED_NS:
        began_ns = clock.now_ns()
        work()
        times_ns.append(clock.now_ns() - began_ns)
    return float(np.median(times_ns)) / 1e6

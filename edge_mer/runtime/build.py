"""Finds the candidate of a bundle that is the fastest on this device and still the model."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnxruntime

import edge_mer
from edge_mer.bundle.manifest import Manifest
from edge_mer.bundle.read import Bundle
from edge_mer.clock import Clock
from edge_mer.engine.cache import cache_key, load, processor, store
from edge_mer.engine.onnxruntime import GraphLevel, OrtOptions, available_threads
from edge_mer.errors import ParityError
from edge_mer.runtime.golden import Arrays
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.proof import golden_sessions, prove
from edge_mer.runtime.setup import cpu_precisions, open_setup
from edge_mer.types.model import Words

TARGETS = ("cpu",)
MIN_GAIN = 0.1
"""Part of FP32's time that fewer bits must save: less is no reason to change any number."""

_WARM_UP_RUNS = 3
_TIMED_NS = 300_000_000
_MIN_RUNS, _MAX_RUNS = 10, 200


@dataclass(frozen=True)
class Choice:
    """How this device runs a bundle."""

    precision: str
    options: OrtOptions


@dataclass(frozen=True)
class Trial:
    """One candidate as it did here.

    Attributes:
        choice: Precision, threads, graph level.
        hop_ms: What one prediction costs: the fusion, and the encoders for the steps of a hop.
        error: Largest error of an output against PyTorch, in its standard deviations; None while
            it was only timed.
        refused: Why it may not serve.
    """

    choice: Choice
    hop_ms: float
    error: float | None = None
    refused: str | None = None


def engine_key(bundle: Bundle, target: str) -> str:
    """The cache key of `bundle` on this device."""
    return cache_key(
        {
            "bundle": bundle.manifest.bundle_id,
            "target": target,
            "onnxruntime": onnxruntime.__version__,
            "edge_mer": edge_mer.__version__,
            "processor": processor(),
            "threads": available_threads(),
        }
    )


def cached_choice(bundle: Bundle, target: str = "cpu") -> Choice | None:
    """What `build` chose here for this very bundle, if it ran."""
    record = load(engine_key(bundle, target))
    if record is None or record.get("precision") not in bundle.manifest.candidates:
        return None
    return Choice(record["precision"], OrtOptions(threads=record["threads"], graph=record["graph"]))


def choices(bundle: Bundle) -> list[Choice]:
    """All ways to run a bundle on this processor; `int8-trt` and `fp16` are for TensorRT."""
    threads = sorted({1, available_threads()})
    graphs: tuple[GraphLevel, ...] = ("extended", "all")
    return [
        Choice(precision, OrtOptions(threads=n, graph=graph))
        for precision in cpu_precisions(bundle.manifest.candidates)
        for n in threads
        for graph in graphs
    ]


def build(bundle: Bundle, clock: Clock, target: str = "cpu") -> Iterator[Trial]:
    """Time every candidate, prove them in the order of their worth, and store the first that passes.

    Yields:
        One trial per candidate once it was timed, then one per proof.

    Raises:
        ParityError: No candidate passed.
    """
    sessions = golden_sessions(bundle.manifest, bundle.read_arrays)
    timed: list[Trial] = []
    for choice in choices(bundle):
        setup = open_setup(bundle, choice.precision, None, choice.options)
        timed.append(Trial(choice, hop_ms(setup, sessions, clock)))
        yield timed[-1]
    proven: list[Trial] = []
    for trial in by_worth(timed):
        proven.append(_prove(bundle, trial, sessions))
        yield proven[-1]
        if proven[-1].refused is None:
            store(engine_key(bundle, target), _record(proven, timed, target))
            return
    raise ParityError(
        f"bundle {bundle.path}: no candidate keeps its numbers on this device",
        found="; ".join({trial.choice.precision: str(trial.refused) for trial in proven}.values()),
        hint="run edge-mer verify for the details",
    )


def by_worth(timed: list[Trial]) -> list[Trial]:
    """From the fastest on, but after FP32 what saves less than `MIN_GAIN` of its time."""

    def worth_ms(trial: Trial) -> float:
        return trial.hop_ms if trial.choice.precision == "fp32" else trial.hop_ms / (1 - MIN_GAIN)

    return sorted(timed, key=worth_ms)


def _prove(bundle: Bundle, trial: Trial, sessions: list[Arrays]) -> Trial:
    precision = trial.choice.precision
    if refusal := unfaithful(bundle.manifest, precision):
        return replace(trial, refused=refusal)
    setup = open_setup(bundle, precision, None, trial.choice.options)
    proof = prove(setup, bundle.manifest, precision, sessions)
    error = max(one.max for one in proof.outputs.values())
    try:
        proof.demand(precision)
    except ParityError as refusal:
        return replace(trial, error=error, refused=str(refusal))
    return replace(trial, error=error)


def unfaithful(manifest: Manifest, precision: str) -> str | None:
    """Why the workbench's own measurements speak against a candidate; None if they do not."""
    candidate = manifest.candidates[precision]
    least = manifest.model.tolerances.min_fidelity
    for output, error in (candidate.fidelity or {}).items():
        if error.ccc is None or error.ccc < least:
            found = "no" if error.ccc is None else f"{error.ccc:.3f}"
            return f"{found} concordance of {output} with fp32, {least:g} is demanded"
    return None


def hop_ms(setup: PipelineSetup, sessions: list[Arrays], clock: Clock) -> float:
    """What one prediction costs in milliseconds: the fusion, and the encoders for the steps of a hop.

    Of words, one utterance per hop.
    """
    model, times_ms = setup.model, stage_times_ms(setup, sessions, clock)
    total_ms = times_ms[model.fusion.stage]
    for encoder in model.encoders:
        n_runs = 1 if isinstance(encoder.preprocess, Words) else model.fusion.hop // encoder.repeat
        total_ms += n_runs * times_ms[encoder.stage]
    return total_ms


def stage_times_ms(setup: PipelineSetup, sessions: list[Arrays], clock: Clock) -> dict[str, float]:
    """Median time of each stage's run in milliseconds, on golden data.

    Of words, of an utterance as long as the engine's buffer.
    """
    model, golden = setup.model, sessions[0]
    feeds: dict[str, Arrays] = {}
    for encoder, spec in zip(model.encoders, model.fusion.inputs, strict=False):
        stage, tensor = encoder.stage, encoder.input
        if isinstance(encoder.preprocess, Words):  # any tokens take as long as any others
            feeds[stage] = setup.engines[stage].inputs
        else:
            feeds[stage] = {tensor.name: golden[f"input.{stage}"][:1]}
        window = spec.concrete(batch=1, steps=model.fusion.n_steps)
        feeds.setdefault(model.fusion.stage, {})[spec.name] = np.resize(golden[f"feature.{stage}"], window)
    if model.fusion.has_present_input:
        spec = model.fusion.inputs[-1]
        shape = spec.concrete(batch=1, steps=model.fusion.n_steps)
        feeds[model.fusion.stage][spec.name] = np.ones(shape, np.bool_)
    return {
        stage: median_ms(partial(setup.engines[stage].run, feeds[stage]), clock) for stage in model.stages
    }


def median_ms(work: Callable[[], object], clock: Clock) -> float:
    """Median of repeated runs in milliseconds, warmed up; the slowest and fastest 5 % dropped."""
    for _ in range(_WARM_UP_RUNS):
        work()
    times_ns: list[int] = []
    while len(times_ns) < _MIN_RUNS or (sum(times_ns) < _TIMED_NS and len(times_ns) < _MAX_RUNS):
        began_ns = clock.now_ns()
        work()
        times_ns.append(clock.now_ns() - began_ns)
    times_ns.sort()
    cut = len(times_ns) // 20
    return statistics.median(times_ns[cut : len(times_ns) - cut]) / 1e6


def _record(proven: list[Trial], timed: list[Trial], target: str) -> dict[str, Any]:
    best = proven[-1]
    tried = {trial.choice: trial for trial in (*timed, *proven)}
    return {
        "target": target,
        **_describe(best),
        "onnxruntime": onnxruntime.__version__,
        "processor": processor(),
        "trials": [_describe(trial) for trial in tried.values()],
    }


def _describe(trial: Trial) -> dict[str, Any]:
    return {
        "precision": trial.choice.precision,
        "threads": trial.choice.options.threads,
        "graph": trial.choice.options.graph,
        "hop_ms": trial.hop_ms,
        "error": trial.error,
        "refused": trial.refused,
    }

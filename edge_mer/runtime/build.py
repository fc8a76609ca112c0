"""Finds the candidate of a bundle that is the fastest on this device and still the model."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import edge_mer
from edge_mer.bundle.manifest import Manifest, candidate_of, kind_of
from edge_mer.bundle.read import Bundle
from edge_mer.clock import Clock
from edge_mer.engine.cache import cache_key, read_file, records, store
from edge_mer.errors import EdgeMerError, MissingError, ParityError
from edge_mer.runtime.batches import BatchTimes, batch_times
from edge_mer.runtime.golden import Arrays
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.proof import golden_sessions, prove
from edge_mer.runtime.target import Choice, Prepared, Say, Target
from edge_mer.types.model import Words

MIN_GAIN = 0.1
"""Part of the time that fewer bits must save: less is no reason to change any number."""

_BITS_RANK = {"fp32": 0, "fp16": 1, "bf16": 1, "int8-cpu": 2, "int8-trt": 2}
"""How often that must be saved: 8 bits must beat 16, and those must beat 32."""

_WARM_UP_RUNS = 3
_TIMED_NS = 100_000_000
_MIN_RUNS, _MAX_RUNS = 10, 200


@dataclass(frozen=True)
class Trial:
    """One candidate as it did here.

    Attributes:
        choice: Precision, and how it runs.
        hop_ms: What one prediction costs: the fusion, and the encoders for the steps of a hop; None where it
            could not be built.
        stage_ms: Of that, what each stage costs.
        error: Largest error of an output against PyTorch, in its standard deviations; None while
            it was only timed.
        refused: Why it may not serve.
        batches: Stage -> what batches save of its time; empty where sessions were not to share engines.
    """

    choice: Choice
    hop_ms: float | None
    error: float | None = None
    refused: str | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict, compare=False)
    prepared: Prepared = field(default_factory=Prepared, repr=False, compare=False)
    batches: Mapping[str, BatchTimes] = field(default_factory=dict, compare=False)


def engine_key(bundle: Bundle, target: Target, environment: dict[str, Any]) -> str:
    """The cache key of `bundle` on this device, with a user's settings."""
    parts = {**_identity(bundle, target), "environment": environment, "settings": target.settings()}
    return cache_key(parts)


def _identity(bundle: Bundle, target: Target) -> dict[str, str]:
    return {
        "bundle": bundle.manifest.bundle_id,
        "target": target.name,
        "edge_mer": edge_mer.__version__,
    }


def fitting_build(bundle: Bundle, target: Target) -> dict[str, Any] | None:
    """The newest record of this bundle that was built for what is here; None if there is none.

    Raises:
        MissingError: An engine that only runs where it was built was built for something else, or what it
            runs on is not here any more.
    """
    wanted = _identity(bundle, target).items()
    made = [
        one
        for one in records()
        if wanted <= one.items() and candidate_of(one["precision"]) in bundle.precisions
    ]
    if not made:
        return None
    here = target.environment()
    fitting = [one for one in made if one["environment"] == here]
    if fitting:
        return fitting[-1]
    if target.is_bound_to_device:
        raise MissingError(
            f"the engine of bundle {bundle.name} does not fit this device",
            found=mismatch(made[-1]["environment"], here),
            hint=f"run edge-mer build-engine --target {target.name}",
        )
    return None


def mismatch(built: dict[str, Any], here: dict[str, Any]) -> str:
    """In words, what an engine was built for and what is here."""
    changed = [key for key in here if built.get(key) != here[key]]

    def named(facts: dict[str, Any]) -> str:
        if "tensorrt" in facts and set(changed) & {"tensorrt", "compute_capability"}:
            return f"TensorRT {facts['tensorrt']} on SM {facts.get('compute_capability')}"
        return ", ".join(f"{key.replace('_', ' ')} {facts.get(key)}" for key in changed)

    return f"built for {named(built)}, here {named(here).removeprefix('TensorRT ')}"


def open_built(bundle: Bundle, target: Target, record: dict[str, Any]) -> PipelineSetup:
    """The engines of a build, from files that are found to be what this host wrote.

    Raises:
        BundleError: A file was altered.
        MissingError: The target is not here, or does not take what was built.
    """
    files = {name: read_file(record, name) for name in record["files"]}
    return target.open(bundle, target.choice_of(record), files)


def build(bundle: Bundle, clock: Clock, target: Target, say: Say | None = None) -> Iterator[Trial]:
    """Time every candidate, prove them in the order of their worth, and store the first that passes.

    Yields:
        One trial per candidate once it was timed, then one per proof.

    Raises:
        ParityError: No candidate passed.
        MissingError: The target is not here.
    """
    environment = target.environment()
    sessions = golden_sessions(bundle.manifest, bundle.read_arrays)
    timed: list[Trial] = []
    for choice in target.choices(bundle):
        timed.append(_timed(bundle, choice, sessions, clock, target, say or _quiet))
        yield timed[-1]
    for choice in target.mixed([(one.choice, one.stage_ms) for one in timed if one.hop_ms is not None]):
        timed.append(_timed(bundle, choice, sessions, clock, target, say or _quiet))
        yield timed[-1]
    proven: list[Trial] = []
    for trial in by_worth(timed):
        proven.append(_prove(bundle, trial, sessions, target, clock))
        yield proven[-1]
        if proven[-1].refused is None:
            record = _record(bundle, proven, timed, target, environment)
            store(engine_key(bundle, target, environment), record, trial.prepared.files)
            return
    raise _none_passed(bundle, [*timed, *proven])


def _quiet(what: str, done: int, of: int) -> None:
    """Nobody wants to know."""


def _timed(
    bundle: Bundle, choice: Choice, sessions: list[Arrays], clock: Clock, target: Target, say: Say
) -> Trial:
    try:
        prepared = target.prepare(bundle, choice, say)
        setup = target.open(bundle, choice, prepared.files)
    except EdgeMerError as refusal:
        return Trial(choice, None, refused=str(refusal))
    try:
        stage_ms = hop_stages_ms(setup, sessions, clock)
        return Trial(choice, sum(stage_ms.values()), stage_ms=stage_ms, prepared=prepared)
    finally:
        setup.close()


def by_worth(timed: list[Trial]) -> list[Trial]:
    """From the fastest on; what has fewer bits must save `MIN_GAIN` of the time for each step down."""
    able = [(trial, trial.hop_ms) for trial in timed if trial.hop_ms is not None]

    def worth_ms(one: tuple[Trial, float]) -> float:
        trial, took_ms = one
        return took_ms / (1 - MIN_GAIN) ** _BITS_RANK[kind_of(trial.choice.precision)]

    return [trial for trial, _ in sorted(able, key=worth_ms)]


def _prove(bundle: Bundle, trial: Trial, sessions: list[Arrays], target: Target, clock: Clock) -> Trial:
    precision = trial.choice.precision
    if refusal := unfaithful(bundle.manifest, precision):
        return replace(trial, refused=refusal)
    setup = target.open(bundle, trial.choice, trial.prepared.files)
    try:
        proof = prove(setup, bundle.manifest, precision, sessions, target.max_batch)
        trial = replace(trial, error=max(one.max for one in proof.outputs.values()))
        proof.demand(precision)
        batches = batch_times(setup, target.max_batch, clock) if target.max_batch > 1 else {}
    except ParityError as refusal:
        return replace(trial, refused=str(refusal))
    finally:
        setup.close()
    return replace(trial, batches=batches)


def _none_passed(bundle: Bundle, trials: list[Trial]) -> ParityError:
    refused = {trial.choice.precision: trial.refused for trial in trials if trial.refused is not None}
    return ParityError(
        f"bundle {bundle.path}: no candidate can serve on this device",
        found="; ".join(f"{precision}: {why}" for precision, why in refused.items()),
        hint="run edge-mer verify for the numbers, and edge-mer doctor for the device",
    )


def unfaithful(manifest: Manifest, precision: str) -> str | None:
    """Why the workbench's own measurements speak against a candidate; None if they do not."""
    candidate = manifest.candidates[candidate_of(precision)]
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
    return sum(hop_stages_ms(setup, sessions, clock).values())


def hop_stages_ms(setup: PipelineSetup, sessions: list[Arrays], clock: Clock) -> dict[str, float]:
    """What each stage costs of one prediction in milliseconds."""
    model, times_ms = setup.model, stage_times_ms(setup, sessions, clock)
    for encoder in model.encoders:
        n_runs = 1 if isinstance(encoder.preprocess, Words) else model.fusion.hop // encoder.repeat
        times_ms[encoder.stage] *= n_runs
    return times_ms


def stage_times_ms(setup: PipelineSetup, sessions: list[Arrays], clock: Clock) -> dict[str, float]:
    """Median time of each stage's run in milliseconds, on golden data.

    Of words, of an utterance as long as the engine's buffer.
    """
    model, golden = setup.model, sessions[0]
    fusion = setup.engines[model.fusion.stage]
    for encoder, spec in zip(model.encoders, model.fusion.inputs, strict=False):
        if not isinstance(encoder.preprocess, Words):  # any tokens take as long as any others
            setup.engines[encoder.stage].inputs[encoder.input.name][...] = golden[f"input.{encoder.stage}"][
                :1
            ]
        window = fusion.inputs[spec.name]
        window[...] = np.resize(golden[f"feature.{encoder.stage}"], window.shape)
    if model.fusion.has_present_input:
        fusion.inputs[model.fusion.inputs[-1].name][...] = True
    return {stage: median_ms(setup.engines[stage].infer, clock) for stage in model.stages}


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


def _record(
    bundle: Bundle, proven: list[Trial], timed: list[Trial], target: Target, environment: dict[str, Any]
) -> dict[str, Any]:
    best = proven[-1]
    tried = {trial.choice: trial for trial in (*timed, *proven)}
    return {
        **_identity(bundle, target),
        **_described(best, target),
        "environment": environment,
        "settings": target.settings(),
        "built": dict(best.prepared.facts),
        "batches": {stage: times.as_json() for stage, times in best.batches.items()},
        "trials": [_described(trial, target) for trial in tried.values()],
    }


def _described(trial: Trial, target: Target) -> dict[str, Any]:
    return {
        **target.describe(trial.choice),
        "hop_ms": trial.hop_ms,
        "error": trial.error,
        "refused": trial.refused,
    }

"""Proves that what runs here is the model: against PyTorch's numbers, and streaming against offline.

Errors are relative to each tensor's own standard deviation. Two wrong variants of the streaming
computation must fail the same comparison, else it could not see a mistake:

- *shifted ring*: the fusion sees each feature one step too late;
- *other person*: the newest feature comes from another person's session.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.bundle.manifest import Candidate, Golden, Manifest, OutputError
from edge_mer.clock import ManualClock
from edge_mer.engine.base import Engine
from edge_mer.errors import ParityError
from edge_mer.runtime.golden import Arrays, PlaybackDetector, session_chunks, session_specs
from edge_mer.runtime.pipeline import Pipeline, PipelineSetup, StepTrace
from edge_mer.types.model import ModelSpec

_HINT_CONTROL = "the outputs hardly depend on their inputs, so nothing is proven: use trained weights"

_BATCH = 4

INT8_DRIFT_FACTOR = 1.25
"""So much larger than on the workbench a quantized candidate's error may be, plus the declared drift."""

Floats = NDArray[np.floating]
Features = dict[str, Floats]  # stage -> (steps, feature)
RunFusion = Callable[[Features, NDArray[np.bool_]], dict[str, float]]
"""One window's outputs from its features, stage -> (n, feature), and its mask (modality, n)."""


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: What was compared with what.
        error: Largest error, in standard deviations of the tensor; for a count, the difference.
        tolerance: The most it may be; a control must exceed it.
        is_control: A wrong variant that has to fail.
    """

    name: str
    error: float
    tolerance: float
    is_control: bool = False

    @property
    def passed(self) -> bool:
        """Whether the comparison came out as it must; NaN never passes."""
        return self.error > self.tolerance if self.is_control else self.error <= self.tolerance


@dataclass(frozen=True)
class Proof:
    """All comparisons of one candidate, and its outputs' errors against PyTorch."""

    checks: tuple[Check, ...]
    outputs: dict[str, OutputError]

    def demand(self, what: str) -> None:
        """Raise for the first comparison that failed.

        Raises:
            ParityError: Names it, with error and tolerance.
        """
        for check in self.checks:
            if not check.passed:
                relation = "more than" if check.is_control else "at most"
                raise ParityError(
                    f"{what}: {check.name} failed",
                    expected=f"an error of {relation} {check.tolerance:.2g} standard deviations",
                    found=f"{check.error:.3g}",
                    hint=_HINT_CONTROL if check.is_control else "run edge-mer export again",
                )


def play(setup: PipelineSetup, session: Arrays) -> list[StepTrace]:
    """Stream a golden session through the runtime; one trace per step."""
    traces: list[StepTrace] = []
    playing = PipelineSetup(setup.model, setup.engines, PlaybackDetector(session), missing=setup.missing)
    pipeline = Pipeline(playing, session_specs(session), ManualClock(), on_step=traces.append)
    for chunk in session_chunks(session):
        pipeline.push(chunk)
    pipeline.finish()
    return traces


def relative_error(found: Floats, expected: Floats, deviation: float) -> float:
    """Largest difference in units of `deviation`; infinite where the shapes or the NaNs differ."""
    if found.shape != expected.shape or not np.array_equal(np.isnan(found), np.isnan(expected)):
        return float("inf")
    return float(np.nanmax(np.abs(found - expected), initial=0.0)) / max(deviation, 1e-12)


def output_error(found: Floats, expected: Floats, deviation: float) -> OutputError:
    """Errors of one output over many windows, all (n,); NaN where withheld."""
    both = np.isfinite(found) & np.isfinite(expected)
    a, b = found[both].astype(np.float64), expected[both].astype(np.float64)
    difference = (a - b) / max(deviation, 1e-12)
    rms = float(np.sqrt(np.mean(difference**2))) if a.size else 0.0
    return OutputError(max=float(np.max(np.abs(difference), initial=0.0)), rms=rms, ccc=concordance(a, b))


def concordance(a: Floats, b: Floats) -> float | None:
    """Concordance correlation (Lin 1989) of two series (n,); None where neither varies."""
    spread = float(np.var(a) + np.var(b) + (np.mean(a) - np.mean(b)) ** 2) if a.size else 0.0
    if spread == 0.0:
        return None
    return float(2.0 * np.mean((a - np.mean(a)) * (b - np.mean(b))) / spread)


def window_sizes(model: ModelSpec, n_steps: int) -> list[int]:
    """How many steps the fusion looks at, per step of a session in which nothing is missing."""
    full = model.fusion.n_steps
    if model.fusion.warm_up == "mask":
        return [full] * n_steps
    return [
        n if n == full or model.fusion.warm_up == "shorten" else 0
        for n in (min(k + 1, full) for k in range(n_steps))
    ]


def offline_outputs(model: ModelSpec, features: Features, run_fusion: RunFusion) -> dict[str, Floats]:
    """Every window of a session at once, without rings: output -> (steps,), NaN = withheld.

    Args:
        model: Its declaration.
        features: Stage -> (steps, feature), nothing missing.
        run_fusion: The window fusion.
    """
    n_steps = len(next(iter(features.values())))
    outputs: dict[str, Floats] = {str(output.name): np.full(n_steps, np.nan) for output in model.outputs}
    for step, size in enumerate(window_sizes(model, n_steps)):
        if size == 0:
            continue
        first = step + 1 - size
        window = {stage: _rows(values, first, step + 1) for stage, values in features.items()}
        present = np.array([[row >= 0 for row in range(first, step + 1)]] * len(features), np.bool_)
        for name, value in run_fusion(window, present).items():
            outputs[name][step] = value
    return outputs


def _rows(values: Floats, first: int, stop: int) -> Floats:
    """Rows [first, stop) of (steps, feature), zeros before the start."""
    padding = np.zeros((max(0, -first), values.shape[1]), values.dtype)
    return np.concatenate([padding, values[max(0, first) : stop]])


def engine_fusion(model: ModelSpec, engine: Engine) -> RunFusion:
    """The fusion of a bundle as a function of one window."""

    def run(features: Features, present: NDArray[np.bool_]) -> dict[str, float]:
        feed: dict[str, NDArray[Any]] = {
            spec.name: np.ascontiguousarray(values[np.newaxis], np.float32)
            for spec, values in zip(model.fusion.inputs, features.values(), strict=False)
        }
        if model.fusion.has_present_input:
            feed[model.fusion.inputs[-1].name] = present[np.newaxis]
        found = engine.run(feed)
        names = zip(model.outputs, model.fusion.outputs, strict=True)
        return {output.name: float(found[spec.name][0, -1]) for output, spec in names}

    return run


def prove(setup: PipelineSetup, manifest: Manifest, precision: str, sessions: list[Arrays]) -> Proof:
    """Play all golden sessions and compare.

    A quantized candidate's errors may be as large as they were on the workbench, and a declared
    drift more.

    Args:
        setup: The engines under test.
        manifest: Holds the deviation of every output and feature, and what the workbench measured.
        precision: What the engines run.
        sessions: The golden sessions' arrays.
    """
    candidate = None
    if precision != "fp32":
        candidate = next(one for name, one in manifest.candidates.items() if name == precision)
    return compare(setup, manifest.golden, sessions, candidate)


def compare(
    setup: PipelineSetup, golden: Golden, sessions: list[Arrays], candidate: Candidate | None
) -> Proof:
    """As `prove`; `candidate` None demands what FP32 must keep."""
    model = setup.model
    before = {stage: engine.n_runs for stage, engine in setup.engines.items()}
    traces = [play(setup, session) for session in sessions]
    n_steps = sum(len(one) for one in traces)
    counts = {e.stage: setup.engines[e.stage].n_runs - before[e.stage] for e in model.encoders}
    streamed = [_streamed(model, one) for one in traces]
    checks = [_check_steps(golden, sessions, traces)]
    checks += [
        Check(f"runs of encoder {stage} per step, minus 1", abs(n - n_steps), 0)
        for stage, n in counts.items()
    ]
    checks += _check_inputs(model, sessions, traces)
    if candidate is None:
        checks += _check_features(model, golden, sessions, traces)
    errors = _output_errors(golden, sessions, streamed)
    checks += [_check_output(model, candidate, name, error) for name, error in errors.items()]
    checks += _check_offline(setup, golden, traces, streamed, exact=candidate is None)
    return Proof(tuple(checks), errors)


def _check_output(model: ModelSpec, candidate: Candidate | None, name: str, error: OutputError) -> Check:
    """FP32 must keep every single value; of INT8, whose roundings differ, the mean square counts."""
    if candidate is None:
        return Check(f"output {name} against PyTorch", error.max, model.tolerances.parity)
    expected = candidate.golden[name].rms
    allowed = expected * INT8_DRIFT_FACTOR + model.tolerances.int8_drift
    return Check(
        f"output {name} against PyTorch (rms)", error.rms if np.isfinite(error.max) else np.inf, allowed
    )


def _streamed(model: ModelSpec, traces: list[StepTrace]) -> dict[str, Floats]:
    return {o.name: np.array([t.raw.get(o.name, np.nan) for t in traces]) for o in model.outputs}


def _check_steps(golden: Golden, sessions: list[Arrays], traces: list[list[StepTrace]]) -> Check:
    missing = sum(abs(golden.n_steps - len(one)) for one in traces) + sum(
        not t.is_real for one in traces for t in one
    )
    return Check("steps played, minus steps recorded", missing, 0)


def _check_inputs(model: ModelSpec, sessions: list[Arrays], traces: list[list[StepTrace]]) -> list[Check]:
    """Preprocessing here against preprocessing on the workbench."""
    checks = []
    for encoder in model.encoders:
        expected = np.concatenate([session[f"input.{encoder.stage}"] for session in sessions])
        found = [
            np.stack([t.inputs[encoder.stage][0] for t in (one[0], one[-1]) if encoder.stage in t.inputs])
            for one in traces
            if one
        ]
        joined = np.concatenate(found) if found else np.zeros(0)
        error = relative_error(joined, expected, float(expected.std()))
        checks.append(
            Check(f"step tensor {encoder.stage}.{encoder.input.name}", error, model.tolerances.parity)
        )
    return checks


def _check_features(
    model: ModelSpec, golden: Golden, sessions: list[Arrays], traces: list[list[StepTrace]]
) -> list[Check]:
    checks = []
    for encoder in model.encoders:
        name = f"feature.{encoder.stage}"
        found = [np.stack([t.features[encoder.stage][0, -1] for t in one]) for one in traces if one]
        error = max(
            (
                relative_error(f, s[name], golden.deviation[name])
                for f, s in zip(found, sessions, strict=True)
            ),
            default=float("inf"),
        )
        checks.append(Check(f"feature of {encoder.stage} against PyTorch", error, model.tolerances.parity))
    return checks


def _output_errors(
    golden: Golden, sessions: list[Arrays], streamed: list[dict[str, Floats]]
) -> dict[str, OutputError]:
    errors = {}
    for name in streamed[0]:
        found = np.concatenate([one[name] for one in streamed])
        expected = np.concatenate([session[f"output.{name}"] for session in sessions]).astype(np.float64)
        error = output_error(found, expected, golden.deviation[name])
        worst = relative_error(found, expected, golden.deviation[name])
        errors[name] = error.model_copy(update={"max": worst})
    return errors


def _check_offline(
    setup: PipelineSetup,
    golden: Golden,
    traces: list[list[StepTrace]],
    streamed: list[dict[str, Floats]],
    *,
    exact: bool,
) -> list[Check]:
    """Streaming against all steps at once, and the two controls."""
    model = setup.model
    tolerance = model.tolerances.parity if exact else model.tolerances.int8_drift
    if any(not t.is_real for one in traces for t in one):
        return [Check("streaming against offline", float("inf"), tolerance)]
    run_fusion = engine_fusion(model, setup.engines[model.fusion.stage])
    features = [_offline_features(setup, one) for one in traces]
    shifted = [{stage: np.roll(values, 1, axis=0) for stage, values in one.items()} for one in features]
    swapped = [_last_from(features[i], features[i - 1]) for i in range(len(features))]
    full = model.fusion.n_steps

    def worst(variant: list[Features], *, last_only: bool = False) -> float:
        error = 0.0
        for one, expected in zip(variant, streamed, strict=True):
            for name, values in offline_outputs(model, one, run_fusion).items():
                part = (
                    slice(-1, None)
                    if last_only
                    else slice(full - 1, None)
                    if variant is shifted
                    else slice(None)
                )
                error = max(error, relative_error(values[part], expected[name][part], golden.deviation[name]))
        return error

    return [
        Check("streaming against offline", worst(features), tolerance),
        Check("control: ring shifted by one step", worst(shifted), tolerance, is_control=True),
        Check(
            "control: last step of another person", worst(swapped, last_only=True), tolerance, is_control=True
        ),
    ]


def _offline_features(setup: PipelineSetup, traces: list[StepTrace]) -> Features:
    """All steps of a session through each encoder, several at a time."""
    features: Features = {}
    for encoder in setup.model.encoders:
        engine, name = setup.engines[encoder.stage], encoder.input.name
        steps = np.concatenate([trace.inputs[encoder.stage] for trace in traces])
        parts = [engine.run({name: steps[i : i + _BATCH]}) for i in range(0, len(steps), _BATCH)]
        features[encoder.stage] = np.concatenate([part[encoder.output.name] for part in parts])
    return features


def _last_from(own: Features, other: Features) -> Features:
    return {stage: np.concatenate([values[:-1], other[stage][-1:]]) for stage, values in own.items()}


def golden_errors(setup: PipelineSetup, golden: Golden, sessions: list[Arrays]) -> dict[str, OutputError]:
    """Errors of every output against PyTorch on the golden sessions."""
    return _output_errors(golden, sessions, [_streamed(setup.model, play(setup, one)) for one in sessions])


def golden_sessions(golden: Golden, read: Callable[[str], Arrays]) -> list[Arrays]:
    """The arrays of every golden session."""
    return [read(name) for name in golden.sessions]

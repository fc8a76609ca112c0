"""Proves that what runs here is the model: against PyTorch's numbers, and streaming against offline.

Errors are relative to each tensor's own standard deviation from step to step. Two wrong variants of the
streaming computation must fail the same comparison, else it could not see a mistake:

- *shifted ring*: the fusion sees each feature one step too late;
- *other person*: the newest feature comes from another person's session.

Batches are held against the same engine's batch of one, at every size that will be used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edge_mer.bundle.manifest import Golden, Manifest, OutputError
from edge_mer.clock import ManualClock
from edge_mer.errors import BundleError, ParityError
from edge_mer.postprocess.decode import expected as expected_value
from edge_mer.preprocess.words import WordTokenizer
from edge_mer.runtime.batches import batch_errors
from edge_mer.runtime.golden import Arrays, PlaybackDetector, session_chunks, session_specs
from edge_mer.runtime.offline import (
    Features,
    Floats,
    blank_features,
    encode,
    engine_fusion,
    offline_outputs,
    presence,
    window_sizes,
)
from edge_mer.runtime.pipeline import Pipeline, PipelineSetup, StepTrace
from edge_mer.types.model import Encoder, MissingPolicy, ModelSpec, Output, Words
from edge_mer.types.signals import Modality

_HINT = "run edge-mer export again"
_HINT_BATCH = (
    "run it in another engine or version; smaller batches: edge-mer build-engine with a smaller --max-batch"
)
_HINT_CONTROL = "the outputs hardly depend on their inputs, so nothing is proven: use trained weights"

INT8_DRIFT_FACTOR = 1.25
"""So much larger than on the workbench a quantized candidate's error may be, plus the declared drift."""


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: What was compared with what.
        error: Largest error, in standard deviations of the tensor; for a count, the difference.
        tolerance: The most it may be; a control must exceed it.
        is_control: A wrong variant that has to fail.
        hint: What to do where it does not come out so.
    """

    name: str
    error: float
    tolerance: float
    is_control: bool = False
    hint: str = _HINT

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
                    hint=_HINT_CONTROL if check.is_control else check.hint,
                )


def golden_policies(model: ModelSpec) -> dict[Modality, MissingPolicy]:
    """What stands in while a golden session's first pieces still reach before its start.

    Nothing, whatever the model declares: a proof compares encoded features and nothing made up.
    """
    policy: MissingPolicy = "mask" if model.fusion.has_present_input else "abstain"
    return dict.fromkeys(model.modalities, policy)


def play(setup: PipelineSetup, session: Arrays) -> list[StepTrace]:
    """Stream a golden session through the runtime; one trace per step."""
    traces: list[StepTrace] = []
    playing = replace(
        setup, detector=PlaybackDetector(session), missing=golden_policies(setup.model), hop=None
    )
    pipeline = Pipeline(playing, session_specs(session), ManualClock(), on_step=traces.append)
    for chunk in session_chunks(session):
        pipeline.push(chunk)
    pipeline.finish()
    return traces


_LEAST_VARIATION = 0.01
"""Of the deviation over all values: what varies less is taken to vary so much, or rounding were an error."""


def deviation_of(values: Floats) -> float:
    """How much values vary from step to step: the root of the mean variance of their columns.

    What lies between columns is no variation: of two logits that always stand 1 apart the deviation over all
    values is 0.5, and an error of the size of all that ever changes would look small.

    Args:
        values: (n, …); NaN where withheld.
    """
    columns = values.reshape(len(values), -1).astype(np.float64)  # (n, columns)
    own = float(np.sqrt(np.nanmean(np.nanvar(columns, axis=0))))
    return max(own, _LEAST_VARIATION * float(np.nanstd(columns)))


def relative_error(found: Floats, expected: Floats, deviation: float) -> float:
    """Largest difference in units of `deviation`; infinite where the shapes or the NaNs differ."""
    if found.shape != expected.shape or not np.array_equal(np.isnan(found), np.isnan(expected)):
        return float("inf")
    return float(np.nanmax(np.abs(found - expected), initial=0.0)) / max(deviation, 1e-12)


def output_error(output: Output, found: Floats, expected: Floats, deviation: float) -> OutputError:
    """Errors of one output over many windows.

    Args:
        output: What the model declares.
        found: (n, *value_shape); NaN where withheld.
        expected: The same shape.
        deviation: The unit of `max` and `rms`: that of the raw output.
    """
    per_window = tuple(range(1, found.ndim))
    both = (np.isfinite(found) & np.isfinite(expected)).all(axis=per_window)
    a, b = found[both].astype(np.float64), expected[both].astype(np.float64)
    difference = (a - b) / max(deviation, 1e-12)
    rms = float(np.sqrt(np.mean(difference**2))) if a.size else 0.0
    ccc = concordance(expected_value(output, a).ravel(), expected_value(output, b).ravel())
    return OutputError(max=float(np.max(np.abs(difference), initial=0.0)), rms=rms, ccc=ccc)


def concordance(a: Floats, b: Floats) -> float | None:
    """Concordance correlation (Lin 1989) of two series (n,); None where neither varies."""
    spread = float(np.var(a) + np.var(b) + (np.mean(a) - np.mean(b)) ** 2) if a.size else 0.0
    if spread == 0.0:
        return None
    return float(2.0 * np.mean((a - np.mean(a)) * (b - np.mean(b))) / spread)


def prove(
    setup: PipelineSetup, manifest: Manifest, precision: str, sessions: list[Arrays], max_batch: int = 1
) -> Proof:
    """Play all golden sessions and compare.

    A quantized candidate's errors may be as large as they were on the workbench, and a declared
    drift more.

    Args:
        setup: The engines under test.
        manifest: Holds the deviation of every output and feature, and what the workbench measured.
        precision: What the engines run.
        sessions: The golden sessions' arrays.
        max_batch: The largest batch in which sessions will share an engine.
    """
    return compare(setup, manifest.golden, sessions, expected_errors(manifest, precision), max_batch)


def expected_errors(manifest: Manifest, precision: str) -> dict[str, float] | None:
    """Output -> the error (rms) that the workbench measured of a precision; None of FP32, which has none."""
    if precision == "fp32":
        return None
    if precision == "bf16":  # which the workbench did not measure
        return dict.fromkeys((output.name for output in manifest.model.outputs), 0.0)
    return {name: one.rms for name, one in manifest.candidates[precision].golden.items()}


def compare(
    setup: PipelineSetup,
    golden: Golden,
    sessions: list[Arrays],
    expected_rms: Mapping[str, float] | None,
    max_batch: int = 1,
) -> Proof:
    """As `prove`.

    Args:
        setup: The engines under test.
        golden: Holds the deviation of every output and feature.
        sessions: The golden sessions' arrays.
        expected_rms: Output -> its error on the workbench; None demands what FP32 must keep.
        max_batch: The largest batch in which sessions will share an engine.
    """
    streamed = streaming_proof(setup, golden, sessions, expected_rms)
    checks, traces = list(streamed.checks), streamed.traces
    batches = _check_batches(setup, golden, traces, max_batch, exact=expected_rms is None)
    checks += batches
    if all(one.passed for one in batches):  # what is offline runs in batches
        outputs = [_streamed(setup.model, one) for one in traces]
        checks += _check_offline(setup, golden, traces, outputs, exact=expected_rms is None)
    return Proof(tuple(checks), streamed.outputs)


@dataclass(frozen=True)
class StreamingProof(Proof):
    """The comparisons of what is streamed with what was recorded, and what happened in each step."""

    traces: list[list[StepTrace]]


def streaming_proof(
    setup: PipelineSetup,
    golden: Golden,
    sessions: list[Arrays],
    expected_rms: Mapping[str, float] | None,
) -> StreamingProof:
    """Play all golden sessions and compare, without batches and offline work; arguments as for `compare`."""
    model = setup.model
    before = {stage: engine.n_runs for stage, engine in setup.engines.items()}
    traces = [play(setup, session) for session in sessions]
    checks = [_check_steps(golden, traces)]
    for encoder in model.encoders:
        stage = encoder.stage
        n_runs = setup.engines[stage].n_runs - before[stage]
        checks.append(_check_presence(stage, sessions, traces))
        n_needed = _n_needed(setup, encoder, sessions, traces)
        checks.append(Check(f"runs of encoder {stage}, minus those needed", abs(n_runs - n_needed), 0))
    streamed = [_streamed(model, one) for one in traces]
    checks += _check_inputs(model, sessions, traces)
    if expected_rms is None:
        checks += _check_features(model, golden, sessions, traces)
    errors = _output_errors(model, golden, sessions, streamed)
    checks += [_check_output(model, expected_rms, name, error) for name, error in errors.items()]
    return StreamingProof(tuple(checks), errors, traces)


def _n_needed(
    setup: PipelineSetup, encoder: Encoder, sessions: list[Arrays], traces: list[list[StepTrace]]
) -> int:
    """One run per piece or utterance, and one per session whose short windows are padded with a blank."""
    if isinstance(encoder.preprocess, Words):
        tokenizer = WordTokenizer(encoder.preprocess, setup.assets[encoder.preprocess.tokenizer])
        return sum(_n_utterances(tokenizer, session) for session in sessions)
    present = [session[f"present.{encoder.stage}"] for session in sessions]
    n_pieces = sum(int(there[:: encoder.repeat].sum()) for there in present)
    if setup.model.fusion.warm_up != "pad":
        return n_pieces
    sizes = [window_sizes(setup.model, presence(setup.model, one)) for one in traces]
    return n_pieces + sum(any(0 < n < setup.model.fusion.n_steps for n in one) for one in sizes)


def _n_utterances(tokenizer: WordTokenizer, session: Arrays) -> int:
    """Into how many the runtime cuts what is said, also after the last step."""
    stops = np.cumsum(session["text.n_words"])[:-1]
    said = np.split(session["text.data"][:, 0], stops)
    return sum(1 for words in said for _ in tokenizer.utterances(words.tolist()))


def _check_output(
    model: ModelSpec, expected_rms: Mapping[str, float] | None, name: str, error: OutputError
) -> Check:
    """FP32 must keep every single value; of INT8, whose roundings differ, the mean square counts."""
    if expected_rms is None:
        return Check(f"output {name} against PyTorch", error.max, model.tolerances.parity)
    allowed = expected_rms[name] * INT8_DRIFT_FACTOR + model.tolerances.int8_drift
    return Check(
        f"output {name} against PyTorch (rms)", error.rms if np.isfinite(error.max) else np.inf, allowed
    )


def _streamed(model: ModelSpec, traces: list[StepTrace]) -> dict[str, Floats]:
    """Output -> (steps, *value_shape); NaN where withheld."""
    return {
        o.name: np.array([t.raw.get(o.name, np.full(o.value_shape, np.nan)) for t in traces])
        for o in model.outputs
    }


def _check_steps(golden: Golden, traces: list[list[StepTrace]]) -> Check:
    missing = sum(abs(golden.n_steps - len(one)) for one in traces)
    return Check("steps played, minus steps recorded", missing, 0)


def _check_presence(stage: str, sessions: list[Arrays], traces: list[list[StepTrace]]) -> Check:
    n_wrong = sum(
        int(there) != int(stage in trace.inputs)
        for session, one in zip(sessions, traces, strict=True)
        for there, trace in zip(session[f"present.{stage}"], one, strict=False)
    )
    return Check(f"steps in which {stage} is present, against the recording", n_wrong, 0)


def _check_inputs(model: ModelSpec, sessions: list[Arrays], traces: list[list[StepTrace]]) -> list[Check]:
    """Preprocessing here against preprocessing on the workbench; what a step of words has is a feature."""
    checks = []
    for encoder in (one for one in model.encoders if not isinstance(one.preprocess, Words)):
        expected = np.concatenate([session[f"input.{encoder.stage}"] for session in sessions])
        present = [[t for t in one if encoder.stage in t.inputs] for one in traces]
        found = [np.stack([one[i].inputs[encoder.stage][0] for i in (0, -1)]) for one in present if one]
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
    model: ModelSpec, golden: Golden, sessions: list[Arrays], streamed: list[dict[str, Floats]]
) -> dict[str, OutputError]:
    errors: dict[str, OutputError] = {}
    for output in model.outputs:
        name = output.name
        found = np.concatenate([one[name] for one in streamed])
        expected = np.concatenate([session[f"output.{name}"] for session in sessions]).astype(np.float64)
        if found.shape != expected.shape:
            errors[name] = OutputError(max=np.inf, rms=np.inf)
            continue
        error = output_error(output, found, expected, golden.deviation[name])
        worst = relative_error(found, expected, golden.deviation[name])
        errors[name] = error.model_copy(update={"max": worst})
    return errors


def _check_batches(
    setup: PipelineSetup, golden: Golden, traces: list[list[StepTrace]], max_batch: int, *, exact: bool
) -> list[Check]:
    """FP32 must keep every value; of INT8, whose roundings may differ, the mean square of each row counts."""
    tolerances = setup.model.tolerances
    return [
        Check(
            f"{one.stage} at batch {one.size} against alone, in {setup.engines[one.stage].name}",
            one.largest if exact else one.rms,
            tolerances.parity if exact else tolerances.int8_drift,
            hint=_HINT_BATCH,
        )
        for one in batch_errors(setup, golden, traces, max_batch)
    ]


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
    run_fusion = engine_fusion(model, setup.engines[model.fusion.stage])
    features = [encode(model, setup.engines, one) for one in traces]
    present = [presence(model, one) for one in traces]
    blanks = blank_features(model, setup.engines)
    shifted = [{stage: np.roll(values, 1, axis=0) for stage, values in one.items()} for one in features]
    swapped = [_last_from(features[i], features[i - 1]) for i in range(len(features))]
    full = model.fusion.n_steps

    def worst(variant: list[Features], *, last_only: bool = False) -> float:
        error = 0.0
        for one, there, expected in zip(variant, present, streamed, strict=True):
            for name, values in offline_outputs(model, one, there, run_fusion, blanks).items():
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


def _last_from(own: Features, other: Features) -> Features:
    return {stage: np.concatenate([values[:-1], other[stage][-1:]]) for stage, values in own.items()}


def golden_errors(setup: PipelineSetup, golden: Golden, sessions: list[Arrays]) -> dict[str, OutputError]:
    """Errors of every output against PyTorch on the golden sessions."""
    model = setup.model
    return _output_errors(model, golden, sessions, [_streamed(model, play(setup, one)) for one in sessions])


def golden_sessions(manifest: Manifest, read: Callable[[str], Arrays]) -> list[Arrays]:
    """The arrays of every golden session.

    Raises:
        BundleError: An array is missing, as in bundles that another version of edge-mer made.
    """
    model = manifest.model
    needed = {f"{kind}.{stage}" for kind in ("present", "input", "feature") for stage in model.stages[:-1]}
    needed |= {f"output.{output.name}" for output in model.outputs}
    sessions = []
    for name in manifest.golden.sessions:
        session = read(name)
        if missing := sorted(needed - session.keys()):
            raise BundleError(
                f"{name} cannot prove anything here",
                expected="the arrays that this version of edge-mer compares",
                found=f"nothing called {', '.join(missing)}",
                hint="run edge-mer export again",
            )
        sessions.append(session)
    return sessions

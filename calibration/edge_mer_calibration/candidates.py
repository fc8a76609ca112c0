"""Adds quantized candidates to a bundle, each with what it costs in fidelity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

import edge_mer
from edge_mer.bundle.manifest import (
    Calibration,
    Candidate,
    FileEntry,
    Manifest,
    PrecisionName,
    kind_of,
)
from edge_mer.bundle.read import Bundle
from edge_mer.bundle.write import check_free, write_bundle
from edge_mer.engine.onnxruntime import OrtOptions, available_threads
from edge_mer.errors import UsageError
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.proof import golden_errors, golden_sessions
from edge_mer.runtime.setup import open_engines
from edge_mer.types.model import TensorSpec
from edge_mer_calibration.fidelity import Fidelity
from edge_mer_calibration.methods import Stage, histograms_of
from edge_mer_calibration.quantize import SCHEMES, finish_stage
from edge_mer_calibration.search import Found, Search
from edge_mer_calibration.trt_rules import problems
from edge_mer_calibration.windows import WindowSet, choose_windows, held_windows, trace_sessions

Say = Callable[[str], None]
MILLION = 1_000_000
N_HELD = 16
"""Windows of the other sessions on which methods are compared."""


@dataclass(frozen=True)
class CalibrationPlan:
    """What to calibrate with.

    Attributes:
        data: URIs of the sessions that windows come from.
        check: URIs of other sessions, on which fidelity is measured.
        n_windows: Windows to use, neither more nor fewer.
        precisions: Kinds of candidates to make.
        max_ccc_drop: Concordance with FP32 that the worst output may lose. Where all of a model in 8 bits
            loses more, a mixed candidate is made too.
    """

    data: Sequence[str]
    check: Sequence[str]
    n_windows: int
    precisions: Sequence[PrecisionName]
    max_ccc_drop: float


def calibrate_bundle(
    bundle: Bundle, setup: PipelineSetup, plan: CalibrationPlan, out: Path, say: Say, *, replace: bool
) -> Manifest:
    """Write a new bundle with the candidates of `bundle` and the planned ones.

    Args:
        bundle: Has an `fp32` candidate.
        setup: That candidate, ready to run.
        plan: What to calibrate with.
        out: The new bundle's folder.
        say: Told what is being done.
        replace: Whether a bundle of that name may be replaced.

    Raises:
        UsageError: No such precision, or the place is taken.
        DataError: A session cannot be used, or there are too few windows.
    """
    if unknown := [name for name in plan.precisions if name not in SCHEMES]:
        raise UsageError(f"unknown precision {unknown[0]!r}", expected=" or ".join(SCHEMES))
    check_free(out, replace=replace)
    say(f"playing {len(plan.data)} sessions for calibration")
    model = bundle.manifest.model
    windows = choose_windows(model, trace_sessions(setup, plan.data), plan.n_windows)
    say(f"playing {len(plan.check)} other sessions for fidelity")
    checked = trace_sessions(setup, plan.check)
    stages = _stages(bundle, windows, held_windows(model, checked, N_HELD), say)
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    candidates = dict(bundle.manifest.candidates)
    fidelity = Fidelity(model, setup.engines, checked)
    for kind in plan.precisions:
        scheme = SCHEMES[kind]
        found = _searched(Search(stages, scheme, fidelity, plan.max_ccc_drop, _prefixed(kind, say)), kind)
        for name, one in found.items():
            shipped = {stage: finish_stage(data, scheme) for stage, data in one.stages.items()}
            if scheme.half:
                _demand_rules(name, shipped)
            candidates[name] = _candidate(bundle, name, one, shipped)
            files |= {f"stages/{stage}.{name}.onnx": data for stage, data in shipped.items()}
    return _write(bundle, candidates, files, windows, plan, out, replace=replace)


def _stages(bundle: Bundle, windows: WindowSet, held: WindowSet, say: Say) -> list[Stage]:
    model = bundle.manifest.model
    tensors: dict[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]] = {
        encoder.stage: ((encoder.input,), (encoder.output,)) for encoder in model.encoders
    }
    tensors[model.fusion.stage] = (model.fusion.inputs, model.fusion.outputs)
    stages = []
    for name in model.stages:
        say(f"measuring ranges of {name} on {windows.n_windows} windows")
        data = bundle.read_stage("fp32", name)
        histograms = histograms_of(data, windows.feeds[name])
        stages.append(Stage(name, data, *tensors[name], histograms, held.feeds[name]))
    return stages


def _demand_rules(precision: str, stages: Mapping[str, bytes]) -> None:
    """A graph that TensorRT would refuse, or run in float, is a fault of this program."""
    broken = [f"{stage}: {one}" for stage, data in stages.items() for one in problems(data)]
    if broken:
        raise RuntimeError(f"{precision} breaks rules of TensorRT: {'; '.join(broken[:5])}")


def _prefixed(kind: str, say: Say) -> Say:
    return lambda what: say(f"{kind}: {what}")


def _searched(search: Search, kind: str) -> dict[str, Found]:
    """All in 8 bits, and where that is not good enough, a mixed candidate."""
    whole = search.whole()
    return {kind: whole} if whole.is_good else {kind: whole, f"{kind}+mixed": search.mixed(whole)}


def _candidate(
    bundle: Bundle,
    precision: str,
    found: Found,
    shipped: dict[str, bytes],
) -> Candidate:
    """What a candidate costs: what was found is judged in FP32 arithmetic, `shipped` goes into the bundle."""
    model, stages, scheme = bundle.manifest.model, found.stages, SCHEMES[kind_of(precision)]
    # Golden errors are of the graph as it is written: a device's INT8 kernels are held against that.
    options = OrtOptions(threads=available_threads(), fuse_qdq=False)
    as_written = open_engines(model, stages, options)
    sessions = golden_sessions(bundle.manifest, bundle.read_arrays)
    errors = golden_errors(PipelineSetup(model, as_written, None), bundle.manifest.golden, sessions)
    n_bytes = sum(len(data) for data in shipped.values())
    notes = []
    if scheme.half:
        notes.append("errors were measured in FP32 arithmetic; half precision is proven where it runs")
    if bundle.manifest.lineage.n_params - bundle.manifest.lineage.n_params_pruned < MILLION:
        notes.append("below a million parameters INT8 seldom wins size or time: compare with fp32")
    return Candidate(
        stages={stage: f"stages/{stage}.{precision}.onnx" for stage in stages},
        n_bytes=n_bytes,
        golden=errors,
        fidelity=found.errors,
        quantization=found.how,
        note="; ".join(notes) or None,
    )


def _write(
    bundle: Bundle,
    candidates: dict[PrecisionName, Candidate],
    files: dict[str, bytes],
    windows: WindowSet,
    plan: CalibrationPlan,
    out: Path,
    *,
    replace: bool,
) -> Manifest:
    lineage = bundle.manifest.lineage
    made_by = (
        *lineage.made_by,
        f"edge-mer calibrate {edge_mer.__version__}, onnxruntime {onnxruntime.__version__}",
    )
    calibration = Calibration(
        source=tuple(plan.data), n_windows=windows.n_windows, windows_sha256=windows.sha256
    )

    def manifest(table: dict[str, FileEntry]) -> Manifest:
        return bundle.manifest.model_copy(
            update={
                "candidates": candidates,
                "lineage": lineage.model_copy(
                    update={"made_by": made_by, "parent": bundle.manifest.bundle_id}
                ),
                "calibration": calibration,
                "files": table,
            }
        )

    return write_bundle(out, files, manifest, replace=replace)

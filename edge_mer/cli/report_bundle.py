"""Fills the page of a bundle: takes what its manifest says, and measures what only this machine can."""

from __future__ import annotations

import math
from pathlib import Path

from edge_mer.bundle.manifest import Calibration, Candidate, Manifest, StageQuantization, in_order
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.cli.common import progress
from edge_mer.clock import MonotonicClock
from edge_mer.engine.cache import processor
from edge_mer.errors import BundleError, UsageError
from edge_mer.report.bundle_page import render_bundle
from edge_mer.report.evidence import (
    MAX_RANGES_BYTES,
    Block,
    BundleEvidence,
    CalibrationSet,
    CandidateEvidence,
    Fidelity,
    Limits,
    StageHow,
    TensorRange,
    read_ranges,
)
from edge_mer.runtime.build import hop_ms, unfaithful
from edge_mer.runtime.proof import golden_sessions
from edge_mer.runtime.setup import cpu_precisions, open_setup

N_TURNS = 3
"""Times that a candidate is timed."""


def bundle_page(path: Path, title: str | None, *, with_times: bool) -> str:
    """The page of a bundle.

    Args:
        path: The bundle's folder.
        title: Heading; None = the model's name.
        with_times: Whether candidates are timed here.

    Raises:
        BundleError: No bundle, or an altered one.
        DataError: Its file of ranges is none.
    """
    opened = open_bundle(path)
    times = _times(opened) if with_times and len(opened.manifest.candidates) > 1 else {}
    return render_bundle(_evidence(opened, times), title)


def refuse_inside(out: Path, bundle: Path) -> None:
    """A page in a bundle would be a file that its manifest does not list.

    Raises:
        UsageError: It would be one.
    """
    if out.resolve().is_relative_to(bundle.resolve()):
        raise UsageError(
            f"cannot write {out}", found="it lies in the bundle", hint="name a file outside of the bundle"
        )


def _times(bundle: Bundle) -> dict[str, float]:
    """Candidate -> milliseconds of a prediction here; of those only that a processor runs.

    Candidates take turns, and the best of a candidate's turns counts: what else a machine does makes some
    of them slower.
    """
    sessions, clock = golden_sessions(bundle.manifest, bundle.read_arrays), MonotonicClock()
    names = cpu_precisions(bundle.manifest.candidates)
    found = dict.fromkeys(names, math.inf)
    with progress() as say:
        setups = {name: open_setup(bundle, name, None) for name in names}
        for number, name in enumerate(names * N_TURNS):
            say("timing candidates", number, len(names) * N_TURNS)
            found[name] = min(found[name], hop_ms(setups[name], sessions, clock))
    return found


def _evidence(bundle: Bundle, times: dict[str, float]) -> BundleEvidence:
    manifest = bundle.manifest
    model, lineage = manifest.model, manifest.lineage
    return BundleEvidence(
        model=model.name,
        title=model.title,
        bundle_id=manifest.bundle_id,
        weights=lineage.weights,
        made_by=lineage.made_by,
        stages=tuple(model.stages),
        outputs=tuple(str(output.name) for output in model.outputs),
        candidates=tuple(
            _candidate(manifest, name, times.get(name)) for name in in_order(manifest.candidates)
        ),
        calibration=None if manifest.calibration is None else _set_of(manifest.calibration),
        ranges=_ranges(bundle),
        processor=processor()["name"] if times else None,
    )


def _candidate(manifest: Manifest, name: str, ms: float | None) -> CandidateEvidence:
    one = manifest.candidates[name]
    return CandidateEvidence(
        name=name,
        n_bytes=one.n_bytes,
        fidelity=_fidelity(one),
        points=one.points,
        stages={stage: _how(found) for stage, found in one.quantization.items()},
        note=one.note,
        findings=one.findings,
        is_for_cpu=bool(cpu_precisions([name])),
        ms=ms,
        refused=unfaithful(manifest, name),
    )


def _fidelity(one: Candidate) -> dict[str, Fidelity] | None:
    if one.fidelity is None:
        return None
    return {output: Fidelity(error.rms, error.ccc) for output, error in one.fidelity.items()}


def _how(found: StageQuantization) -> StageHow:
    blocks = {
        name: Block(block.n_nodes, block.drop, block.points, block.is_float)
        for name, block in found.blocks.items()
    }
    return StageHow(found.method, found.tried, blocks, found.in_float, found.alone)


def _set_of(made: Calibration) -> CalibrationSet:
    budget = made.budget
    limits = None if budget is None else Limits(budget.ccc, budget.points, budget.latency_ms)
    return CalibrationSet(made.source, made.n_windows, made.people, made.cells, made.without, limits)


def _ranges(bundle: Bundle) -> dict[str, list[TensorRange]] | None:
    made = bundle.manifest.calibration
    if made is None or made.ranges is None:
        return None
    entry = bundle.manifest.files.get(made.ranges)
    if entry is not None and entry.n_bytes > MAX_RANGES_BYTES:
        raise BundleError(
            f"bundle {bundle.path}: {made.ranges} is too large for ranges",
            expected=f"at most {MAX_RANGES_BYTES} bytes",
            found=f"{entry.n_bytes}",
        )
    return read_ranges(bundle.read(made.ranges), f"bundle {bundle.path}: {made.ranges}")

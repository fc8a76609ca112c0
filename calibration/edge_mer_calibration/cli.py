"""`edge-mer calibrate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from edge_mer.bundle.manifest import Budget, Candidate, Manifest
from edge_mer.bundle.read import open_bundle
from edge_mer.cli.common import detector_for, err, out, progress, table
from edge_mer.cli.corpus import RAY_HELP, WORKERS_HELP, crew_of, tell_replaced
from edge_mer.errors import UsageError
from edge_mer.labels.manifest import Recording
from edge_mer.runtime.setup import open_setup
from edge_mer.types.model import ModelSpec
from edge_mer_calibration.candidates import Calibrated, CalibrationPlan, calibrate_bundle
from edge_mer_calibration.forms import FORMS
from edge_mer_calibration.sessions import has_split, recordings_of, simulated_recordings

SMALL = 0.5
"""Of FP32's size: what is not smaller, and slower, brings nothing."""


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    to: Annotated[Path, typer.Option("--out", help="The new bundle's folder.")],
    data: Annotated[
        list[str],
        typer.Option(
            help="Sessions to calibrate on: a URI such as file:clip.mp4, or a manifest of recordings, of "
            "which the split train is taken; may be repeated. Default: simulated people."
        ),
    ] = [],  # noqa: B006
    check: Annotated[
        list[str],
        typer.Option(
            help="Sessions to judge candidates on; of a manifest the split valid is taken. Default: that of "
            "--data, if it has one; else other simulated people."
        ),
    ] = [],  # noqa: B006
    windows: Annotated[int, typer.Option(min=1, help="Windows to calibrate on.")] = 64,
    precision: Annotated[
        list[str],
        typer.Option(help=f"A candidate to add; may be repeated. Default: {', '.join(FORMS)}."),
    ] = [],  # noqa: B006
    max_ccc_drop: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Concordance with fp32 that the worst output may lose; where a whole model loses more, "
            "it is prepared for few bits, and then the blocks that harm most stay in float.",
        ),
    ] = 0.005,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            help="Points of a hundred that the worst output may lose against labels: of CCC, or of accuracy "
            "where there are classes or levels. Default: any.",
        ),
    ] = None,
    max_latency_ms: Annotated[
        float | None,
        typer.Option(
            min=0, help="What a prediction may take on this processor, of candidates for it. Default: any."
        ),
    ] = None,
    face_detector: Annotated[
        Path | None, typer.Option(help="YuNet's ONNX file; without it OpenCV's cascades find faces.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle of that name.")] = False,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help=RAY_HELP)] = None,
    workers: Annotated[int | None, typer.Option(min=1, help=WORKERS_HELP)] = None,
) -> None:
    """Add candidates in few bits to a bundle, as far as they are within the budget."""
    opened = open_bundle(bundle)
    model = opened.manifest.model
    plan = CalibrationPlan(
        data=recordings_of(model, data, "train")
        if data
        else simulated_recordings(model, windows, first_person=700, n_people=16),
        check=_to_check(model, data, check),
        n_windows=windows,
        kinds=[_kind(name) for name in precision or FORMS],
        budget=Budget(ccc=max_ccc_drop, points=max_accuracy_drop, latency_ms=max_latency_ms),
    )
    if max_accuracy_drop is not None and not _have_labels(plan.check):
        raise UsageError(
            "--max-accuracy-drop needs labels", hint="give a manifest of labelled recordings to --check"
        )
    with crew_of(ray, workers) as crew:
        shared = dataclasses.replace(plan, crew=None if ray is None else crew, face_detector=face_detector)
        with progress() as say:
            setup = open_setup(opened, "fp32", detector_for(model, face_detector))
            calibrated = calibrate_bundle(opened, setup, shared, to, say, replace=replace)
        tell_replaced(crew)
    _show(calibrated, to)


def _to_check(model: ModelSpec, data: Sequence[str], check: Sequence[str]) -> list[Recording]:
    if check:
        return recordings_of(model, check, "valid")
    if held := [one for one in data if has_split(one, "valid")]:
        return recordings_of(model, held, "valid")
    return simulated_recordings(model, 32, first_person=800, n_people=8)


def _have_labels(recordings: Sequence[Recording]) -> bool:
    return all(one.labels is not None or one.sources[0].startswith("sim:") for one in recordings)


def _kind(name: str) -> str:
    if name not in FORMS:
        raise UsageError(f"no candidate {name!r} can be made", expected=" or ".join(FORMS))
    return name


def _show(calibrated: Calibrated, to: Path) -> None:
    manifest = calibrated.manifest
    names = [str(output.name) for output in manifest.model.outputs]
    rows = [
        [name, *_row(manifest, candidate, names, calibrated.ms.get(name))]
        for name, candidate in manifest.candidates.items()
    ]
    columns = [
        "precision",
        "MB",
        "of FP32",
        "rms error / deviation",
        "fidelity CCC",
        "points lost",
        "ms here",
    ]
    out.print(table(columns, rows))
    out.print(f"\nNumbers in one cell: {', '.join(names)}.")
    _show_set(manifest)
    out.print(f"{to} is {manifest.bundle_id}")
    for name, candidate in manifest.candidates.items():
        for remark in _remarks(manifest, name, candidate, calibrated.ms):
            out.print(f"{name}: {remark}.")
    for kind, found in calibrated.missed.items():
        blocks = [f"{stage} {block} ({one.drop:.4f})" for (stage, block), one in found.in_the_way.items()]
        err.print(
            f"No {kind} is within the budget: {'; '.join(found.over) or 'only with every block in float'}"
            + (f". In the way are {', '.join(blocks[:5])}." if blocks else ".")
        )


def _row(manifest: Manifest, candidate: Candidate, names: Sequence[str], ms: float | None) -> list[str]:
    whole = manifest.candidates["fp32"].n_bytes
    errors = candidate.fidelity or candidate.golden
    return [
        f"{candidate.n_bytes / 1e6:.2f}",
        f"{candidate.n_bytes / whole:.3f}",
        " ".join(f"{errors[name].rms:.2g}" for name in names),
        " ".join(f"{errors[name].ccc or 0.0:.4f}" for name in names) if candidate.fidelity else "reference",
        "" if candidate.points is None else f"{candidate.points:.2f}",
        "" if ms is None else f"{ms:.2f}",
    ]


def _show_set(manifest: Manifest) -> None:
    """What the windows were, so far as they were measured now."""
    if (made := manifest.calibration) is None or made.people is None:
        return
    per_person = f"{min(made.people)} to {max(made.people)}" if len(set(made.people)) > 1 else made.people[0]
    cells = ", ".join(f"{cell} {n}" for cell, n in (made.cells or {}).items())
    without = ", ".join(f"{n} without {modality}" for modality, n in (made.without or {}).items())
    out.print(f"{made.n_windows} windows of {len(made.people)} people, {per_person} of each: {cells}.")
    if without:
        out.print(f"The fusion saw more: {without}.")


def _remarks(manifest: Manifest, name: str, candidate: Candidate, ms: Mapping[str, float]) -> Iterator[str]:
    if candidate.note:
        yield candidate.note
    if left := _in_float(candidate):
        yield f"in float stay {', '.join(left)}"
    smaller = candidate.n_bytes / manifest.candidates["fp32"].n_bytes
    if name != "fp32" and name in ms and ms[name] > ms["fp32"] and smaller > SMALL:
        yield f"slower than fp32 here, and {smaller:.2f} of its size: it brings nothing on this processor"


def _in_float(candidate: Candidate) -> list[str]:
    """Blocks that were left in float, with what each would have cost alone."""
    return [
        f"{stage} {block or 'outside of modules'} ({finding.drop:.4f})"
        for stage, how in candidate.quantization.items()
        for block, finding in how.blocks.items()
        if finding.is_float
    ]

"""`edge-mer calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_mer.bundle.manifest import Candidate, Manifest, PrecisionName
from edge_mer.bundle.read import open_bundle
from edge_mer.cli.common import detector_for, out, progress, table
from edge_mer.errors import UsageError
from edge_mer.runtime.setup import open_setup
from edge_mer_calibration.candidates import CalibrationPlan, calibrate_bundle
from edge_mer_calibration.quantize import SCHEMES
from edge_mer_calibration.windows import default_sources


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    to: Annotated[Path, typer.Option("--out", help="The new bundle's folder.")],
    data: Annotated[
        list[str],
        typer.Option(
            help="A session to calibrate on, e.g. file:clip.mp4; may be repeated. Default: simulated people."
        ),
    ] = [],  # noqa: B006
    check: Annotated[
        list[str],
        typer.Option(
            help="A session to measure fidelity on; may be repeated. Default: other simulated people."
        ),
    ] = [],  # noqa: B006
    windows: Annotated[int, typer.Option(min=1, help="Windows to calibrate on.")] = 64,
    precision: Annotated[
        list[str], typer.Option(help="A candidate to add; may be repeated. Default: int8-cpu and int8-trt.")
    ] = [],  # noqa: B006
    max_ccc_drop: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Concordance with fp32 that the worst output may lose; where all in 8 bits loses more, "
            "the blocks that harm most stay in float.",
        ),
    ] = 0.005,
    face_detector: Annotated[
        Path | None, typer.Option(help="YuNet's ONNX file; without it OpenCV's cascades find faces.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle of that name.")] = False,
) -> None:
    """Add INT8 candidates to a bundle."""
    opened = open_bundle(bundle)
    model = opened.manifest.model
    plan = CalibrationPlan(
        data=data or default_sources(model, windows, first_person=700, n_people=16),
        check=check or default_sources(model, 32, first_person=800, n_people=8),
        n_windows=windows,
        precisions=[_precision(name) for name in precision or SCHEMES],
        max_ccc_drop=max_ccc_drop,
    )
    with progress() as say:
        setup = open_setup(opened, "fp32", detector_for(model, face_detector))
        manifest = calibrate_bundle(opened, setup, plan, to, say, replace=replace)
    _show(manifest, to)


def _precision(name: str) -> PrecisionName:
    if name not in SCHEMES:
        raise UsageError(f"no candidate {name!r} can be made", expected=" or ".join(SCHEMES))
    return name


def _show(manifest: Manifest, to: Path) -> None:
    whole = manifest.candidates["fp32"].n_bytes
    names = [str(output.name) for output in manifest.model.outputs]
    rows = []
    for name, candidate in manifest.candidates.items():
        errors = candidate.fidelity or candidate.golden
        rms = " ".join(f"{errors[name].rms:.2g}" for name in names)
        ccc = " ".join(f"{errors[name].ccc or 0.0:.4f}" for name in names) if candidate.fidelity else ""
        rows.append(
            [
                name,
                f"{candidate.n_bytes / 1e6:.2f}",
                f"{candidate.n_bytes / whole:.3f}",
                rms,
                ccc or "reference",
            ]
        )
    out.print(table(["precision", "MB", "of FP32", "rms error / deviation", "fidelity CCC"], rows))
    out.print(f"\nNumbers in one cell: {', '.join(output.name for output in manifest.model.outputs)}.")
    out.print(f"{to} is {manifest.bundle_id}")
    for name, candidate in manifest.candidates.items():
        if candidate.note:
            out.print(f"{name}: {candidate.note}.")
        if left := _in_float(candidate):
            out.print(f"{name}: in float stay {', '.join(left)}.")


def _in_float(candidate: Candidate) -> list[str]:
    """Blocks that were left in float, with what each would have cost alone."""
    return [
        f"{stage} {block or 'outside of modules'} ({finding.drop:.4f})"
        for stage, how in candidate.quantization.items()
        for block, finding in how.blocks.items()
        if finding.is_float
    ]

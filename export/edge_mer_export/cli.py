"""`edge-mer export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_mer.bundle.write import check_free
from edge_mer.cli.common import out, progress, table
from edge_mer.errors import UsageError
from edge_mer_export.bundle_from_model import ExportReport, export_bundle, load_weights


def export(
    model: Annotated[str, typer.Argument(help="A model of the zoo, e.g. jmt or jmt-tiny.")],
    to: Annotated[Path, typer.Option("--out", help="The bundle's folder.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="A .safetensors file, or the folder that the published training code leaves. "
            "Without it: the weights that come with edge-mer, trained on simulated people, or random ones."
        ),
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Take random weights, which mean nothing, for a trial.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of random weights.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle of that name.")] = False,
) -> None:
    """Turn a checkpoint into a proven bundle."""
    check_free(to, replace=replace)
    if random and checkpoint is not None:
        raise UsageError("--random and --checkpoint exclude each other", hint="leave one of them away")
    with progress() as say:
        zoo_model, lineage = load_weights(model, checkpoint, seed, say, random=random)
        report = export_bundle(zoo_model, lineage, to, say, replace=replace)
    _show(report, to)


def _show(report: ExportReport, to: Path) -> None:
    rows = [
        [stage, f"{r.n_params:,}", f"{r.n_weights:,}", f"{r.n_bytes / 1e6:.2f}", f"{r.error:.1e}"]
        for stage, r in report.stages.items()
    ]
    out.print(table(["stage", "parameters", "weights in ONNX", "MB", "error against PyTorch"], rows))
    checks = [
        [c.name, f"{c.error:.1e}", f"{'>' if c.is_control else '<='} {c.tolerance:.0e}"]
        for c in report.proof.checks
    ]
    out.print(table(["proof", "error", "must be"], checks, title=""))
    lineage = report.manifest.lineage
    pruned = f"{lineage.n_params_pruned:,} of {lineage.n_params:,} parameters"
    out.print(f"\nWeights: {lineage.weights}. Pruned: {pruned}.")
    out.print(f"{to} is {report.manifest.bundle_id}")

"""`edge-mer export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_mer.bundle.write import check_free
from edge_mer.cli.common import out, progress, table
from edge_mer.errors import UsageError
from edge_mer_export.bundle_from_model import Checkpoint, ExportReport, export_bundle, load_weights
from edge_mer_export.models.zoo import system as find_system
from edge_mer_export.single_stage import SingleStage, export_single

MAX_SEED = 2**32 - 1


def export(
    model: Annotated[
        str, typer.Argument(help="A model of the zoo, e.g. jmt, or your own: path/to/file.py:Name.")
    ],
    to: Annotated[Path, typer.Option("--out", help="The bundle's folder.")],
    checkpoint: Annotated[
        list[str],
        typer.Option(
            help="Trained weights: PART=FILE, e.g. fusion=fusion_w.pt; or a .safetensors file, or the folder "
            "that the published training code leaves. May be repeated. Without it: the weights that come "
            "with edge-mer, or random ones."
        ),
    ] = [],  # noqa: B006
    settings: Annotated[
        list[str],
        typer.Option(
            "--set", help="What a checkpoint's shapes cannot tell, e.g. num_heads=4. May be repeated."
        ),
    ] = [],  # noqa: B006
    only: Annotated[
        str | None,
        typer.Option(help="Export one stage, e.g. fusion, where only its weights are at hand: no bundle."),
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Take random weights, which mean nothing, for a trial.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of random weights.", min=0, max=MAX_SEED)] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle of that name.")] = False,
) -> None:
    """Turn a checkpoint into a proven bundle."""
    if random and checkpoint:
        raise UsageError("--random and --checkpoint exclude each other", hint="leave one of them away")
    chosen = Checkpoint(tuple(checkpoint), tuple(settings), random)
    system = find_system(model)
    if only is not None:
        with progress() as say:
            _show_single(export_single(system, chosen, only, to, say, replace=replace))
        return
    check_free(to, replace=replace)
    with progress() as say:
        zoo_model, lineage = load_weights(system, chosen, seed, say)
        report = export_bundle(zoo_model, lineage, to, say, replace=replace)
    _show(report, to)


def _show_single(one: SingleStage) -> None:
    rows = [
        [kind, spec.name, " x ".join(str(size) for size in spec.shape)]
        for kind, specs in (("input", one.inputs), ("output", one.outputs))
        for spec in specs
    ]
    out.print(table(["", "tensor", "shape"], rows))
    pruned = f"{one.report.n_params_dead:,} of {one.report.n_params:,} parameters"
    out.print(f"\nPruned: {pruned}. Left: {one.n_weights:,} weights in {one.n_bytes / 1e6:.2f} MB.")
    out.print(f"{one.path} differs from PyTorch by {one.error:.1e} standard deviations, each row for itself.")


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

"""`edge-mer bundle`: what a bundle says about itself."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from edge_mer.bundle.manifest import in_order
from edge_mer.bundle.read import open_bundle
from edge_mer.cli.common import out, table


class Action(str, Enum):
    """What to do with the bundle."""

    inspect = "inspect"


def bundle(
    action: Annotated[Action, typer.Argument(help="What to do.")],
    path: Annotated[Path, typer.Argument(help="The bundle's folder.")],
) -> None:
    """Show what a bundle holds."""
    manifest = open_bundle(path).manifest
    model, lineage = manifest.model, manifest.lineage
    out.print(f"{model.name}: {model.title}\n{manifest.bundle_id}\nWeights: {lineage.weights}")
    out.print(f"Parameters: {lineage.n_params:,}, of them pruned {lineage.n_params_pruned:,}")
    step_s, ahead_s = float(model.step), float(model.latency)
    out.print(f"Window: {model.fusion.n_steps} steps of {step_s:.3f} s; looks {ahead_s:.3f} s ahead")
    rows = [
        [
            e.stage,
            e.modality,
            f"{float(e.span):.3f}",
            f"{e.min_coverage:g}",
            e.missing or "abstain (never measured)",
        ]
        for e in model.encoders
    ]
    out.print(table(["encoder", "modality", "span s", "min coverage", "when missing"], rows, title=""))
    sizes = [
        [
            name,
            f"{candidate.n_bytes / 1e6:.2f}",
            ", ".join(f"{o} {e.rms:.2g}" for o, e in candidate.golden.items()),
        ]
        for name in in_order(manifest.candidates)
        for candidate in [manifest.candidates[name]]
    ]
    out.print(
        table(["precision", "MB", "rms error against PyTorch, in standard deviations"], sizes, title="")
    )

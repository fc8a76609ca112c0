"""`edge-mer verify`: is the bundle whole, and is it still the model on this device?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.cli.common import out, table
from edge_mer.runtime.build import fitting_build, open_built, unfaithful
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.proof import Check, golden_sessions, prove
from edge_mer.runtime.setup import cpu_precisions, open_setup
from edge_mer.runtime.targets import TARGETS


def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    precision: Annotated[
        list[str], typer.Option(help="Prove only this precision. May be given several times.")
    ] = [],  # noqa: B006
) -> None:
    """Prove again, on this device, that a bundle is whole and right."""
    opened = open_bundle(bundle)
    n_files = opened.check_files()
    out.print(f"{n_files} files are as they were made: {opened.manifest.bundle_id}")
    sessions = golden_sessions(opened.manifest, opened.read_arrays)
    proofs = {}
    able = cpu_precisions(opened.manifest.candidates)
    built = None if precision else fitting_build(opened, TARGETS["tensorrt"])
    if built is not None and built["precision"] not in able:
        able.append(built["precision"])
    others = [name for name in opened.manifest.candidates if name not in able]
    for name in precision or able:
        setup, max_batch = _setup(opened, name)
        try:
            proofs[name] = prove(setup, opened.manifest, name, sessions, max_batch)
        finally:
            setup.close()
        rows = [_row(check) for check in proofs[name].checks]
        out.print(table(["check", "error", "must be", "verdict"], rows, title=f"\n{name}"))
    for name, proof in proofs.items():
        proof.demand(f"bundle {bundle}, {name}")
    out.print(f"\nVerified: {', '.join(proofs)}. Errors are in standard deviations of each tensor.")
    if others and not precision:
        out.print(
            f"{', '.join(others)}: whole; made for TensorRT, and proven where an engine is built from it."
        )
    for name in proofs:
        if why := unfaithful(opened.manifest, name):
            out.print(f"{name} computes what was made, but was made too coarse to be chosen: {why}.")


def _setup(bundle: Bundle, precision: str) -> tuple[PipelineSetup, int]:
    """What `build-engine` chose of a precision here, else ONNX Runtime's; and the largest batch of it."""
    for target in TARGETS.values():
        record = fitting_build(bundle, target)
        if record is not None and record["precision"] == precision:
            return open_built(bundle, target, record), record["settings"].get("max_batch", 1)
    return open_setup(bundle, precision, None), 1


def _row(check: Check) -> list[str]:
    relation = ">" if check.is_control else "<="
    return [
        check.name,
        f"{check.error:.2g}",
        f"{relation} {check.tolerance:.2g}",
        "pass" if check.passed else "FAIL",
    ]

"""`edge-mer qat`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from edge_mer.cli.common import detector_for, out, progress, table
from edge_mer.errors import UsageError
from edge_mer.runtime.collect import collect
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.simulated import n_lead_in, simulated
from edge_mer.sources.registry import open_source
from edge_mer.types.model import ModelSpec
from edge_mer_export.bundle_from_model import Checkpoint, load_weights
from edge_mer_export.engines import torch_engines
from edge_mer_export.models.zoo import system as find_system
from edge_mer_export.training.qat import Settings, Tuned, tune
from edge_mer_export.training.run import save_weights

FIRST_PERSON = 60_000
"""Simulated people from here on learn to bear 8 bits; nobody is judged by them."""


def qat(
    model: Annotated[str, typer.Argument(help="A model of the zoo, or your own: path/to/file.py:Name.")],
    to: Annotated[Path, typer.Option("--out", help="The tuned weights' file, e.g. tuned.safetensors.")],
    checkpoint: Annotated[
        list[str],
        typer.Option(help="Trained weights, as edge-mer export takes them; may be repeated."),
    ] = [],  # noqa: B006
    settings: Annotated[
        list[str], typer.Option("--set", help="As edge-mer export takes it; may be repeated.")
    ] = [],  # noqa: B006
    data: Annotated[
        list[str],
        typer.Option(help="A session to learn on, e.g. file:clip.mp4; may be repeated. Default: simulated."),
    ] = [],  # noqa: B006
    people: Annotated[int, typer.Option(min=2, help="How many simulated people.")] = 16,
    updates: Annotated[int, typer.Option(min=1, help="Of each stage's weights.")] = 200,
    rate: Annotated[float, typer.Option(min=1e-8, max=1.0, help="Learning rate at its highest.")] = 3e-5,
    face_detector: Annotated[
        Path | None, typer.Option(help="YuNet's ONNX file; without it OpenCV's cascades find faces.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a file of that name.")] = False,
) -> None:
    """Tune a model's weights so that 8 bits keep its numbers; no labels are needed."""
    if to.suffix != ".safetensors":
        raise UsageError(f"cannot write weights to {to}", expected="a name that ends in .safetensors")
    if to.exists() and not replace:
        raise UsageError(f"{to} exists already", hint="name another file, or replace it with --replace")
    with progress() as say:
        chosen = Checkpoint(tuple(checkpoint), tuple(settings))
        built, _ = load_weights(find_system(model), chosen, 0, say)
        spec = built.spec
        setup = PipelineSetup(
            spec, torch_engines(spec, built.stages), detector_for(spec, face_detector), assets=built.assets
        )
        sessions = []
        uris = data or _simulated(spec, people)
        for number, uri in enumerate(uris):
            say("playing sessions", number, len(uris))
            sessions.append(collect(setup, [open_source(uri)]))
        found = tune(built, sessions, Settings(n_updates=updates, rate=rate), say)
    save_weights(built.state_dict(), {"made_by": "edge-mer qat", "model": model}, to)
    _show(found, [model, *(f"--set {one}" for one in settings)], to)


def _simulated(spec: ModelSpec, people: int) -> list[str]:
    n_steps = spec.fusion.n_steps + n_lead_in(spec) + 4 * spec.fusion.hop
    return [simulated(spec, seed=6, person=FIRST_PERSON + i, n_steps=n_steps) for i in range(people)]


def _show(found: dict[str, Tuned], asked: list[str], to: Path) -> None:
    rows = [
        [stage, f"{one.before:.4f}", f"{one.after:.4f}", "tuned" if one.is_better else "left as it was"]
        for stage, one in found.items()
    ]
    out.print(table(["stage", "error in 8 bits / deviation", "after", ""], rows))
    out.print(f"Next: edge-mer export {' '.join(asked)} --checkpoint {shlex.quote(str(to))} --out DIR")

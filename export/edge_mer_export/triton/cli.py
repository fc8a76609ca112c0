"""`edge-mer bundle triton`: a bundle as a model repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_mer.bundle.read import open_bundle
from edge_mer.cli.common import out, progress
from edge_mer_export.triton.options import Options, check_name, parse_instances, parse_platform
from edge_mer_export.triton.repository import write_repository


def triton(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", metavar="BUNDLE")],
    to: Annotated[Path, typer.Option("--out", help="The repository to write.", metavar="REPOSITORY")],
    platform: Annotated[
        str,
        typer.Option(
            help="onnx: the bundle's files in ONNX Runtime; tensorrt: the plans that build-engine made here.",
            metavar="onnx|tensorrt",
        ),
    ] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option(help="The candidate. Default: fp32, of TensorRT the one that was built."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Begins the models' names, NAME_visual and so on. Default: the model's name."),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help="Most requests worked on at once. Default: 8, of TensorRT what was built for.",
        ),
    ] = None,
    instances: Annotated[
        list[str] | None,
        typer.Option(
            help="How many of each model run side by side, and on what: cpu:2, or gpu:1 for one on each GPU; "
            "may be given once for each. Default: cpu:1, of TensorRT gpu:1.",
            metavar="cpu|gpu:COUNT",
        ),
    ] = None,
    max_queue_delay_us: Annotated[
        int,
        typer.Option(min=0, max=10_000_000, help="How long a request may wait for others, in microseconds."),
    ] = 2_000,
    max_sequence_idle_s: Annotated[
        float,
        typer.Option(
            min=0.001, max=86_400, help="A sequence that is silent for longer is forgotten, in seconds."
        ),
    ] = 10.0,
    max_sequences: Annotated[
        int,
        typer.Option(
            min=1, max=4096, help="Sequences that an instance of the streaming model carries along at once."
        ),
    ] = 64,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a repository of that name.")] = False,
) -> None:
    """Write a model repository for Triton: every stage, and the fusion with its window as a sequence."""
    options = Options(
        platform=parse_platform(platform),
        precision=precision,
        name=check_name(name),
        max_batch=max_batch,
        max_queue_delay_us=max_queue_delay_us,
        max_sequence_idle_s=max_sequence_idle_s,
        max_sequences=max_sequences,
        instances=parse_instances(instances or ()),
    )
    with progress() as say:
        made = write_repository(open_bundle(bundle), to, options, replace=replace, say=say)
    for model in made.models:
        out.print(model, markup=False)
    out.print(
        f"{to}: {len(made.models)} models, {made.n_bytes / 1e6:.2f} MB; {made.n_checks} checks against the "
        "bundle and the files passed",
        markup=False,
    )

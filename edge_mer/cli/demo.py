"""`edge-mer demo`: one tiny model through every verb, and a table of what came out."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from edge_mer.bundle.manifest import Manifest
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.cli.common import out, table
from edge_mer.cli.main import verb_app
from edge_mer.clock import MonotonicClock
from edge_mer.engine.onnxruntime import available_threads
from edge_mer.runtime.build import median_ms
from edge_mer.runtime.proof import golden_sessions
from edge_mer.runtime.setup import CPU_PRECISIONS, open_setup

SESSION = "sim:seed=3&person=3&duration_s=20"


def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where the bundle and the predictions go.")] = Path(
        "demo"
    ),
    model: Annotated[str, typer.Option(help="A model of the zoo.")] = "jmt-tiny",
) -> None:
    """Walk a tiny model through all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    exported, bundle = folder / "exported", folder / "bundle"
    predictions = folder / "predictions.jsonl"
    steps: list[tuple[str, list[str]]] = [
        ("export", [model, "--out", str(exported), "--replace"]),
        ("calibrate", [str(exported), "--out", str(bundle), "--replace"]),
        ("build-engine", [str(bundle), "--force"]),
        ("verify", [str(bundle)]),
        ("run", [str(bundle), "--source", SESSION, "--fast", "--sink", f"jsonl:{predictions}"]),
    ]
    for verb, arguments in steps:
        out.print(f"\n$ edge-mer {shlex.join([verb, *arguments])}", style="bold")
        verb_app(verb)(args=arguments, prog_name=f"edge-mer {verb}", standalone_mode=False)
    out.print("\nWhat came out", style="bold")
    _show(open_bundle(bundle), predictions)


def _show(bundle: Bundle, predictions: Path) -> None:
    manifest = bundle.manifest
    columns = ["precision", "MB", "of FP32", "error/deviation", "fidelity CCC", "ms per step", "ms per hop"]
    out.print(table(columns, [_row(bundle, manifest, name) for name in manifest.candidates]))
    lines = predictions.read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    out.print(
        f"\n{len(lines)} predictions in {predictions}; the last one: {last['status']}, {last['affect']}"
    )
    out.print(
        "error/deviation: root mean square error of valence and arousal against PyTorch on golden sessions,\n"
        "in standard deviations; fidelity CCC: their concordance with fp32 on other simulated people.\n"
        "step: the encoders, once per step; hop: the window fusion. Both in ONNX Runtime on this processor,\n"
        f"{available_threads()} threads. The weights are random: the numbers prove the way, not a feeling."
    )


def _row(bundle: Bundle, manifest: Manifest, precision: str) -> list[str]:
    candidate = next(one for name, one in manifest.candidates.items() if name == precision)
    whole = manifest.candidates["fp32"].n_bytes
    names = [str(output.name) for output in manifest.model.outputs]
    errors = " ".join(f"{candidate.golden[name].rms:.1e}" for name in names)
    fidelity = (
        " ".join(f"{candidate.fidelity[name].ccc or 0.0:.3f}" for name in names) if candidate.fidelity else ""
    )
    times = (
        [f"{ms:.2f}" for ms in _times(bundle, precision)] if precision in CPU_PRECISIONS else ["TensorRT", ""]
    )
    return [
        precision,
        f"{candidate.n_bytes / 1e6:.2f}",
        f"{candidate.n_bytes / whole:.3f}",
        errors,
        fidelity or "reference",
        *times,
    ]


def _times(bundle: Bundle, precision: str) -> tuple[float, float]:
    """Median times of all encoders, and of the fusion, on golden data."""
    setup = open_setup(bundle, precision, None)
    session = golden_sessions(bundle.manifest.golden, bundle.read_arrays)[0]
    clock = MonotonicClock()
    step_ms = 0.0
    for encoder in setup.model.encoders:
        engine = setup.engines[encoder.stage]
        engine.inputs[encoder.input.name][...] = session[f"input.{encoder.stage}"][:1]
        step_ms += median_ms(_run(engine.infer), clock)
    return step_ms, median_ms(_run(setup.engines[setup.model.fusion.stage].infer), clock)


def _run(infer: Callable[[], object]) -> Callable[[], None]:
    def work() -> None:
        infer()

    return work

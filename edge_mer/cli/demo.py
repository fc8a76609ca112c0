"""`edge-mer demo`: one tiny model through every verb, and a table of what came out."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_mer.bundle.manifest import Manifest, in_order
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.cli.common import out, table
from edge_mer.cli.main import verb_app
from edge_mer.clock import MonotonicClock
from edge_mer.engine.threads import available_threads
from edge_mer.runtime.build import stage_times_ms
from edge_mer.runtime.proof import golden_sessions
from edge_mer.runtime.setup import cpu_precisions, open_setup
from edge_mer.runtime.simulated import simulated
from edge_mer.types.model import ModelSpec

PERSON, SEED, DURATION_S = 3, 3, 40


def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where everything that is made goes.")] = Path("demo"),
    model: Annotated[str, typer.Option(help="A model of the zoo.")] = "jmt-tiny",
) -> None:
    """Walk a tiny model through all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    exported, bundle, evaluation = folder / "exported", folder / "bundle", folder / "evaluation.json"
    predictions, report = folder / "predictions.jsonl", folder / "report.html"
    _walk("export", model, "--out", str(exported), "--replace")
    _walk("calibrate", str(exported), "--out", str(bundle), "--replace")
    _walk("build-engine", str(bundle), "--force")
    _walk("verify", str(bundle))
    _walk("evaluate", str(bundle), "--json", str(evaluation))
    session = _session(open_bundle(bundle).manifest.model)
    _walk("run", str(bundle), "--source", session, "--fast", "--sink", f"jsonl:{predictions}")
    _walk("report", str(predictions), "--out", str(report), "--truth", session, "--replace")
    out.print("\nWhat came out", style="bold")
    _show(open_bundle(bundle), json.loads(evaluation.read_text(encoding="utf-8")))
    _show_last(predictions, report)


def _session(model: ModelSpec) -> str:
    """A simulated person before the model, with a face that is hidden for a while now and then."""
    n_steps = int(DURATION_S / model.step)
    return simulated(model, seed=SEED, person=PERSON, n_steps=n_steps, keys="gaps=0.08")


def _walk(verb: str, *arguments: str) -> None:
    out.print(f"\n$ edge-mer {shlex.join([verb, *arguments])}", style="bold")
    verb_app(verb)(args=list(arguments), prog_name=f"edge-mer {verb}", standalone_mode=False)


def _show(bundle: Bundle, evaluation: dict[str, Any]) -> None:
    manifest = bundle.manifest
    whole = "+".join(manifest.model.modalities)
    truth = {
        row["precision"]: row["scores"] for row in evaluation["rows"] if "+".join(row["modalities"]) == whole
    }
    columns = ["precision", "MB", "of FP32", "fidelity", "CCC with truth", "ms per step", "ms per hop"]
    rows = [_row(bundle, manifest, name, truth.get(name)) for name in in_order(manifest.candidates)]
    out.print(table(columns, rows))
    names = " and ".join(output.name for output in manifest.model.outputs)
    out.print(
        f"\nfidelity: concordance of {names} with fp32; CCC with truth: concordance with what "
        f"{evaluation['n_people']} simulated\npeople felt, of whom the model learned from none. "
        "step: the encoders, once per step; hop: the window fusion;\n"
        f"both in ONNX Runtime on this processor, {available_threads()} threads. "
        "Simulated people prove the way, not that it reads real ones."
    )


def _show_last(predictions: Path, report: Path) -> None:
    lines = predictions.read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    estimate = {key: last[key] for key in ("affect", "pain") if last[key] is not None}
    out.print(f"\n{len(lines)} predictions in {predictions}; the last one: {last['status']}, {estimate}")
    out.print(f"Open {report} in a browser.")


def _row(bundle: Bundle, manifest: Manifest, precision: str, truth: dict[str, Any] | None) -> list[str]:
    candidate = manifest.candidates[precision]
    whole = manifest.candidates["fp32"].n_bytes
    names = [str(output.name) for output in manifest.model.outputs]
    fidelity = (
        " ".join(f"{candidate.fidelity[name].ccc or 0.0:.3f}" for name in names) if candidate.fidelity else ""
    )
    times = (
        [f"{ms:.2f}" for ms in _times(bundle, precision)] if cpu_precisions([precision]) else ["TensorRT", ""]
    )
    return [
        precision,
        f"{candidate.n_bytes / 1e6:.2f}",
        f"{candidate.n_bytes / whole:.3f}",
        fidelity or "reference",
        " ".join(f"{truth[name]['CCC']['value']:.3f}" for name in names) if truth else "",
        *times,
    ]


def _times(bundle: Bundle, precision: str) -> tuple[float, float]:
    """Median times of all encoders, and of the fusion, on golden data."""
    sessions = golden_sessions(bundle.manifest, bundle.read_arrays)
    times_ms = stage_times_ms(open_setup(bundle, precision, None), sessions, MonotonicClock())
    fusion_ms = times_ms.pop(bundle.manifest.model.fusion.stage)
    return sum(times_ms.values()), fusion_ms

"""`edge-mer bench`: what a prediction costs on this device, part by part, and against another bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

import edge_mer
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.cli.common import detector_for, out, progress, table
from edge_mer.clock import MonotonicClock
from edge_mer.engine.cache import processor
from edge_mer.engine.onnxruntime import available_threads
from edge_mer.files import write_atomically
from edge_mer.report.bench_chart import bars
from edge_mer.runtime.bench import (
    Bench,
    Cost,
    Ratio,
    Recording,
    golden_recordings,
    ratio,
    recording_of,
    run,
)
from edge_mer.runtime.opening import open_chosen
from edge_mer.runtime.target import Choice
from edge_mer.sources.registry import open_source

_MB = 1_000_000


def bench(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    against: Annotated[
        list[Path] | None, typer.Option(help="Another bundle, by turns in the same run; again for more.")
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="Candidates to measure. Default: what build-engine chose here, and fp32."),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(help="A recording to measure on, e.g. file:clip.mp4. Default: the golden sessions."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, max=3600, help="How long to measure, in all.")] = 20.0,
    face_detector: Annotated[
        Path | None, typer.Option(help="YuNet's ONNX file; without it OpenCV's cascades find faces.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    chart: Annotated[Path | None, typer.Option(help="Draw them here, as SVG.")] = None,
) -> None:
    """Measure what a prediction costs on this device, and where the time goes."""
    paths = (bundle, *(against or ()))
    benches = [
        replace(one, label=f"{path.name}: {one.label}") if len(paths) > 1 else one
        for path in paths
        for one in _benches(open_bundle(path), precision, source, seconds, face_detector)
    ]
    with progress() as say:
        n_rounds = run(benches, seconds, lambda n: say("measuring", n, 0))
    costs = [one.cost() for one in benches]
    ratios = [ratio(one, benches[-1]) for one in benches]
    _show(costs, ratios, n_rounds)
    if json_file is not None:
        write_atomically(json_file, _as_json(costs, ratios, n_rounds).encode())
    if chart is not None:
        drawn = bars([(one.label, {part: of.p50 for part, of in one.parts.items()}) for one in costs])
        write_atomically(chart, drawn.encode())


def _benches(
    bundle: Bundle,
    precisions: list[str] | None,
    sources: list[str] | None,
    seconds: float,
    face_detector: Path | None,
) -> list[Bench]:
    """One per candidate; two candidates that would run the same count once."""
    recordings = _recordings(bundle, sources, seconds)
    found: dict[Choice, Bench] = {}
    for precision in precisions or (None, "fp32"):
        setup, choice, _ = open_chosen(bundle, precision)
        setup = replace(setup, detector=detector_for(setup.model, face_detector))
        found.setdefault(choice, Bench(str(choice), setup, recordings, MonotonicClock()))
    return list(found.values())


def _recordings(bundle: Bundle, sources: list[str] | None, seconds: float) -> list[Recording]:
    if not sources:
        return golden_recordings(bundle)
    return [recording_of([open_source(uri) for uri in sources], max(seconds, 1.0))]


def _show(costs: Sequence[Cost], ratios: Sequence[Ratio], n_rounds: int) -> None:
    columns = ["ms per prediction", "p50", "p95", "p99", "per s", "of the time", "against the last"]
    out.print(table(columns, [_row(*one) for one in zip(costs, ratios, strict=True)]))
    parts = list(dict.fromkeys(part for one in costs for part in one.parts))
    rows = [
        [one.label, *(f"{one.parts[part].p50:.2f}" if part in one.parts else "" for part in parts)]
        for one in costs
    ]
    out.print(table(["p50 of its parts, in ms", *parts], rows, title="\n"))
    out.print(
        f"\n{n_rounds} rounds by turns, {min(one.whole.n for one in costs)} predictions or more each, on "
        f"{processor()['name']}, {available_threads()} threads.",
        markup=False,
    )


def _row(cost: Cost, against: Ratio) -> list[str]:
    whole = cost.whole
    return [
        cost.label,
        *(f"{ms:.2f}" for ms in (whole.p50, whole.p95, whole.p99)),
        f"{cost.predictions_per_s:.1f}",
        f"{100 * whole.p50 / cost.hop_ms:.0f} %",
        f"{against.median:.2f} ({against.low:.2f} to {against.high:.2f})",
    ]


def _as_json(costs: Sequence[Cost], ratios: Sequence[Ratio], n_rounds: int) -> str:
    told: dict[str, Any] = {
        "edge_mer": edge_mer.__version__,
        "processor": processor(),
        "threads": available_threads(),
        "n_rounds": n_rounds,
        "costs": [
            asdict(cost) | {"ratio_to_last": asdict(one)} for cost, one in zip(costs, ratios, strict=True)
        ],
    }
    return json.dumps(told, indent=1) + "\n"

"""`edge-mer run`: predictions from sources, one per hop."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.cli.common import detector_for, err, parse_missing
from edge_mer.clock import MonotonicClock
from edge_mer.engine.onnxruntime import OrtOptions, available_threads
from edge_mer.errors import UsageError
from edge_mer.runtime.build import Choice, cached_choice
from edge_mer.runtime.session import SessionReport, run_session
from edge_mer.runtime.setup import open_setup
from edge_mer.sinks.base import Sink
from edge_mer.sinks.registry import open_sink
from edge_mer.sources.base import Source
from edge_mer.sources.registry import open_source


def run(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    source: Annotated[
        list[str],
        typer.Option(help="Where data comes from, e.g. file:clip.mp4 or sim:seed=1; may be repeated."),
    ],
    sink: Annotated[
        list[str],
        typer.Option(
            help="Where predictions go, e.g. jsonl:out.jsonl or jsonl:- (the terminal); may be repeated."
        ),
    ] = ["jsonl:-"],  # noqa: B006
    fast: Annotated[
        bool, typer.Option("--fast", help="Play recordings as fast as they go, not at their own pace.")
    ] = False,
    precision: Annotated[
        str | None, typer.Option(help="Run this precision instead of the one that build-engine chose.")
    ] = None,
    missing: Annotated[
        list[str], typer.Option(help="What stands in for a modality that is not there, e.g. audio=mask.")
    ] = [],  # noqa: B006
    face_detector: Annotated[
        Path | None, typer.Option(help="YuNet's ONNX file; without it OpenCV's cascades find faces.")
    ] = None,
) -> None:
    """Run a bundle on sources and write predictions."""
    policies = parse_missing(missing)
    sources = [open_source(uri) for uri in source]
    sinks = [open_sink(uri) for uri in sink]
    _refuse_to_overwrite(sinks, sources, bundle)
    opened = open_bundle(bundle)
    choice = _choose(opened, precision)
    detector = detector_for(opened.manifest.model, face_detector)
    setup = open_setup(opened, choice.precision, detector, choice.options, policies)
    report = SessionReport()
    try:
        run_session(setup, sources, sinks, MonotonicClock(), report, fast=fast)
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        if report.n_predictions:
            _summarise(report, choice)


def _refuse_to_overwrite(sinks: Sequence[Sink], sources: Sequence[Source], bundle: Path) -> None:
    """No sink may take the place of another one, of a recording that is played, or of the bundle."""
    taken = {
        Path(s.uri.removeprefix("file:")).expanduser().resolve() for s in sources if s.uri.startswith("file:")
    }
    for sink in sinks:
        if sink.target is None:
            continue
        if sink.target in taken or sink.target.is_relative_to(bundle.resolve()):
            raise UsageError(
                f"cannot write {sink.target}",
                found="it is a source, another sink or in the bundle",
                hint="name another file",
            )
        taken.add(sink.target)


def _choose(bundle: Bundle, precision: str | None) -> Choice:
    if precision is not None:
        if precision not in bundle.manifest.candidates:
            known = ", ".join(bundle.manifest.candidates)
            raise UsageError(
                f"bundle {bundle.path} has no precision {precision!r}", expected=f"one of {known}"
            )
        return Choice(precision, OrtOptions(threads=available_threads()))
    built = cached_choice(bundle)
    if built is not None:
        return built
    err.print("No engine was built for this bundle here: running fp32. Next: edge-mer build-engine.")
    return Choice("fp32", OrtOptions(threads=available_threads()))


def _summarise(report: SessionReport, choice: Choice) -> None:
    statuses = ", ".join(f"{n} {status}" for status, n in sorted(report.n_by_status.items()))
    err.print(f"{report.n_predictions} predictions ({statuses}) in {choice.precision}.")
    if report.n_by_reason:
        err.print("Reasons: " + ", ".join(f"{reason} {n}" for reason, n in report.n_by_reason.most_common()))
    counted = report.counters
    if counted.n_dropped_tail or counted.n_late or counted.n_gaps:
        tail, late, gaps = counted.n_dropped_tail, counted.n_late, counted.n_gaps
        err.print(f"Dropped: {tail} unfinished step, {late} late frames or samples. Gaps: {gaps}.")
    if report.n_by_status["withheld"] == report.n_predictions:
        err.print("Warning: every prediction was withheld; the reasons say why.")

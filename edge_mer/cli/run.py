"""`edge-mer run`: predictions from sources, one per hop."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edge_mer.cli.common import err, parse_missing, progress
from edge_mer.cli.corpus import RAY_HELP, WORKERS_HELP, run_corpus
from edge_mer.cli.health import tell_unwritten, with_health_told
from edge_mer.cli.record import REDACT_HELP, parse_redact, tell, tell_recorded, tell_recording
from edge_mer.clock import MonotonicClock
from edge_mer.errors import UsageError
from edge_mer.preprocess.people import MAX_PEOPLE
from edge_mer.runtime.opening import Opened, open_all
from edge_mer.runtime.protocols.base import EvaluationProtocol
from edge_mer.runtime.protocols.playing import run_protocol
from edge_mer.runtime.protocols.registry import open_protocol
from edge_mer.runtime.recording import open_recording
from edge_mer.runtime.session import SessionHooks, SessionReport, run_session
from edge_mer.runtime.target import Choice
from edge_mer.sources.base import Source
from edge_mer.sources.transcript import TranscriptSource
from edge_mer.types.uri_keys import shown


def run(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    source: Annotated[
        list[str],
        typer.Option(help="Where data comes from, e.g. file:clip.mp4 or sim:seed=1; may be repeated."),
    ] = [],  # noqa: B006
    sink: Annotated[
        list[str],
        typer.Option(
            help="Where predictions go, e.g. jsonl:out.jsonl; may be repeated. Default: jsonl:- (stdout)."
        ),
    ] = [],  # noqa: B006
    fast: Annotated[
        bool, typer.Option("--fast", help="Play recordings as fast as they go, not at their own pace.")
    ] = False,
    precision: Annotated[
        str | None, typer.Option(help="Run this precision instead of the one that build-engine chose.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Have an inference server run the stages, and this device while it is away, "
            "e.g. triton://gpu-box:8001/jmt?deadline_ms=100."
        ),
    ] = None,
    missing: Annotated[
        list[str], typer.Option(help="What stands in for a modality that is not there, e.g. audio=mask.")
    ] = [],  # noqa: B006
    hop: Annotated[
        int | None,
        typer.Option(min=1, help="Predict every so many steps instead of as often as the model declares."),
    ] = None,
    face_detector: Annotated[
        Path | None, typer.Option(help="YuNet's ONNX file; without it OpenCV's cascades find faces.")
    ] = None,
    people: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_PEOPLE, help="Follow up to so many faces at once, with predictions for each."
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Keep what the sources give, faces and voices too, beside the predictions: a new .mcap."
        ),
    ] = None,
    redact: Annotated[str | None, typer.Option(help=REDACT_HELP)] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Evaluate whole recordings as a paper did, not as a stream: affwild2, rjcma or biovid."
        ),
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(
            metavar="MANIFEST",
            help="Play all recordings of a manifest (CSV or JSON lines) in the place of --source.",
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Of --corpus: the folder for predictions, as Parquet."),
    ] = None,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help=RAY_HELP)] = None,
    workers: Annotated[int | None, typer.Option(min=1, help=WORKERS_HELP)] = None,
) -> None:
    """Run a bundle on sources and write predictions."""
    if corpus is not None or to is not None or ray is not None or workers is not None:
        refused = {
            "--source": source,
            "--sink": sink,
            "--fast": fast,
            "--record": record,
            "--redact": redact,
            "--protocol": protocol,
            "--engine": engine,
        }
        run_corpus(
            bundle,
            corpus,
            to,
            ray,
            workers,
            [name for name, value in refused.items() if value],
            precision=precision,
            missing=parse_missing(missing),
            hop=hop,
            face_detector=face_detector,
            people=people,
        )
        return
    if not source:
        raise UsageError(
            "a run needs a source",
            expected="--source URI, or --corpus MANIFEST",
            hint="e.g. --source sim:seed=1",
        )
    policies, redacted = parse_missing(missing), parse_redact(redact)
    if redacted and record is None:
        raise UsageError("--redact says what --record leaves out", hint="add --record session.mcap")
    if protocol is not None:
        _refuse_beside_protocol(hop, missing, record, people, engine)
    way = None if protocol is None else open_protocol(protocol)
    opened = open_all(
        bundle,
        source,
        sink or ["jsonl:-"],
        precision=precision,
        missing=policies,
        face_detector=face_detector,
        hop=hop,
        people=people,
        engine=engine,
    )
    if not opened.was_built:
        err.print("No engine was built for this bundle here: running fp32. Next: edge-mer build-engine.")
    report, clock = SessionReport(), MonotonicClock()
    recording = None
    try:
        if record is not None:
            recording = open_recording(
                record, opened.sources, clock, report, tell, beside=opened, redacted=redacted
            )
            tell_recording(recording)
        if way is None:
            hooks = SessionHooks() if recording is None else recording.hooks
            hooks = with_health_told(hooks, report)
            run_session(opened.setup, opened.sources, opened.sinks, clock, report, fast=fast, hooks=hooks)
        else:
            _evaluate(way, opened, report)
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        if recording is not None:
            recording.close()
            tell_recorded(recording)
        opened.setup.close()
        if report.n_predictions:
            _summarise(report, opened.choice)
            tell_lost_words(opened.sources)
            tell_unwritten(report)


def _refuse_beside_protocol(
    hop: int | None, missing: list[str], record: Path | None, people: int | None, engine: str | None
) -> None:
    options = (
        ("--hop", hop),
        ("--missing", missing),
        ("--record", record),
        ("--people", people),
        ("--engine", engine),
    )
    given = [name for name, value in options if value]
    if given:
        raise UsageError(
            f"--protocol and {' and '.join(given)} exclude each other",
            hint="leave one out: a protocol says itself when to predict, and plays recordings only",
        )


def _evaluate(protocol: EvaluationProtocol, opened: Opened, report: SessionReport) -> None:
    """Play the recording by a protocol, as fast as it goes."""
    with progress() as say:
        notes = run_protocol(
            protocol, opened.setup, opened.sources, opened.sinks, MonotonicClock(), report, say
        )
    for note in notes:
        err.print(note)


def _summarise(report: SessionReport, choice: Choice) -> None:
    statuses = ", ".join(f"{n} {status}" for status, n in sorted(report.n_by_status.items()))
    err.print(f"{report.n_predictions} predictions ({statuses}) in {choice.precision}.")
    if report.n_by_reason:
        err.print("Reasons: " + ", ".join(f"{reason} {n}" for reason, n in report.n_by_reason.most_common()))
    counted = report.counters
    if counted.n_people:
        err.print(f"{counted.n_people} {'person was' if counted.n_people == 1 else 'people were'} followed.")
    if counted.n_dropped_tail or counted.n_late or counted.n_gaps:
        tail, late, gaps = counted.n_dropped_tail, counted.n_late, counted.n_gaps
        err.print(f"Dropped: {tail} unfinished step, {late} late frames, samples or words. Gaps: {gaps}.")
    if counted.n_duplicate or counted.n_corrections or counted.n_refused:
        twice, drift, refused = counted.n_duplicate, counted.n_corrections, counted.n_refused
        err.print(f"Came twice: {twice} frames or samples. Put right for drift: {drift}. Refused: {refused}.")
    if report.n_by_status["withheld"] == report.n_predictions:
        err.print("Warning: every prediction was withheld; the reasons say why.")


def tell_lost_words(sources: Sequence[Source]) -> None:
    """One line per transcript of which not all words came as far as the model, which counts late ones."""
    for source in sources:
        if not isinstance(source, TranscriptSource):
            continue
        counts = source.counts
        lost = {
            "lines that could not be used": counts.n_bad,
            "utterances that were not read soon enough": counts.n_dropped,
            "words from before the start": counts.n_words_before,
        }
        if any(lost.values()):
            err.print(
                f"Lost of {shown(source.uri)}: {', '.join(f'{n} {what}' for what, n in lost.items() if n)}.",
                markup=False,
            )

"""`edge-mer record`: sources to a file, without a model; mends such files, too."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.text import Text

from edge_mer.cli.common import err
from edge_mer.clock import NS_PER_S, Clock, MonotonicClock
from edge_mer.errors import UsageError
from edge_mer.runtime.opening import Opened, open_all
from edge_mer.runtime.recording import (
    REDACTABLE,
    SessionRecording,
    checked_redact,
    open_recording,
    record_sources,
)
from edge_mer.runtime.repair import Mended
from edge_mer.runtime.repair import repair as mend
from edge_mer.runtime.session import SessionReport, run_session
from edge_mer.sources.base import Source
from edge_mer.sources.registry import open_source
from edge_mer.types.signals import Modality

_TELL_EVERY_NS = 10 * NS_PER_S

REDACT_HELP = (
    f"Of these, separated by commas, keep what the bundle's encoders made of them and nothing else: "
    f"{', '.join(REDACTABLE)}."
)


def record(
    source: Annotated[
        list[str],
        typer.Option(help="What to record, e.g. camera:0 or sim:seed=1; may be repeated."),
    ] = [],  # noqa: B006
    to: Annotated[Path | None, typer.Option("--out", help="The new file, e.g. session.mcap.")] = None,
    duration_s: Annotated[
        float | None,
        typer.Option(min=0, help="Stop after so many seconds. Default: at the end, or at Ctrl-C."),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Take recordings as fast as they go, not at their own pace.")
    ] = False,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Run this bundle beside, and keep its predictions too; --redact needs one."),
    ] = None,
    redact: Annotated[str | None, typer.Option(help=REDACT_HELP)] = None,
    repair: Annotated[
        Path | None,
        typer.Option(help="Mend this recording, which was cut or spoilt: in its place, or to --out."),
    ] = None,
) -> None:
    """Record sources to an MCAP file, which --source mcap:FILE plays again; faces and voices are in it."""
    if repair is not None:
        _refuse_beside_repair(source, duration_s, fast, bundle, redact)
        _tell_mended(mend(repair, to), repair if to is None else to)
        return
    if to is None or not source:
        raise UsageError("nothing to record", expected="--source, once or more, and --out session.mcap")
    redacted = parse_redact(redact)
    if duration_s is not None and not math.isfinite(duration_s):
        raise UsageError(f"--duration-s {duration_s} is no time", expected="seconds")
    if redacted and bundle is None:
        raise UsageError("--redact keeps features, and only a bundle makes them", hint="add --bundle")
    clock, report = MonotonicClock(), SessionReport()
    opened = None if bundle is None else open_all(bundle, source)
    sources = [open_source(uri) for uri in source] if opened is None else opened.sources
    try:
        recording = open_recording(to, sources, clock, report, tell, beside=opened, redacted=redacted)
        _record(recording, sources, opened, clock, report, duration_s, fast=fast)
    finally:
        if opened is not None:
            opened.setup.close()
    tell_recorded(recording)
    if recording.recorder.failure is not None:
        raise UsageError(f"the recording {to} is not whole", hint="free some space, or name another disk")


def _refuse_beside_repair(*given: object) -> None:
    if any(given):
        raise UsageError("--repair goes with --out only", hint="leave the others out")


def _record(
    recording: SessionRecording,
    sources: Sequence[Source],
    opened: Opened | None,
    clock: Clock,
    report: SessionReport,
    duration_s: float | None,
    *,
    fast: bool,
) -> None:
    duration_ns = None if duration_s is None else int(duration_s * NS_PER_S)
    try:
        with _shown(recording, clock) as look, contextlib.suppress(KeyboardInterrupt):
            hooks = recording.hooks_until(duration_ns, look)
            if opened is None:
                record_sources(sources, clock, report, hooks, fast=fast)
            else:
                run_session(opened.setup, sources, [], clock, report, fast=fast, hooks=hooks)
    finally:
        recording.close()


def parse_redact(text: str | None) -> list[Modality]:
    """Modalities that are not kept, from such as "faces,voice".

    Raises:
        UsageError: No such word.
    """
    return checked_redact([] if text is None else [word.strip() for word in text.split(",")])


def tell(what: str) -> None:
    """Something that the user must know, whatever else is shown."""
    err.print(what, markup=False)


def tell_recording(recording: SessionRecording) -> None:
    """Say that somebody is being recorded."""
    err.print(_line(recording))


def tell_recorded(recording: SessionRecording) -> None:
    """What came of a recording."""
    recorder = recording.recorder
    if not recorder.n_messages:
        err.print("Nothing was recorded.")
        return
    dropped = f", {recorder.n_dropped} left out" if recorder.n_dropped else ""
    err.print(
        f"Recorded {_seconds(recording)} in {recorder.n_bytes / 1e6:.1f} MB: {recorder.n_messages} messages"
        f"{dropped}. Play it with --source mcap:{recording.target}",
        markup=False,
    )


def _line(recording: SessionRecording) -> Text:
    parts = (
        f" recording to {recording.target}: {_seconds(recording)}, {recording.recorder.n_bytes / 1e6:.1f} MB"
    )
    n_dropped = recording.recorder.n_dropped
    return (
        Text("●", style="bold red")
        .append(parts, style="default not bold")
        .append(f", {n_dropped} left out" if n_dropped else "", style="bold red")
    )


def _seconds(recording: SessionRecording) -> str:
    minutes, seconds = divmod(recording.end_ns / NS_PER_S, 60)
    return f"{int(minutes)}:{seconds:04.1f}"


@contextlib.contextmanager
def _shown(recording: SessionRecording, clock: Clock) -> Iterator[Callable[[], None]]:
    """Say that it records while it does: on a terminal in one changing line, else every ten seconds."""
    if err.is_terminal:
        with Live(get_renderable=lambda: _line(recording), console=err, transient=True):
            yield lambda: None
        return
    next_ns = clock.now_ns()

    def look() -> None:
        nonlocal next_ns
        if clock.now_ns() >= next_ns:
            tell_recording(recording)
            next_ns = clock.now_ns() + _TELL_EVERY_NS

    yield look


def _tell_mended(mended: Mended, path: Path) -> None:
    minutes, seconds = divmod(mended.duration_s, 60)
    length = f"{mended.n_messages} messages, {int(minutes)}:{seconds:04.1f}"
    if not mended.is_changed:
        err.print(f"{path} is whole ({length}); it was left alone.", markup=False)
        return
    lost = [f"{mended.n_lost} parts of half a second or less were spoilt"] if mended.n_lost else []
    lost += ["its end was lost"] if mended.was_cut else []
    err.print(f"{path} has {length}. {' and '.join(lost).capitalize() or 'Nothing was lost'}.", markup=False)

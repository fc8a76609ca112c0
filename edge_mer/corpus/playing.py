"""Plays a corpus into a folder of tables; a run that was stopped goes on from what lies there.

OUT/predictions/<recording>.parquet   a row for each prediction
OUT/recordings.csv                    a row for each recording, also for those that failed
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import edge_mer
from edge_mer.corpus.crew import Crew
from edge_mer.corpus.cut import Piece
from edge_mer.corpus.keys import files_of
from edge_mer.corpus.player import Playing
from edge_mer.corpus.progress import Progress, Say
from edge_mer.corpus.table import Mark, arrow, joined, mark_of, statuses_of, write_table
from edge_mer.errors import UsageError
from edge_mer.files import remove_unfinished, write_atomically
from edge_mer.labels.manifest import Recording

TABLES, LIST = "predictions", "recordings.csv"

_COLUMNS = ("recording", "person", "file", "seconds", "predictions", "ok", "degraded", "withheld", "error")
_MAX_NAME = 80


@dataclass
class Played:
    """What a corpus came to.

    Attributes:
        n_recordings: How many it has.
        n_before: Of those whose tables were there already.
        n_by_status: Predictions by status.
        n_by_reason: Predictions by reason.
        failed: Name of the recording -> why.
        seconds: How long the recordings play that were played now.
    """

    n_recordings: int
    n_before: int = 0
    n_by_status: Counter[str] = field(default_factory=Counter)
    n_by_reason: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def n_predictions(self) -> int:
        """All of them."""
        return sum(self.n_by_status.values())


def play_corpus(playing: Playing, recordings: Sequence[Recording], out: Path, crew: Crew, say: Say) -> Played:
    """Play recordings and write their tables.

    A recording that cannot be played is listed, and tried again when the corpus is played into the same
    folder again; one whose table is there, made by the same bundle in the same way of the same files, is not
    played again.

    Args:
        playing: How.
        recordings: With names of their own.
        out: The folder; it is made.
        crew: Who plays them.
        say: Told what is being done.

    Raises:
        UsageError: Something else is in the folder, or it cannot be written.
        EdgeMerError: The bundle or an engine cannot be used.
    """
    arrow()
    return _Corpus(playing, recordings, out, crew, say).play()


@dataclass
class _Line:
    """A recording on its way.

    Attributes:
        recording: It.
        path: Its table.
        key: What that depends on.
        pieces: What it is cut into.
        tables: Those of the pieces that are played.
        error: Why it failed.
    """

    recording: Recording
    path: Path
    key: str
    pieces: list[Piece] = field(default_factory=list)
    tables: dict[int, Any] = field(default_factory=dict)
    error: str = ""
    seconds: float | None = None

    def is_done(self) -> bool:
        """Whether its table is there already."""
        mark = mark_of(self.path)
        if mark is None or mark.key != self.key:
            return False
        self.seconds = mark.seconds
        return True

    def forget(self) -> None:
        """Remove the table of what the recording was before."""
        self.path.unlink(missing_ok=True)


class _Corpus:
    def __init__(
        self, playing: Playing, recordings: Sequence[Recording], out: Path, crew: Crew, say: Say
    ) -> None:
        self._playing, self._out, self._crew, self._say = playing, out, crew, say
        setup = playing.opened()
        way = [edge_mer.__version__, setup.bundle_id, setup.precision, setup.engine_name, setup.hop_steps]
        way += [
            sorted(playing.missing.items()),
            setup.people,
            str(playing.face_detector or ""),
            files_of((), () if playing.face_detector is None else (playing.face_detector,)),
        ]
        setup.close()
        folder = out / TABLES
        self._lines = [
            _Line(one, folder / f"{_file_name(one.name)}.parquet", _key(way, one)) for one in recordings
        ]

    def play(self) -> Played:
        self._make_folder()
        done = Played(len(self._lines))
        todo = [line for line in self._lines if not line.is_done()]
        done.n_before = len(self._lines) - len(todo)
        self._cut(todo)
        self._play([line for line in todo if not line.error])
        self._write_list(done)
        done.seconds = sum(line.seconds or 0.0 for line in todo if not line.error)
        return done

    def _make_folder(self) -> None:
        folder = self._out / TABLES
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if strange := [
                one.name
                for one in self._out.iterdir()
                if one.name not in (TABLES, LIST) and not one.name.startswith(".")
            ]:
                raise UsageError(
                    f"{self._out} holds something else",
                    expected="a new folder, or one that a corpus was played into",
                    found=", ".join(sorted(strange)[:3]),
                    hint="give another folder to --out",
                )
            for line in self._lines:
                remove_unfinished(line.path)
        except OSError as error:
            raise _unwritable(self._out, error) from error

    def _cut(self, lines: Sequence[_Line]) -> None:
        progress = Progress(self._say, "looking at recordings", [1.0] * len(lines))
        for done in self._crew.each(self._playing, [line.recording for line in lines]):
            line = lines[done.number]
            line.error, line.pieces = done.error, done.result or []
            line.seconds = None if done.error else sum(piece.seconds for piece in line.pieces)
            if done.error:
                line.forget()
            progress.ended(done.number, is_good=not done.error)

    def _play(self, lines: Iterable[_Line]) -> None:
        jobs = [(line, piece) for line in lines for piece in line.pieces]
        jobs.sort(key=lambda job: -job[1].seconds)  # the longest first: nobody waits for it at the end
        pieces = [piece for _, piece in jobs]
        progress = Progress(self._say, "playing", [piece.seconds for piece in pieces])
        for done in self._crew.each(self._playing, pieces):
            line, piece = jobs[done.number]
            line.error = line.error or done.error
            line.tables[piece.number] = done.result
            if len(line.tables) == len(line.pieces):
                self._finish(line)
            progress.ended(done.number, is_good=not done.error)

    def _finish(self, line: _Line) -> None:
        tables = [line.tables[number] for number in sorted(line.tables)]
        line.tables = {}
        if line.error:
            line.forget()
            return
        try:
            write_table(line.path, joined(tables), Mark(line.key, line.seconds or 0.0))
        except OSError as error:
            raise _unwritable(line.path, error) from error

    def _write_list(self, told: Played) -> None:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(_COLUMNS)
        for line in self._lines:
            counts: Counter[str] = Counter()
            if line.error:
                told.failed[line.recording.name] = line.error
            else:
                statuses, reasons = statuses_of(line.path)
                counts.update(statuses)
                told.n_by_status += counts
                told.n_by_reason.update(reason for one in reasons for reason in one)
            said = [f"{TABLES}/{line.path.name}" if not line.error else ""]
            said += ["" if line.seconds is None else f"{line.seconds:.3f}", str(counts.total())]
            said += [str(counts[status]) for status in ("ok", "degraded", "withheld")]
            rows.writerow([line.recording.name, line.recording.person, *said, line.error])
        try:
            write_atomically(self._out / LIST, text.getvalue().encode())
        except OSError as error:
            raise _unwritable(self._out / LIST, error) from error


def _key(way: Sequence[Any], recording: Recording) -> str:
    """What a recording's predictions depend on; of files their sizes and times of change."""
    parts = [way, recording.name, recording.person, recording.sources, files_of(recording.sources)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _file_name(name: str) -> str:
    """Of a recording whose name may have any characters; no two names have the same."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name if "/" in name else name).strip(".-")
    return f"{plain[:_MAX_NAME] or 'recording'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot write {path}", found=error.strerror or str(error))

"""The labels of one recording over time, and how they are read from a file.

t_s,valence,arousal        a row at each time from the recording's start (or t_ns)
valence,arousal            a row every 1/rate seconds, the rate from the manifest
valence,arousal            else: a row per picture of the video
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.labels.problems import Problem

INVALID = -5.0
"""What Affwild2 writes where there is no label."""

MIN_TOLERANCE_NS = NS_PER_S // 2
TOLERANCE_SHARE = Fraction(2, 100)
"""A track may be shorter or longer than its recording by the larger of both."""

TOLERANCE_FRAMES = 2

MAX_BYTES = 256 << 20
"""A longer file is no label file."""

NO_TIMES = "no time column, no label_rate_hz in the manifest, and no video to count pictures in"
"""The problem of a label file whose rows nothing places in time."""

Range = tuple[float, float]

_TIME_COLUMNS = {"t_s": NS_PER_S, "t_ns": 1}
_MAX_TIME_NS = 9 * 10**18
_MAX_VALUE = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class LabelTrack:
    """Labels over time.

    Attributes:
        t_ns: (n,) int64, increasing; when each row was given, from the recording's start.
        values: Output name -> (n,) float32, NaN where there is no label.
    """

    t_ns: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float32]]

    def at(self, t_ns: ArrayLike, max_distance_ns: int) -> dict[str, NDArray[np.float32]]:
        """The labels of the row that is nearest in time; of two as near, the earlier one.

        Args:
            t_ns: Times from the recording's start, any shape.
            max_distance_ns: Where the nearest row is farther, there is no label.

        Returns:
            Output name -> float32 of the shape of `t_ns`, NaN where there is no label.
        """
        asked_ns = np.asarray(t_ns, np.int64)
        if not self.t_ns.size:
            return {name: np.full(asked_ns.shape, np.nan, np.float32) for name in self.values}
        after = np.clip(np.searchsorted(self.t_ns, asked_ns), 0, self.t_ns.size - 1)
        before = np.maximum(after - 1, 0)
        to_before_ns = np.abs(asked_ns - self.t_ns[before])
        to_after_ns = np.abs(self.t_ns[after] - asked_ns)
        nearest = np.where(to_before_ns <= to_after_ns, before, after)
        is_near = np.minimum(to_before_ns, to_after_ns) <= max_distance_ns
        return {
            name: np.where(is_near, column[nearest], np.float32(np.nan))
            for name, column in self.values.items()
        }


def read_track(
    path: Path,
    ranges: Mapping[str, Range] | None = None,
    *,
    rate_hz: Fraction | None = None,
    frames_ns: NDArray[np.int64] | None = None,
    duration_ns: int | None = None,
) -> tuple[LabelTrack, list[Problem]]:
    """Read a label file; nothing is raised, everything wrong is told.

    Args:
        path: CSV or TSV with a header.
        ranges: Output name -> smallest and largest label; other columns are left alone. None reads
            every column, whatever its values.
        rate_hz: Rows per second, of a file without a time column.
        frames_ns: Times of the video's pictures, for a file without a time column or rate.
        duration_ns: How long the recording is; None = not compared.

    Returns:
        The track, empty where it could not be read, and the problems. Labels that are empty, NaN,
        infinite, -5 or out of range are NaN in the track, and counted in problems that are not fatal.
    """
    reading = _Reading(path)
    rows = reading.rows(ranges)
    if rows is None:
        return _empty(ranges or ()), reading.problems
    t_ns = reading.times_ns(rows, rate_hz, frames_ns)
    values = {
        name: reading.column(name, rows, None if ranges is None else ranges[name]) for name in rows.names
    }
    if not any(np.isfinite(column).any() for column in values.values()):
        reading.fatal(
            f"not one valid label in {len(rows.lines)} rows", "take the recording out of the manifest"
        )
    if t_ns is None:
        return _empty(rows.names), reading.problems
    track = LabelTrack(t_ns, {name: column[: t_ns.size] for name, column in values.items()})
    if duration_ns is not None and (rate_hz is not None or rows.unit_ns is not None):
        reading.check_length(track, duration_ns, rate_hz)
    return track, reading.problems


def _empty(names: Mapping[str, Range] | Sequence[str]) -> LabelTrack:
    return LabelTrack(np.zeros(0, np.int64), {name: np.zeros(0, np.float32) for name in names})


@dataclass(frozen=True)
class _Rows:
    """The cells that are needed, with the lines they are in."""

    names: tuple[str, ...]
    unit_ns: int | None
    lines: list[int]
    times: list[str]
    cells: dict[str, list[str]]


class _Reading:
    """Reads one file and gathers its problems."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.problems: list[Problem] = []

    def fatal(self, what: str, hint: str = "", line: int | None = None) -> None:
        """Note something that makes the labels unusable."""
        self.problems.append(Problem(str(self._path), line, what, hint=hint))

    def _at_lines(self, lines: Sequence[int], what: str, *, is_fatal: bool, hint: str = "") -> None:
        if lines:
            self.problems.append(Problem.at_lines(str(self._path), lines, what, is_fatal=is_fatal, hint=hint))

    def rows(self, ranges: Mapping[str, Range] | None) -> _Rows | None:
        """The table; None where it cannot be read or lacks a column."""
        try:
            with contextlib.closing(_cells(self._path)) as table:
                _, header = next(table, (1, []))
                columns = self._columns([name.strip() for name in header], ranges)
                return None if columns is None else self._gather(table, columns)
        except FileNotFoundError:
            self.fatal("there is no such label file", "check the path, which starts at the manifest's folder")
        except (OSError, ValueError, csv.Error) as error:  # ValueError: not UTF-8, a null character, too long
            reason = getattr(error, "strerror", None) or str(error)
            self.fatal(f"not readable: {reason}", "a label file is CSV or TSV with a header")
        return None

    def _columns(self, header: list[str], ranges: Mapping[str, Range] | None) -> dict[str, int] | None:
        """Column name -> index, a time column first."""
        if not any(header):
            self.fatal("empty", "a label file has a header and a row per label")
            return None
        times = [name for name in header if name in _TIME_COLUMNS]
        wanted = [name for name in header if name not in times] if ranges is None else [*ranges]
        twice = [name for name in dict.fromkeys([*times, *wanted]) if header.count(name) > 1]
        for name in twice:
            self.fatal(f"two columns are named {name!r}", "keep one of them", 1)
        if len(times) > 1 and not twice:
            self.fatal("two time columns, t_s and t_ns", "keep one of them", 1)
        missing = [name for name in wanted if name not in header]
        for name in missing:
            near = difflib.get_close_matches(name, header, n=1)
            hint = f"rename {near[0]!r}" if near else "add it, with empty cells where there is no label"
            listed = ", ".join(header[:20])
            self.fatal(f"no column {name!r} among {listed}", hint, 1)
        if missing or twice or len(times) > 1:
            return None
        return {name: header.index(name) for name in [*times, *wanted]}

    def _gather(self, table: Iterator[tuple[int, list[str]]], columns: dict[str, int]) -> _Rows:
        lines: list[int] = []
        cells: dict[str, list[str]] = {name: [] for name in columns}
        short: list[int] = []
        width = 1 + max(columns.values())
        for line, row in table:
            if len(row) < width:
                short.append(line)
                row = [*row, *[""] * (width - len(row))]
            lines.append(line)
            for name, index in columns.items():
                cells[name].append(row[index].strip())
        self._at_lines(short, f"fewer than {width} cells", is_fatal=True, hint="complete the rows")
        first = next(iter(columns))
        unit_ns = _TIME_COLUMNS.get(first)
        times = [] if unit_ns is None else cells.pop(first)
        return _Rows(tuple(cells), unit_ns, lines, times, cells)

    def times_ns(
        self, rows: _Rows, rate_hz: Fraction | None, frames_ns: NDArray[np.int64] | None
    ) -> NDArray[np.int64] | None:
        """When each row was given; None where nothing says so."""
        n = len(rows.lines)
        if rows.unit_ns is not None:
            if rate_hz is not None:
                self.fatal("a time column, and label_rate_hz in the manifest", "leave one of them out", 1)
            return self._written_times_ns(rows, rows.unit_ns)
        if rate_hz is not None:
            step = NS_PER_S * rate_hz.denominator
            return np.array([row * step // rate_hz.numerator for row in range(n)], np.int64)
        if frames_ns is None:
            self.fatal(
                NO_TIMES,
                "add t_s (seconds from the start), or give label_rate_hz",
            )
            return None
        if abs(n - frames_ns.size) > TOLERANCE_FRAMES:
            self.fatal(
                f"{n} rows for {frames_ns.size} pictures; expected as many, up to {TOLERANCE_FRAMES} off",
                "check that it belongs to this video; for other rates give label_rate_hz or t_s",
            )
        return frames_ns[:n]

    def _written_times_ns(self, rows: _Rows, unit_ns: int) -> NDArray[np.int64] | None:
        times = [_time_ns(text, unit_ns) for text in rows.times]
        bad = [line for line, time in zip(rows.lines, times, strict=True) if time is None]
        self._at_lines(bad, "the time is no number", is_fatal=True, hint="give every row a time")
        backward: list[int] = []
        last_ns: int | None = None
        for line, time in zip(rows.lines, times, strict=True):
            if time is not None and last_ns is not None and time <= last_ns:
                backward.append(line)
            last_ns = last_ns if time is None else time
        self._at_lines(
            backward,
            "the time is not later than in the row before",
            is_fatal=True,
            hint="sort the rows by time",
        )
        if bad or backward:
            return None
        return np.array(times, np.int64)

    def column(self, name: str, rows: _Rows, limits: Range | None) -> NDArray[np.float32]:
        """One output's labels, NaN where there is none."""
        found: dict[str, list[int]] = {}
        not_numbers: list[int] = []
        values = np.full(len(rows.lines), np.nan, np.float32)
        for row, (line, text) in enumerate(zip(rows.lines, rows.cells[name], strict=True)):
            value = _number(text)
            if value is None:
                not_numbers.append(line)
            elif kind := _why_invalid(value, limits):
                found.setdefault(kind, []).append(line)
            else:
                values[row] = value
        self._at_lines(
            not_numbers,
            f"{name}: no number in the cell",
            is_fatal=True,
            hint="empty it where there is no label; decimals are written with a point",
        )
        for kind in sorted(found):
            self._at_lines(found[kind], f"{name}: {kind}", is_fatal=False)
        return values

    def check_length(self, track: LabelTrack, duration_ns: int, rate_hz: Fraction | None) -> None:
        """A label may stand for the time before it or behind it, so the first and last have one step more."""
        if not track.t_ns.size:
            return
        step_ns = round(NS_PER_S / rate_hz) if rate_hz else 0
        if track.t_ns.size > 1 and not rate_hz:
            step_ns = int(np.median(np.diff(track.t_ns)))
        tolerance_ns = max(MIN_TOLERANCE_NS, int(duration_ns * TOLERANCE_SHARE))
        first_ns, last_ns = int(track.t_ns[0]), int(track.t_ns[-1])
        is_short = first_ns - step_ns > tolerance_ns or last_ns + step_ns < duration_ns - tolerance_ns
        if is_short or first_ns < -tolerance_ns or last_ns > duration_ns + tolerance_ns:
            length = f"0 s to {duration_ns / NS_PER_S:.2f} s, up to {tolerance_ns / NS_PER_S:.2f} s off"
            self.fatal(
                f"labels from {first_ns / NS_PER_S:.2f} s to {(last_ns + step_ns) / NS_PER_S:.2f} s; "
                f"expected {length}",
                "check that it belongs to this recording; times and rows count from the recording's start, "
                "and a moment without a label has a row with empty cells",
            )


def _why_invalid(value: float, limits: Range | None) -> str | None:
    if math.isnan(value):
        return "empty or NaN"
    if abs(value) > _MAX_VALUE:
        return "infinite"
    if value == INVALID:
        return "-5, which means that there is no label"
    if limits is not None and not limits[0] <= value <= limits[1]:
        return f"outside {limits[0]:g} to {limits[1]:g}"
    return None


def _number(text: str) -> float | None:
    if "_" in text:
        return None
    try:
        return float(text) if text else math.nan
    except ValueError:
        return None


def _time_ns(text: str, unit_ns: int) -> int | None:
    try:
        time = Decimal(text)
    except InvalidOperation:
        return None
    if not time.is_finite() or time.adjusted() > 18:
        return None
    t_ns = int((time * unit_ns).to_integral_value())
    return t_ns if abs(t_ns) <= _MAX_TIME_NS else None


def _cells(path: Path) -> Generator[tuple[int, list[str]], None, None]:
    """Line number and cells of every row, the header first; blank lines at the end are no rows."""
    if not path.is_file():
        raise FileNotFoundError(path) if not path.exists() else OSError(0, "not a file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES >> 20} MB")
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline(1 << 16)
        file.seek(0)
        delimiter = next((mark for mark in "\t;" if mark in first), ",")
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        n_blank = 0
        for cells in reader:
            if not cells:
                n_blank += 1
                continue
            for blank in range(reader.line_num - n_blank, reader.line_num):
                yield blank, [""]
            n_blank = 0
            yield reader.line_num, cells

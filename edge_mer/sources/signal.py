"""Biosignal files: one column of a table as a stream of samples, whose gaps stay gaps.

    signal:bio.csv?modality=eda&column=gsr&rate_hz=512
    signal:bio.tsv?modality=ecg&column=ecg&time_column=time&time_unit=ms&scale=1000
    signal:EDA.csv?modality=eda&layout=e4
    signal:night.edf?modality=ecg&column=ECG

A table is CSV or TSV, plain or gzipped; it is read as a stream, never as a whole. A row without a
number in its cell is a moment without a sample: the chunks jump over it. So they do over a pause in EDF+.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import gzip
import io
import itertools
import math
import re
import statistics
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from edge_mer.clock import NS_PER_S
from edge_mer.errors import DataError, UsageError
from edge_mer.sources.file_open import expand, open_regular, shown
from edge_mer.sources.signal_edf import EdfTable
from edge_mer.types.signals import UNITS, Chunk, Modality, StreamSpec

MODALITIES: tuple[Modality, ...] = ("eda", "ecg", "emg", "ppg", "rsp", "skt")
"""What a biosignal may be."""

CHUNKS_PER_S = 8

RATE_LIMITS_HZ = (Fraction(1), Fraction(100_000))

MIN_REGULAR_SHARE = 0.9
"""So many of the steps between times must be within half of their mean, or there is no one rate."""

_EXAMPLE = "signal:bio.csv?modality=eda&column=gsr&rate_hz=512"
_NS_PER_UNIT = {"s": NS_PER_S, "ms": 1_000_000, "us": 1_000, "ns": 1}
_SCALES = {("V", "mV"): "1000", ("uV", "mV"): "0.001", ("S", "uS"): "1e6", ("nS", "uS"): "0.001"}
_MAX_LINE_CHARS = 1 << 16
_MAX_DIGITS = 20  # of a time before the decimal point
_MAX_VALUE = float(np.finfo(np.float32).max)
_MAX_SHOWN = 20
_N_PROBED = 4096
_INDISTINCT_NS = 2_000_000  # a whole rate that moves the end of the file by less than this is the rate


@dataclass(frozen=True)
class SignalSettings:
    """What a `signal:` URI asks for.

    Attributes:
        path: The file, as written.
        modality: What the samples are.
        column: Name in the header, or number from 1 in a file without one.
        rate_hz: Samples per second, one per row.
        time_column: Where a row's time is, in the place of `rate_hz`; name or number as `column`.
        time_unit: "s", "ms", "us" or "ns".
        unit: Unit of the samples after scaling: that of the modality.
        scale: Multiplies the samples, e.g. 1000 from V to mV.
        layout: "table", "e4" for the files of an Empatica E4 (start time, rate, samples), or "edf", which is
            the default where the path ends so.
        is_unit_given: Whether the URI has `unit`, which then counts more than what an EDF file says.
    """

    path: str
    modality: Modality
    column: str = "1"
    rate_hz: Fraction | None = None
    time_column: str | None = None
    time_unit: str = "s"
    unit: str = ""
    scale: float = 1.0
    layout: str = "table"
    is_unit_given: bool = False

    @classmethod
    def parse(cls, rest: str) -> SignalSettings:
        """Read the part of a URI after `signal:`.

        Raises:
            UsageError: No path, an unknown or repeated key, a value that is not allowed, or keys that
                do not go together.
        """
        path, _, query = rest.partition("?")
        if not path:
            raise UsageError(f"signal:{rest}: no path", expected=_EXAMPLE)
        values: dict[str, Any] = {}
        for part in query.split("&") if query else ():
            key, separator, text = part.partition("=")
            if key not in _KEYS:
                raise _unknown_key(rest, key)
            if not separator or key in values:
                what = "is given twice" if separator else "has no value"
                raise UsageError(
                    f"signal:{rest}: {key} {what}", expected=f"{key}=VALUE once, {_KEYS[key].allowed}"
                )
            values[key] = _KEYS[key].read(rest, text)
        if path.lower().endswith(".edf"):
            values.setdefault("layout", "edf")
        _refuse_odd_keys(rest, values)
        given = {"unit": UNITS[values["modality"]], "is_unit_given": "unit" in values, **values}
        settings = cls(path=path, **given)
        _refuse_wrong_unit(rest, settings)
        return settings

    @property
    def has_header(self) -> bool:
        """Whether the column is asked for by its name."""
        return not self.column.isdecimal()


@dataclass(frozen=True)
class _Key:
    """A key of the URI: what it may be, and how its text is read (None = not allowed)."""

    name: str
    allowed: str
    convert: Callable[[str], Any]

    def read(self, rest: str, text: str) -> Any:
        value = self.convert(text)
        if value is None:
            raise UsageError(
                f"signal:{rest}: cannot use {self.name}={text}", expected=f"{self.name} = {self.allowed}"
            )
        return value


def _one_of(name: str, *allowed: str) -> _Key:
    return _Key(name, f"one of {', '.join(allowed)}", lambda text: text if text in allowed else None)


def _column(name: str) -> _Key:
    def convert(text: str) -> str | None:
        return text if text and not re.fullmatch("0+", text) else None

    return _Key(name, "a name in the header, or a number from 1 where there is no header", convert)


def _rate(text: str) -> Fraction | None:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}|/0*[1-9][0-9]{0,8})?", text):
        return None
    low, high = RATE_LIMITS_HZ
    return Fraction(text) if low <= Fraction(text) <= high else None


def _scale(text: str) -> float | None:
    if not re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,18})?([eE][-+]?[0-9]{1,2})?", text):
        return None
    return float(text) or None


_KEYS = {
    key.name: key
    for key in (
        _one_of("modality", *MODALITIES),
        _column("column"),
        _Key("rate_hz", "a number such as 512 or 31.25, from 1 to 100000", _rate),
        _column("time_column"),
        _one_of("time_unit", *_NS_PER_UNIT),
        _Key("unit", "the unit of the modality", lambda text: text or None),
        _Key("scale", "a number but 0, e.g. 1000 or 1e-3", _scale),
        _one_of("layout", "table", "e4", "edf"),
    )
}


def _unknown_key(rest: str, key: str) -> UsageError:
    near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}, {_KEYS[near[0]].allowed}" if near else f"write {_EXAMPLE}"
    return UsageError(f"signal:{rest}: unknown key {key!r}", expected=f"one of {', '.join(_KEYS)}", hint=hint)


def _refuse_odd_keys(rest: str, values: dict[str, Any]) -> None:
    if "modality" not in values:
        raise UsageError(
            f"signal:{rest}: no modality", expected=_KEYS["modality"].allowed, hint=f"e.g. {_EXAMPLE}"
        )
    if values.get("layout") == "e4":
        odd = [key for key in ("rate_hz", "time_column", "time_unit") if key in values]
        if odd or not values.get("column", "1").isdecimal():
            raise UsageError(
                f"signal:{rest}: {', '.join(odd) or 'a column name'} does not go with layout=e4",
                expected="a file that says its rate in its second line, and has no header",
            )
        return
    if "column" not in values:
        raise UsageError(
            f"signal:{rest}: no column", expected=_KEYS["column"].allowed, hint="e.g. column=gsr or column=1"
        )
    if values.get("layout") == "edf":
        odd = [key for key in ("rate_hz", "time_column", "time_unit") if key in values]
        if odd:
            raise UsageError(
                f"signal:{rest}: {', '.join(odd)} does not go with layout=edf",
                expected="a file that says its rate in its header",
            )
        return
    if ("rate_hz" in values) == ("time_column" in values):
        both = "both rate_hz and time_column" if "rate_hz" in values else "neither rate_hz nor time_column"
        raise UsageError(f"signal:{rest}: {both}", expected="one of them")
    if "time_unit" in values and "time_column" not in values:
        raise UsageError(f"signal:{rest}: time_unit without time_column", hint="leave it out")
    if values.get("time_column", "1").isdecimal() != values["column"].isdecimal() and "rate_hz" not in values:
        raise UsageError(
            f"signal:{rest}: one column by name and one by number",
            expected="both by name where the file has a header, else both by number",
        )


def _refuse_wrong_unit(rest: str, settings: SignalSettings) -> None:
    unit = UNITS[settings.modality]
    if settings.unit != unit:
        scale = _SCALES.get((settings.unit, unit))
        hint = (
            f"write unit={unit}&scale={scale}" if scale else f"convert the file, or write scale= and {unit}"
        )
        raise UsageError(
            f"signal:{rest}: {settings.modality} is not delivered in {settings.unit}",
            expected=f"unit {unit}",
            found=f"unit {settings.unit}",
            hint=hint,
        )


class SignalSource:
    """One biosignal from a table: stream "<file name>/<modality>", samples (n, 1) float32.

    Where the URI gives a rate, row i was captured at i / rate. Where it names a time column, a row was
    captured at its time, less the first row's; the rate is estimated from the whole column first, and is
    a whole number where the times cannot tell it from one. Chunks are about 1/8 s long and end at every
    cell that is empty or NaN and where rows are missing. Nothing is filled.

    Args:
        rest: The URI after `signal:`, "PATH?" and keys of `SignalSettings`.

    Raises:
        UsageError: As `SignalSettings.parse`.
    """

    is_live = False

    def __init__(self, rest: str) -> None:
        self._rest = rest
        self._settings = SignalSettings.parse(rest)
        self._path = expand(self._settings.path)
        self._table: _Table | EdfTable | None = None
        self._spec: StreamSpec | None = None
        self._chunks: Iterator[Chunk] = iter(())
        self._started = False
        self._ended = False

    @property
    def uri(self) -> str:
        """The URI that opens this file again."""
        return f"signal:{self._rest}"

    @property
    def path(self) -> Path:
        """The file that is read."""
        return self._path

    @property
    def settings(self) -> SignalSettings:
        """What the URI asks for."""
        return self._settings

    @property
    def specs(self) -> tuple[StreamSpec, ...]:
        """The one stream; valid after `ensure_ready`."""
        return () if self._spec is None else (self._spec,)

    @property
    def ended(self) -> bool:
        """True once `read` has found the end."""
        return self._ended

    def ensure_ready(self) -> None:
        """Open the file, find its columns and its rate, and read the first samples.

        Raises:
            DataError: No such file, no such column, no regular times, or not one sample.
        """
        if self._table is not None:
            return
        rate_hz = self._rate_hz()
        with contextlib.ExitStack() as on_failure:
            table = self._opened()
            on_failure.callback(table.close)
            self._spec = self._described(rate_hz)
            chunks = _chunks(self._spec, table.samples(rate_hz), rate_hz)
            first = next(chunks, None)
            if first is None:
                raise DataError(
                    f"column {self._settings.column} of {shown(self._path)} has not one number",
                    hint="check that this is the right column",
                )
            on_failure.pop_all()
        self._table, self._chunks = table, itertools.chain([first], chunks)
        self._ended = False

    def start(self) -> None:
        """Begin to deliver, from the start of the file.

        Raises:
            DataError: As `ensure_ready`.
        """
        self.ensure_ready()
        self._started = True

    def read(self, timeout_ms: int) -> Chunk | None:
        """The next samples, or None at the end. Never waits.

        Raises:
            DataError: A cell that is no number, a row that is too short, times that do not increase, or
                a file that cannot be read on; the message has the line.
            RuntimeError: Not started.
        """
        if not self._started:
            raise RuntimeError(f"{self.uri} must be started before it is read")
        chunk = next(self._chunks, None)
        self._ended = chunk is None
        return chunk

    def ensure_stopped(self) -> None:
        """Close the file; harmless when it is not open."""
        if self._table is not None:
            self._table.close()
        self._table = None
        self._chunks = iter(())
        self._started = False

    def measure_ns(self) -> int:
        """How long the recording is, gaps included: reads the whole file once, and checks every cell.

        Raises:
            DataError: As `ensure_ready` and `read`.
        """
        rate_hz = self._rate_hz()
        with contextlib.closing(self._opened()) as table:
            last_ns = max((t_ns for t_ns, _ in table.samples(rate_hz)), default=None)
        return 0 if last_ns is None else last_ns + round(NS_PER_S / rate_hz)

    def _rate_hz(self) -> Fraction:
        if self._settings.rate_hz is not None:
            return self._settings.rate_hz
        with contextlib.closing(self._opened()) as table:
            if isinstance(table, EdfTable):
                return table.declared_rate_hz
            return table.declared_rate_hz or _estimate_rate_hz(table.times(), self._path)

    def _opened(self) -> _Table | EdfTable:
        path, settings = self._path, self._settings
        if settings.layout != "edf":
            return _Table(path, settings)
        known = settings.is_unit_given
        return EdfTable(path, settings.column, settings.modality, settings.scale, is_unit_known=known)

    def _described(self, rate_hz: Fraction) -> StreamSpec:
        settings = self._settings
        return StreamSpec(
            name=f"{self._path.name}/{settings.modality}",
            modality=settings.modality,
            axes=("sample", "channel"),
            shape=(None, 1),
            dtype="float32",
            rate_hz=float(rate_hz),
            unit=settings.unit,
            channels=(settings.column if settings.has_header else settings.modality,),
        )


def _chunks(spec: StreamSpec, samples: Iterator[tuple[int, float]], rate_hz: Fraction) -> Iterator[Chunk]:
    """Samples in chunks of about 1/8 s, which end early at a gap."""
    size = max(1, round(rate_hz / CHUNKS_PER_S))
    gap_ns = 3 * NS_PER_S / (2 * rate_hz)
    counter = itertools.count()
    start_ns, last_ns, held = 0, 0, cast("list[float]", [])

    def chunk() -> Chunk:
        data = np.array(held, np.float32)[:, np.newaxis]
        held.clear()
        return Chunk(spec.name, spec.modality, next(counter), start_ns, data)

    for t_ns, value in samples:
        if held and (value != value or t_ns - last_ns > gap_ns):
            yield chunk()
        if value == value:
            start_ns = start_ns if held else t_ns
            held.append(value)
        last_ns = t_ns
        if len(held) == size:
            yield chunk()
    if held:
        yield chunk()


def _estimate_rate_hz(times_ns: Iterator[int], path: Path) -> Fraction:
    """The rate of nearly regular times: the mean of the steps that are no gaps."""
    head_ns = list(itertools.islice(times_ns, _N_PROBED))
    if len(head_ns) < 2:
        raise DataError(
            f"{shown(path)} has {len(head_ns)} rows: its times give no rate", expected="2 or more"
        )
    usual_ns = statistics.median_low(b - a for a, b in itertools.pairwise(head_ns))
    n_steps = n_regular = regular_ns = 0
    for before_ns, t_ns in itertools.pairwise(itertools.chain(head_ns, times_ns)):
        n_steps += 1
        if abs(t_ns - before_ns - usual_ns) * 2 <= usual_ns:
            n_regular += 1
            regular_ns += t_ns - before_ns
    if n_regular < MIN_REGULAR_SHARE * n_steps:
        raise DataError(
            f"the times in {shown(path)} have no one rate",
            expected=f"{MIN_REGULAR_SHARE:.0%} of the steps near {usual_ns / 1e6:.6g} ms, within half",
            found=f"{n_regular} of {n_steps}",
            hint="leave out time_column and give rate_hz if rows are at a fixed rate, else resample the file",
        )
    rate_hz = Fraction(NS_PER_S * n_regular, regular_ns)
    low, high = RATE_LIMITS_HZ
    if not low <= rate_hz <= high:
        raise DataError(
            f"the times in {shown(path)} give an impossible rate",
            expected=f"{float(low)} to {float(high):g} Hz",
            found=f"{float(rate_hz):g} Hz",
            hint="check time_unit: s, ms, us or ns",
        )
    whole_hz = round(rate_hz)
    is_whole = whole_hz and abs(Fraction(n_steps, whole_hz) - n_steps / rate_hz) * NS_PER_S < _INDISTINCT_NS
    return Fraction(whole_hz) if is_whole else rate_hz


@contextlib.contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    """Turn what the disk, gzip or the text itself reports into one clear message."""
    try:
        yield
    except EOFError as error:
        raise DataError(f"{shown(path)} was cut off", found=str(error), hint="copy it again") from error
    except (OSError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{shown(path)} cannot be read as a table",
            expected="CSV or TSV in UTF-8, plain or gzipped (.gz)",
            found=str(getattr(error, "strerror", None) or error),
            hint="check that this is the right file, or export it again",
        ) from error


class _Table:
    """An open file, its head already read."""

    def __init__(self, path: Path, settings: SignalSettings) -> None:
        self._path = path
        self._settings = settings
        self._file = open_regular(path, "CSV or TSV file")
        self._text = io.TextIOWrapper(_unzipped(self._file), encoding="utf-8-sig")
        self.declared_rate_hz: Fraction | None = None
        self._column = self._time_column = 0
        self._rows = _rows(self._text, path)
        try:
            self._read_head()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the file."""
        self._text.close()
        self._file.close()

    def _read_head(self) -> None:
        settings = self._settings
        if settings.layout == "e4":
            self._read_e4_head()
        header = None
        if settings.has_header:
            _, header = next(self._rows, (0, [""]))
        self._column = self._find(header, settings.column)
        if settings.time_column is not None:
            self._time_column = self._find(header, settings.time_column)

    def _read_e4_head(self) -> None:
        (_, start), (_, rate) = (next(self._rows, (0, [""])) for _ in range(2))
        rates = {_rate(cell.strip()) for cell in rate}
        is_time = all(re.fullmatch(r"[0-9]+(\.[0-9]*)?", cell.strip()) for cell in start)
        rate_hz = rates.pop() if len(rates) == 1 else None
        if not is_time or rate_hz is None:
            raise DataError(
                f"{shown(self._path)} is no E4 file",
                expected="the start time in line 1 and one rate in Hz in line 2",
                found=f"{','.join(start)[:40]!r} and {','.join(rate)[:40]!r}",
                hint="leave out layout=e4, and give column and rate_hz",
            )
        self.declared_rate_hz = rate_hz

    def _find(self, header: list[str] | None, column: str) -> int:
        if header is None:
            return int(column) - 1
        names = [name.strip() for name in header]
        if names.count(column) == 1:
            return names.index(column)
        listed = ", ".join(names[:_MAX_SHOWN]) + (", ..." if len(names) > _MAX_SHOWN else "")
        near = difflib.get_close_matches(column, names, n=1)
        how = "two columns" if column in names else "no column"
        raise DataError(
            f"{shown(self._path)} has {how} {column!r}",
            expected="one such name in its first line",
            found=listed[:400],
            hint=f"did you mean {near[0]}?" if near and how == "no column" else "check the first line",
        )

    def samples(self, rate_hz: Fraction) -> Iterator[tuple[int, float]]:
        """Time in ns and value of every row, in order; the value is NaN where there is no sample."""
        if self._settings.time_column is None:
            for index, (line, cells) in enumerate(self._rows):
                t_ns = index * NS_PER_S * rate_hz.denominator // rate_hz.numerator
                yield t_ns, self._value(line, cells)
            return
        for t_ns, line, cells in self._timed():
            yield t_ns, self._value(line, cells)

    def times(self) -> Iterator[int]:
        """The times of all rows in ns, the first one 0."""
        return (t_ns for t_ns, _, _ in self._timed())

    def _timed(self) -> Iterator[tuple[int, int, list[str]]]:
        zero_ns: int | None = None
        last_ns = -1
        for line, cells in self._rows:
            absolute_ns = self._time_ns(line, cells)
            zero_ns = absolute_ns if zero_ns is None else zero_ns
            t_ns = absolute_ns - zero_ns
            if t_ns <= last_ns:
                raise DataError(
                    f"{shown(self._path)}, line {line}: the time does not increase",
                    expected="later than the line before",
                    found=f"{cells[self._time_column].strip()!r}",
                    hint="sort the file; where times are too coarse, leave out time_column and give rate_hz",
                )
            last_ns = t_ns
            yield t_ns, line, cells

    def _time_ns(self, line: int, cells: list[str]) -> int:
        text = self._cell(line, cells, self._time_column)
        try:
            time = Decimal(text)
        except InvalidOperation:
            time = Decimal("nan")
        if not time.is_finite() or time.adjusted() > _MAX_DIGITS:
            raise DataError(
                f"{shown(self._path)}, line {line}: no time",
                expected=f"a number of {self._settings.time_unit}",
                found=repr(text[:40]),
                hint="write times as numbers, or leave out time_column and give rate_hz",
            )
        return int((time * _NS_PER_UNIT[self._settings.time_unit]).to_integral_value())

    def _value(self, line: int, cells: list[str]) -> float:
        text = self._cell(line, cells, self._column)
        try:
            value = float(text) * self._settings.scale if text else math.nan
        except ValueError:
            value = math.inf
        if abs(value) > _MAX_VALUE or "_" in text:
            is_header = not self._settings.has_header and line == 1
            raise DataError(
                f"{shown(self._path)}, line {line}: no number",
                expected="a number, or nothing where there is no sample",
                found=repr(text[:40]),
                hint="a file with a header needs its column's name"
                if is_header
                else "mend or empty the cell; decimals are written with a point",
            )
        return value

    def _cell(self, line: int, cells: list[str], index: int) -> str:
        if index >= len(cells):
            raise DataError(
                f"{shown(self._path)}, line {line} has too few cells",
                expected=f"at least {index + 1}",
                found=str(len(cells)),
                hint="check the column, and that the file is whole",
            )
        return cells[index].strip()


def _unzipped(file: BinaryIO) -> BinaryIO:
    is_gzip = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_gzip else file


def _rows(text: io.TextIOWrapper, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row; comments at the top and blank lines at the end are no rows."""
    with _as_data_error(path):
        lines = _lines(text, path)
        n_comments, first = 0, next(lines, "")
        while first.startswith("#"):
            n_comments, first = n_comments + 1, next(lines, "")
        delimiter = next((mark for mark in "\t;" if mark in first), ",")
        reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
        n_blank = 0
        for cells in reader:
            if not any(cells) and len(cells) < 2:
                n_blank += 1
                continue
            line = reader.line_num + n_comments
            for blank in range(line - n_blank, line):
                yield blank, [""]
            n_blank = 0
            yield line, cells


def _lines(text: io.TextIOWrapper, path: Path) -> Iterator[str]:
    """Lines of bounded length."""
    while line := text.readline(_MAX_LINE_CHARS):
        if len(line) == _MAX_LINE_CHARS and not line.endswith("\n"):
            raise DataError(
                f"{shown(path)} is no table",
                expected=f"lines of less than {_MAX_LINE_CHARS} characters",
                found="a longer one",
                hint="check that this is the right file",
            )
        yield line

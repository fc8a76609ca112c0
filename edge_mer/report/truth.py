"""What raters or a simulation say was true, laid beside the predictions."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.errors import DataError
from edge_mer.report.read import Floats, Records

OUTPUTS = ("valence", "arousal", "pain")
NO_TRUTH = -5.0
"""What data sets of valence and arousal write where raters gave nothing."""

MAX_ROWS = 5_000_000

_EXAMPLE = "a header such as t_s,valence,arousal and one row of numbers per moment"


@dataclass(frozen=True)
class Truth:
    """Truth at the predictions' own moments.

    Attributes:
        name: Where it comes from, for people.
        values: Output -> (n,) at each prediction; NaN where there is none.
        notes: What was left out, in sentences.
    """

    name: str
    values: dict[str, Floats]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Track:
    """A file's columns.

    Attributes:
        t_ns: (n,) rising.
        values: Output -> (n,); NaN where there is no truth.
        ignored: Columns that are no output.
    """

    t_ns: NDArray[np.int64]
    values: dict[str, Floats]
    ignored: tuple[str, ...]


def read_track(path: Path) -> Track:
    """Read a CSV with a time column, `t_s` or `t_ns`, and one column per output.

    An empty cell, NaN and -5 mean that there is no truth at that moment.

    Raises:
        DataError: No such file, or not of that form; the message names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read(csv.reader(file), path.name)
    except UnicodeDecodeError as error:
        raise DataError(f"truth {path.name} is no text in UTF-8", expected=_EXAMPLE) from error
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"truth {path} cannot be read", expected=_EXAMPLE, found=reason) from error


def _read(rows: Iterator[list[str]], name: str) -> Track:
    header = [cell.strip() for cell in next(rows, [])]
    times = [cell for cell in header if cell in ("t_s", "t_ns")]
    outputs = [cell for cell in header if cell in OUTPUTS]
    if len(times) != 1 or not outputs or len(set(header)) < len(header):
        raise DataError(
            f"truth {name} has no header that names a time and an output once each",
            expected=_EXAMPLE,
            found=", ".join(header)[:200] or "an empty first line",
        )
    unit_ns = 1 if times[0] == "t_ns" else 1_000_000_000
    wanted = [(header.index(cell), cell) for cell in (*times, *outputs)]
    table = [array("d") for _ in wanted]
    for number, row in enumerate(rows, 2):
        _take(table, wanted, row, f"truth {name}, row {number}", len(header))
        if number > MAX_ROWS:
            raise DataError(f"truth {name} is too long", expected=f"at most {MAX_ROWS:,} rows")
    t_ns = np.round(np.asarray(table[0], np.float64) * unit_ns).astype(np.int64)
    _check_rising(t_ns, name)
    values = {output: np.asarray(cells) for output, cells in zip(outputs, table[1:], strict=True)}
    return Track(t_ns, values, tuple(cell for cell in header if cell not in (*times, *outputs)))


def _take(
    table: list[array[float]], wanted: list[tuple[int, str]], row: list[str], where: str, n_cells: int
) -> None:
    if not row:
        return
    if len(row) != n_cells:
        raise DataError(f"{where} does not fit the header", expected=f"{n_cells} cells", found=str(len(row)))
    for column, (index, cell) in zip(table, wanted, strict=True):
        column.append(_number(row[index].strip(), cell, where))


def _number(text: str, cell: str, where: str) -> float:
    is_time = cell.startswith("t_")
    try:
        value = float(text) if text or is_time else math.nan
    except ValueError:
        value = math.inf
    if is_time:
        if not abs(value) < 4e18 or (cell == "t_s" and abs(value) > 4e9):
            raise DataError(f"{where}: {cell} is no time", expected="a number", found=repr(text[:60]))
        return value
    if math.isnan(value) or value == NO_TRUTH:
        return math.nan
    low, high = (0.0, 100.0) if cell == "pain" else (-1.0, 1.0)
    if not low <= value <= high:
        raise DataError(
            f"{where}: {cell} cannot be",
            expected=f"{low:g} to {high:g}, or nothing where there is no truth",
            found=repr(text[:60]),
        )
    return value


def _check_rising(t_ns: NDArray[np.int64], name: str) -> None:
    if t_ns.size == 0:
        raise DataError(f"truth {name} has a header and nothing below it", expected=_EXAMPLE)
    back = np.flatnonzero(np.diff(t_ns) <= 0)
    if back.size:
        at_s = t_ns[back[0] + 1] / 1e9
        raise DataError(f"truth {name} goes back in time", expected="rising times", found=f"{at_s:g} s again")


def truth_of_track(track: Track, records: Records, name: str) -> Truth:
    """The truth nearest to each prediction's moment, where one lies at most one step away.

    Raises:
        DataError: It has nothing to say about any estimate.
    """
    after = np.searchsorted(track.t_ns, records.t_ns).clip(0, len(track.t_ns) - 1)
    before = np.maximum(after - 1, 0)
    is_before_nearer = np.abs(track.t_ns[before] - records.t_ns) <= np.abs(track.t_ns[after] - records.t_ns)
    nearest = np.where(is_before_nearer, before, after)
    is_near = np.abs(track.t_ns[nearest] - records.t_ns) <= records.step_ns
    values = {output: np.where(is_near, column[nearest], np.nan) for output, column in track.values.items()}
    ignored = ", ".join(track.ignored)[:200]
    notes = (f"Columns of the truth that were not used: {ignored}.",) if ignored else ()
    return _checked(Truth(name, values, notes), records, _span(track.t_ns))


def truth_of_simulation(given: Mapping[str, NDArray[Any]], records: Records, name: str) -> Truth:
    """Truth that a simulation gave at the predictions' own moments.

    Args:
        given: Output -> (n,). Pain is 0 to 1 there, and is put on the records' scale of levels.
        records: The predictions.
        name: The simulation's URI.

    Raises:
        DataError: It has nothing to say about any estimate.
    """
    known: dict[str, Floats] = {
        o: np.asarray(column, np.float64) for o, column in given.items() if o in OUTPUTS
    }
    # a simulated person always knows more than a model asks, which is nothing to remark on
    values = {o: column for o, column in known.items() if o in records.values} or known
    if "pain" in values and records.pain_levels:
        values["pain"] = values["pain"] * (len(records.pain_levels) - 1)
    return _checked(Truth(name, values), records, "the simulation")


def _checked(truth: Truth, records: Records, found: str) -> Truth:
    """Keep what can be compared, and say what cannot.

    Raises:
        DataError: Nothing can.
    """
    kept = {output: column for output, column in truth.values.items() if output in records.values}
    notes = tuple(
        f"The truth has {output}; no prediction has." for output in truth.values if output not in kept
    )
    top = len(records.pain_levels) - 1
    if "pain" in kept and np.nanmax(kept["pain"], initial=0.0) > top:
        raise DataError(
            "the truth's pain is on another scale than the model's",
            expected=f"0 to {top}, the scale {records.pain_scale}",
            found=f"{np.nanmax(kept['pain']):g}",
        )
    if not any((np.isfinite(column) & np.isfinite(records.values[o])).any() for o, column in kept.items()):
        raise DataError(
            f"the truth {truth.name} says nothing about any estimate in {records.name}",
            expected=f"truth of {', '.join(records.values) or 'any output'} between {_span(records.t_ns)}",
            found=f"{', '.join(truth.values)} between {found}" if "and" in found else found,
            hint="check that both are of the same recording, and that their times start at the same moment",
        )
    return Truth(truth.name, kept, (*truth.notes, *notes))


def _span(t_ns: NDArray[np.int64]) -> str:
    return f"{t_ns[0] / 1e9:g} s and {t_ns[-1] / 1e9:g} s"


@dataclass(frozen=True)
class Agreement:
    """How well estimates and truth agree.

    Attributes:
        output: Its name.
        n: Predictions that have both.
        ccc: Concordance (Lin 1989), 1 = equal; None where neither varies.
    """

    output: str
    n: int
    ccc: float | None


def agreements(truth: Truth, records: Records) -> list[Agreement]:
    """One per output that has both an estimate and a truth anywhere."""
    found = []
    for output, true in truth.values.items():
        both = np.isfinite(true) & np.isfinite(records.values[output])
        if both.any():
            ccc = concordance(records.values[output][both], true[both])
            found.append(Agreement(output, int(both.sum()), ccc))
    return found


def concordance(a: Floats, b: Floats) -> float | None:
    """Concordance correlation (Lin 1989) of two series (n,); None where neither varies."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    apart = float(np.var(x) + np.var(y) + (np.mean(x) - np.mean(y)) ** 2)
    if apart == 0.0 or (np.ptp(x) == 0.0 and np.ptp(y) == 0.0):
        return None
    return float(2.0 * np.mean((x - np.mean(x)) * (y - np.mean(y))) / apart)

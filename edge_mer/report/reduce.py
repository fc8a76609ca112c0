"""Reduces a session to as many columns as a screen has, keeping what a mean would hide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mer.report.read import STATUSES, Floats, Records

N_COLUMNS = 800

_NS = 1e9


@dataclass(frozen=True)
class Columns:
    """Consecutive pieces of a session, each with at least one prediction.

    Attributes:
        first: (n,) index of the first prediction of each piece.
        n_records: Number of predictions in all.
        t_s: (n,) where on the axis of time a piece's point lies: the end of its only prediction's
            step, or the middle of its span.
        left_s: (n,) start of its first step.
        right_s: (n,) end of its last step.
        shares: Status -> (n,) share of the piece's predictions.
        is_estimated: (n,) at least half of the piece has an estimate.
        is_joined: (n - 1,) the next piece follows without a gap in time.
        width_s: Span of one piece; 0 when every prediction has its own.
    """

    first: NDArray[np.intp]
    n_records: int
    t_s: Floats
    left_s: Floats
    right_s: Floats
    shares: dict[str, Floats]
    is_estimated: NDArray[np.bool_]
    is_joined: NDArray[np.bool_]
    width_s: float

    def __len__(self) -> int:
        return len(self.first)

    def mean(self, values: Floats) -> Floats:
        """(n,) mean of what is a number in each piece, NaN where nothing is."""
        known = np.isfinite(values)
        sums = np.add.reduceat(np.where(known, values, 0.0).astype(np.float64), self.first)
        counts = np.add.reduceat(known.astype(np.int64), self.first)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def low(self, values: Floats) -> Floats:
        """(n,) smallest number in each piece."""
        return np.fmin.reduceat(values, self.first)

    def high(self, values: Floats) -> Floats:
        """(n,) largest number in each piece."""
        return np.fmax.reduceat(values, self.first)


def into_columns(records: Records, n_columns: int = N_COLUMNS) -> Columns:
    """One piece per prediction where these are few, else `n_columns` pieces of equal span."""
    t_ns, step_ns, n = records.t_ns, records.step_ns, len(records)
    first, width_s = np.arange(n), 0.0
    if n > n_columns:
        start_ns = int(t_ns[0]) - step_ns
        span_ns = int(t_ns[-1]) - start_ns
        # Floating point: nanoseconds times columns would leave 64 bits in a session of months.
        place = ((t_ns - start_ns) / span_ns * n_columns).astype(np.int64).clip(0, n_columns - 1)
        first = np.flatnonzero(np.diff(place, prepend=-1))
        width_s = span_ns / n_columns / _NS
    last = np.append(first[1:], n) - 1
    left_ns, right_ns = t_ns[first] - step_ns, t_ns[last]
    counts = (last - first + 1).astype(np.float64)
    shares: dict[str, Floats] = {
        status: np.add.reduceat((records.status == number).astype(np.int64), first) / counts
        for number, status in enumerate(STATUSES)
    }
    return Columns(
        first=first,
        n_records=n,
        t_s=right_ns / _NS if width_s == 0.0 else (left_ns + right_ns) / 2 / _NS,
        left_s=left_ns / _NS,
        right_s=right_ns / _NS,
        shares=shares,
        is_estimated=shares["withheld"] <= 0.5 if width_s else shares["withheld"] == 0.0,
        is_joined=left_ns[1:] - right_ns[:-1] <= 0.5 * step_ns,
        width_s=width_s,
    )


def runs(flags: NDArray[np.bool_], joined: NDArray[np.bool_] | None = None) -> list[tuple[int, int]]:
    """First and last index of every stretch of true flags.

    Args:
        flags: (n,).
        joined: (n - 1,) whether an entry and the next belong together; None = all do.
    """
    index = np.flatnonzero(flags)
    if index.size == 0:
        return []
    ends = np.diff(index) > 1
    if joined is not None:
        ends |= ~joined[index[:-1]]
    breaks = np.flatnonzero(ends)
    firsts, lasts = index[np.append(0, breaks + 1)], index[np.append(breaks, index.size - 1)]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))

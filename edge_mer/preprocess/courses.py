"""From a biosignal to courses that are judged against their own recent past, sample by sample.

This half has state, and its memory is declared: `Signal.normalise_memory`. The same samples give the
same courses, bit for bit, however they are cut into chunks.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.preprocess.pulse import pulse_of
from edge_mer.types.model import PULSE_SPAN_S, CourseKind, Signal

Samples = NDArray[np.float32]
Floats = NDArray[np.float64]

MOST_DEVIATIONS = 5.0
"""What is farther from the mean is an artefact, and counts as being so far."""

CLEAR_PULSE = 0.7
"""A heart rate of a pulse that is less clear is not believed."""

CARRIED_S = 60
"""So long the last heart rate of a clear pulse stands for those that cannot be told."""

SMALLEST_LEVEL = 0.05
"""Added before a logarithm is taken, in the stream's unit."""


class CourseConditioner:
    """Courses from chunks of a stream at its declared rate.

    Args:
        spec: Declares courses.
    """

    def __init__(self, spec: Signal) -> None:
        if spec.courses is None or spec.course_hz is None or spec.normalise_memory is None:
            raise ValueError("a signal without courses is passed on as it is")
        self._course_hz = spec.course_hz
        self._n_per_cell = spec.rate_hz // spec.course_hz
        self._rate_hz = spec.rate_hz
        self._kinds = tuple(course.kind for course in spec.courses)
        self._has_pulse = "heart_rate" in self._kinds
        self._past = RecentPast(
            int(spec.normalise_memory * spec.course_hz), np.array([course.floor for course in spec.courses])
        )
        self._n_history = max(self._n_per_cell, PULSE_SPAN_S * spec.rate_hz if self._has_pulse else 0)
        self._history: Floats = np.zeros(0)
        self._pending: Floats = np.zeros(0)
        self._n_skipped = 0
        self._cell = 0
        self._clear_bpm, self._clear_cell = math.nan, 0

    def resume(self, t_ns: int) -> int:
        """What is pushed next was captured at `t_ns`, and does not continue what was pushed before.

        Returns:
            When the next course value begins: a cell of the grid that is not whole is left out.
        """
        first = Fraction(t_ns * self._rate_hz, NS_PER_S)  # in samples from the session's start
        self._cell = -(-round(first) // self._n_per_cell)
        self._n_skipped = self._cell * self._n_per_cell - round(first)
        self._history, self._pending = np.zeros(0), np.zeros(0)
        return self._cell * NS_PER_S // self._course_hz

    def push(self, data: NDArray[np.generic]) -> Samples:
        """The values that `data` completes.

        Args:
            data: (n, 1) float32 in the declared unit.

        Returns:
            (m, courses) in deviations from the recent mean; NaN while the memory fills.
        """
        fresh = np.asarray(data, np.float64)[:, 0]
        n_skipped = min(self._n_skipped, len(fresh))
        self._n_skipped -= n_skipped
        self._pending = np.concatenate([self._pending, fresh[n_skipped:]])
        n_cells = len(self._pending) // self._n_per_cell
        cells = self._pending[: n_cells * self._n_per_cell].reshape(n_cells, self._n_per_cell)
        self._pending = self._pending[n_cells * self._n_per_cell :]
        rows = np.zeros((n_cells, len(self._kinds)), np.float32)
        for row, cell in zip(rows, cells, strict=True):
            row[...] = self._advance(cell)
        return rows

    def flush(self) -> Samples:
        """Nothing more of a cell that is not whole; (0, courses)."""
        return np.zeros((0, len(self._kinds)), np.float32)

    def _advance(self, cell: Floats) -> Floats:
        """(samples,) of one cell -> (courses,)."""
        index, self._cell = self._cell, self._cell + 1
        if not np.isfinite(cell).all():
            self._history = np.zeros(0)
            return np.full(len(self._kinds), np.nan)
        self._history = np.concatenate([self._history, cell])[-self._n_history :]
        level = float(cell.mean())
        found: dict[CourseKind, float] = {
            "level": level,
            "log_level": math.log(max(level, 0.0) + SMALLEST_LEVEL),
        }
        if self._has_pulse:
            found["heart_rate"] = self._heart_rate_bpm(index)
        return self._past.judged(index, np.array([found[kind] for kind in self._kinds]))

    def _heart_rate_bpm(self, cell: int) -> float:
        """Of the last seconds, if they are whole and their pulse is clear; else the last one that was."""
        if len(self._history) == self._n_history:
            pulse = pulse_of(self._history, self._rate_hz)
            if pulse.clarity >= CLEAR_PULSE:
                self._clear_bpm, self._clear_cell = pulse.rate_bpm, cell
        is_old = cell - self._clear_cell > CARRIED_S * self._course_hz
        return math.nan if is_old else self._clear_bpm


class RecentPast:
    """The last values of some courses, and how far the newest one is from their mean.

    Args:
        n_kept: Cells that are looked back on, the newest one with them.
        floors: (courses,) smallest deviations.
    """

    def __init__(self, n_kept: int, floors: Floats) -> None:
        self._floors = floors
        self._kept: Floats = np.full((n_kept, len(floors)), np.nan)
        self._first: int | None = None
        self._last = 0

    def judged(self, cell: int, values: Floats) -> Floats:
        """Take the values of a cell, and say how far they are from those before.

        Args:
            cell: Number of the cell; after a gap longer than the memory everything begins anew.
            values: (courses,); NaN = cannot be told.

        Returns:
            (courses,) in deviations from the mean; 0 for what cannot be told, NaN while the memory fills.
        """
        n_kept = len(self._kept)
        if self._first is None or cell - self._last > n_kept:
            self._first, self._last = cell, cell
            self._kept[...] = np.nan
        self._kept[np.arange(self._last + 1, cell) % n_kept] = np.nan
        self._kept[cell % n_kept] = values
        self._last = max(self._last, cell)
        if cell - self._first + 1 < n_kept:
            return np.full(len(values), np.nan)
        there = np.isfinite(self._kept)
        n_there = np.maximum(1, there.sum(axis=0))
        mean = np.where(there, self._kept, 0.0).sum(axis=0) / n_there
        square = np.where(there, (self._kept - mean) ** 2, 0.0).sum(axis=0) / n_there
        distance = (values - mean) / np.maximum(np.sqrt(square), self._floors)
        return np.where(np.isfinite(distance), np.clip(distance, -MOST_DEVIATIONS, MOST_DEVIATIONS), 0.0)

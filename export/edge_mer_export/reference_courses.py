"""Courses of a whole recorded biosignal at once, without the runtime's state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_mer.preprocess.courses import CARRIED_S, CLEAR_PULSE, MOST_DEVIATIONS, SMALLEST_LEVEL
from edge_mer.preprocess.pulse import pulse_of
from edge_mer.types.model import PULSE_SPAN_S, CourseKind, Signal

Floats = NDArray[np.float64]


def whole_courses(samples: NDArray[np.float32], spec: Signal) -> NDArray[np.float32]:
    """What the runtime makes of a stream without gaps that starts at 0.

    Args:
        samples: (n,) at `spec.rate_hz`.
        spec: Declares courses.

    Returns:
        (cells, courses); NaN before the memory is full.
    """
    n_kept, course_hz = int(spec.memory * spec.piece_hz), spec.piece_hz
    n_per_cell = spec.rate_hz // course_hz
    cells = samples[: len(samples) // n_per_cell * n_per_cell].astype(np.float64).reshape(-1, n_per_cell)
    courses = np.full((len(cells), spec.n_channels), np.nan)
    for column, course in enumerate(spec.courses or ()):
        values = _values(course.kind, cells, spec.rate_hz, course_hz)  # (cells,)
        if len(values) < n_kept:
            continue
        recent = np.lib.stride_tricks.sliding_window_view(values, n_kept)  # (cells - kept + 1, kept)
        known = np.isfinite(recent)
        n_known = np.maximum(1, known.sum(axis=1))
        mean = np.where(known, recent, 0).sum(axis=1) / n_known
        mean_square = np.where(known, recent**2, 0).sum(axis=1) / n_known
        deviation = np.sqrt(np.maximum(0, mean_square - mean**2))
        judged = (values[n_kept - 1 :] - mean) / np.maximum(deviation, course.floor)
        courses[n_kept - 1 :, column] = np.nan_to_num(np.clip(judged, -MOST_DEVIATIONS, MOST_DEVIATIONS))
    return courses.astype(np.float32)


def _values(kind: CourseKind, cells: Floats, rate_hz: int, course_hz: int) -> Floats:
    """A course before it is judged: (cells, samples) -> (cells,)."""
    if kind == "heart_rate":
        return _heart_rate_bpm(cells, rate_hz, course_hz)
    level = cells.mean(axis=1)
    values: Floats = np.log(np.maximum(level, 0) + SMALLEST_LEVEL) if kind == "log_level" else level
    return values


def _heart_rate_bpm(cells: Floats, rate_hz: int, course_hz: int) -> Floats:
    samples, n_looked_at = cells.ravel(), PULSE_SPAN_S * rate_hz
    clear = np.full(len(cells), np.nan)
    for cell in range(len(cells)):
        stop = (cell + 1) * cells.shape[1]
        if stop >= n_looked_at:
            pulse = pulse_of(samples[stop - n_looked_at : stop], rate_hz)
            clear[cell] = pulse.rate_bpm if pulse.clarity >= CLEAR_PULSE else np.nan
    last = np.maximum.accumulate(np.where(np.isfinite(clear), np.arange(len(cells)), -1))  # (cells,)
    is_near = (last >= 0) & (np.arange(len(cells)) - last <= CARRIED_S * course_hz)
    return np.where(is_near, clear[last], np.nan)

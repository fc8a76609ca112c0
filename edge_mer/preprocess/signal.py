"""From raw biosignals to the piece that an encoder takes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge_mer.types.model import Signal

Samples = NDArray[np.float32]
Floats = NDArray[np.float64]

_NEAR = 1e-9
"""Places are known this well, in samples: what is nearer below a whole one is meant to be it."""


class SignalConditioner:
    """Passes samples on as they are: rate and unit already fit."""

    def resume(self, t_ns: int) -> int:
        """What is pushed next was captured at `t_ns`; it is passed on from there."""
        return t_ns

    def push(self, data: NDArray[np.generic]) -> Samples:
        """(n, 1) float32 in the declared unit -> (n,)."""
        return np.asarray(data, np.float32)[:, 0]

    def flush(self) -> Samples:
        """Nothing is ever held back."""
        return np.zeros(0, np.float32)


def write_signal(samples: Samples, spec: Signal, out: NDArray[np.float32]) -> None:
    """Write one piece into `out`.

    Args:
        samples: (n,) in `spec.unit`, or courses (n, courses); missing samples are zero.
        spec: What the model declares.
        out: (channels, n) float32.
    """
    np.subtract(samples.T, spec.mean, out=out)
    out /= spec.std


def write_resampled(
    samples: Samples, first: float, step: float, spec: Signal, out: NDArray[np.float32]
) -> None:
    """Write one piece of a stream of another rate into `out`.

    A sample of the stream stands for the time halfway to its neighbours; one of the piece is the mean over
    its own time, but over no less than a sample of the stream. So slow samples are joined by straight lines,
    fast ones are averaged, and neither is moved in time. What is missing, or lies outside `samples`, is left
    out of the mean. Where the sample before it is missing, so is that of the piece, and becomes zero.

    Args:
        samples: (n,) in `spec.unit`; NaN where missing.
        first: Where the piece's first sample lies, counted in samples of the stream from the first one.
        step: Samples of the stream from one sample of the piece to the next.
        spec: What the model declares.
        out: (1, m) float32.
    """
    at: Floats = first + step * np.arange(out.shape[1], dtype=np.float64)
    found = _resampled(np.asarray(samples, np.float64), at, max(1.0, step))
    write_signal(found.astype(np.float32), spec, out)


def _resampled(samples: Floats, at: Floats, width: float) -> Floats:
    """Means of `width` samples around each place, (m,); zero where the sample before the place is missing."""
    low, high = at[:, np.newaxis] - width / 2, at[:, np.newaxis] + width / 2
    taps: Floats = np.floor(low + 0.5) + np.arange(math.ceil(width) + 1, dtype=np.float64)
    values = _at(samples, taps)
    weights = np.minimum(high, taps + 0.5) - np.maximum(low, taps - 0.5)
    weights = np.where(np.isnan(values), 0.0, np.maximum(weights, 0.0))
    sums = (weights * np.where(weights > 0, values, 0.0)).sum(axis=1)
    is_known = ~np.isnan(_at(samples, np.floor(at + _NEAR)))
    found: Floats = np.zeros(len(at))
    np.divide(sums, weights.sum(axis=1), out=found, where=is_known)
    return found


def _at(samples: Floats, places: Floats) -> Floats:
    """The samples at whole places, NaN outside."""
    is_inside = (places >= 0) & (places < len(samples))
    padded: Floats = np.append(samples, np.nan)
    found: Floats = padded[np.where(is_inside, places, len(samples)).astype(np.int64)]
    return found

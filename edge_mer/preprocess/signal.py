"""From raw biosignals to the piece that an encoder takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_mer.types.model import Signal

Samples = NDArray[np.float32]


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

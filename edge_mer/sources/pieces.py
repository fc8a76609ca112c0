"""A block of samples, each with a stamp, as pieces without a gap."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S

GAP_NS = 50_000_000
"""Stamps this much further apart than the rate has it leave a gap between them; less is jitter."""


def pieces(
    stamps_ns: NDArray[np.int64], rate_hz: float, is_after_loss: NDArray[np.bool_] | None = None
) -> Iterator[tuple[slice, int]]:
    """Each piece, and the time of its first sample.

    Drivers stamp what comes in bursts on arrival, so that a burst has one stamp; and nothing arrives before
    it was captured. So the first sample is as old as the sample of the piece that was delayed least says.

    Args:
        stamps_ns: (n,), one stamp per sample.
        rate_hz: Nominal samples per second.
        is_after_loss: (n,), whether something was lost right before the sample, as far as is known.
    """
    if not len(stamps_ns):
        return
    period_ns = NS_PER_S / rate_hz
    is_break = np.diff(stamps_ns) > GAP_NS + period_ns
    if is_after_loss is not None:
        is_break |= is_after_loss[1:]
    bounds = [0, *(np.flatnonzero(is_break) + 1).tolist(), len(stamps_ns)]
    for start, stop in itertools.pairwise(bounds):
        since_first_ns = np.rint(np.arange(stop - start) * period_ns).astype(np.int64)
        yield slice(start, stop), int((stamps_ns[start:stop] - since_first_ns).min())

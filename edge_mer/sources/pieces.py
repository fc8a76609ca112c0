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
    stamps_ns: NDArray[np.int64], rate_hz: float | None, is_after_loss: NDArray[np.bool_] | None = None
) -> Iterator[slice]:
    """The pieces, in order; of an irregular stream, each sample is one.

    Args:
        stamps_ns: (n,), one stamp per sample.
        rate_hz: Nominal samples per second; None for an irregular stream.
        is_after_loss: (n,), whether something was lost right before the sample, as far as is known.
    """
    if not len(stamps_ns):
        return
    is_break = np.ones(len(stamps_ns) - 1, np.bool_)
    if rate_hz is not None:
        is_break = np.diff(stamps_ns) > GAP_NS + NS_PER_S / rate_hz
    if is_after_loss is not None:
        is_break |= is_after_loss[1:]
    for start, stop in itertools.pairwise([0, *(np.flatnonzero(is_break) + 1).tolist(), len(stamps_ns)]):
        yield slice(start, stop)


def first_ns(stamps_ns: NDArray[np.int64], rate_hz: float) -> int:
    """When the first sample of a piece was captured, where samples are stamped as they arrive.

    Samples that come in a burst then have one stamp; and nothing arrives before it was captured. So the first
    is as old as the sample says that was delayed least.

    Args:
        stamps_ns: (n,), one stamp per sample.
        rate_hz: Samples per second.
    """
    since_first_ns = np.rint(np.arange(len(stamps_ns)) * (NS_PER_S / rate_hz)).astype(np.int64)
    return int((stamps_ns - since_first_ns).min())

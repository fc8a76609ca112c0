"""From the cost of one bed to many: nothing here was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

LOAD = 0.7
"""Of processors and links; the rest is for what does not come evenly."""

_TOLERANCE = 1e-9


def efficiency(speed_up: float, n_workers: int = 2) -> float:
    """What each of several workers does, against one alone; never more than that."""
    return min(1.0, speed_up / n_workers)


def beds_of(processors: float, cost: float, load: float = LOAD) -> int:
    """Beds that processors can serve.

    Args:
        processors: How many there are.
        cost: Processors that one bed takes.
        load: How far they are used, 0 to 1; more says when it breaks.
    """
    return math.floor(processors * load / cost + _TOLERANCE)


def servers_for(beds: int, beds_per_server: int) -> int | None:
    """Servers for so many beds; None where one cannot serve even one."""
    return None if beds_per_server < 1 else math.ceil(beds / beds_per_server)


def core_hours(hours: float, cost: float) -> float:
    """Processor hours of so many hours of recordings."""
    return hours * cost


def days(hours: float, cost: float, processors: float, efficiency: float = 1.0) -> float:
    """Days until so many hours of recordings are played, with nothing else to do.

    Args:
        hours: Of recordings.
        cost: Processors that one takes at real pace.
        processors: How many there are, a worker on each.
        efficiency: What each gives beside others, against one alone, 0 to 1.
    """
    return core_hours(hours, cost) / (processors * efficiency) / 24


def beds_per_link(gbit_per_s: float, bytes_per_s: float, load: float = LOAD) -> int:
    """Beds whose data fit through a link."""
    return math.floor(gbit_per_s * 1e9 / 8 * load / bytes_per_s + _TOLERANCE)


def beds_per_accelerator(peak_tops: float, share: float, gmac_per_s: float) -> int:
    """Beds whose encoders and fusion an accelerator can run.

    Args:
        peak_tops: 10^12 operations a second; one multiplication with its addition is two.
        share: What of the peak is reached, 0 to 1.
        gmac_per_s: 10^9 multiplications, each with its addition, that one bed needs a second.
    """
    return math.floor(peak_tops * 1e12 * share / (2e9 * gmac_per_s) + _TOLERANCE)


def limit(beds: Mapping[str, int]) -> tuple[str, int]:
    """What allows the fewest beds, and how many; the first of several alike."""
    name = min(beds, key=lambda one: beds[one])
    return name, beds[name]


def largest(parts: Mapping[str, float]) -> tuple[str, float]:
    """The largest part, and its share of the sum."""
    name = max(parts, key=lambda one: parts[one])
    return name, parts[name] / sum(parts.values())

"""The page's results in a few lines."""

from __future__ import annotations

from benchmarks.kept import Found
from benchmarks.scaling.arithmetic import LOAD, beds_of, beds_per_link, days, efficiency, largest, servers_for
from benchmarks.scaling.hardware import LINK_GBIT, SERVER_PROCESSORS
from benchmarks.scaling.hardware_page import BEDS, HOURS
from benchmarks.scaling.knobs_page import KNOB_OF, saved_by_bits, span_of
from benchmarks.scaling.measured_page import beds_verdict
from benchmarks.scaling.network_page import STREAMED, VIDEO, ways_of
from benchmarks.scaling.shares import BITS, FP32, shares_of


def summary(measured: Found) -> list[str]:
    """What a bed costs, what limits it, many beds, many hours, which knob."""
    bed, network = measured["bed"], measured["network"]
    worth = efficiency(measured["corpus"]["speed_up"]["mean"])
    costs = {one: sum(shares_of(bed, one, BITS).values()) for one in bed["systems"]}
    beds, bits = measured["beds"], span_of(saved_by_bits(bed))
    servers = f"{_servers(costs, worth)} of {SERVER_PROCESSORS} such processors"
    lines = [
        f"**A bed** takes in 8 bits {span_of(costs)} of one processor: measured.",
        f"**What limits** in 8 bits: {_limits(bed, BITS)}; in FP32: {_limits(bed, FP32)}: measured.",
        f"**Network**: {_link(bed, network)}",
        f"**{BEDS} beds** in 8 bits: {servers}: arithmetic.",
        f"**{HOURS:,} hours** of recordings on one of these servers: {_days(costs, worth)}: arithmetic.",
        f"**Which knob**: `build-engine` first, 8 bits save {bits} of a bed; then {_knobs(bed)}.",
        f"**Is that right?** {beds['fits']['n']} and {beds['twice']['n']} beds at once, by the arithmetic "
        f"at most {100 * LOAD:.0f} % of the processors and twice what there is. {beds_verdict(beds)}",
    ]
    return [*(f"- {line}" for line in lines), ""]


def _limits(bed: Found, way: str) -> str:
    systems: dict[str, list[str]] = {}
    for system in bed["systems"]:
        systems.setdefault(largest(shares_of(bed, system, way))[0], []).append(f"`{system}`")
    return ", ".join(f"{part} ({', '.join(names)})" for part, names in systems.items())


def _link(bed: Found, network: Found) -> str:
    ways = {one: ways_of(network, bed, one) for one in bed["systems"]}
    video = beds_per_link(LINK_GBIT, next(iter(ways.values()))[VIDEO])
    tensors = [beds_per_link(LINK_GBIT, one[STREAMED]) for one in ways.values()]
    return (
        f"{LINK_GBIT:g} Gbit/s carries the video of {video:,} beds, or the step tensors of {min(tensors)} "
        f"to {max(tensors)}: arithmetic."
    )


def _servers(costs: dict[str, float], worth: float) -> str:
    told: dict[int | None, list[str]] = {}
    for system, cost in costs.items():
        n = servers_for(BEDS, beds_of(SERVER_PROCESSORS * worth, cost))
        told.setdefault(n, []).append(f"`{system}`")
    return (
        ", ".join(f"{'no' if n is None else n} ({', '.join(names)})" for n, names in told.items())
        + " servers"
    )


def _days(costs: dict[str, float], worth: float) -> str:
    taken = {one: days(HOURS, cost, SERVER_PROCESSORS, worth) for one, cost in costs.items()}
    low, high = min(taken, key=lambda one: taken[one]), max(taken, key=lambda one: taken[one])
    return f"{taken[low]:.1f} days (`{low}`) to {taken[high]:.1f} days (`{high}`)"


def _knobs(bed: Found) -> str:
    """Of what is the largest part once 8 bits are chosen."""
    parts = dict.fromkeys(largest(shares_of(bed, system, BITS))[0] for system in bed["systems"])
    return ", ".join(f"{KNOB_OF[part]} where {part} limit" for part in parts if part in KNOB_OF)

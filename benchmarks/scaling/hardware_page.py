"""The arithmetic for named hardware, as parts of the page."""

from __future__ import annotations

from benchmarks.kept import Found
from benchmarks.scaling.arithmetic import (
    LOAD,
    beds_of,
    beds_per_accelerator,
    beds_per_link,
    core_hours,
    days,
    limit,
    servers_for,
)
from benchmarks.scaling.hardware import ACCELERATORS, GPU_SHARE, LINK_GBIT, SERVER_PROCESSORS, Accelerator
from benchmarks.scaling.network_page import STREAMED, VIDEO, ways_of
from benchmarks.scaling.shares import BITS, left, shares_of
from benchmarks.soak.daemon_page import table

BEDS, HOURS = 100, 10_000

LIMITS = ("accelerator", "processors", "network")

PROCESSORS = """\
## {beds} beds and {hours:,} hours on processors: arithmetic

Beds at {load:.0f} % load; recordings at full load, a worker on each processor. Each processor gives
{worth:.0f} % of one alone, as two did in the corpus above; that {server} do so too is assumed. This machine
has {here}; a server has {server} of the same. Between brackets is the memory of {beds} beds in processes of
their own. A bed of more than 100 % needs several threads; that they share its work without loss is assumed,
too.
"""

ACCELERATED = """\
## {beds} beds and {hours:,} hours with an accelerator: arithmetic

Encoders and fusion run on an accelerator; decoding, faces, step tensors and the runtime on processors.
**Assumed**, not measured: the model reaches {share:.0f} % of the data sheet's dense peak
({peaks}),
and each processor beside it gives what one of two gives here, which those of a Jetson do not. Multiplications
are those of [Systems](systems.md). Video decoders in hardware are not counted.

- **Jetson AGX Orin 64GB**: the device itself, with its 12 processors; video comes through
  {link:g} Gbit/s.
- **NVIDIA L4**: behind {link:g} Gbit/s, through which step tensors and features come (streamed); faces are
  found on {server} processors on the other side.

Beds by each alone; the fewest of them is what there can be. The accelerator is taken to be fully used at that
share; processors and link at {load:.0f} %. Hours are played by as many as there are beds.
"""


def processors_part(bed: Found, worth: float) -> list[str]:
    """This machine and a server of many such processors."""
    n_here = bed["n_processors"]
    rows = []
    for system, found in bed["systems"].items():
        for way, one in found["ways"].items():
            cost = sum(shares_of(bed, system, way).values())
            here, server = (beds_of(n * worth, cost) for n in (n_here, SERVER_PROCESSORS))
            memory = f"{BEDS * one['start_up']['memory_bytes'] / 1e9:.0f} GB"
            servers = servers_for(BEDS, server)
            rows.append(
                [
                    f"`{system}`",
                    way,
                    str(here),
                    str(server),
                    "-" if servers is None else f"{servers} ({memory})",
                    f"{core_hours(HOURS, cost):,.0f}",
                    f"{days(HOURS, cost, n_here, worth):,.1f}",
                    f"{days(HOURS, cost, SERVER_PROCESSORS, worth):.2f}",
                ]
            )
    head = [
        "system",
        "in",
        "beds here",
        "beds a server",
        f"servers for {BEDS}",
        f"processor hours of {HOURS:,} h",
        "days here",
        "days on a server",
    ]
    text = PROCESSORS.format(
        beds=BEDS, hours=HOURS, load=100 * LOAD, worth=100 * worth, here=n_here, server=SERVER_PROCESSORS
    )
    note = "0 beds: one takes more of the processors than there is at that load."
    return [text, *table(head, rows), "", *([note, ""] if any("0" in row[2:4] for row in rows) else [])]


def accelerators_part(bed: Found, network: Found, worth: float) -> list[str]:
    """What then limits."""
    rows = []
    for accelerator in ACCELERATORS:
        for system in bed["systems"]:
            if network["systems"][system]["gmac_per_s"] is None:
                continue
            by = beds_by(accelerator, bed, network, system, worth)
            what, most = limit(by)
            servers = servers_for(BEDS, most)
            rows.append(
                [
                    f"{accelerator.name}, {accelerator.precision}",
                    f"`{system}`",
                    *(f"{n:,}" for n in by.values()),
                    what,
                    "-" if servers is None else str(servers),
                    f"{HOURS / most / 24:.1f}" if most else "-",
                ]
            )
    peaks = ", ".join(f"{one.name} {one.peak_tops:g} TOPS in {one.precision}" for one in ACCELERATORS)
    text = ACCELERATED.format(
        beds=BEDS,
        hours=HOURS,
        share=100 * GPU_SHARE,
        peaks=peaks,
        link=LINK_GBIT,
        server=SERVER_PROCESSORS,
        load=100 * LOAD,
    )
    head = ["", "system", *LIMITS, "limit", f"of them for {BEDS}", f"days of {HOURS:,} h"]
    return [text, *table(head, rows), ""]


def beds_by(
    accelerator: Accelerator, bed: Found, network: Found, system: str, worth: float
) -> dict[str, int]:
    """What of the machine -> beds that it allows."""
    ways, gmac_per_s = ways_of(network, bed, system), network["systems"][system]["gmac_per_s"]
    found = (
        beds_per_accelerator(accelerator.peak_tops, GPU_SHARE, gmac_per_s),
        beds_of(accelerator.processors * worth, left(shares_of(bed, system, BITS))),
        beds_per_link(LINK_GBIT, ways[STREAMED if accelerator.is_served else VIDEO]),
    )
    return dict(zip(LIMITS, found, strict=True))

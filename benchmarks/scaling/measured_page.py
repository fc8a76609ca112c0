"""What was measured of one bed, of many, and of a corpus, as parts of the page."""

from __future__ import annotations

from benchmarks.kept import Found
from benchmarks.scaling.arithmetic import LOAD, largest
from benchmarks.scaling.knobs_page import KNOB_OF
from benchmarks.scaling.shares import PARTS, shares_of
from benchmarks.soak.daemon_page import table

GOAL = 1.7
"""How many times as fast two workers should be as one."""

ON_TIME, TOO_LATE = 0.01, 0.5
"""Shares of predictions that may be late where beds keep time, and that must be where they cannot."""

BED = """\
## One bed: measured

Percent of one processor, one thread, for a session at real pace: the process' own processor time, which
others hardly change. 8 bits run in OpenVINO, stages that have none and FP32 in ONNX Runtime. OpenCV's
cascades find faces in each picture that the model takes; `group` looks at the whole picture. Memory is that
of a session in a process of its own.
"""

BEDS = """\
## Many beds: measured

Is the arithmetic right? `jmt-tiny` in FP32, each bed an `edge-mer run` at real pace: as many as should fit at
{load:.0f} % load, and as many as would be twice what the processors can do. The hop is {hop:.0f} ms.
"""

CORPUS = """\
## A corpus: measured

{n} recordings of {seconds} s of simulated people, with `jmt-tiny`, by `edge-mer run --corpus --ray local`
with one worker and with two by turns, and by one process without Ray, whose engines have all threads. Tables
were the same to the last byte in all turns.
"""


def bed_part(bed: Found) -> list[str]:
    """Parts, sum, memory, and what is the largest part."""
    rows, limits = [], []
    for system, found in bed["systems"].items():
        for way, one in found["ways"].items():
            parts = shares_of(bed, system, way)
            cells = [f"{100 * parts[part]:.1f}" for part in PARTS]
            memory = f"{one['start_up']['memory_bytes'] / 1e6:.0f}"
            rows.append([f"`{system}`", way, *cells, f"**{100 * sum(parts.values()):.1f}**", memory])
            most, share = largest(parts)
            limits.append([f"`{system}`", way, most, f"{100 * share:.0f} %", KNOB_OF.get(most, "")])
    head = ["system", "in", *PARTS, "all, %", "memory, MB"]
    limit = ["system", "in", "what limits", "of the bed", "its knob"]
    return [
        BED,
        *table(head, rows),
        "",
        "What limits a bed is its largest part:",
        "",
        *table(limit, limits),
        "",
    ]


def beds_part(beds: Found) -> list[str]:
    """Whether beds kept time where they should, and did not where they should not."""
    loads = {"fits": f"{100 * LOAD:.0f} % at most", "twice": "twice what there is"}
    rows = [_beds_row(load, beds["cost"], beds[name]) for name, load in loads.items()]
    head = ["beds", "load", "a bed by the arithmetic", "measured", "ms p50", "ms p95", "later than a hop"]
    text = BEDS.format(load=100 * LOAD, hop=beds["hop_ms"])
    return [text, *table(head, rows), "", beds_verdict(beds), ""]


def _beds_row(load: str, cost: float, one: Found) -> list[str]:
    times = ["-" if one[p] is None else f"{one[p]:.0f}" for p in ("p50_ms", "p95_ms")]
    shares = [f"{100 * share:.1f} %" for share in (cost, one["cpu_share"])]
    return [str(one["n"]), load, *shares, *times, f"{100 * one['late']:.1f} %"]


def beds_verdict(beds: Found) -> str:
    """Right both ways, or not."""
    first = "kept time" if beds["fits"]["late"] <= ON_TIME else "**did not keep time**"
    second = "did not keep it" if beds["twice"]["late"] > TOO_LATE else "**kept it too**"
    return f"The first {first}; the second {second}. A prediction that was dropped counts as late."


def corpus_part(corpus: Found) -> list[str]:
    """Each turn."""
    played_s = corpus["n_recordings"] * corpus["seconds"]
    rows = [
        [
            f"{one['n_workers']} on Ray" if one["n_workers"] else "none",
            f"{one['wall_s']:.1f}",
            f"{one['start_s']:.1f}",
            f"{played_s / one['wall_s']:.1f}",
        ]
        for one in (*corpus["turns"], corpus["alone"])
    ]
    text = CORPUS.format(n=corpus["n_recordings"], seconds=corpus["seconds"])
    head = ["workers", "s", "of which Ray's start, s", "seconds of recordings a second"]
    return [text, *table(head, rows), "", corpus_verdict(corpus), ""]


def corpus_verdict(corpus: Found) -> str:
    """How many times as fast two workers are."""
    ratio = corpus["speed_up"]
    reached = "reached" if ratio["mean"] >= GOAL else "**not reached**"
    return (
        f"Two workers are {ratio['mean']:.2f} times as fast as one ({ratio['low']:.2f} to "
        f"{ratio['high']:.2f} between single turns); the goal of {GOAL} is {reached}. "
        "The start of Ray is in it."
    )

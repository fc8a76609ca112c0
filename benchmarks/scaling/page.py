"""docs/scaling.md, from what was measured."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.scaling.arithmetic import LOAD, efficiency, largest
from benchmarks.scaling.hardware_page import accelerators_part, processors_part
from benchmarks.scaling.kept import ROOT, Found
from benchmarks.scaling.knobs_page import knobs_part
from benchmarks.scaling.shares import PARTS, shares_of
from benchmarks.soak.daemon_page import table

PAGE = ROOT / "docs" / "scaling.md"

GOAL = 1.7
"""How many times as fast two workers should be as one."""

ON_TIME = 0.01
"""Share of predictions that may be late where beds keep time."""

HEAD = """\
# Scaling

Made by `make scaling`; do not edit. What one bed costs, what limits it, and the arithmetic for many beds and for many hours of
recordings. **Measured** is what ran here, on {n} processors of {name}, on {date}. **Arithmetic** is what follows from it; it ran
nowhere.

A bed is one person before one camera: 640x480, 30 pictures a second, H.264 with sound as AAC. The recording is of a simulated
person.{others}

{limits}
"""

BED = """\
## One bed: measured

Percent of one processor, one thread, for a session at real pace: the process' own processor time, which others do not change.
8 bits run in OpenVINO, FP32 in ONNX Runtime; OpenCV's cascades find faces. `group` looks at the whole picture. Memory is that of a
session in a process of its own.
"""

BEDS = """\
## Many beds: measured

Is the arithmetic right? `jmt-tiny` in FP32, each bed an `edge-mer run` at real pace: as many as should fit at {load:.0f} % load, and
as many as would be twice what the processors can do. The hop is {hop:.0f} ms.
"""

CORPUS = """\
## A corpus: measured

{n} recordings of {seconds} s of simulated people, with `jmt-tiny`, by `edge-mer run --corpus --ray local` with one worker and with two
by turns, and by one process without Ray, whose engines have all threads. Tables were the same to the last byte in all turns.
"""

NETWORK = """\
## Network

Kilobytes a second of one bed. A camera's own stream is measured as x264 encodes it at its default quality; a camera that is set to
another rate sends that. The rest follows from the shapes in the bundles, as float32; words at {tokens} tokens a second, assumed.

- **Video**: picture and sound to whatever decodes them.
- **Stages**: to a server that runs the stages: inputs of the encoders and of the fusion, its whole window at every hop.
  Features and outputs come back.
- **Streamed**: to a server that keeps the window itself: inputs of the encoders; outputs come back.
- **Predictions**: a line of JSON for each hop, {line} bytes.
"""


def page(measured: Found) -> str:
    """The page's text."""
    bed, corpus = measured["bed"], measured["corpus"]
    lines = [
        HEAD.format(
            n=bed["n_processors"],
            name=bed["processor"],
            date=bed["date"],
            others=_others(measured),
            limits="\n".join(limits(bed)),
        ),
        BED,
        *bed_table(bed),
        "",
        *beds_part(measured["beds"]),
        *corpus_part(corpus),
        *network_part(measured["network"], bed),
        *processors_part(bed, efficiency(corpus["speed_up"]["mean"])),
        *accelerators_part(bed, measured["network"]),
        *knobs_part(bed, corpus, measured["network"]),
    ]
    return "\n".join(lines)


def _others(measured: Found) -> str:
    shares = {name: found["others_share"] for name, found in measured.items() if "others_share" in found}
    told = ", ".join(f"{100 * share:.0f} % (`{name}`)" for name, share in shares.items())
    return f"\nMeanwhile others took of the processors {told}."


def limits(bed: Found) -> Iterator[str]:
    """What is the largest part of each system's bed."""
    yield "What a bed spends most on:"
    yield ""
    for system, found in bed["systems"].items():
        told = []
        for way in found["ways"]:
            part, share = largest(shares_of(bed, system, way))
            told.append(f"{part} in {way} ({100 * share:.0f} %)")
        yield f"- `{system}`: {', '.join(told)}"


def bed_table(bed: Found) -> list[str]:
    """Parts, sum, memory."""
    rows = []
    for system, found in bed["systems"].items():
        for way, one in found["ways"].items():
            parts = shares_of(bed, system, way)
            cells = [f"{100 * parts[part]:.1f}" for part in PARTS]
            memory = f"{one['start_up']['memory_bytes'] / 1e6:.0f}"
            rows.append([f"`{system}`", way, *cells, f"**{100 * sum(parts.values()):.1f}**", memory])
    return table(["system", "in", *PARTS, "all, %", "memory, MB"], rows)


def beds_part(beds: Found) -> list[str]:
    """Whether beds kept time where they should, and did not where they should not."""
    rows = []
    for name, load in (("fits", LOAD), ("twice", None)):
        one = beds[name]
        rows.append(
            [
                str(one["n"]),
                f"{100 * LOAD:.0f} % at most" if load else "twice what there is",
                f"{100 * beds['cost']:.1f} %",
                f"{100 * one['cpu_share']:.1f} %",
                f"{one['p50_ms']:.0f}",
                f"{one['p95_ms']:.0f}",
                f"{100 * one['late']:.1f} %",
            ]
        )
    head = ["beds", "load", "a bed by the arithmetic", "measured", "ms p50", "ms p95", "later than a hop"]
    text = BEDS.format(load=100 * LOAD, hop=beds["hop_ms"])
    return [text, *table(head, rows), "", beds_verdict(beds), ""]


def beds_verdict(beds: Found) -> str:
    """Right both ways, or not."""
    kept = beds["fits"]["late"] <= ON_TIME
    broke = beds["twice"]["late"] > 0.5
    first = "kept time" if kept else "**did not keep time**"
    second = "did not keep it" if broke else "**kept it too**"
    return f"The first {first}; the second {second}."


def corpus_part(corpus: Found) -> list[str]:
    """Each turn."""
    rows = [
        [
            f"{one['n_workers']} on Ray" if one["n_workers"] else "none",
            f"{one['wall_s']:.1f}",
            f"{one['start_s']:.1f}",
            f"{corpus['n_recordings'] * corpus['seconds'] / one['wall_s']:.1f}",
        ]
        for one in (*corpus["turns"], corpus["alone"])
    ]
    ratio = corpus["speed_up"]
    reached = "reached" if ratio["mean"] >= GOAL else "**not reached**"
    text = CORPUS.format(n=corpus["n_recordings"], seconds=corpus["seconds"])
    verdict = (
        f"Two workers are {ratio['mean']:.2f} times as fast as one ({ratio['low']:.2f} to {ratio['high']:.2f}); the goal of "
        f"{GOAL} is {reached}. The start of Ray is in it."
    )
    head = ["workers", "s", "of which Ray's start, s", "seconds of recordings a second"]
    return [text, *table(head, rows), "", verdict, ""]


def network_part(network: Found, bed: Found) -> list[str]:
    """Bytes, and beds in a link."""
    from benchmarks.scaling.network import TOKENS_PER_S

    rows = [
        [f"`{system}`", *(f"{value / 1e3:.1f}" for value in ways_of(network, bed, system).values())]
        for system in network["systems"]
    ]
    links = [
        [f"`{system}`", *(f"{beds_per_gbit(value):,}" for value in ways_of(network, bed, system).values())]
        for system in network["systems"]
    ]
    text = NETWORK.format(tokens=TOKENS_PER_S, line=network["line_bytes"])
    head = ["", "video", "stages, there", "back", "streamed, there", "back", "predictions"]
    return [
        text,
        *table(head, rows),
        "",
        f"Beds that fit through 1 Gbit/s at {100 * LOAD:.0f} %, in each direction: arithmetic.",
        "",
        *table(head, links),
        "",
    ]


def ways_of(network: Found, bed: Found, system: str) -> dict[str, float]:
    """Way through the network -> bytes a second."""
    from benchmarks.scaling.shares import USUAL_SIZE

    one = network["systems"][system]
    return {
        "video": bed["decode"][USUAL_SIZE]["bytes_per_s"],
        "stages": one["steps"] + one["window"],
        "stages back": one["features"] + one["outputs"],
        "streamed": one["steps"],
        "streamed back": one["outputs"],
        "predictions": network["line_bytes"] * 1000 / one["hop_ms"],
    }


def beds_per_gbit(bytes_per_s: float) -> int:
    """Beds through a link of 1 Gbit/s."""
    from benchmarks.scaling.arithmetic import beds_per_link

    return beds_per_link(1.0, bytes_per_s)

"""Which knob moves which part, and how far, as a part of the page."""

from __future__ import annotations

from benchmarks.kept import Found, Kept
from benchmarks.scaling.clips import CAMERA, FPS, LARGE, SMALL
from benchmarks.scaling.kept import TINY
from benchmarks.scaling.network_page import STREAMED, VIDEO, ways_of
from benchmarks.scaling.shares import (
    BITS,
    DECODING,
    ENCODERS,
    FACES,
    FP32,
    FUSION,
    PARTS,
    USUAL_SIZE,
    left,
    shares,
    shares_of,
)
from benchmarks.soak.daemon_page import table
from edge_mer.corpus.cut import LEAST_S

MEASURED, ARITHMETIC = "measured", "arithmetic"

KNOB_OF = {
    DECODING: "the camera's size and rate",
    FACES: "`--face-detector`",
    ENCODERS: "`build-engine` and an inference server",
    FUSION: "`--hop`",
}
"""Of the parts that have one."""

KNOBS = """\
## Knobs

Percents are of one processor.
"""

Row = list[str]


def knobs_part(bed: Found, corpus: Found, network: Found) -> list[str]:
    """A row for each knob."""
    rows = [
        _precision(bed),
        *_detector(bed),
        _size(bed),
        _rate(bed),
        _hop(bed),
        _server(bed, network),
        _workers(corpus),
        _sharing(),
        _cutting(network),
    ]
    return [KNOBS, *table(["knob", "moves", "how far", ""], rows), ""]


def saved_by_bits(bed: Found) -> dict[str, float]:
    """System -> what 8 bits save of its bed in FP32, 0 to 1."""
    whole = {
        way: {one: sum(shares_of(bed, one, way).values()) for one in bed["systems"]} for way in (FP32, BITS)
    }
    return {one: 1 - whole[BITS][one] / cost for one, cost in whole[FP32].items()}


def span_of(values: dict[str, float]) -> str:
    """The least and the most, in percent, and whose they are."""
    low, high = min(values, key=lambda one: values[one]), max(values, key=lambda one: values[one])
    told = f"{percent(values[low])} (`{low}`)"
    return told if low == high else f"{told} to {percent(values[high])} (`{high}`)"


def percent(share: float) -> str:
    """Of one processor; small ones with a digit more."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def _of_tiny(bed: Found, knob: str) -> dict[str, float]:
    """Parts of the smallest system's bed as a knob is set."""
    size = knob if knob in bed["decode"] else USUAL_SIZE
    one = bed["systems"][TINY]["ways"][FP32] if knob == USUAL_SIZE else bed["knobs"][knob]
    return shares(bed["decode"][size], one)


def _precision(bed: Found) -> Row:
    told = f"8 bits save {span_of(saved_by_bits(bed))} of a bed in FP32"
    return ["precision and engine, `build-engine`", f"{ENCODERS}, {FUSION}", told, MEASURED]


def _detector(bed: Found) -> list[Row]:
    if "yunet" not in bed["knobs"]:
        return []
    before, after = (_of_tiny(bed, one)[FACES] for one in (USUAL_SIZE, "yunet"))
    told = f"`{TINY}`: OpenCV's cascades {percent(before)}, YuNet {percent(after)}"
    return [["`--face-detector`", FACES, told, MEASURED]]


def _size(bed: Found) -> Row:
    told = []
    for size in (f"{w}x{h}" for w, h in (SMALL, CAMERA, LARGE)):
        parts = _of_tiny(bed, size)
        rest = sum(parts[one] for one in PARTS if one not in (DECODING, FACES))
        told.append(f"{size}: {percent(parts[DECODING])}, {percent(parts[FACES])}, {percent(rest)}")
    text = f"`{TINY}`, decoding, faces and the rest: {'; '.join(told)}"
    return ["the camera's size", DECODING, text, MEASURED]


def _rate(bed: Found) -> Row:
    usual = bed["decode"][USUAL_SIZE]["cpu_share"]
    told = (
        f"half of {FPS} pictures a second halve it: {percent(usual)}, then {percent(usual / 2)}; a detector "
        "looks only at those that the model takes"
    )
    return ["the camera's rate", DECODING, told, ARITHMETIC]


def _hop(bed: Found) -> Row:
    halves = {
        one: parts[FUSION] / 2 / sum(parts.values())
        for one in bed["systems"]
        if (parts := shares_of(bed, one, BITS))
    }
    told = (
        f"twice the hop halves it, which saves {span_of(halves)} of a bed in 8 bits; encoders run for "
        "each step"
    )
    return ["`--hop`", FUSION, told, ARITHMETIC]


def _server(bed: Found, network: Found) -> Row:
    saved = {
        one: 1 - left(parts) / sum(parts.values())
        for one in bed["systems"]
        if (parts := shares_of(bed, one, BITS))
    }
    ways = ways_of(network, bed, next(iter(bed["systems"])))
    times = {
        one: ways_of(network, bed, one)[STREAMED] / ways[VIDEO] for one in network["systems"] if one in saved
    }
    told = (
        f"takes {span_of(saved)} of a bed in 8 bits away from its processor, and sends "
        f"{min(times.values()):.0f} to {max(times.values()):.0f} times as much as the video is"
    )
    return ["[where inference runs](inference-server.md)", f"{ENCODERS}, {FUSION}, network", told, ARITHMETIC]


def _workers(corpus: Found) -> Row:
    told = f"two workers: {corpus['speed_up']['mean']:.2f} times as fast as one"
    return ["`--workers` of a corpus", "time", told, MEASURED]


def _sharing() -> Row:
    most = Kept(".").kept("sessions")["rss_mb"][-1]
    told = (
        f"{most['n']} sessions of `{TINY}`: {most['shared']:.0f} MB in one process with one model, "
        f"{most['apart']:.0f} MB with a model for each ([Benchmarks](benchmarks.md))"
    )
    return ["sharing a model, `open_model`", "memory", told, MEASURED]


def _cutting(network: Found) -> Row:
    again = {one: found["window_s"] / LEAST_S for one, found in network["systems"].items()}
    told = (
        f"pieces of {LEAST_S / 60:.0f} minutes or more go to several workers; each plays a window more, "
        f"at most {span_of(again)} of its time"
    )
    return ["[how long recordings are cut](how-to-corpus.md#long-recordings)", "time", told, ARITHMETIC]

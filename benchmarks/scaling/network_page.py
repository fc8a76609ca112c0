"""What goes through the network, as a part of the page."""

from __future__ import annotations

from benchmarks.kept import Found
from benchmarks.scaling.arithmetic import LOAD, beds_per_link
from benchmarks.scaling.hardware import LINK_GBIT
from benchmarks.scaling.network import TOKENS_PER_S, UTTERANCES_PER_S
from benchmarks.scaling.shares import USUAL_SIZE
from benchmarks.soak.daemon_page import table

VIDEO, STAGES, STREAMED = "video", "stages", "streamed"

NETWORK = """\
## Network: measured and arithmetic

Kilobytes a second of one bed. Video is measured, as x264 encodes it at its default quality; a camera that is
set to another rate sends that. A line of JSON is measured, too. The rest follows from the shapes in the
bundles, as float32; words at {tokens} tokens and {utterances} utterances a second are assumed.

- **Video**: picture and sound to whatever decodes them.
- **Stages**: to a server that runs the stages and has no memory: inputs of the encoders, and at every hop
  those of the fusion, its whole window. Features and outputs come back.
- **Streamed**: to a [server](inference-server.md) that keeps the window: inputs of the encoders, and at every
  hop the newest features. Features and outputs come back.
- **Predictions**: a line of JSON for each hop, {line} bytes.
"""

HEAD = [
    "",
    VIDEO,
    f"{STAGES}, there",
    f"{STAGES}, back",
    f"{STREAMED}, there",
    f"{STREAMED}, back",
    "predictions",
]


def network_part(network: Found, bed: Found) -> list[str]:
    """Bytes, and beds in a link."""
    ways = {system: list(ways_of(network, bed, system).values()) for system in network["systems"]}
    kilobytes = [[f"`{one}`", *(f"{value / 1e3:,.1f}" for value in values)] for one, values in ways.items()]
    beds = [
        [f"`{one}`", *(f"{beds_per_link(LINK_GBIT, value):,}" for value in values)]
        for one, values in ways.items()
    ]
    text = NETWORK.format(tokens=TOKENS_PER_S, utterances=UTTERANCES_PER_S, line=network["line_bytes"])
    told = (
        f"Beds that fit through {LINK_GBIT:g} Gbit/s at {100 * LOAD:.0f} %, each way by itself: arithmetic."
    )
    return [text, *table(HEAD, kilobytes), "", told, "", *table(HEAD, beds), ""]


def ways_of(network: Found, bed: Found, system: str) -> dict[str, float]:
    """Way through the network -> bytes a second of one bed."""
    one = network["systems"][system]
    return {
        VIDEO: bed["decode"][USUAL_SIZE]["bytes_per_s"],
        STAGES: one["steps"] + one["window"],
        f"{STAGES} back": one["features"] + one["outputs"],
        STREAMED: one["steps"] + one["newest"],
        f"{STREAMED} back": one["features"] + one["outputs"],
        "predictions": network["line_bytes"] * 1000 / one["hop_ms"],
    }

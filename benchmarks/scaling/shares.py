"""What of a processor each part of a bed takes, from what was measured."""

from __future__ import annotations

from benchmarks.kept import Found
from edge_mer.runtime.metering import DETECTOR, RUNTIME, TENSORS, TRACKER

USUAL_SIZE = "640x480"

FP32, BITS = "fp32", "8 bits"
"""Ways to run a system."""

DECODING, FACES, ENCODERS, FUSION = "decoding", "faces", "encoders", "fusion"
PARTS = (DECODING, FACES, TENSORS, ENCODERS, FUSION, RUNTIME)

SERVED = (ENCODERS, FUSION)
"""What an inference server takes over."""


def shares_of(bed: Found, system: str, way: str) -> dict[str, float]:
    """Part -> processors, 1 being a whole one; they add up to the bed's."""
    return shares(bed["decode"][USUAL_SIZE], bed["systems"][system]["ways"][way])


def shares(decode: Found, one: Found) -> dict[str, float]:
    """The same of one measurement, with what reading its recording takes."""
    found = dict.fromkeys(PARTS, 0.0)
    found[DECODING] = float(decode["cpu_share"])
    for part, ms in one["parts_ms"].items():
        found[_kind(part)] += ms / one["hop_ms"]
    return found


def left(parts: dict[str, float]) -> float:
    """What stays where the camera is, when a server runs the model."""
    return sum(value for part, value in parts.items() if part not in SERVED)


def _kind(part: str) -> str:
    if part in (DETECTOR, TRACKER):
        return FACES
    return part if part in (TENSORS, RUNTIME, FUSION) else ENCODERS

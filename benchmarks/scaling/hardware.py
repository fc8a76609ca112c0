"""Named hardware, from data sheets, and what is assumed of it."""

from __future__ import annotations

from dataclasses import dataclass

GPU_SHARE = 0.3
"""Assumed: what of a data sheet's dense peak the encoders reach. It was not measured."""

SERVER_PROCESSORS = 64
LINK_GBIT = 1.0


@dataclass(frozen=True)
class Accelerator:
    """What runs encoders and fusions.

    Attributes:
        name: Of the vendor.
        peak_tops: 10^12 operations a second, dense, at `precision`.
        precision: Of that peak.
        processors: That decode and find faces, taken to be as fast as one here.
        is_served: It stands behind a network, through which step tensors come; else video comes.
    """

    name: str
    peak_tops: float
    precision: str
    processors: int
    is_served: bool


ACCELERATORS = (
    Accelerator("Jetson AGX Orin 64GB", 85.0, "INT8", 12, is_served=False),
    Accelerator("NVIDIA L4", 242.0, "INT8", SERVER_PROCESSORS, is_served=True),
    Accelerator("NVIDIA L4", 121.0, "FP16", SERVER_PROCESSORS, is_served=True),
)
"""Dense peaks of the GPUs alone; data sheets often name those with sparsity, twice as high."""

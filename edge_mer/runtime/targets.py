"""All targets that a bundle can be built for; one of TensorRT is preferred where both were built."""

from __future__ import annotations

from edge_mer.runtime.target import Target
from edge_mer.runtime.target_cpu import CpuTarget
from edge_mer.runtime.target_tensorrt import TensorRtTarget

TARGETS: dict[str, Target] = {one.name: one for one in (TensorRtTarget(), CpuTarget())}
"""By the names that users write."""

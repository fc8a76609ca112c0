"""All rivals by name, each loaded only when it is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.speed.rivals.base import Executed, Rival, Values
from benchmarks.speed.rivals.whole import Whole, open_whole
from benchmarks.speed.steps import Steps
from edge_mer.types.model import ModelSpec

Family = Literal["pytorch", "whole", "edge-mer"]


@dataclass(frozen=True)
class Entry:
    """A row of the page.

    Attributes:
        title: What it is.
        family: Whose way it is.
        asked: Precision that is asked for.
    """

    title: str
    family: Family
    asked: str


RIVALS = {
    "torch-naive": Entry("PyTorch eager, sliding window", "pytorch", "fp32"),
    "torch-once": Entry("PyTorch eager, each clip once", "pytorch", "fp32"),
    "whole-ort": Entry("whole ONNX, ONNX Runtime", "whole", "fp32"),
    "whole-ort-static": Entry("whole ONNX, ONNX Runtime, quantize_static", "whole", "int8"),
    "whole-ort-dynamic": Entry("whole ONNX, ONNX Runtime, quantize_dynamic", "whole", "int8"),
    "whole-ov": Entry("whole ONNX, OpenVINO", "whole", "fp32"),
    "whole-ov-bf16": Entry("whole ONNX, OpenVINO", "whole", "bf16"),
    "whole-ov-static": Entry("whole ONNX, OpenVINO, the file of quantize_static", "whole", "int8"),
    "ort": Entry("edge-mer, ONNX Runtime", "edge-mer", "fp32"),
    "ort-int8": Entry("edge-mer, ONNX Runtime", "edge-mer", "int8-cpu"),
    "ov": Entry("edge-mer, OpenVINO", "edge-mer", "fp32"),
    "ov-bf16": Entry("edge-mer, OpenVINO", "edge-mer", "bf16"),
    "ov-int8": Entry("edge-mer, OpenVINO", "edge-mer", "int8-cpu"),
    "chosen": Entry("edge-mer, as build-engine chose", "edge-mer", "chosen"),
}
NAIVE, REFERENCE = "torch-naive", "torch-once"
"""What all are held against: in time, and in numbers."""


class WholeRival(Rival):
    """A joined graph among the others.

    Args:
        whole: The loaded graph.
        spec: The model's declaration.
        steps: What it looks at.
    """

    def __init__(self, whole: Whole, spec: ModelSpec, steps: Steps) -> None:
        from benchmarks.speed.whole import feed_of, output_names

        self._whole, self._spec = whole, spec
        self._feed = partial(feed_of, spec, steps)
        self._names = output_names(spec)

    def warm_up(self, windows: Sequence[int]) -> None:
        """Both libraries allocate on the first run."""
        self.predict(windows[0])

    def predict(self, window: int) -> Values:
        """All L steps and the fusion in one call."""
        found = self._whole.run(self._feed(window), self._names)
        named = zip(self._spec.outputs, self._spec.fusion.outputs, found, strict=True)
        return {output.name: tensor.step_of(one[0], -1) for output, tensor, one in named}

    def executed(self) -> Executed:
        """As the library says."""
        return self._whole.executed()


def open_rival(key: str, folder: Path, spec: ModelSpec, steps: Steps) -> Rival:
    """Load a rival with what lies in a system's folder."""
    family = RIVALS[key].family
    if family == "whole":
        return WholeRival(open_whole(key, folder), spec, steps)
    if family == "pytorch":
        from benchmarks.speed.rivals import pytorch

        return (pytorch.naive if key == NAIVE else pytorch.once)(folder, spec, steps)
    from benchmarks.speed.rivals import edge_mer as ours

    if key == "chosen":
        return ours.chosen(folder, spec, steps)
    if key.startswith("ort"):
        return ours.in_onnxruntime(RIVALS[key].asked, folder, spec, steps)
    return ours.in_openvino(RIVALS[key].asked, folder, spec, steps)

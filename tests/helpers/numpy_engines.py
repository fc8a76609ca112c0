"""Engines for the tiny model that a test can follow by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edge_mer.engine.base import Array, Engine
from edge_mer.types.model import ModelSpec, TensorSpec

SCALE = 0.1


class NumpyEngine(Engine):
    """Runs a function over arrays.

    Args:
        stage: Name of the stage.
        inputs: Declared inputs.
        outputs: Declared outputs.
        sizes: Sizes of free axes.
        function: From the inputs, in their order, to the outputs, in theirs.
    """

    name = "numpy"

    def __init__(
        self,
        stage: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        sizes: dict[str, int],
        function: Callable[..., tuple[Array, ...]],
    ) -> None:
        super().__init__(stage, inputs, outputs, sizes)
        self._function = function

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self._function(*(feed[spec.name] for spec in self.input_specs))
        return {spec.name: array for spec, array in zip(self.output_specs, outputs, strict=True)}


def mean_feature(tensor: Array) -> tuple[Array, ...]:
    """Mean, smallest and largest value of each step's tensor."""
    flat = tensor.reshape(len(tensor), -1)
    return (np.stack([flat.mean(axis=1), flat.min(axis=1), flat.max(axis=1)], axis=1, dtype=np.float32),)


def mean_of_window(face: Array, voice: Array, present: Array | None = None) -> tuple[Array, ...]:
    """A tenth of the mean over the steps of each modality; steps that are masked do not count."""
    outputs = []
    for index, window in enumerate((face, voice)):
        steps = window[:, :, 0] * SCALE
        if present is None:
            mean = steps.mean(axis=1)
        else:
            mask = present[:, index]
            mean = (steps * mask).sum(axis=1) / np.maximum(1, mask.sum(axis=1))
        outputs.append(np.repeat(mean[:, np.newaxis], window.shape[1], axis=1).astype(np.float32))
    return tuple(outputs)


def tiny_engines(
    model: ModelSpec, fusion: Callable[..., tuple[Array, ...]] = mean_of_window
) -> dict[str, Engine]:
    """Stage -> engine; `fusion` replaces the mean of the window."""
    engines: dict[str, Engine] = {
        encoder.stage: NumpyEngine(
            encoder.stage, (encoder.input,), (encoder.output,), {"batch": 1}, mean_feature
        )
        for encoder in model.encoders
    }
    sizes = {"batch": 1, "steps": model.fusion.n_steps}
    engines[model.fusion.stage] = NumpyEngine(
        model.fusion.stage, model.fusion.inputs, model.fusion.outputs, sizes, fusion
    )
    return engines

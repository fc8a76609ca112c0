"""PyTorch as an engine of the runtime, so that it can be run through the same code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from edge_mer.engine.base import Array, Engine
from edge_mer.types.model import ModelSpec, TensorSpec, Words


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A stage's outputs in their order; a stage of one output gives a bare tensor."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


class TorchEngine(Engine):
    """A stage in PyTorch.

    Args:
        stage: Name of the stage.
        module: Takes the declared inputs in their order, returns the declared outputs.
        inputs: Declared inputs.
        outputs: Declared outputs.
        sizes: Sizes of free axes of the input buffers.
    """

    def __init__(
        self,
        stage: str,
        module: nn.Module,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        sizes: dict[str, int],
    ) -> None:
        super().__init__(stage, inputs, outputs, sizes)
        self._module = module.eval()

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            found = self._module(*(torch.from_numpy(np.array(feed[spec.name])) for spec in self.input_specs))
        tensors = as_tuple(found)
        return {spec.name: one.numpy() for spec, one in zip(self.output_specs, tensors, strict=True)}


class ZeroEngine(Engine):
    """Costs nothing and gives zeros: for sessions of which only the step tensors are wanted."""

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        sizes = {
            axis: int(n)
            for spec in self.input_specs
            for axis, n in zip(spec.axes, feed[spec.name].shape, strict=True)
        }
        return {
            spec.name: np.zeros(spec.concrete(**sizes), np.dtype(spec.dtype)) for spec in self.output_specs
        }


def torch_engines(spec: ModelSpec, stages: Mapping[str, nn.Module]) -> dict[str, Engine]:
    """One PyTorch engine per stage."""
    return {
        stage: TorchEngine(stage, stages[stage], inputs, outputs, _sizes(spec))
        for stage, inputs, outputs in _tensors(spec)
    }


def word_engines(spec: ModelSpec, stages: Mapping[str, nn.Module]) -> dict[str, Engine]:
    """Engines that encode words, whose vectors are the step tensors, and nothing else."""
    of_words = {encoder.stage for encoder in spec.encoders if isinstance(encoder.preprocess, Words)}
    return {
        stage: TorchEngine(stage, stages[stage], inputs, outputs, _sizes(spec))
        if stage in of_words
        else ZeroEngine(stage, inputs, outputs, _sizes(spec))
        for stage, inputs, outputs in _tensors(spec)
    }


def zero_engines(spec: ModelSpec) -> dict[str, Engine]:
    """One engine per stage that computes nothing."""
    return {
        stage: ZeroEngine(stage, inputs, outputs, _sizes(spec)) for stage, inputs, outputs in _tensors(spec)
    }


def _sizes(spec: ModelSpec) -> dict[str, int]:
    return {"batch": 1, "steps": spec.fusion.n_steps, "token": 1}


def _tensors(spec: ModelSpec) -> list[tuple[str, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]]:
    encoders = [(e.stage, (e.input,), (e.output,)) for e in spec.encoders]
    return [*encoders, (spec.fusion.stage, spec.fusion.inputs, spec.fusion.outputs)]

"""Models by name. A new model costs one file and one line here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edge_mer.errors import UsageError
from edge_mer.types.model import ModelSpec

MODELS = {
    "jmt": "edge_mer_export.models.spec_jmt:jmt",
    "jmt-tiny": "edge_mer_export.models.spec_jmt:jmt_tiny",
    "pain-tiny": "edge_mer_export.models.spec_pain_tiny:pain_tiny",
}


@dataclass(frozen=True)
class ReferenceFile:
    """The file in which the published code keeps one stage's weights.

    Attributes:
        name: File name within the checkpoint's folder.
        dead_keys: Patterns of keys that reach no output.
    """

    name: str
    dead_keys: tuple[str, ...]


@dataclass(frozen=True)
class ZooModel:
    """A model as it is declared and as it computes.

    Attributes:
        spec: What the model declares about itself.
        stages: One module per stage, by name in the order of `spec.stages`. It takes its stage's
            declared inputs in their order and returns the declared outputs.
        reference: Where the published code keeps each stage's weights; empty if it knows no such model.
        last_layers: Output -> name of the fusion's linear layer that it comes out of.
    """

    spec: ModelSpec
    stages: dict[str, nn.Module]
    reference: Mapping[str, ReferenceFile]
    last_layers: Mapping[str, str]

    def __post_init__(self) -> None:
        if tuple(self.stages) != self.spec.stages:
            raise ValueError(f"{self.spec.name} declares stages {self.spec.stages}, has {tuple(self.stages)}")

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and buffers by "<stage>.<key>"; they share memory with the modules."""
        return {
            f"{stage}.{key}": value
            for stage, module in self.stages.items()
            for key, value in module.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take weights and buffers by "<stage>.<key>"; a missing or unexpected key is refused."""
        nn.ModuleDict(self.stages).load_state_dict(dict[str, Any](state))

    def train(self, mode: bool = True) -> ZooModel:
        """Put every stage into training mode, or out of it; returns this model."""
        for module in self.stages.values():
            module.train(mode)
        return self

    def eval(self) -> ZooModel:
        """Put every stage into evaluation mode; returns this model."""
        return self.train(False)


WEIGHTS = Path(__file__).parents[1] / "weights"


def shipped_weights(name: str) -> Path | None:
    """The trained weights that come with the package for a model; None if it has none."""
    file = WEIGHTS / f"{name}.safetensors"
    return file if file.is_file() else None


def build(name: str) -> ZooModel:
    """The model `name` with untrained weights, in evaluation mode.

    Raises:
        UsageError: The zoo has no such model.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]}" if near else None
        raise UsageError(f"unknown model {name!r}", expected=f"one of {', '.join(sorted(MODELS))}", hint=hint)
    module_name, _, function = MODELS[name].partition(":")
    model: ZooModel = getattr(import_module(module_name), function)()
    return model

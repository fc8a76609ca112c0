"""PyTorch, eager: as a plain sliding window, and each clip once, as published code does offline."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch

from benchmarks.speed.rivals.base import EachStepOnce, SlidingWindow
from benchmarks.speed.steps import Steps
from edge_mer.types.model import ModelSpec
from edge_mer_export.engines import torch_engines
from edge_mer_export.models.zoo import ZooModel, build

WEIGHTS = "weights.safetensors"


def naive(folder: Path, spec: ModelSpec, steps: Steps) -> SlidingWindow:
    """All L clips for each prediction, clip by clip."""
    return SlidingWindow(spec, torch_engines(spec, model_in(folder).stages), steps)


def once(folder: Path, spec: ModelSpec, steps: Steps) -> EachStepOnce:
    """Each clip once."""
    return EachStepOnce(spec, torch_engines(spec, model_in(folder).stages), steps)


def model_in(folder: Path) -> ZooModel:
    """The system of that folder's name, with the weights in it."""
    model = build(folder.name)
    model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    return model.eval()

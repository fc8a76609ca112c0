"""Harmless changes of step tensors, so that a small network does not learn people by heart.

Shape letters: N step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edge_mer.types.model import Clip, LogMel, PreprocessSpec

_LIGHT = 0.15
_CONTRAST = 0.2
_COLOUR = 0.1
_GAIN_DB = 3.0
_SENSITIVITY = 0.25


def augmented(steps: Tensor, spec: PreprocessSpec, generator: torch.Generator) -> Tensor:
    """Changed copies of step tensors.

    Args:
        steps: (N, …) as the encoder takes them.
        spec: How they were made.
        generator: Where the random numbers come from.

    Returns:
        Faces mirrored, in other light, colour and contrast, but never moved: where features lie in an
        aligned face is what is read from it. Sound louder or softer, signals of more or less sensitive
        skin.
    """

    def between(low: float, high: float, *sizes: int) -> Tensor:
        shape = (len(steps), *sizes, *[1] * (steps.dim() - 1 - len(sizes)))
        return torch.rand(shape, generator=generator) * (high - low) + low

    if isinstance(spec, Clip):
        mirrored = torch.where(between(0, 1) < 0.5, steps.flip(-1), steps)
        light = between(-_LIGHT, _LIGHT) + between(-_COLOUR, _COLOUR, steps.shape[1])
        return mirrored * between(1 - _CONTRAST, 1 + _CONTRAST) + light / min(spec.std)
    if isinstance(spec, LogMel):
        return steps + between(-_GAIN_DB, _GAIN_DB) / spec.std
    return steps * between(1 - _SENSITIVITY, 1 + _SENSITIVITY)

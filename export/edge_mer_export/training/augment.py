"""Harmless changes of step tensors, so that a small network does not learn people by heart.

Shape letters: N step, H mel band, W column.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edge_mer.types.model import Clip, LogMel, PreprocessSpec
from edge_mer_export.training.recipe import Phase

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


def hidden_in_part(log_mel: Tensor, phase: Phase, generator: torch.Generator) -> Tensor:
    """Spectrograms that are shifted, and lack some neighbouring bands and columns, as the recipe says.

    Args:
        log_mel: (N, 1, H, W).
        phase: How far each is shifted at most, and how much of it is hidden; for what is 0 there, no
            random number is drawn.
        generator: Where the random numbers come from.

    Returns:
        (N, 1, H, W); columns that leave at one end come in at the other, the band at an edge stands for
        those beyond it, and what is hidden is 0.
    """
    n, _, bands, columns = log_mel.shape
    if phase.shift_columns:
        source = torch.arange(columns) - _shift(n, phase.shift_columns, generator)  # (N, W)
        log_mel = log_mel.gather(3, (source % columns)[:, None, None].expand(log_mel.shape))
    if phase.shift_bands:
        source = torch.arange(bands) - _shift(n, phase.shift_bands, generator)  # (N, H)
        log_mel = log_mel.gather(2, source.clamp(0, bands - 1)[:, None, :, None].expand(log_mel.shape))
    if phase.mask_columns:
        hidden = _piece(n, columns, phase.mask_columns, generator)  # (N, W)
        log_mel = log_mel.masked_fill(hidden[:, None, None], 0.0)
    if phase.mask_bands:
        hidden = _piece(n, bands, phase.mask_bands, generator)  # (N, H)
        log_mel = log_mel.masked_fill(hidden[:, None, :, None], 0.0)
    return log_mel


def _shift(n: int, farthest: int, generator: torch.Generator) -> Tensor:
    """How far each is shifted: (n, 1)."""
    return torch.randint(-farthest, farthest + 1, (n, 1), generator=generator)


def _piece(n: int, size: int, longest: int, generator: torch.Generator) -> Tensor:
    """Somewhere in each row (n, size) a piece of 0 to `longest`, cut off at the end."""
    first = torch.randint(size, (n, 1), generator=generator)
    length = torch.randint(longest + 1, (n, 1), generator=generator)
    place = torch.arange(size)
    return (place >= first) & (place < first + length)

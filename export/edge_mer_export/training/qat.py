"""Quantization-aware training: weights learn to bear 8 bits, held against the model as it was.

No labels are needed: each stage learns to give, with rounded weights and activations, what it gave without
rounding. Rounding is `torch`'s own fake quantization, whose gradient passes straight through (Jacob et al.,
arXiv 1712.05877): weights per output channel within 7 bits, activations per tensor with zero point 0, which
is the coarsest of what `edge-mer calibrate` writes. Batch norms stay as they are.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edge_mer.runtime.pipeline import StepTrace
from edge_mer.runtime.proof import deviation_of
from edge_mer.types.model import Encoder, ModelSpec, Words
from edge_mer_export.engines import as_tuple
from edge_mer_export.models.zoo import ZooModel

PRODUCTS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_WEIGHT_LEVELS, _ACTIVATION_LEVELS = 63, 127
_LEAST = 1e-12
_HELD_SHARE = 4
"""Each fourth piece is held back, to tell whether anything was learned."""
_BATCH_TO_JUDGE = 16

Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Settings:
    """How long and how fast.

    Attributes:
        n_updates: Of each stage's weights.
        batch_size: Pieces or windows in an update.
        rate: Learning rate at its highest; it falls to 0 along a cosine.
        seed: Of the order.
    """

    n_updates: int = 200
    batch_size: int = 8
    rate: float = 3e-5
    seed: int = 0


@dataclass(frozen=True)
class Tuned:
    """What a stage came to.

    Attributes:
        before: Error of its outputs in 8 bits, in their standard deviations, on pieces held back.
        after: With what was learned.
    """

    before: float
    after: float

    @property
    def is_better(self) -> bool:
        """It learned something; else its weights stay as they were."""
        return self.after < self.before


class Told(Protocol):
    """Told which stage learns, and how many of how many updates are done."""

    def __call__(self, what: str, done: int = 0, of: int = 0) -> None:
        """`done` of `of` updates of `what` are done."""
        ...


def tune(
    model: ZooModel, sessions: Sequence[Sequence[StepTrace]], settings: Settings, told: Told
) -> dict[str, Tuned]:
    """Tune the stages of a model in place: encoders first, then the fusion on what they give in 8 bits.

    Args:
        model: In `eval` mode.
        sessions: As the model played them; steps and windows in which something is missing are left out.
        settings: How long and how fast.
        told: Told what is being done.

    Returns:
        Stage -> what it came to; encoders of words are left as they are, and have none.
    """
    spec = model.spec
    found: dict[str, Tuned] = {}
    for encoder in spec.encoders:
        if not isinstance(encoder.preprocess, Words):
            pieces = _pieces(encoder, sessions)
            found[encoder.stage] = _tune(encoder.stage, model.stages[encoder.stage], pieces, settings, told)
    windows = _windows(spec, sessions)
    found[spec.fusion.stage] = _tune(
        spec.fusion.stage, model.stages[spec.fusion.stage], windows, settings, told
    )
    return found


@contextlib.contextmanager
def in_8_bits(module: nn.Module) -> Iterator[None]:
    """Its convolutions and linear layers round their weights and what they read."""
    layers = [one for one in module.modules() if isinstance(one, PRODUCTS)]
    hooks = [one.register_forward_pre_hook(_round_inputs) for one in layers]
    for one in layers:
        parametrize.register_parametrization(one, "weight", _RoundedWeight())
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for one in layers:
            parametrize.remove_parametrizations(one, "weight", leave_parametrized=False)


class _RoundedWeight(nn.Module):
    """(out, …) -> the same within 7 bits, one scale per output channel."""

    def forward(self, weight: Tensor) -> Tensor:
        peaks = weight.detach().flatten(1).abs().amax(1)
        scales = (peaks / _WEIGHT_LEVELS).clamp(min=_LEAST)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(
            weight, scales, zeros, 0, -_WEIGHT_LEVELS, _WEIGHT_LEVELS
        )


def _round_inputs(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x = inputs[0]
    scale = max(float(x.detach().abs().max()) / _ACTIVATION_LEVELS, _LEAST)
    rounded = torch.fake_quantize_per_tensor_affine(x, scale, 0, -_ACTIVATION_LEVELS, _ACTIVATION_LEVELS)
    return (rounded, *inputs[1:])


def _pieces(encoder: Encoder, sessions: Sequence[Sequence[StepTrace]]) -> Batch:
    """Every piece that was encoded: (n, …)."""
    stage = encoder.stage
    found = [trace.inputs[stage] for traces in sessions for trace in traces if stage in trace.inputs]
    return (torch.from_numpy(np.concatenate(found)),)


def _windows(spec: ModelSpec, sessions: Sequence[Sequence[StepTrace]]) -> Batch:
    """Every whole window's features in the order of the fusion's inputs, and its mask where there is one."""
    fusion = spec.fusion
    whole = [t for traces in sessions for t in traces if t.n_used == fusion.n_steps and t.present.all()]
    batch = [torch.from_numpy(np.concatenate([t.features[e.stage] for t in whole])) for e in spec.encoders]
    if fusion.has_present_input:
        batch.append(torch.from_numpy(np.stack([t.present for t in whole])))
    return tuple(batch)


def _tune(name: str, module: nn.Module, data: Batch, settings: Settings, told: Told) -> Tuned:
    """Tune one stage in place, or leave it as it was."""
    teacher = copy.deepcopy(module).eval()
    n = len(data[0])
    is_held = torch.arange(n) % _HELD_SHARE == 0
    learned, held = tuple(one[~is_held] for one in data), tuple(one[is_held] for one in data)
    deviations = _deviations(teacher, held)
    first = copy.deepcopy(module.state_dict())
    with in_8_bits(module):
        before = _error(module, teacher, held, deviations)
        for done in _updates(module, teacher, learned, deviations, settings):
            told(f"tuning {name}", done, settings.n_updates)
        after = _error(module, teacher, held, deviations)
    tuned = Tuned(before, after)
    if not tuned.is_better:
        module.load_state_dict(first)
    return tuned


def _updates(
    module: nn.Module, teacher: nn.Module, data: Batch, deviations: list[Tensor], settings: Settings
) -> Iterator[int]:
    """Learn; yields how many updates are done."""
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.Adam(module.parameters(), lr=settings.rate)
    for number in range(settings.n_updates):
        share = (1 + math.cos(math.pi * number / settings.n_updates)) / 2
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * share
        chosen = torch.randint(len(data[0]), (settings.batch_size,), generator=generator)
        batch = tuple(one[chosen] for one in data)
        with torch.no_grad():
            expected = as_tuple(teacher(*batch))
        optimizer.zero_grad()
        _loss(as_tuple(module(*batch)), expected, deviations).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield number + 1


def _loss(found: Batch, expected: Batch, deviations: list[Tensor]) -> Tensor:
    """Mean square error in standard deviations, summed over the outputs."""
    pairs = zip(found, expected, deviations, strict=True)
    return torch.stack([(((a - b) / deviation) ** 2).mean() for a, b, deviation in pairs]).sum()


@torch.no_grad()
def _deviations(teacher: nn.Module, data: Batch) -> list[Tensor]:
    """What each output varies by from window to window, as `proof.deviation_of` counts it."""
    parts = [as_tuple(teacher(*batch)) for batch in _in_parts(data)]
    outputs = (torch.cat(output).numpy() for output in zip(*parts, strict=True))
    return [torch.tensor(max(deviation_of(values), _LEAST)) for values in outputs]


@torch.no_grad()
def _error(module: nn.Module, teacher: nn.Module, data: Batch, deviations: list[Tensor]) -> float:
    """Root mean square error of the worst output, in standard deviations."""
    sums, n = torch.zeros(len(deviations)), 0
    for batch in _in_parts(data):
        outputs = zip(as_tuple(module(*batch)), as_tuple(teacher(*batch)), deviations, strict=True)
        sums += torch.stack([(((a - b) / d) ** 2).mean() for a, b, d in outputs]) * len(batch[0])
        n += len(batch[0])
    return float((sums / n).max().sqrt())


def _in_parts(data: Batch) -> Iterator[Batch]:
    for start in range(0, len(data[0]), _BATCH_TO_JUDGE):
        yield tuple(one[start : start + _BATCH_TO_JUDGE] for one in data)

"""Batch normalisation without its statistics: fewer layers, the same numbers.

In evaluation mode a BatchNorm is y = gamma (x - mean) / sqrt(var + eps) + beta, an affine map per
channel. The weights and bias of a convolution right before it can carry the map; elsewhere it stays, as
one product and one sum.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd


class ChannelAffine(nn.Module):
    """A constant scale and shift for each channel.

    Args:
        scale: (C,).
        shift: (C,).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)."""
        per_channel = (-1, *[1] * (x.dim() - 2))
        return x * self.scale.view(per_channel) + self.shift.view(per_channel)


def fold_batchnorm(module: nn.Module) -> nn.Module:
    """A copy of `module` whose every BatchNorm is folded into the convolution before it, or is affine.

    Only a convolution that the BatchNorm directly follows, and that nothing else reads, takes it in. One
    that comes after could not where it pads with zeros, which the BatchNorm would have shifted; nor
    could a linear layer, whose outputs lie along another axis than the channels where x has more axes
    than two.

    Args:
        module: In evaluation mode; left as it is.

    Raises:
        ValueError: The module is in training mode, or a BatchNorm has no running statistics.
    """
    if any(part.training for part in module.modules()):
        raise ValueError("BatchNorm can only be folded in evaluation mode: call .eval() first")
    folded = copy.deepcopy(module)
    norms = {name: part for name, part in folded.named_modules() if isinstance(part, _BatchNorm)}
    if not norms:
        return folded
    pairs = _pairs(folded)
    for name, norm in norms.items():
        scale, shift = _affine(name, norm)
        if name in pairs:
            _fold(cast(_ConvNd, folded.get_submodule(pairs[name])), scale, shift)
            folded.set_submodule(name, nn.Identity())
        else:
            folded.set_submodule(name, ChannelAffine(scale.float(), shift.float()))
    return folded


def _pairs(module: nn.Module) -> dict[str, str]:
    """For every BatchNorm that directly follows a convolution read by nothing else: that one's name."""
    calls = [node for node in fx.symbolic_trace(module).graph.nodes if node.op == "call_module"]
    targets = [node.target for node in calls]
    pairs = {}
    for node in calls:
        if not isinstance(module.get_submodule(node.target), _BatchNorm):
            continue
        before = next(iter(node.all_input_nodes))
        if before not in calls:
            continue
        conv = module.get_submodule(before.target)
        is_plain = isinstance(conv, _ConvNd) and not conv.transposed
        if is_plain and len(before.users) == targets.count(before.target) == targets.count(node.target) == 1:
            pairs[node.target] = before.target
    return pairs


def _affine(name: str, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) of a BatchNorm, in double precision."""
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        raise ValueError(f"BatchNorm {name} has no running statistics")
    scale = torch.rsqrt(var.double() + norm.eps)  # (C,)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -mean.double() * scale  # (C,)
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return scale.detach(), shift.detach()


def _fold(conv: _ConvNd, scale: Tensor, shift: Tensor) -> None:
    """Put the scale and shift of its channels (C,) into the convolution."""
    per_channel = (-1, *[1] * (conv.weight.dim() - 1))
    weight = conv.weight.double() * scale.view(per_channel)
    bias = shift if conv.bias is None else conv.bias.double() * scale + shift  # (C,)
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(weight.detach().to(dtype))
    conv.bias = nn.Parameter(bias.detach().to(dtype))

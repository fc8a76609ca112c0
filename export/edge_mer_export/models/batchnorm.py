"""Batch normalisation folded into the convolution before it: fewer layers, the same numbers.

In evaluation mode a BatchNorm is y = gamma (x - mean) / sqrt(var + eps) + beta, an affine map per
channel, so the convolution's weights and bias can carry it.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd


def fold_batchnorm(module: nn.Module) -> nn.Module:
    """A copy of `module` with every BatchNorm folded into the convolution before it.

    Args:
        module: In evaluation mode; left as it is.

    Raises:
        ValueError: The module is in training mode, or a BatchNorm has no convolution of its own
            right before it.
    """
    if any(part.training for part in module.modules()):
        raise ValueError("BatchNorm can only be folded in evaluation mode: call .eval() first")
    folded = copy.deepcopy(module)
    norms = {name for name, part in folded.named_modules() if isinstance(part, _BatchNorm)}
    if not norms:
        return folded
    pairs = _pairs(folded)
    if unpaired := sorted(norms - pairs.keys()):
        raise ValueError(f"no convolution of its own right before BatchNorm {', '.join(unpaired)}")
    for norm_name, conv_name in pairs.items():
        conv = cast(_ConvNd, folded.get_submodule(conv_name))
        norm = cast(_BatchNorm, folded.get_submodule(norm_name))
        _fold(conv, norm)
        folded.set_submodule(norm_name, nn.Identity())
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
        is_conv = isinstance(module.get_submodule(before.target), _ConvNd)
        if is_conv and len(before.users) == targets.count(before.target) == targets.count(node.target) == 1:
            pairs[node.target] = before.target
    return pairs


def _fold(conv: _ConvNd, norm: _BatchNorm) -> None:
    """Put the BatchNorm into the convolution, computed in double precision."""
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None or conv.transposed:
        raise ValueError("only a BatchNorm with running statistics, after a plain convolution, can be folded")
    scale = torch.rsqrt(var.double() + norm.eps)  # (C,)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = -mean.double() if conv.bias is None else conv.bias.double() - mean.double()  # (C,)
    bias = bias * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    per_channel = (-1, *[1] * (conv.weight.dim() - 1))
    weight = conv.weight.double() * scale.view(per_channel)
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(weight.detach().to(dtype))
    conv.bias = nn.Parameter(bias.detach().to(dtype))

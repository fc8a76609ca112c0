"""Losses of the published systems, and of edge-mer's own.

Shape letters: N sample, K level or class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge_mer.types.model import EmotionOutput, Output, PainOutput

_EPSILON = 1e-8


def ccc_loss(found: Tensor, truth: Tensor) -> Tensor:
    """1 - concordance correlation (Lin 1989), as the joint multimodal transformer is trained with.

    Args:
        found: (N,) estimates.
        truth: (N,) labels.

    Returns:
        Between 0 (equal) and 2.
    """
    covariance = ((found - found.mean()) * (truth - truth.mean())).mean()
    spread = found.var(correction=0) + truth.var(correction=0) + (found.mean() - truth.mean()).square()
    return 1 - 2 * covariance / (spread + _EPSILON)


def level_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy against levels; a truth between two levels is shared between them.

    Args:
        logits: (N, K).
        truth: (N,) in levels, 0 to K - 1.

    Returns:
        Mean over the samples, in nats.
    """
    lower = truth.floor().clamp(0, logits.shape[-1] - 2)  # (N,)
    share = (truth - lower).unsqueeze(-1)  # (N, 1)
    log_p = torch.log_softmax(logits, dim=-1)  # (N, K)
    index = lower.long().unsqueeze(-1)  # (N, 1)
    both = log_p.gather(-1, index) * (1 - share) + log_p.gather(-1, index + 1) * share  # (N, 1)
    return -both.mean()


def class_loss(
    logits: Tensor, truth: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy against classes without an order.

    Args:
        logits: (N, K).
        truth: (N,) class numbers, 0 to K - 1.
        weights: (K,) how much a sample of each class counts; None = all alike.
        smoothing: Share of the truth that is spread over all classes.

    Returns:
        Mean over the samples, in nats.
    """
    return nn.functional.cross_entropy(
        logits, truth.round().long(), weight=weights, label_smoothing=smoothing
    )


def loss_of(
    output: Output, found: Tensor, truth: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """The loss for this kind of output.

    Args:
        output: What the model declares.
        found: (N, *value_shape) raw outputs.
        truth: (N,) labels; NaN = none, which counts for nothing.
        weights: (K,) how much a sample of each class counts; only for classes without an order.
        smoothing: Share of the truth that is spread over all classes; only there, too.
    """
    labelled = torch.isfinite(truth)
    if not labelled.any():
        return found.sum() * 0
    found, truth = found[labelled], truth[labelled]
    if isinstance(output, EmotionOutput):
        return class_loss(found, truth, weights, smoothing)
    return level_loss(found, truth) if isinstance(output, PainOutput) else ccc_loss(found, truth)

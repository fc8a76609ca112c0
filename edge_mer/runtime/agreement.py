"""Agreement of classes with their truth, and by which measure an output is judged.

Classes without an order have no concordance. Cohen's kappa (Cohen 1960) takes its place: the share of steps
on which estimate and truth agree, beyond what they would by chance.

Shape letters: N step, K class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def measure(output: str) -> str:
    """What an output of this name is judged by: "kappa" for "emotion", "CCC" for every other."""
    return "kappa" if output == "emotion" else "CCC"


def confusion(
    probabilities: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """How often each class was estimated, the likeliest one, where each was true.

    Args:
        probabilities: (N, K); rows with a NaN do not count.
        truth: (N,) class numbers from 0; NaN = none, which does not count.

    Returns:
        (K, K) counts; rows are estimates, columns truths.
    """
    n_classes = probabilities.shape[-1]
    both = np.isfinite(probabilities).all(axis=-1) & np.isfinite(truth)
    found = probabilities[both].argmax(axis=-1)
    known = np.rint(truth[both]).astype(np.int64)
    counts = np.bincount(found * n_classes + known, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes).astype(np.float64)


def kappa(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cohen's kappa of counts (…, K, K): 1 = always the same class, 0 = as by chance.

    Returns:
        (…); 0 where there is nothing to tell apart, because all estimates and truths are one class.
    """
    n = np.maximum(counts.sum(axis=(-2, -1)), 1)
    agreed = np.trace(counts, axis1=-2, axis2=-1) / n
    by_chance = (counts.sum(axis=-1) * counts.sum(axis=-2)).sum(axis=-1) / n**2
    can_differ = counts.any(axis=(-2, -1)) & (by_chance < 1)
    return np.where(can_differ, (agreed - by_chance) / np.where(can_differ, 1 - by_chance, 1), 0.0)

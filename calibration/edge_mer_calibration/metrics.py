"""Agreement with labels, concordance or kappa, and how sure one can be of it with so many people.

People are the unit: steps of one person are no independent samples, so intervals come from drawing
whole people again (percentile bootstrap).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.runtime.agreement import confusion, kappa

Floats = NDArray[np.floating[Any]]

N_DRAWS = 2000
_INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval by person."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Moments:
    """Sums over each person's steps, from which any concordance follows: (people, 6)."""

    sums: NDArray[np.float64]

    @classmethod
    def of(cls, found: Sequence[Floats], truth: Sequence[Floats]) -> Moments:
        """From each person's estimates and labels, (steps,) each; pairs with a NaN do not count."""
        rows = []
        for a_all, b_all in zip(found, truth, strict=True):
            both = np.isfinite(a_all) & np.isfinite(b_all)
            a, b = a_all[both].astype(np.float64), b_all[both].astype(np.float64)
            rows.append([a.size, a.sum(), b.sum(), (a * a).sum(), (b * b).sum(), (a * b).sum()])
        return cls(np.array(rows, np.float64).reshape(-1, 6))

    @property
    def n(self) -> int:
        """Pairs in all."""
        return int(self.sums[:, 0].sum())

    def concordance(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """CCC (Lin 1989) over all steps of all people, each person counted so many times.

        Args:
            weights: (draws, people).

        Returns:
            (draws,); 0 where neither varies.
        """
        n, a, b, aa, bb, ab = (weights @ self.sums).T
        n = np.maximum(n, 1)
        mean_a, mean_b = a / n, b / n
        spread = (aa / n - mean_a**2) + (bb / n - mean_b**2) + (mean_a - mean_b) ** 2
        covariance = ab / n - mean_a * mean_b
        return np.where(spread > 0, 2 * covariance / np.where(spread > 0, spread, 1), 0.0)


@dataclass(frozen=True)
class Confusion:
    """How often each class was estimated where each was true, from which any kappa follows.

    Attributes:
        counts: (people, classes, classes); estimates, then truths.
    """

    counts: NDArray[np.float64]

    @classmethod
    def of(cls, found: Sequence[Floats], truth: Sequence[Floats]) -> Confusion:
        """From each person's probabilities (steps, classes) and class numbers (steps,); NaN do not count."""
        return cls(np.stack([confusion(a, b) for a, b in zip(found, truth, strict=True)]))

    @property
    def n(self) -> int:
        """Pairs in all."""
        return int(self.counts.sum())

    def kappa(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Cohen's kappa (Cohen 1960) over all steps of all people, each person counted so many times.

        Args:
            weights: (draws, people).

        Returns:
            (draws,); 0 where there is nothing to tell apart.
        """
        return kappa(np.einsum("dp,pij->dij", weights, self.counts))


def draws(n_people: int, seed: int = 0) -> NDArray[np.float64]:
    """How often each person is drawn, (draws, people); the first row takes everyone once."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n_people, np.full(n_people, 1 / n_people), N_DRAWS).astype(np.float64)
    return np.concatenate([np.ones((1, n_people)), counts])


def estimate(values: NDArray[np.float64]) -> Estimate:
    """From values per draw, the first of which is that of the people themselves."""
    low, high = np.quantile(values[1:], _INTERVAL)
    return Estimate(float(values[0]), float(low), float(high))


def gain(together: NDArray[np.float64], alone: Mapping[str, NDArray[np.float64]]) -> Estimate:
    """How much better all modalities are than the best single one, each draw's own best."""
    return estimate(together - np.max(list(alone.values()), axis=0))

"""How far estimates agree with labels, and how sure one can be of it with so many people.

People are the unit: steps of one person are no independent samples, so intervals come from drawing
whole people again (percentile bootstrap). Every measure is made of what people, or pairs of people, add
to it, and so is exact in each draw.

Shape letters: P person, N step, K class, D draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.runtime.agreement import confusion, kappa

Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]
Scores = dict[str, Doubles]
"""Measure -> one value per draw, (D,)."""

N_DRAWS = 2000
_INTERVAL = (0.025, 0.975)

NUMBER_MEASURES = ("CCC", "RMSE", "MAE")
CLASS_MEASURES = ("kappa", "accuracy", "UAR", "F1", "AUC")
LOWER_IS_BETTER = ("RMSE", "MAE")


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval by person."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Numbers:
    """Estimates and labels that have an order.

    Attributes:
        sums: Each person's sums of 1, a, b, a^2, b^2, ab and |a - b|: (P, 7).
    """

    sums: Doubles

    @classmethod
    def of(cls, found: Sequence[Floats], truth: Sequence[Floats]) -> Numbers:
        """From each person's estimates and labels, (N,) each; pairs with a NaN do not count."""
        rows = []
        for a_all, b_all in zip(found, truth, strict=True):
            both = np.isfinite(a_all) & np.isfinite(b_all)
            a, b = a_all[both].astype(np.float64), b_all[both].astype(np.float64)
            rows.append([a.size, a.sum(), b.sum(), (a * a).sum(), (b * b).sum(), (a * b).sum()])
            rows[-1].append(np.abs(a - b).sum())
        return cls(np.array(rows, np.float64).reshape(-1, 7))

    @property
    def n(self) -> int:
        """Pairs in all."""
        return int(self.sums[:, 0].sum())

    def scores(self, weights: Doubles) -> Scores:
        """CCC (Lin 1989; 0 where neither varies), RMSE and MAE over all steps of all people.

        Args:
            weights: How often each person counts, (D, P).
        """
        n, a, b, aa, bb, ab, distance = (weights @ self.sums).T
        n = np.maximum(n, 1)
        mean_a, mean_b = a / n, b / n
        spread = (aa / n - mean_a**2) + (bb / n - mean_b**2) + (mean_a - mean_b) ** 2
        covariance = ab / n - mean_a * mean_b
        return {
            "CCC": _ratio(2 * covariance, spread),
            "RMSE": np.sqrt(np.maximum(0, aa - 2 * ab + bb) / n),
            "MAE": distance / n,
        }


@dataclass(frozen=True)
class Classes:
    """Probabilities of classes and the true ones.

    Attributes:
        counts: How often each class was the likeliest where each was true: (P, K, K).
        wins: For each class, pairs of a step at which it is true, of one person, and one at which it is not,
            of another, in which it is given the higher probability; half of one in a draw: (K, P, P).
        n_true: For each class, steps at which it is true: (K, P).
    """

    counts: Doubles
    wins: Doubles
    n_true: Doubles

    @classmethod
    def of(cls, found: Sequence[Floats], truth: Sequence[Floats]) -> Classes:
        """From each person's probabilities (N, K) and class numbers (N,); pairs with a NaN do not count."""
        pairs = [_both(a, b) for a, b in zip(found, truth, strict=True)]
        n_classes = range(found[0].shape[-1])
        counts = np.stack([confusion(a, b) for a, b in pairs])
        n_true = np.array([[float((b == k).sum()) for _, b in pairs] for k in n_classes])
        return cls(counts, np.stack([_wins(pairs, k) for k in n_classes]), n_true)

    @property
    def n(self) -> int:
        """Pairs in all."""
        return int(self.counts.sum())

    def scores(self, weights: Doubles) -> Scores:
        """Cohen's kappa, accuracy, UAR, macro-F1 and AUC over all steps of all people.

        UAR, the unweighted average recall, is also called balanced accuracy. It, F1 and the AUC (each class
        against the rest) are means over the classes that are there. Each is 0 where there is nothing to tell
        apart, the AUC 0.5.

        Args:
            weights: How often each person counts, (D, P).
        """
        counts = np.einsum("dp,pij->dij", weights, self.counts)
        right = np.einsum("dkk->dk", counts)  # (D, K)
        n_found, n_true = counts.sum(axis=2), counts.sum(axis=1)  # (D, K)
        return {
            "kappa": kappa(counts),
            "accuracy": _ratio(right.sum(axis=1), n_true.sum(axis=1)),
            "UAR": _mean(_ratio(right, n_true), n_true > 0),
            "F1": _mean(_ratio(2 * right, n_found + n_true), n_found + n_true > 0),
            "AUC": self._auc(weights, n_true),
        }

    def _auc(self, weights: Doubles, n_true: Doubles) -> Doubles:
        wins = np.stack([((weights @ one) * weights).sum(axis=1) for one in self.wins], axis=1)  # (D, K)
        n_pairs = n_true * (n_true.sum(axis=1, keepdims=True) - n_true)  # (D, K)
        can_differ = n_pairs > 0
        return np.where(can_differ.any(axis=1), _mean(_ratio(wins, n_pairs), can_differ), 0.5)


def _both(probabilities: Floats, truth: Floats) -> tuple[Doubles, Doubles]:
    there = np.isfinite(probabilities).all(axis=-1) & np.isfinite(truth)
    return probabilities[there].astype(np.float64), np.rint(truth[there]).astype(np.float64)


def _wins(pairs: Sequence[tuple[Doubles, Doubles]], k: int) -> Doubles:
    """Of one class: (P, P), its own steps by row, the others' by column."""
    own = [a[b == k, k] for a, b in pairs]
    everyone, ends = np.concatenate(own), np.cumsum([0, *map(len, own)])
    columns = []
    for a, b in pairs:
        others = np.sort(a[b != k, k])
        lower = np.searchsorted(others, everyone, "left")
        not_higher = np.searchsorted(others, everyone, "right")
        sums = np.concatenate([[0.0], np.cumsum((lower + not_higher) / 2)])
        columns.append(np.diff(sums[ends]))
    return np.stack(columns, axis=1)


def _ratio(above: Doubles, below: Doubles) -> Doubles:
    """0 where there is nothing to divide by."""
    return np.where(below > 0, above / np.where(below > 0, below, 1), 0.0)


def _mean(values: Doubles, there: NDArray[np.bool_]) -> Doubles:
    """Over the classes that are there: (D, K) -> (D,)."""
    return _ratio((values * there).sum(axis=1), there.sum(axis=1).astype(np.float64))


def draws(n_people: int, seed: int = 0) -> Doubles:
    """How often each person is drawn, (D, P); the first row takes everyone once."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n_people, np.full(n_people, 1 / n_people), N_DRAWS).astype(np.float64)
    return np.concatenate([np.ones((1, n_people)), counts])


def estimate(values: Doubles) -> Estimate:
    """From values per draw, the first of which is that of the people themselves."""
    low, high = np.quantile(values[1:], _INTERVAL)
    return Estimate(float(values[0]), float(low), float(high))


def leading(scores: Mapping[str, Any]) -> str:
    """The measure that an output is judged by first: CCC, or kappa of classes without an order."""
    return next(iter(scores))


def gain(together: Doubles, alone: Mapping[str, Doubles]) -> Estimate:
    """How much better all modalities are than the best single one, each draw's own best."""
    return estimate(together - np.max(list(alone.values()), axis=0))

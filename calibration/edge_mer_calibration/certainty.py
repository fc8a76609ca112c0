"""How sure estimates may be: 90 % intervals of numbers, and calibrated probabilities of classes.

Both come from people with labels, and what they are worth is measured on people that they were not taken
from: each person is left out in turn.

Shape letters: N step, K class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax

from edge_mer.postprocess.certainty import log_odds, probability
from edge_mer.types.evaluation import Interval, Sharpness

Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]

LEVEL = 0.9
N_BINS = 10
_LOG_T = (-3.0, 3.0)
_MOST_ODDS = 30.0
_NEWTON_STEPS = 12


def interval(found: Sequence[Floats], truth: Sequence[Floats]) -> Interval | None:
    """Split conformal interval (Vovk et al. 2005) of the absolute error, over all steps of all people.

    Args:
        found: Each person's estimates, (N,).
        truth: Each person's labels, (N,); pairs with a NaN do not count.

    Returns:
        None with fewer than two people that have steps.
    """
    errors = [np.abs(a - b)[np.isfinite(a) & np.isfinite(b)] for a, b in zip(found, truth, strict=True)]
    errors = [one for one in errors if one.size]
    if len(errors) < 2:
        return None
    inside = [one <= _half_width(np.concatenate(others)) for one, others in _left_out(errors)]
    return Interval(
        half_width=_half_width(np.concatenate(errors)), coverage=float(np.concatenate(inside).mean())
    )


def inside(found: Sequence[Floats], truth: Sequence[Floats], half_width: float) -> float | None:
    """Share of the labels that lie within `half_width` of the estimates; None where there are none.

    Args:
        found: Each person's estimates, (N,).
        truth: Each person's labels, (N,); pairs with a NaN do not count.
        half_width: In the output's own units.
    """
    errors = np.abs(np.concatenate(found) - np.concatenate(truth))
    errors = errors[np.isfinite(errors)]
    return float(np.mean(errors <= half_width)) if errors.size else None


def _half_width(errors: Floats) -> float:
    return float(np.quantile(errors, min(1.0, LEVEL * (1 + 1 / errors.size)), method="higher"))


def sharpness(found: Sequence[Floats], truth: Sequence[Floats]) -> Sharpness | None:
    """Temperature, slope and shift that make a probability mean how often the likeliest class is right.

    The temperature (Guo et al. 2017) makes the labels likeliest. It keeps what it says of all classes
    together right, but the likeliest one may still be right more or less often; slope and shift are the
    logistic regression (Platt 1999) of being right on its log odds. Over all steps of all people.

    Args:
        found: Each person's probabilities, (N, K).
        truth: Each person's class numbers, (N,); pairs with a NaN do not count.

    Returns:
        None with fewer than two people that have steps.
    """
    pairs = _logits(found, truth)
    if len(pairs) < 2:
        return None
    said = [_sure_and_right(one, _fitted(others)) for one, others in _left_out(pairs)]
    return _fitted(pairs).model_copy(update={"ece": _error_of(said)})


def error_at(found: Sequence[Floats], truth: Sequence[Floats], claimed: Sharpness) -> float | None:
    """Expected calibration error by what was taken from elsewhere; None where there are no labels.

    Args:
        found: Each person's probabilities, (N, K).
        truth: Each person's class numbers, (N,); pairs with a NaN do not count.
        claimed: Temperature, slope and shift.
    """
    pairs = _logits(found, truth)
    return _error_of([_sure_and_right(one, claimed) for one in pairs]) if pairs else None


def _logits(found: Sequence[Floats], truth: Sequence[Floats]) -> list[tuple[Doubles, NDArray[np.int64]]]:
    """Logits (N, K) and classes (N,) of each person who has some."""
    there = [np.isfinite(a).all(axis=1) & np.isfinite(b) for a, b in zip(found, truth, strict=True)]
    return [
        (np.log(np.maximum(a[kept], 1e-300)), np.rint(b[kept]).astype(np.int64))
        for a, b, kept in zip(found, truth, there, strict=True)
        if kept.any()
    ]


def _sure_and_right(
    one: tuple[Doubles, NDArray[np.int64]], claimed: Sharpness
) -> tuple[Doubles, NDArray[np.bool_]]:
    """Probability of the likeliest class, and whether it was the true one; both (N,)."""
    logits, classes = one
    return probability(logits, claimed), logits.argmax(axis=1) == classes


def _error_of(said: Sequence[tuple[Doubles, NDArray[np.bool_]]]) -> float:
    sure, right = (np.concatenate(parts) for parts in zip(*said, strict=True))
    return calibration_error(sure, right)


def _fitted(pairs: Sequence[tuple[Doubles, NDArray[np.int64]]]) -> Sharpness:
    logits, classes = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    temperature = _temperature(logits, classes)
    slope, shift = _logistic(log_odds(logits, temperature), logits.argmax(axis=1) == classes)
    return Sharpness(temperature=temperature, slope=slope, shift=shift, ece=0.0)


def _logistic(odds: Doubles, right: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and shift of a logistic regression, by Newton's method, with a pull of one step to (1, 0).

    Args:
        odds: (N,) log odds.
        right: (N,).
    """
    x = np.stack([np.clip(odds, -_MOST_ODDS, _MOST_ODDS), np.ones_like(odds)])  # (2, N)
    start = np.array([1.0, 0.0])
    found = start.copy()
    for _ in range(_NEWTON_STEPS):
        said = expit(found @ x)
        gradient = x @ (said - right) + (found - start)
        curvature = (x * (said * (1 - said))) @ x.T + np.eye(2)
        found -= np.linalg.solve(curvature, gradient)
    return max(0.0, float(found[0])), float(found[1])


def _temperature(logits: Doubles, classes: NDArray[np.int64]) -> float:
    steps = np.arange(len(classes))

    def loss(log_t: float) -> float:
        return float(-log_softmax(logits / np.exp(log_t), axis=1)[steps, classes].mean())

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_T, method="bounded").x))


def calibration_error(sure: Doubles, right: NDArray[np.bool_]) -> float:
    """Expected calibration error (Naeini et al. 2015): 10 bins of equal width, weighted by their steps.

    Args:
        sure: Probability of the likeliest class, (N,).
        right: Whether it was the true one, (N,).
    """
    bins = np.minimum((sure * N_BINS).astype(np.int64), N_BINS - 1)
    gaps = np.bincount(bins, sure - right, N_BINS)
    return float(np.abs(gaps).sum() / len(sure))


def _left_out(people: Sequence[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Each person, and the others."""
    for i, one in enumerate(people):
        yield one, [*people[:i], *people[i + 1 :]]

"""How sure an estimate is, by what an evaluation found while the same modalities were there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from edge_mer.postprocess.decode import Raw, expected
from edge_mer.types.evaluation import Sharpness, SubsetFindings
from edge_mer.types.model import AffectOutput, Output


def intervals(
    outputs: tuple[Output, ...], raw: Raw, found: SubsetFindings
) -> dict[str, tuple[float, float]] | None:
    """90 % intervals of affect, within the output's range; None where none was measured."""
    made: dict[str, tuple[float, float]] = {}
    for output in outputs:
        if isinstance(output, AffectOutput) and output.name in found.interval:
            middle, half = float(expected(output, raw[output.name])), found.interval[output.name].half_width
            made[output.name] = (max(output.low, middle - half), min(output.high, middle + half))
    return made or None


def confidence(outputs: tuple[Output, ...], raw: Raw, found: SubsetFindings) -> float | None:
    """Calibrated probability of the likeliest class or level; None where it was not measured."""
    for output in outputs:
        if output.name in found.sharpness:
            logits = np.asarray(raw[output.name], np.float64)[np.newaxis]
            return float(probability(logits, found.sharpness[output.name])[0])
    return None


def probability(logits: NDArray[np.float64], sharpness: Sharpness) -> NDArray[np.float64]:
    """Calibrated probability that the likeliest class is right.

    Args:
        logits: (N, K).
        sharpness: What was measured.

    Returns:
        (N,) in [0, 1].
    """
    odds = log_odds(logits, sharpness.temperature)
    slope = 1.0 if sharpness.slope is None else sharpness.slope
    return np.asarray(expit(slope * odds + (sharpness.shift or 0.0)), np.float64)


def log_odds(logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Log odds of the likeliest class against all others at a temperature; (N, K) -> (N,)."""
    ordered = np.sort(logits / temperature, axis=1)
    return np.asarray(ordered[:, -1] - logsumexp(ordered[:, :-1], axis=1), np.float64)

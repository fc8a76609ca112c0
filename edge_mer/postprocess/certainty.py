"""How sure an estimate is, by what an evaluation found while the same modalities were there."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from edge_mer.postprocess.decode import Raw, expected
from edge_mer.types.evaluation import SubsetFindings
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
            logits = np.asarray(raw[output.name], np.float64) / found.sharpness[output.name].temperature
            return float(softmax(logits).max())
    return None

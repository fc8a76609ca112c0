"""From raw outputs to estimates in the units that the model declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from edge_mer.types.model import AffectOutput, EmotionOutput, Output, PainOutput
from edge_mer.types.predictions import Affect, Pain

Raw = Mapping[str, NDArray[np.floating[Any]]]
"""Output name -> one step's raw numbers, of the output's `value_shape`."""


@dataclass(frozen=True)
class Estimates:
    """What a step came to; None for what the model does not estimate."""

    affect: Affect | None
    pain: Pain | None
    emotion: dict[str, float] | None = None


def decode(outputs: tuple[Output, ...], raw: Raw) -> Estimates | None:
    """Estimates of one step.

    Args:
        outputs: What the model declares.
        raw: Its raw outputs.

    Returns:
        None when any raw number is not finite: such a number means nothing.
    """
    if not all(np.isfinite(values).all() for values in raw.values()):
        return None
    affect = {o.name: float(expected(o, raw[o.name])) for o in outputs if isinstance(o, AffectOutput)}
    pains = [_pain(output, raw[output.name]) for output in outputs if isinstance(output, PainOutput)]
    emotions = [
        dict(zip(o.labels, softmax(np.asarray(raw[o.name], np.float64)).tolist(), strict=True))
        for o in outputs
        if isinstance(o, EmotionOutput)
    ]
    return Estimates(
        affect=Affect(affect.get("valence"), affect.get("arousal")) if affect else None,
        pain=pains[0] if pains else None,
        emotion=emotions[0] if emotions else None,
    )


def answers(output: Output, raw: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """What an output says: the clipped value, or each class' or level's probability.

    Args:
        output: What the model declares.
        raw: (…, *value_shape).

    Returns:
        (…, *value_shape).
    """
    values = np.asarray(raw, np.float64)
    if isinstance(output, AffectOutput):
        return values.clip(output.low, output.high)
    probabilities: NDArray[np.float64] = softmax(values, axis=-1)
    return probabilities


def expected(output: Output, raw: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """What an output comes to: the clipped value, the mean level, or each class' probability.

    Args:
        output: What the model declares.
        raw: (…, *value_shape).

    Returns:
        (…), of classes (…, class).
    """
    found = answers(output, raw)
    if isinstance(output, PainOutput):
        return np.asarray(found @ np.arange(len(output.levels), dtype=np.float64))
    return found


def _pain(output: PainOutput, raw: NDArray[np.floating[Any]]) -> Pain:
    probabilities = softmax(np.asarray(raw, np.float64)).tolist()
    return Pain(
        scale=output.scale,
        level_probs=dict(zip(output.levels, probabilities, strict=True)),
        expected=float(expected(output, raw)),
    )

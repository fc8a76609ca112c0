"""What few bits changed on people with labels: every measure against FP32's, on the same people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_mer.runtime.proof import concordance
from edge_mer.types.model import AffectOutput, ModelSpec, Output
from edge_mer_calibration.metrics import Doubles, Estimate, estimate
from edge_mer_calibration.scoring import Found, PerDraw, level


@dataclass(frozen=True)
class Difference:
    """A precision minus FP32.

    Attributes:
        precision: Of the stages.
        change: Output -> measure -> its value minus FP32's, within each draw of the same people.
        ccc: Output -> concordance of its estimates with FP32's, of classes that of their probabilities; None
            where nothing varies.
        flips: Output of classes or levels -> share of the steps whose likeliest one is another.
    """

    precision: str
    change: dict[str, dict[str, Estimate]]
    ccc: dict[str, float | None]
    flips: dict[str, float]


def difference(
    model: ModelSpec,
    precision: str,
    scores: tuple[PerDraw, PerDraw],
    found: tuple[Sequence[Found], Sequence[Found]],
) -> Difference:
    """What a precision changed.

    Args:
        model: Its declaration.
        precision: Of the stages.
        scores: Its measures and FP32's, per draw of the same people.
        found: Its estimates and FP32's, per session.
    """
    own, reference = scores
    change = {
        name: {measure: estimate(values - reference[name][measure]) for measure, values in one.items()}
        for name, one in own.items()
    }
    pairs = {output.name: _together(output, *found) for output in model.outputs}
    return Difference(
        precision,
        change,
        {str(output.name): agreement(output, *pairs[output.name]) for output in model.outputs},
        {
            str(output.name): flips(*pairs[output.name])
            for output in model.outputs
            if not isinstance(output, AffectOutput)
        },
    )


def _together(output: Output, own: Sequence[Found], reference: Sequence[Found]) -> tuple[Doubles, Doubles]:
    """Both's estimates of all sessions, where both gave one."""
    a, b = (np.concatenate([one[output.name] for one in found]) for found in (own, reference))
    both = (np.isfinite(a) & np.isfinite(b)).reshape(len(a), -1).all(axis=1)
    return a[both].astype(np.float64), b[both].astype(np.float64)


def agreement(output: Output, own: Doubles, reference: Doubles) -> float | None:
    """Concordance of two precisions' estimates of an output; None where nothing varies.

    Args:
        output: What the model declares.
        own: (N,), of classes and levels (N, K).
        reference: The same of FP32.
    """
    return concordance(level(output, own).ravel(), level(output, reference).ravel())


def flips(own: Doubles, reference: Doubles) -> float:
    """Share of the steps whose likeliest class is another; both are (N, K)."""
    return float(np.mean(own.argmax(axis=1) != reference.argmax(axis=1))) if len(own) else 0.0

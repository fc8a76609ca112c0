"""From raw outputs to estimates in the units that the model declares."""

from __future__ import annotations

import math

from edge_mer.types.model import Output
from edge_mer.types.predictions import Affect


def decode_affect(outputs: tuple[Output, ...], raw: dict[str, float]) -> Affect | None:
    """Valence and arousal, clipped to their declared range.

    Args:
        outputs: What the model declares.
        raw: Raw output by name.

    Returns:
        None when any raw output is not finite: such a number means nothing.
    """
    if not all(math.isfinite(value) for value in raw.values()):
        return None
    values = {
        output.name: min(output.high, max(output.low, raw[output.name]))
        for output in outputs
        if output.kind == "affect"
    }
    return Affect(values.get("valence"), values.get("arousal"))

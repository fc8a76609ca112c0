"""Outputs by their path in a record: what a prediction says of one, and which ones a model has."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence

from edge_mer.errors import UsageError
from edge_mer.types.alarms import AlarmRule
from edge_mer.types.model import AffectOutput, ModelSpec, PainOutput
from edge_mer.types.predictions import Prediction

MAX_RULES = 64
"""More are a mistake, and everything on a board is bounded."""


def value_of(prediction: Prediction, output: str) -> float | None:
    """The value of an output such as "pain.expected"; None where there is no finite one."""
    group, _, name = output.partition(".")
    found: float | None = None
    if group == "affect" and prediction.affect is not None:
        found = {"valence": prediction.affect.valence, "arousal": prediction.affect.arousal}.get(name)
    elif group == "pain" and prediction.pain is not None:
        levels = {f"level_probs.{level}": p for level, p in prediction.pain.level_probs.items()}
        found = {"expected": prediction.pain.expected, **levels}.get(name)
    elif group == "emotion" and prediction.emotion is not None:
        found = prediction.emotion.get(name)
    return found if found is not None and math.isfinite(found) else None


def interval_of(prediction: Prediction, output: str) -> tuple[float, float] | None:
    """The 90 % interval of an output, where one was measured."""
    group, _, name = output.partition(".")
    if group != "affect" or prediction.affect is None or prediction.affect.interval is None:
        return None
    return prediction.affect.interval.get(name)


def ranges_of(model: ModelSpec) -> dict[str, tuple[float, float]]:
    """Path -> lowest and highest value of each output that a rule can watch."""
    ranges: dict[str, tuple[float, float]] = {}
    for output in model.outputs:
        if isinstance(output, AffectOutput):
            ranges[f"affect.{output.name}"] = (output.low, output.high)
        elif isinstance(output, PainOutput):
            ranges["pain.expected"] = (0.0, float(len(output.levels) - 1))
            ranges |= {f"pain.level_probs.{level}": (0.0, 1.0) for level in output.levels}
        else:
            ranges |= {f"emotion.{label}": (0.0, 1.0) for label in output.labels}
    return ranges


def check_rules(rules: Sequence[AlarmRule], model: ModelSpec | None = None) -> None:
    """Refuse rules that share a name, and such as could never be raised or never end with the model.

    Args:
        rules: All rules of a board.
        model: What it watches; None: not known yet.

    Raises:
        UsageError: Two rules of one name, too many, an output that the model has not, or a threshold that its
            output cannot cross.
    """
    names = [rule.name for rule in rules]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two alarms are called {twice}", hint="alarms are told apart by their names")
    if len(rules) > MAX_RULES:
        raise UsageError("too many alarms", expected=f"at most {MAX_RULES}", found=str(len(rules)))
    if model is not None:
        ranges = ranges_of(model)
        for rule in rules:
            if rule.output is not None:
                _check_range(rule, rule.output, ranges, model.name)


def _check_range(
    rule: AlarmRule, output: str, ranges: dict[str, tuple[float, float]], model_name: str
) -> None:
    if output not in ranges:
        near = difflib.get_close_matches(output, ranges, n=1)
        raise UsageError(
            f"alarm {rule.name}: the model {model_name} has no output {output}",
            expected=f"one of {', '.join(ranges)}",
            hint=f"did you mean {near[0]}?" if near else None,
        )
    low, high = ranges[output]
    if not any(rule.is_beyond(value) for value in (low, high)):
        raise UsageError(
            f"alarm {rule.name} could never be raised",
            expected=f"a threshold that {output} can cross, from {low:g} to {high:g}",
            found=f"{rule.threshold:g}",
        )
    if not any(rule.is_over(value) for value in (low, high)):
        clear = rule.clear_below if rule.above is not None else rule.clear_above
        raise UsageError(
            f"alarm {rule.name} could never end",
            expected=f"an end that {output} can reach, from {low:g} to {high:g}",
            found=f"{rule.threshold if clear is None else clear:g}",
        )

"""Rules that contradict themselves are refused where they are declared."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from edge_mer.types.alarms import AlarmRule


def rule(**changes: Any) -> AlarmRule:
    return AlarmRule(**{"name": "high-pain", "output": "pain.expected", **changes})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "not none"),
        ({"above": 1, "below": 0}, "not above and below"),
        ({"above": 1, "no_estimate_for_s": 5}, "not above and no_estimate_for_s"),
        ({"no_estimate_for_s": 5}, "about all outputs"),
        ({"no_estimate_for_s": 5, "output": None, "for_s": 1}, "about all outputs"),
        ({"above": 1, "output": None}, "no output to watch"),
        ({"above": 1, "output": "pain.expectd"}, "did you mean pain.expected"),
        ({"above": 1, "output": "pain"}, "unknown output"),
        ({"above": 1, "output": "emotion."}, "unknown output"),
        ({"above": 1, "clear_below": 2}, "not higher"),
        ({"above": 1, "clear_above": 2}, "clear_above goes with below"),
        ({"below": 1, "clear_above": 0}, "not lower"),
        ({"below": 1, "clear_below": 0}, "clear_below goes with above"),
        ({"no_estimate_for_s": 5, "output": None, "clear_below": 0}, "clear_below goes with above"),
        ({"above": float("nan")}, "finite"),
        ({"above": float("inf")}, "finite"),
        ({"above": 1, "for_s": -1}, "greater than or equal to 0"),
        ({"above": 1, "quiet_s": 1e9}, "less than or equal to 86400"),
        ({"no_estimate_for_s": 0, "output": None}, "greater than 0"),
        ({"above": 1, "name": "high pain"}, "name"),
        ({"above": 1, "forr_s": 1}, "forr_s"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError) as caught:
        rule(**changes)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "output", ["pain.expected", "pain.level_probs.no pain", "affect.valence", "emotion.very sad"]
)
def test_every_kind_of_output_can_be_watched(output: str) -> None:
    assert rule(output=output, above=0.5).output == output


def test_a_rule_is_read_from_a_configuration() -> None:
    written = {"name": "high-pain", "output": "pain.expected", "above": 0.7, "clear_below": 0.5, "for_s": 5}
    assert AlarmRule.model_validate({**written, "quiet_s": 60}).threshold == 0.7
    assert AlarmRule(name="blind", no_estimate_for_s=10).threshold == 10

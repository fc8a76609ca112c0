"""Outputs by their path, and rules that do not fit a model."""

from __future__ import annotations

import pytest

from edge_mer.alarms.board import AlarmBoard
from edge_mer.alarms.outputs import MAX_RULES, interval_of, ranges_of, value_of
from edge_mer.errors import UsageError
from edge_mer.types.alarms import AlarmRule
from edge_mer.types.model import EmotionOutput, ModelSpec, PainOutput
from edge_mer.types.predictions import Pain
from tests.helpers.alarm_world import high, predicted
from tests.helpers.tiny_model import tiny_model


def with_outputs(*outputs: PainOutput | EmotionOutput) -> ModelSpec:
    """A model of other outputs; of its tensors nobody asks here."""
    return tiny_model().model_copy(update={"outputs": outputs})


PAIN = with_outputs(PainOutput(scale="sim-0-2", levels=("none", "some", "a lot")))
EMOTION = with_outputs(EmotionOutput(labels=("anger", "very sad", "v1.2")))


def test_values_lie_where_a_record_has_them() -> None:
    pain = Pain("sim-0-2", {"none": 0.1, "some": 0.2, "a lot": 0.7}, 1.6)
    made = predicted(0, 0.25, interval=(0.0, 0.5), pain=pain, emotion={"anger": 0.9, "v1.2": 0.1})
    for output, value in {
        "affect.arousal": 0.25,
        "affect.valence": None,
        "pain.expected": 1.6,
        "pain.level_probs.a lot": 0.7,
        "emotion.anger": 0.9,
        "emotion.v1.2": 0.1,
        "emotion.joy": None,
    }.items():
        assert value_of(made, output) == value, output
    assert interval_of(made, "affect.arousal") == (0.0, 0.5)
    assert interval_of(made, "affect.valence") is None
    assert interval_of(made, "pain.expected") is None


def test_every_output_of_a_model_has_a_range() -> None:
    assert ranges_of(tiny_model()) == {"affect.valence": (-1.0, 1.0), "affect.arousal": (-1.0, 1.0)}
    assert ranges_of(PAIN)["pain.expected"] == (0.0, 2.0)
    assert ranges_of(EMOTION).keys() == {"emotion.anger", "emotion.very sad", "emotion.v1.2"}


def test_an_output_that_the_model_has_not_is_refused_with_the_nearest_one() -> None:
    rule = AlarmRule(name="angry", output="emotion.angr", above=0.5)
    with pytest.raises(UsageError, match=r"did you mean emotion\.anger\?"):
        AlarmBoard([rule], model=EMOTION)
    with pytest.raises(UsageError, match="has no output"):
        AlarmBoard([high()], model=PAIN)
    AlarmBoard([high()], model=tiny_model())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"above": 2.0}, "never be raised"),
        ({"above": 5.0}, "never be raised"),
        ({"below": 0.0}, "never be raised"),
        ({"above": 1.0, "clear_below": 0.0}, "never end"),
        ({"below": 1.0, "clear_above": 2.0}, "never end"),
    ],
)
def test_a_threshold_that_the_output_cannot_cross_is_refused(changes: dict[str, float], why: str) -> None:
    rule = AlarmRule(**{"name": "pain", "output": "pain.expected", **changes})
    with pytest.raises(UsageError, match=why):
        AlarmBoard([rule], model=PAIN)
    AlarmBoard([rule])


def test_thresholds_within_the_range_are_taken() -> None:
    for changes in ({"above": 1.9}, {"below": 0.1}, {"above": 0.0}, {"above": 1.0, "clear_below": 0.1}):
        AlarmBoard([AlarmRule(**{"name": "pain", "output": "pain.expected", **changes})], model=PAIN)


def test_names_differ_and_rules_are_bounded() -> None:
    with pytest.raises(UsageError, match="two alarms are called high"):
        AlarmBoard([high(), high(above=0.9)])
    AlarmBoard([high(name=f"a{index}") for index in range(MAX_RULES)])
    with pytest.raises(UsageError, match="too many"):
        AlarmBoard([high(name=f"a{index}") for index in range(MAX_RULES + 1)])

"""Raw outputs become valence, arousal and pain."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.postprocess.decode import decode, expected
from edge_mer.types.model import AffectOutput, EmotionOutput, PainOutput
from edge_mer.types.predictions import Affect, Pain

BOTH = (AffectOutput(name="valence"), AffectOutput(name="arousal"))
PAIN = PainOutput(scale="test-0-2", levels=("none", "some", "much"))
EMOTION = EmotionOutput(labels=("anger", "joy"))


def raw(**values: object) -> dict[str, NDArray[np.float64]]:
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


def affect(outputs: tuple[AffectOutput, ...], **values: float) -> Affect | None:
    decoded = decode(outputs, raw(**values))
    assert decoded is None or decoded.pain is None
    return None if decoded is None else decoded.affect


@given(valence=st.floats(-1, 1), arousal=st.floats(-1, 1))
def test_a_value_in_range_stays_as_it_is(valence: float, arousal: float) -> None:
    assert affect(BOTH, valence=valence, arousal=arousal) == Affect(valence, arousal)


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_value_never_leaves_its_range(value: float) -> None:
    decoded = affect(BOTH, valence=value, arousal=0.0)
    assert decoded is not None
    assert decoded.valence is not None
    assert -1 <= decoded.valence <= 1
    assert math.copysign(1, decoded.valence) == math.copysign(1, value)


def test_the_range_is_the_declared_one() -> None:
    outputs = (
        AffectOutput(name="valence", low=0.0, high=4.0),
        AffectOutput(name="arousal", low=-0.5, high=0.5),
    )
    assert affect(outputs, valence=3.0, arousal=3.0) == Affect(3.0, 0.5)
    assert affect(outputs, valence=-3.0, arousal=-3.0) == Affect(0.0, -0.5)


@pytest.mark.parametrize("name", ["valence", "arousal"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_makes_all_meaningless(name: str, bad: float) -> None:
    assert decode(BOTH, raw(**{"valence": 0.1, "arousal": 0.2, name: bad})) is None


@pytest.mark.parametrize(
    ("output", "found"), [("valence", Affect(0.25, None)), ("arousal", Affect(None, 0.25))]
)
def test_what_the_model_does_not_estimate_is_none(output: str, found: Affect) -> None:
    outputs = tuple(one for one in BOTH if one.name == output)
    assert affect(outputs, **{output: 0.25}) == found


def test_logits_of_levels_become_probabilities_and_their_mean() -> None:
    decoded = decode((PAIN,), raw(pain=np.log([0.5, 0.25, 0.25]) + 7.0))
    assert decoded is not None
    assert decoded.affect is None
    assert decoded.pain == Pain(
        "test-0-2", pytest.approx({"none": 0.5, "some": 0.25, "much": 0.25}), pytest.approx(0.75)
    )
    assert list(decoded.pain.level_probs) == ["none", "some", "much"]


@given(logits=st.lists(st.floats(-1e30, 1e30), min_size=3, max_size=3))
def test_probabilities_add_up_however_large_the_logits(logits: list[float]) -> None:
    decoded = decode((PAIN,), raw(pain=logits))
    assert decoded is not None
    assert decoded.pain is not None
    assert sum(decoded.pain.level_probs.values()) == pytest.approx(1)
    assert 0 <= decoded.pain.expected <= 2


def test_one_logit_that_is_no_number_makes_all_meaningless() -> None:
    assert decode((PAIN,), raw(pain=[0.0, math.nan, 1.0])) is None


def test_many_steps_at_once_give_what_each_gives() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 5, 3))
    found = expected(PAIN, logits)
    assert found.shape == (4, 5)
    decoded = decode((PAIN,), raw(pain=logits[2, 3]))
    assert decoded is not None
    assert decoded.pain is not None
    assert found[2, 3] == pytest.approx(decoded.pain.expected)


def test_logits_of_classes_become_probabilities_by_name() -> None:
    decoded = decode((EMOTION, BOTH[0]), raw(emotion=np.log([0.25, 0.75]) - 3.0, valence=0.5))
    assert decoded is not None
    assert decoded.emotion == pytest.approx({"anger": 0.25, "joy": 0.75})
    assert list(decoded.emotion) == ["anger", "joy"]
    assert decoded.affect == Affect(0.5, None)
    assert decoded.pain is None


@given(logits=st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=2))
def test_probabilities_of_classes_add_up_however_large_the_logits(logits: list[float]) -> None:
    decoded = decode((EMOTION,), raw(emotion=logits))
    assert decoded is not None
    assert decoded.emotion is not None
    assert sum(decoded.emotion.values()) == pytest.approx(1)
    assert decoded.affect is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_class_without_a_number_makes_all_meaningless(bad: float) -> None:
    assert decode((EMOTION, BOTH[0]), raw(emotion=[0.0, bad], valence=0.5)) is None


def test_classes_of_many_windows_are_each_their_own() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 2))
    found = expected(EMOTION, logits)
    assert found.shape == (4, 2)
    decoded = decode((EMOTION,), raw(emotion=logits[3]))
    assert decoded is not None
    assert decoded.emotion is not None
    np.testing.assert_allclose(found[3], list(decoded.emotion.values()))

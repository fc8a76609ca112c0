"""Which numbers a model's predictions hold, and which one prediction holds."""

from __future__ import annotations

from edge_mer.types.facts import scalars_of
from tests.helpers.sent import AFFECT, PAIN, VOICES, emotion_of, ok, pain_of, withheld


def test_numbers_have_one_order() -> None:
    assert AFFECT.scalars == (("valence",), ("arousal",))
    assert PAIN.scalars == (
        ("pain", "expected"),
        ("pain", "level_probs", "none"),
        ("pain", "level_probs", "some"),
        ("pain", "level_probs", "much"),
    )
    assert VOICES.scalars == (("emotion", "anger"), ("emotion", "neutral"))


def test_a_prediction_holds_what_its_model_declares() -> None:
    assert scalars_of(ok(0, 0.25, -0.5)) == {("valence",): 0.25, ("arousal",): -0.5}
    assert tuple(scalars_of(pain_of(0, 0.5, 0.25, 0.25))) == PAIN.scalars
    assert scalars_of(pain_of(0, 0.5, 0.25, 0.25))["pain", "expected"] == 0.75
    assert scalars_of(emotion_of(0, 0.75)) == {("emotion", "anger"): 0.75, ("emotion", "neutral"): 0.25}


def test_a_withheld_one_holds_none() -> None:
    assert scalars_of(withheld(0, "audio_missing")) == {}
    assert scalars_of(ok(0, 0.5, 0.5, status="withheld")) == {}  # whatever it was made of

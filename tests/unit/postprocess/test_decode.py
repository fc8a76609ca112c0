"""Raw outputs become valence and arousal."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mer.postprocess.decode import decode_affect
from edge_mer.types.model import Output
from edge_mer.types.predictions import Affect

BOTH = (Output(name="valence"), Output(name="arousal"))


@given(valence=st.floats(-1, 1), arousal=st.floats(-1, 1))
def test_a_value_in_range_stays_as_it_is(valence: float, arousal: float) -> None:
    assert decode_affect(BOTH, {"valence": valence, "arousal": arousal}) == Affect(valence, arousal)


@given(raw=st.floats(allow_nan=False, allow_infinity=False))
def test_a_value_never_leaves_its_range(raw: float) -> None:
    decoded = decode_affect(BOTH, {"valence": raw, "arousal": 0.0})
    assert decoded is not None
    assert decoded.valence is not None
    assert -1 <= decoded.valence <= 1
    assert math.copysign(1, decoded.valence) == math.copysign(1, raw)


def test_the_range_is_the_declared_one() -> None:
    outputs = (Output(name="valence", low=0.0, high=4.0), Output(name="arousal", low=-0.5, high=0.5))
    assert decode_affect(outputs, {"valence": 3.0, "arousal": 3.0}) == Affect(3.0, 0.5)
    assert decode_affect(outputs, {"valence": -3.0, "arousal": -3.0}) == Affect(0.0, -0.5)


@pytest.mark.parametrize("name", ["valence", "arousal"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_makes_all_meaningless(name: str, bad: float) -> None:
    assert decode_affect(BOTH, {"valence": 0.1, "arousal": 0.2, name: bad}) is None


@pytest.mark.parametrize(
    ("output", "expected"), [("valence", Affect(0.25, None)), ("arousal", Affect(None, 0.25))]
)
def test_what_the_model_does_not_estimate_is_none(output: str, expected: Affect) -> None:
    outputs = tuple(one for one in BOTH if one.name == output)
    assert decode_affect(outputs, {output: 0.25}) == expected

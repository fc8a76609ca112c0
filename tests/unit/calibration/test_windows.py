"""Calibration windows: exactly as many as asked for, and nothing but numbers in them."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mer.errors import DataError
from edge_mer.runtime.pipeline import StepTrace
from edge_mer_calibration.windows import choose_windows
from edge_mer_export.models.zoo import build

pytestmark = pytest.mark.workbench

MODEL = build("jmt-tiny").spec


def trace(index: int, *, real: bool = True, value: float = 1.0) -> StepTrace:
    """A step of jmt-tiny."""
    rng = np.random.default_rng(index)
    inputs = {
        e.stage: rng.standard_normal(e.input.concrete(batch=1)).astype(np.float32) for e in MODEL.encoders
    }
    inputs["visual"][0, 0, 0, 0, 0] = value
    features = {
        e.stage: rng.standard_normal((1, MODEL.fusion.n_steps, e.output.concrete(batch=1)[1])).astype(
            np.float32
        )
        for e in MODEL.encoders
    }
    present = np.ones((2, MODEL.fusion.n_steps), np.bool_)
    raw = {"valence": 0.0, "arousal": 0.0}
    return StepTrace(index, inputs, features, present, MODEL.fusion.n_steps, raw, real)


def test_windows_are_spread_over_all_sessions() -> None:
    sessions = [[trace(i) for i in range(20)] for _ in range(2)]
    chosen = choose_windows(MODEL, sessions, 6)
    assert chosen.n_windows == 6
    assert set(chosen.feeds) == {"visual", "audio", "fusion"}
    assert all(len(feeds) == 6 for feeds in chosen.feeds.values())
    assert chosen.feeds["fusion"][0]["present"].dtype == np.bool_


def test_too_few_windows_are_an_error_not_a_shorter_calibration() -> None:
    sessions = [[trace(i, real=i % 2 == 0) for i in range(20)]]
    with pytest.raises(
        DataError, match=r"not enough calibration windows\. Expected: 20 .* Found: 6, and 10 steps"
    ):
        choose_windows(MODEL, sessions, 20)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_window_that_holds_no_numbers_is_an_error(value: float) -> None:
    sessions = [[trace(i, value=value if i == 12 else 1.0) for i in range(20)]]
    with pytest.raises(
        DataError, match=r"calibration window \d+: visual\.clip has 1 values that are no numbers"
    ):
        choose_windows(MODEL, sessions, 13)


def test_the_hash_follows_content_and_order() -> None:
    steps = [trace(i) for i in range(20)]
    same = choose_windows(MODEL, [steps], 5).sha256
    assert choose_windows(MODEL, [steps], 5).sha256 == same
    assert choose_windows(MODEL, [steps[:-1]], 5).sha256 != same

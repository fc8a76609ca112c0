"""Calibration windows: exactly as many as asked for, and nothing but numbers in them."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mer.errors import DataError
from edge_mer.runtime.labelled import LabelledSession
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


def session(traces: list[StepTrace], person: str = "anna", **labels: float) -> LabelledSession:
    """What a person's steps are labelled with all the time; without labels nobody knows."""
    known = {
        name: np.full(len(traces), labels.get(name, np.nan), np.float32) for name in ("valence", "arousal")
    }
    return LabelledSession(person, traces, known)


def test_people_and_ranges_of_labels_have_equal_shares() -> None:
    steps = [trace(i) for i in range(40)]
    sessions = [
        session(steps, "anna", valence=-0.9, arousal=0.0),
        session(steps, "anna", valence=0.9, arousal=0.0),
        session(steps[:30], "bea", valence=0.9, arousal=0.0),
    ]
    chosen = choose_windows(MODEL, sessions, 12)
    assert chosen.n_windows == 12
    assert set(chosen.feeds) == {"visual", "audio", "fusion"}
    assert chosen.people == {"anna": 6, "bea": 6}
    assert chosen.cells == {"arousal middle": 12, "valence high": 7, "valence low": 5}
    assert len(chosen.feeds["visual"]) == len(chosen.feeds["audio"]) == 12


def test_without_labels_fp32s_own_outputs_tell_the_ranges() -> None:
    chosen = choose_windows(MODEL, [session([trace(i) for i in range(20)])], 4)
    assert chosen.cells == {"arousal middle": 4, "valence middle": 4}


def test_some_windows_more_miss_a_modality() -> None:
    chosen = choose_windows(MODEL, [session([trace(i) for i in range(40)])], 16)
    assert chosen.without == {"visual": 2, "audio": 2}
    more = chosen.feeds["fusion"][16:]
    assert len(more) == 4
    half = MODEL.fusion.n_steps // 2
    for feed, (row, name, n_absent) in zip(
        more,
        [(0, "visual", 2 * half), (1, "audio", 2 * half), (0, "visual", half), (1, "audio", half)],
        strict=True,
    ):
        assert feed["present"].dtype == np.bool_
        assert not feed["present"][0, row, :n_absent].any()
        assert feed["present"].sum() == 4 * half - n_absent
        assert not feed[name][0, :n_absent].any()
    assert all(feed["present"].all() for feed in chosen.feeds["fusion"][:16])


def test_too_few_windows_are_an_error_not_a_shorter_calibration() -> None:
    sessions = [session([trace(i, real=i % 2 == 0) for i in range(20)])]
    with pytest.raises(
        DataError, match=r"not enough calibration windows\. Expected: 20 .* Found: 6, and 10 steps"
    ):
        choose_windows(MODEL, sessions, 20)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_window_that_holds_no_numbers_is_an_error(value: float) -> None:
    sessions = [session([trace(i, value=value if i == 12 else 1.0) for i in range(20)])]
    with pytest.raises(
        DataError, match=r"calibration window \d+: visual\.clip has 1 values that are no numbers"
    ):
        choose_windows(MODEL, sessions, 13)


def test_the_hash_follows_content_and_order() -> None:
    steps = [trace(i) for i in range(20)]
    same = choose_windows(MODEL, [session(steps)], 5).sha256
    assert choose_windows(MODEL, [session(steps)], 5).sha256 == same
    assert choose_windows(MODEL, [session(steps[:-1])], 5).sha256 != same

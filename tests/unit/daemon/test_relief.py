"""A device that is too hot or too busy is spared, step by step, and each step is taken back."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.config import ReliefConfig
from edge_mer.daemon.relief import MOST_PATIENCE, Pressure, PressureMeter, ReliefControl, plan_of
from edge_mer.runtime.pipeline import Pipeline, PipelineSetup
from edge_mer.runtime.window import Relief
from edge_mer.types.predictions import Prediction
from tests.helpers.numpy_engines import tiny_engines
from tests.helpers.tiny_model import tiny_model
from tests.helpers.tiny_session import SquareDetector, TinySession

CALM, BUSY = Pressure(50.0, 0.2, 0), Pressure(50.0, 0.95, 0)
HOT, LOST = Pressure(90.0, 0.2, 0), Pressure(None, None, 3)
CONFIG = ReliefConfig(after_s=10, calm_s=60)


def setup_of(**changes: Any) -> PipelineSetup:
    model = tiny_model(visual="mask", audio="mask")
    return PipelineSetup(model, tiny_engines(model), SquareDetector(), **changes)


# -- the plan ------------------------------------------------------------------------------------


def test_first_it_predicts_less_often_then_cheaper_then_without_the_face() -> None:
    assert plan_of(setup_of().model, setup_of(), "int8-cpu") == [
        Relief(),
        Relief(hop_factor=2),
        Relief(hop_factor=2, cheaper=True),
        Relief(hop_factor=2, cheaper=True, spared=frozenset({"visual"})),
    ]


def test_only_what_the_bundle_declares_a_policy_for_is_left_out() -> None:
    model = tiny_model(audio="mask")
    setup = PipelineSetup(model, tiny_engines(model), SquareDetector())
    assert plan_of(model, setup, None)[-1].spared == {"audio"}
    assert plan_of(model, replace(setup, missing={"audio": "abstain"}), None) == [
        Relief(),
        Relief(hop_factor=2),
    ]
    assert plan_of(model, replace(setup, missing={"visual": "mask"}), None)[-1].spared == {"visual"}


def test_whoever_is_followed_keeps_their_face() -> None:
    assert plan_of(setup_of().model, setup_of(people=2), None)[-1].spared == {"audio"}


# -- when ----------------------------------------------------------------------------------------


def levels(
    pressures: list[tuple[int, Pressure]], n_steps: int = 4, config: ReliefConfig = CONFIG
) -> list[int]:
    """The level after each second."""
    control, found, now_s = ReliefControl(CONFIG, 4), list[int](), 1000
    for seconds, pressure in pressures:
        for _ in range(seconds):
            control.look(pressure, now_s * NS_PER_S)
            found.append(control.level)
            now_s += 1
    return found


@pytest.mark.parametrize("pressure", [BUSY, HOT, LOST])
def test_a_step_is_taken_once_it_is_too_much_for_long(pressure: Pressure) -> None:
    found = levels([(10, pressure), (1, pressure), (10, pressure), (60, pressure)])
    assert (found[9], found[10], found[20], found[-1]) == (0, 1, 2, 3)


def test_a_moment_of_pressure_does_nothing() -> None:
    assert set(levels([(9, BUSY), (1, CALM), (9, HOT), (1, CALM)] * 3)) == {0}


def test_between_too_much_and_calm_nothing_changes() -> None:
    between = Pressure(80.0, 0.7, 0)
    assert levels([(11, BUSY), (500, between)])[-1] == 1


def test_steps_are_taken_back_one_by_one() -> None:
    found = levels([(21, BUSY), (60, CALM), (1, CALM), (60, CALM)])
    assert (found[20], found[80], found[81], found[-1]) == (2, 2, 1, 0)


def test_what_was_taken_back_too_soon_is_taken_back_later_the_next_time() -> None:
    once = [(11, BUSY), (61, CALM)]
    found = levels([*once, (11, BUSY), (119, CALM), (3, CALM)])
    assert (found[71], found[82], found[82 + 119], found[-1]) == (0, 1, 1, 0)
    assert levels([(11, BUSY), (60 * MOST_PATIENCE + 1, CALM)] * 12)[-1] == 0


def test_it_says_why() -> None:
    control = ReliefControl(CONFIG, 4)
    for second in range(12):
        control.look(HOT, second * NS_PER_S)
    assert "90 degrees" in control.why


def test_pressure_is_what_the_last_seconds_were() -> None:
    meter = PressureMeter()
    for prediction in predictions_with():
        worked = replace(prediction.latency_ms, preprocess=100.0, infer=50.0, postprocess=10.0)
        meter.take(replace(prediction, latency_ms=worked), NS_PER_S)
    assert meter.read(200.0, 2 * NS_PER_S, [40.0, 60.0]) == Pressure(60.0, 0.8, 0)
    meter.take(replace(prediction, reasons=("overloaded",)), 2 * NS_PER_S)
    assert meter.read(200.0, 3 * NS_PER_S, []) == Pressure(None, 0.8, 1)
    assert meter.read(200.0, 60 * NS_PER_S, []) == Pressure(None, None, 0)


# -- what it does --------------------------------------------------------------------------------


def predictions_with(reliefs: dict[int, Relief] | None = None, **changes: Any) -> list[Prediction]:
    """Predictions of 24 steps; `reliefs` are told after so many of them."""
    played = TinySession(24)
    pipeline = Pipeline(setup_of(**changes), played.specs, ManualClock())
    found: list[Prediction] = []
    for chunk in played.chunks():
        found += pipeline.push(chunk)
        if reliefs and len(found) in reliefs:
            pipeline.relieve(reliefs.pop(len(found)))
    return found + pipeline.finish()


def test_a_longer_hop_leaves_predictions_out_and_alters_none() -> None:
    usual = {one.window_index: one for one in predictions_with()}
    found = predictions_with({6: Relief(hop_factor=2), 11: Relief()})
    numbers = [one.window_index for one in found]
    assert numbers[:6] == [0, 1, 2, 3, 4, 5]
    assert {b - a for a, b in itertools.pairwise(numbers)} <= {1, 2}
    assert 2 in {b - a for a, b in itertools.pairwise(numbers)}
    assert numbers[-1] == 23
    assert all(one.affect == usual[one.window_index].affect for one in found)
    reasons = {one.window_index: one.reasons for one in found}
    assert "hop_lengthened" in reasons[numbers[7]]
    assert reasons[23] == ()
    assert {one.status for one in found if "hop_lengthened" in one.reasons} == {"degraded"}


def test_a_modality_that_is_spared_is_missing_and_comes_back() -> None:
    found = predictions_with({6: Relief(spared=frozenset({"visual"})), 12: Relief()})
    assert {"visual_missing", "visual_spared"} <= set(found[9].reasons)
    assert not found[9].modalities["visual"].present
    assert found[9].modalities["audio"].present
    usual = predictions_with()
    assert found[9].affect is not None
    assert found[9].affect != usual[9].affect
    assert found[-1].affect == usual[-1].affect
    assert found[-1].status == "ok"


def test_a_cheaper_candidate_is_said() -> None:
    assert predictions_with({3: Relief(cheaper=True)})[-1].reasons == ("cheaper_candidate",)

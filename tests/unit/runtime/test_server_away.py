"""What a prediction says when a server made only a part of what it is made of, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from edge_mer.clock import ManualClock
from edge_mer.engine.base import Engine
from edge_mer.engine.standby import Connection, StandbyEngine
from edge_mer.errors import AwayError
from edge_mer.runtime.people import PeoplePipeline
from edge_mer.runtime.pipeline import Pipeline, PipelineSetup
from edge_mer.types.evaluation import Findings, Interval, SubsetFindings
from edge_mer.types.model import ModelSpec
from edge_mer.types.predictions import Prediction
from tests.helpers.numpy_engines import tiny_engines
from tests.helpers.tiny_model import N_STEPS, STEP, audio_encoder, tiny_model
from tests.helpers.tiny_people import SquaresDetector, TinyCrowd
from tests.helpers.tiny_session import SquareDetector, TinySession
from tests.helpers.tiny_words import (
    WordySession,
    emotion_model,
    emotion_setup,
    scene_encoder,
    text_encoder,
    utterance,
    wordy_model,
)

SERVER = "triton@box:8001"
MASKED = tiny_model(visual="mask", audio="mask")
IsAway = Callable[[str, int], bool]
"""Whether the server does not run a stage in a step."""


@dataclass
class Line:
    """A server that is away in chosen steps of a pipeline.

    Attributes:
        is_away: Which.
        own: The right engines, which the server runs, too.
    """

    own: Mapping[str, Engine]
    is_away: IsAway
    pipeline: Pipeline | None = None
    stage: str = ""
    n_stood_in: int = 0
    n_lost: int = 0
    failure: AwayError | None = None
    asked: list[tuple[str, int]] = field(default_factory=list)

    @property
    def connection(self) -> Connection | None:
        return self

    @property
    def engines(self) -> Mapping[str, Engine]:
        return {stage: Remote(self, engine) for stage, engine in self.own.items()}

    def lost(self, connection: Connection, why: AwayError) -> None:
        self.n_lost += 1

    def stood_in(self) -> None:
        self.n_stood_in += 1

    def close(self) -> None: ...


class Remote(Engine):
    """What the server runs."""

    def __init__(self, line: Line, engine: Engine) -> None:
        super().__init__(engine.stage, engine.input_specs, engine.output_specs, engine.sizes)
        self._line, self._engine = line, engine

    def _run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        step = 0 if self._line.pipeline is None else self._line.pipeline.counters.n_steps
        if self._line.is_away(self.stage, step):
            raise AwayError("away")
        return self._engine.run(feed)


def on_server(
    setup: PipelineSetup, is_away: IsAway, *, fallback: bool = True, precision: str = "fp32"
) -> tuple[PipelineSetup, Line]:
    line = Line(setup.engines, is_away)
    engines = {
        stage: StandbyEngine(setup.model, stage, SERVER, line, own if fallback else None, precision)
        for stage, own in setup.engines.items()
    }
    return replace(setup, engines=engines, engine_name=SERVER), line


def play(session: TinySession, setup: PipelineSetup, is_away: IsAway, **how: Any) -> list[Prediction]:
    made, line = on_server(setup, is_away, **how)
    kind = Pipeline if setup.people is None else PeoplePipeline
    pipeline = line.pipeline = kind(made, session.specs, ManualClock())
    return [p for chunk in session.chunks() for p in pipeline.push(chunk)] + pipeline.finish()


def tiny_setup(model: ModelSpec = MASKED) -> PipelineSetup:
    return PipelineSetup(model, tiny_engines(model), SquareDetector())


def never(*_: Any) -> bool:
    return False


def steps(*away: int) -> IsAway:
    return lambda _, step: step in away


def marked(predictions: Iterable[Prediction]) -> list[int]:
    return [p.window_index for p in predictions if "server_away" in p.reasons]


def test_marks_last_as_long_as_the_window_holds_what_another_made() -> None:
    told = play(TinySession(14), tiny_setup(), steps(5, 6))
    usual = play(TinySession(14), tiny_setup(), never)
    assert marked(told) == list(range(5, 6 + N_STEPS))
    assert [p.status for p in told[N_STEPS:]] == ["ok"] + ["degraded"] * (1 + N_STEPS) + ["ok"] * 4
    assert [p.affect for p in told] == [p.affect for p in usual]
    assert not marked(usual)
    assert {p.engine for p in usual} == {SERVER}
    both = f"{SERVER}+numpy"
    assert [p.engine for p in told[4:11]] == [SERVER, *[both] * (N_STEPS + 1), SERVER]


def test_a_window_that_this_device_made_alone_says_so() -> None:
    told = play(TinySession(12), tiny_setup(), lambda _, step: step >= 4)
    assert [p.engine for p in told[3:9]] == [SERVER, *[f"{SERVER}+numpy"] * 3, "numpy", "numpy"]


@pytest.mark.parametrize(("stage", "n_marked"), [("face", N_STEPS), ("voice", N_STEPS), ("fusion", 1)])
def test_each_stage_counts(stage: str, n_marked: int) -> None:
    model = MASKED
    stage = dict(zip(("face", "voice", "fusion"), model.stages, strict=True))[stage]
    told = play(TinySession(12), tiny_setup(), lambda one, step: one == stage and step == 5)
    assert marked(told) == list(range(5, 5 + n_marked))


def test_precisions_of_both_are_told() -> None:
    told = play(TinySession(12), tiny_setup(), lambda _, step: step >= 6, precision="int8-cpu")
    assert [p.precision for p in told[5:11]] == ["fp32", *["fp32+int8-cpu"] * 3, "int8-cpu", "int8-cpu"]


@pytest.mark.parametrize(("precision", "is_bounded"), [("fp32", True), ("int8-cpu", False)])
def test_bounds_of_one_precision_are_none_of_another_or_of_a_mixture(
    precision: str, is_bounded: bool
) -> None:
    widths = {"valence": Interval(half_width=0.1, coverage=0.9)}
    whole = SubsetFindings(modalities=("visual", "audio"), scores={}, interval=widths)
    findings = Findings(people="some", n_people=2, n_steps=3, subsets=(whole,))
    told = play(TinySession(12), replace(tiny_setup(), findings=findings), steps(5), precision=precision)
    bounded = [p.affect is not None and p.affect.interval is not None for p in told]
    assert bounded[4:] == [True, *[is_bounded] * N_STEPS, True, True, True]


# -- where nothing stands in -----------------------------------------------------------------------


def test_without_fallback_predictions_are_withheld_and_their_steps_masked_later() -> None:
    told = play(TinySession(14), tiny_setup(), steps(5, 6), fallback=False)
    assert [p.window_index for p in told] == list(range(14))
    assert [(p.status, p.reasons) for p in told[5:7]] == [("withheld", ("server_away",))] * 2
    assert [p.affect for p in told[5:7]] == [None] * 2
    assert [p.reasons for p in told[7:10]] == [("visual_gap", "audio_gap", "server_away")] * 3
    assert [p.status for p in told[10:]] == ["ok"] * 4
    assert told[5].modalities["visual"].coverage == 1.0
    assert not told[5].modalities["visual"].present


def test_without_fallback_and_mask_the_window_has_gaps_until_it_is_whole() -> None:
    model = tiny_model(warm_up="withhold")
    told = play(TinySession(14), tiny_setup(model), steps(5), fallback=False)
    assert [p.reasons for p in told[5:10]] == [
        ("server_away",),
        *[("window_has_gaps", "server_away")] * 3,
        (),
    ]


def test_without_fallback_the_fusion_alone_withholds() -> None:
    told = play(
        TinySession(12), tiny_setup(), lambda one, step: one == "fusion" and step == 5, fallback=False
    )
    assert [p.status for p in told[4:7]] == ["ok", "withheld", "ok"]
    assert marked(told) == [5]


# -- what stands in for a modality -----------------------------------------------------------------


def test_a_held_feature_keeps_its_mark() -> None:
    model = tiny_model(visual="hold", audio="mask", hold_max_age=3 * STEP)
    away = lambda one, step: one == model.stages[0] and step == 5  # noqa: E731
    told = play(TinySession(14, faceless={6, 7}), tiny_setup(model), away)
    assert marked(told) == list(range(5, 7 + N_STEPS))
    usual = play(TinySession(14, faceless={6, 7}), tiny_setup(model), never)
    assert not marked(usual)
    assert [p.affect for p in told] == [p.affect for p in usual]


def test_a_blank_of_this_device_is_marked_and_not_kept() -> None:
    model = tiny_model(visual="blank_input", audio="mask")
    session = TinySession(16, faceless={5, 11})
    setup = tiny_setup(model)
    told = play(session, setup, lambda one, step: one == model.stages[0] and step == 5)
    assert marked(told) == list(range(5, 5 + N_STEPS))
    assert setup.engines[model.stages[0]].n_runs == 14 + 2  # faces, and a blank of each


def test_a_blank_that_nobody_encodes_is_withheld() -> None:
    model = tiny_model(visual="blank_input", audio="mask")
    away = lambda one, step: one == model.stages[0] and step == 5  # noqa: E731
    told = play(TinySession(12, faceless={5}), tiny_setup(model), away, fallback=False)
    assert told[5].reasons == ("server_away",)


@pytest.mark.parametrize(("fallback", "status"), [(True, "degraded"), (False, "withheld")])
def test_a_window_that_is_padded_with_a_blank_of_this_device(fallback: bool, status: str) -> None:
    """The first predictions need what the encoders make of nothing, which the server is not there for."""
    model = emotion_model(warm_up="pad")
    n_asked: dict[str, int] = {}

    def is_away(stage: str, step: int) -> bool:
        """Of the first encoder it does not run the second one, which is the first blank."""
        n_asked[stage] = n_asked.get(stage, 0) + 1
        return stage == model.stages[0] and n_asked[stage] == 2

    told = play(TinySession(8), emotion_setup(model), is_away, fallback=fallback)
    assert [p.status for p in told[:2]] == [status, "degraded"]
    assert marked(told) == [0]
    usual = play(TinySession(8), emotion_setup(model), never)
    assert [p.emotion for p in told if p.emotion] == [
        u.emotion for u, p in zip(usual, told, strict=True) if p.emotion
    ]


def test_a_feature_that_serves_several_steps_marks_them_all() -> None:
    period = 2 * STEP
    model = emotion_model(
        scene_encoder(), audio_encoder(period=period, span=period, repeat=2), warm_up="withhold", hop=2
    )
    away = lambda one, step: one == model.stages[1] and step == 6  # noqa: E731
    told = play(TinySession(16), emotion_setup(model), away)
    # steps 6 and 7, in windows of 4 steps that end with steps 7 and 9
    assert marked(told) == [3, 4]


# -- words and people ------------------------------------------------------------------------------


def wordy() -> tuple[WordySession, PipelineSetup]:
    pytest.importorskip("tokenizers", reason="needs the tokenizers library")
    spoken = utterance(("so", 0.5, 1.4), ("safe", 4.6, 6.2), seq=0)
    session = WordySession(14, streams=("audio",), utterances=(spoken,))
    return session, emotion_setup(wordy_model(text_encoder(offset=6 * STEP)))


def test_words_that_this_device_encoded_mark_the_steps_in_which_they_are_said() -> None:
    session, setup = wordy()
    told = play(session, setup, lambda one, _: one == "text")
    said = [step for step in range(14) if step in (1, 5, 6)]
    expected = sorted({k for step in said for k in range(step, step + N_STEPS)})
    assert marked(p for p in told if p.status != "withheld") == [k for k in expected if k >= N_STEPS - 1]
    usual = play(session, setup, never)
    assert [p.emotion for p in told] == [p.emotion for p in usual]


def test_words_that_nobody_encoded_withhold_the_steps_in_which_they_are_said() -> None:
    session, setup = wordy()
    told = play(session, setup, lambda one, _: one == "text", fallback=False)
    assert [k for k, p in enumerate(told) if p.reasons == ("server_away",)] == [1, 5, 6]


def test_people_are_marked_each_for_themselves() -> None:
    setup = PipelineSetup(MASKED, tiny_engines(MASKED), SquaresDetector(), people=3)
    crowd = TinyCrowd(24, here={0: range(24), 1: range(14, 24)})
    told = play(crowd, setup, steps(5))
    first = [p for p in told if p.person == "p1"]
    second = [p for p in told if p.person == "p2"]
    assert marked(first) == list(range(5, 5 + N_STEPS))
    assert second
    assert not marked(second)


# -- the engine itself -----------------------------------------------------------------------------


def test_a_loss_is_told_and_what_stands_in_is_counted() -> None:
    setup, line = on_server(tiny_setup(), steps(0))
    stage = MASKED.stages[0]
    feed = {name: np.zeros_like(array) for name, array in setup.engines[stage].inputs.items()}
    setup.engines[stage].run(feed)
    assert (line.n_lost, line.n_stood_in) == (1, 1)

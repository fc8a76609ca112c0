"""Several people before one camera: a window for each, one way for what they share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from edge_mer.clock import ManualClock
from edge_mer.errors import UsageError
from edge_mer.preprocess.people import MAX_PEOPLE
from edge_mer.runtime.people import PeoplePipeline
from edge_mer.runtime.pipeline import Pipeline, PipelineSetup
from edge_mer.sync.windower import lateness_ns
from edge_mer.types.model import ModelSpec
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk
from tests.helpers.numpy_engines import tiny_engines
from tests.helpers.tiny_model import N_STEPS, STEP, audio_encoder, tiny_clip, tiny_model
from tests.helpers.tiny_people import SquaresDetector, TinyCrowd
from tests.helpers.tiny_words import emotion_model

NS = 1_000_000_000
STEP_NS = int(STEP * NS)
MASKED = tiny_model(visual="mask", audio="mask")
N_AWAY = 8
"""Steps that somebody must be away to be gone: 2 s are 7.5."""


def set_up(model: ModelSpec = MASKED, people: int | None = 3, **how: Any) -> PipelineSetup:
    return PipelineSetup(model, tiny_engines(model), SquaresDetector(), people=people, **how)


def play(session: TinyCrowd, setup: PipelineSetup) -> list[Prediction]:
    kind = Pipeline if setup.people is None else PeoplePipeline
    pipeline = kind(setup, session.specs, ManualClock())
    return [p for chunk in session.chunks() for p in pipeline.push(chunk)] + pipeline.finish()


def by_name(predictions: Iterable[Prediction]) -> dict[str | None, dict[int, Prediction]]:
    """Name -> window -> prediction."""
    found: dict[str | None, dict[int, Prediction]] = defaultdict(dict)
    for prediction in predictions:
        assert prediction.window_index not in found[prediction.person]
        found[prediction.person][prediction.window_index] = prediction
    return found


def estimates(told: dict[int, Prediction], first: int) -> list[Any]:
    """From a window on: status, reasons and estimates."""
    return [(p.status, p.reasons, p.affect, p.modalities) for k, p in told.items() if k >= first]


def test_each_has_the_estimates_of_a_session_that_sees_nobody_else() -> None:
    crowd = TinyCrowd(10, here={0: range(10), 1: range(10), 2: range(10)})
    told = by_name(play(crowd, set_up()))
    assert set(told) == {None, "p1", "p2", "p3"}
    for person, name in enumerate(("p1", "p2", "p3")):
        alone = by_name(play(TinyCrowd(10, here={person: range(10)}), set_up(people=None)))[None]
        first = min(told[name]) + N_STEPS
        assert estimates(told[name], first) == estimates(alone, first)
        assert len(estimates(alone, first)) >= 4
    affects = [told[name][9].affect for name in ("p1", "p2", "p3")]
    assert len({affect.valence for affect in affects if affect is not None}) == 3
    assert len({affect.arousal for affect in affects if affect is not None}) == 1  # the voice is the room's


def test_what_is_shared_is_worked_on_once() -> None:
    setup = set_up()
    told = play(TinyCrowd(10, here={0: range(10), 1: range(10), 2: range(10)}), setup)
    assert setup.engines["audio"].n_runs == 10
    n_predictions = sum(prediction.person is not None for prediction in told)
    assert setup.engines["visual"].n_runs == setup.engines["fusion"].n_runs == n_predictions
    assert isinstance(setup.detector, SquaresDetector)
    assert setup.detector.n_frames == 10 * 4  # each of the clip's four frames


def test_a_newcomers_window_begins_with_them() -> None:
    told = by_name(play(TinyCrowd(14, here={0: range(14), 1: range(6, 14)}), set_up()))
    first = min(told["p2"])
    assert first in (7, 8)  # watched for 0.4 s
    assert [p.reasons for p in told["p2"].values()][: N_STEPS - 1] == [("warming_up",)] * (N_STEPS - 1)
    assert told["p2"][first].t_start_ns == MASKED.step_start_ns(first)
    assert told["p2"][13].status == "ok"
    assert told["p2"][13].t_start_ns == told["p1"][13].t_start_ns


def test_who_is_covered_is_missing_and_then_the_same_again() -> None:
    steps = [*range(6), *range(9, 14)]
    told = by_name(play(TinyCrowd(14, here={0: range(14), 1: steps}), set_up()))
    assert set(told) == {None, "p1", "p2"}
    for index in (6, 7, 8):
        hidden = told["p2"][index]
        assert not hidden.modalities["visual"].present
        assert hidden.modalities["visual"].quality == "no_face"
        assert hidden.modalities["audio"].present
        assert "visual_missing" in hidden.reasons
        assert told["p1"][index].modalities["visual"].present
    assert told["p2"][9].reasons == ("visual_gap",)
    assert told["p2"][13].reasons == ()


def test_who_was_away_for_long_is_somebody_new_with_an_empty_window() -> None:
    steps = [*range(6), *range(6 + N_AWAY + 1, 20)]
    told = by_name(play(TinyCrowd(20, here={1: steps}), set_up(people=1)))
    assert set(told) == {None, "p1", "p2"}
    assert max(told["p1"]) < min(told["p2"])
    assert max(told["p1"]) in (12, 13)
    assert "warming_up" in told["p2"][min(told["p2"])].reasons


def test_a_seat_that_is_taken_by_another_makes_somebody_new() -> None:
    crowd = TinyCrowd(22, here={0: range(6), 1: range(6, 22)}, places={0: 104, 1: 104})
    told = by_name(play(crowd, set_up()))
    assert set(told) == {None, "p1", "p2"}
    after = [p.modalities["visual"].coverage for index, p in told["p1"].items() if index >= 6]
    assert after == [0.0] * len(after)
    alone = TinyCrowd(22, here={1: range(14, 22)}, places={1: 104})
    expected = by_name(play(alone, set_up(people=None)))[None]
    assert estimates(told["p2"], 20) == estimates(expected, 20)


def test_where_nobody_is_it_says_so_once_a_hop() -> None:
    told = play(TinyCrowd(4, here={}), set_up())
    assert [(p.window_index, p.person, p.status, p.reasons) for p in told] == [
        (index, None, "withheld", ("nobody_seen",)) for index in range(4)
    ]
    assert told[0].modalities["visual"].quality == "no_face"
    assert told[0].modalities["audio"].present
    assert "person" not in told[0].to_dict()


def test_a_camera_that_is_gone_leaves_nobody() -> None:
    crowd = TinyCrowd(20, here={0: range(20)}, frameless=range(5, 20))
    told = by_name(play(crowd, set_up()))
    assert not told["p1"][5].modalities["visual"].present
    assert max(told["p1"]) in (11, 12, 13)
    assert set(told[None]) >= set(range(14, 20))


def test_policies_are_each_persons() -> None:
    model = tiny_model(visual="hold", audio="mask", hold_max_age=3 * STEP)
    steps = [*range(8), 12, 13]
    told = by_name(play(TinyCrowd(14, here={0: range(14), 1: steps}), set_up(model)))
    held = [told["p2"][index].status for index in range(8, 12)]
    assert held == ["degraded"] * 3 + ["withheld"]
    assert all(told["p1"][index].status == "ok" for index in range(8, 12))


def test_an_overloaded_session_tells_everybody() -> None:
    clock, crowd = ManualClock(), TinyCrowd(30, here={0: range(30), 1: range(30)})
    live = Streams()
    pipeline = PeoplePipeline(set_up(), crowd.specs, clock, 0, lateness_ns=lateness_ns(MASKED), live=live)
    told: list[Prediction] = []
    for chunk in crowd.chunks():
        n_steps = pipeline.counters.n_steps
        clock.sleep_until_ns(_end_ns(chunk))
        if n_steps == 10:
            clock.advance_ns(3 * NS)  # the machine was busy with something else
        told += pipeline.push(chunk) + pipeline.advance(clock.now_ns())
    busy = [p for p in told if p.reasons == ("overloaded",)]
    assert busy
    assert {p.person for p in busy} <= {"p1", "p2", None}
    assert pipeline.counters.n_dropped_steps > 0
    assert {p.person for p in told if p.status == "ok"} >= {"p1", "p2"}


class Streams:
    """Live ones that are well."""

    def state(self, stream: str) -> str | None:
        return "ok"

    def clock_uncertainty_ns(self, stream: str) -> int | None:
        return 0

    def is_clock_known(self, stream: str) -> bool:
        return True


def _end_ns(chunk: Chunk) -> int:
    return chunk.t_ns + (chunk.n_samples * NS // 8000 if chunk.modality == "audio" else 0)


def test_work_is_counted_to_everybody_who_waited_for_it() -> None:
    class Slow(ManualClock):
        """Every look at it takes a millisecond."""

        def now_ns(self) -> int:
            self.advance_ns(1_000_000)
            return super().now_ns()

    clock, crowd = Slow(), TinyCrowd(10, here={0: range(10), 1: range(10)})
    pipeline = PeoplePipeline(set_up(), crowd.specs, clock, start_ns=0)
    last: list[Prediction] = []
    for chunk in crowd.chunks():
        last = pipeline.push(chunk) or last
    first, second = last[-2:]
    assert (first.person, second.person) == ("p1", "p2")
    for told in (first, second):
        latency = told.latency_ms
        assert latency.wait is not None
        work_ms = latency.preprocess + latency.infer + latency.postprocess
        early_ms = tiny_clip().n_frames  # faces were searched while the step's sound was yet to come
        assert latency.end_to_end == pytest.approx(latency.wait + work_ms - early_ms)
    assert second.latency_ms.end_to_end > first.latency_ms.end_to_end


def test_without_people_records_are_as_ever() -> None:
    crowd = TinyCrowd(6, here={0: range(6)})
    told = play(crowd, set_up(people=None))
    assert [p.person for p in told] == [None] * 6
    assert all("person" not in p.to_dict() for p in told)
    assert told[5].status == "ok"


def test_records_name_their_person() -> None:
    told = play(TinyCrowd(6, here={0: range(6)}), set_up(people=1))
    assert told[-1].to_dict()["person"] == "p1"


def test_those_who_are_gone_leave_nothing() -> None:
    setup = set_up(people=2)
    seats = {person: range(person * 12, person * 12 + 3) for person in range(3)}
    crowd = TinyCrowd(40, here=seats)
    pipeline = PeoplePipeline(setup, crowd.specs, ManualClock())
    for chunk in crowd.chunks():
        pipeline.push(chunk)
    assert pipeline.counters.n_people == 3
    assert pipeline._people == {}
    assert np.count_nonzero(setup.engines["fusion"].inputs["face"]) == 0


@pytest.mark.parametrize("people", [0, -1, MAX_PEOPLE + 1])
def test_so_many_cannot_be_followed(people: int) -> None:
    with pytest.raises(UsageError, match=f"{people} people"):
        set_up(people=people)


def test_a_model_of_whole_pictures_follows_nobody() -> None:
    with pytest.raises(UsageError, match="about all who are in it") as refusal:
        set_up(emotion_model(), people=2)
    assert refusal.value.exit_code == 2


def test_a_model_that_sees_no_faces_follows_nobody() -> None:
    with pytest.raises(UsageError, match="audio, which show no faces"):
        set_up(emotion_model(audio_encoder()), people=2)


def test_steps_of_several_people_are_nobodys() -> None:
    with pytest.raises(UsageError, match="people"):
        PeoplePipeline(set_up(), TinyCrowd(1).specs, ManualClock(), on_step=print)

"""Another pipeline takes over between two hops: nothing is lost; what fails leaves the old one serving."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from edge_mer.clock import ManualClock
from edge_mer.engine.base import Array
from edge_mer.runtime.pipeline import Pipeline, PipelineSetup
from edge_mer.runtime.switching import MOST_TROUBLES, PROBATION_HOPS, SwitchingPipeline, Trial
from edge_mer.types.model import to_ns
from edge_mer.types.predictions import Prediction
from tests.helpers.numpy_engines import mean_of_window, tiny_engines
from tests.helpers.tiny_model import N_STEPS, STEP, tiny_model
from tests.helpers.tiny_session import SquareDetector, TinySession

LONG = 44
SOON_S = 20.0

Fusion = Callable[..., tuple[Array, ...]]


def setup_of(fusion: Fusion = mean_of_window, precision: str = "fp32", **changes: Any) -> PipelineSetup:
    model = tiny_model()
    return PipelineSetup(
        model,
        tiny_engines(model, fusion),
        SquareDetector(),
        precision=precision,
        bundle_id=precision,
        **changes,
    )


def fails_from(n: int, how: Callable[[tuple[Array, ...]], tuple[Array, ...]]) -> Fusion:
    """A fusion that is right so many times."""
    calls = iter(range(10_000))

    def fusion(*inputs: Array) -> tuple[Array, ...]:
        found = mean_of_window(*inputs)
        return found if next(calls) < n else how(found)

    return fusion


def raises(_: tuple[Array, ...]) -> tuple[Array, ...]:
    raise RuntimeError("out of memory")


def not_finite(found: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(np.full_like(one, np.nan) for one in found)


class Played:
    """A session that a test feeds, with what is beside it kept level."""

    def __init__(self, played: TinySession | None = None, *, in_step: bool = True) -> None:
        self.played = played or TinySession(LONG)
        self.predictions: list[Prediction] = []
        self.switching = SwitchingPipeline(self._make, setup_of())
        self._in_step = in_step
        self._chunks: Iterator[Any] = self.played.chunks()

    def _make(self, setup: PipelineSetup, first_step: int) -> Pipeline:
        return Pipeline(setup, self.played.specs, ManualClock(), first_step=first_step)

    def go_on(self, n_hops: int) -> None:
        """Until there are so many more predictions."""
        enough = len(self.predictions) + n_hops
        while len(self.predictions) < enough:
            self.predictions += self.switching.push(next(self._chunks))
            beside = self.switching._beside
            if beside is not None and self._in_step:
                beside.is_level(SOON_S)

    def finish(self) -> None:
        for chunk in self._chunks:
            self.predictions += self.switching.push(chunk)
            beside = self.switching._beside
            if beside is not None and self._in_step:
                beside.is_level(SOON_S)
        self.predictions += self.switching.finish()

    def until(self, trial: Trial, *states: str) -> None:
        for _ in range(LONG):
            if trial.state in states:
                return
            self.go_on(1)
        raise AssertionError(f"{trial.state}: {trial.why}")

    def is_whole(self) -> bool:
        """Whether each hop was told once, in order."""
        hop_ns = [prediction.t_end_ns for prediction in self.predictions]
        numbers = [prediction.window_index for prediction in self.predictions]
        return hop_ns == [to_ns(STEP * (i + 1)) for i in range(LONG)] and numbers == [*range(LONG)]


@pytest.fixture(scope="module")
def undisturbed() -> list[Prediction]:
    one = Played()
    one.finish()
    assert one.is_whole()
    return one.predictions


def estimates(predictions: list[Prediction]) -> list[Any]:
    return [(one.t_end_ns, one.affect, one.status, one.reasons, one.modalities) for one in predictions]


def test_another_takes_over_and_no_number_shows_it(undisturbed: list[Prediction]) -> None:
    one = Played()
    one.go_on(7)
    trial = one.switching.propose(setup_of(precision="new"))
    one.until(trial, "switched")
    assert len(one.predictions) >= 7 + N_STEPS
    one.until(trial, "kept")
    one.finish()
    assert one.is_whole()
    assert estimates(one.predictions) == estimates(undisturbed)
    precisions = [prediction.precision for prediction in one.predictions]
    first = precisions.index("new")
    assert precisions == ["fp32"] * first + ["new"] * (LONG - first)
    assert one.switching.counters.n_steps == LONG
    assert trial.join(SOON_S)


def test_it_counts_on(undisturbed: list[Prediction]) -> None:
    one = Played(TinySession(LONG, silent=(3, 20, 38)))
    one.go_on(7)
    one.until(one.switching.propose(setup_of()), "kept")
    assert one.switching.counters.n_gaps == 2
    one.finish()
    assert one.switching.counters.n_gaps == 3
    assert one.switching.counters.n_steps == LONG


@pytest.mark.parametrize(
    ("fusion", "why"),
    [(fails_from(0, raises), "it fails: out of memory"), (fails_from(2, not_finite), "are not finite")],
)
def test_what_fails_beside_never_serves(undisturbed: list[Prediction], fusion: Fusion, why: str) -> None:
    one = Played()
    one.go_on(5)
    trial = one.switching.propose(setup_of(fusion, "bad"))
    one.finish()
    assert trial.state == "refused"
    assert why in trial.why
    assert trial.join(SOON_S)
    assert one.is_whole()
    assert estimates(one.predictions) == estimates(undisturbed)
    assert {prediction.precision for prediction in one.predictions} == {"fp32"}


@pytest.mark.parametrize(("how", "why"), [(raises, "it fails: out of memory"), (not_finite, "not finite")])
def test_what_fails_on_probation_gives_back_and_loses_nothing(
    undisturbed: list[Prediction], how: Callable[[tuple[Array, ...]], tuple[Array, ...]], why: str
) -> None:
    one = Played()
    one.go_on(5)
    trial = one.switching.propose(setup_of(fails_from(N_STEPS + 6, how), "bad"))
    one.until(trial, "switched")
    one.until(trial, "rolled_back")
    one.finish()
    assert why in trial.why
    assert one.is_whole()
    bad = [index for index, prediction in enumerate(one.predictions) if prediction.precision == "bad"]
    assert bad
    assert bad[-1] - bad[0] == len(bad) - 1 < PROBATION_HOPS
    same = [
        found == expected
        for found, expected in zip(estimates(one.predictions), estimates(undisturbed), strict=True)
    ]
    assert same.count(False) == (how is not_finite)
    assert one.predictions[-1].precision == "fp32"
    assert one.switching.counters.n_steps == LONG - (how is raises)  # one step was never done by who served


def test_what_serves_alone_and_fails_ends_the_session() -> None:
    one = Played()
    trial = one.switching.propose(setup_of(fails_from(PROBATION_HOPS + 20, raises)))
    one.until(trial, "kept")
    with pytest.raises(RuntimeError, match="out of memory"):
        one.finish()


def test_what_is_too_slow_delays_nobody(undisturbed: list[Prediction]) -> None:
    may_go_on = threading.Event()

    def waits(found: tuple[Array, ...]) -> tuple[Array, ...]:
        may_go_on.wait(SOON_S)
        return found

    one = Played(in_step=False)
    one.go_on(5)
    trial = one.switching.propose(setup_of(fails_from(0, waits)))
    one.finish()
    assert (trial.state, trial.why) == ("refused", "it is too slow for this device")
    assert not trial.join(0.01)
    may_go_on.set()
    assert trial.join(SOON_S)
    assert estimates(one.predictions) == estimates(undisturbed)


def test_what_is_overloaded_on_probation_gives_back(undisturbed: list[Prediction]) -> None:
    one = Played()
    one.go_on(5)
    trial = one.switching.propose(setup_of(precision="slow"))
    one.until(trial, "switched")
    serving = one.switching._serving
    push = serving.push

    def overloaded(chunk: Any) -> list[Prediction]:
        return [replace(told, status="withheld", reasons=("overloaded",)) for told in push(chunk)]

    serving.push = overloaded  # type: ignore[method-assign]
    before = len(one.predictions)
    one.until(trial, "rolled_back")
    assert len(one.predictions) - before == MOST_TROUBLES
    one.finish()
    assert one.is_whole()
    assert (
        estimates(one.predictions)[before + MOST_TROUBLES :]
        == estimates(undisturbed)[before + MOST_TROUBLES :]
    )


def test_another_grid_is_numbered_on() -> None:
    one = Played()
    one.go_on(5)
    one.until(one.switching.propose(setup_of(hop=2)), "switched")
    one.finish()
    assert [prediction.window_index for prediction in one.predictions] == [*range(len(one.predictions))]
    ends = [prediction.t_end_ns for prediction in one.predictions]
    assert ends == sorted(set(ends))
    apart = {round((late - early) / to_ns(STEP), 6) for early, late in pairwise(ends)}
    assert apart == {1, 2}
    assert ends[-1] - ends[-5] == pytest.approx(to_ns(8 * STEP), abs=2)
    assert len(one.predictions) < LONG


def test_a_newcomer_waits_while_nothing_can_be_seen() -> None:
    """It may be withheld where the one that serves is, too."""
    one = Played(TinySession(LONG, frameless=range(LONG), silent=range(8, 30)))
    one.go_on(4)
    trial = one.switching.propose(setup_of())
    one.until(trial, "switched")
    assert one.predictions[-1].status != "ok"


def test_there_is_one_change_at_a_time_and_none_after_the_end() -> None:
    one = Played()
    first, second = one.switching.propose(setup_of()), one.switching.propose(setup_of())
    assert (second.state, second.why) == ("refused", "another change is under way")
    one.go_on(1)
    assert first.state == "shadowing"
    assert one.switching.propose(setup_of()).why == "another change is under way"
    one.finish()
    assert (first.state, one.switching.propose(setup_of()).state) == ("kept", "refused")


def test_what_needs_other_streams_is_refused() -> None:
    one = Played(TinySession(LONG, streams=("audio",)))
    model = tiny_model()
    wants_faces = replace(setup_of(), model=model.model_copy(update={"encoders": model.encoders[:1]}))
    one.go_on(2)
    trial = one.switching.propose(wants_faces)
    one.go_on(1)
    assert trial.state == "refused"
    assert "it does not fit this session" in trial.why


def test_whoever_waits_is_told() -> None:
    one = Played()
    trial = one.switching.propose(setup_of())
    found: list[str] = []
    waiting = threading.Thread(target=lambda: found.append(trial.wait_beyond("waiting", "shadowing")))
    waiting.start()
    one.until(trial, "switched")
    waiting.join(SOON_S)
    assert found == ["switched"]

"""One pipeline takes another's place between two hops of a running session, and may have to give it back.

The newcomer first runs beside the one that serves, in a thread of its own and on the same chunks. Once it is
as far and does as well, the two change places: at that moment both have seen the same, so that no hop is lost
or told twice. The one that served before goes on beside it for a while, and takes over again, with nothing
lost either, when the newcomer fails.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from statistics import median
from typing import Literal

from edge_mer.clock import NS_PER_S
from edge_mer.runtime.pipeline import Counters, Pipeline
from edge_mer.runtime.pipeline_setup import PipelineSetup
from edge_mer.runtime.window import Relief
from edge_mer.types.health import StreamHealth
from edge_mer.types.model import to_ns
from edge_mer.types.predictions import Prediction, Status
from edge_mer.types.signals import Chunk

Fed = Chunk | int
"""A chunk, or a live session's time up to which all that came has been given."""

MakePipeline = Callable[[PipelineSetup, int], Pipeline]
"""From what it runs on, and the step that it begins with."""

HOPS_AS_GOOD = 3
"""So many hops one after the other the newcomer must do as well as the one that serves."""

PROBATION_HOPS = 10
"""So many hops it is watched once it serves."""

MOST_TROUBLES = 3
"""Of those so many may be overloaded, if what served before would have had less to do."""

SLOWER = 1.25
"""A newcomer that takes more than so many times as long is slower; less is the machine's own unrest."""

MOST_TRIES = 10
"""So often the newcomer may not be level in time when it is to take over."""

MAX_KEPT = 256
"""Predictions of the one beside that are kept, in case that it has to take over."""

BEHIND_HOPS = 4
"""Whoever is farther behind than so many hops, and `BEHIND_NS`, is too slow."""

BEHIND_NS = 2 * NS_PER_S
PATIENCE_NS = 30 * NS_PER_S
"""Beyond twice its window, a newcomer has so long to do well."""

_HANDOVER_S, _RESCUE_S = 1.0, 10.0
_NICENESS = 5

_COUNTED = tuple(field.name for field in fields(Counters))

State = Literal["waiting", "shadowing", "switched", "kept", "refused", "rolled_back"]


class Trial:
    """How it goes with a newcomer; any thread may look at it, and wait.

    Attributes:
        setup: What it runs on.
        state: "waiting" for the session's next chunk, "shadowing" beside the one that serves, "switched"
            while it serves on probation, then "kept" or "rolled_back"; or "refused".
        why: Why it was refused, rolled back, or not watched to the end.
    """

    def __init__(self, setup: PipelineSetup) -> None:
        self.setup = setup
        self.state: State = "waiting"
        self.why = ""
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    @property
    def is_over(self) -> bool:
        """Whether nothing changes any more."""
        return self.state in ("kept", "refused", "rolled_back")

    def become(self, state: State, why: str = "") -> None:
        """Go on to another state, unless it is over."""
        with self._changed:
            if not self.is_over:
                self.state, self.why = state, why
                self._changed.notify_all()

    def wait_beyond(self, *states: State, timeout_s: float | None = None) -> State:
        """Wait until its state is none of these; returns what it is then, or after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self.state not in states, timeout_s)
            return self.state

    def join(self, timeout_s: float) -> bool:
        """Once it is over: wait until the loser runs no more; True when its engines can be closed."""
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def beside(self, pipeline: Pipeline) -> _Beside:
        """Have a pipeline run beside the one that serves."""
        one = _Beside(pipeline)
        self._threads.append(one.thread)
        return one


class _Beside:
    """A pipeline in a thread of its own, fed with what the serving one is fed with."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.told: deque[Prediction] = deque(maxlen=MAX_KEPT)
        self.failure: Exception | None = None
        self.reached_ns = 0
        self._fed: deque[Fed | threading.Event] = deque()
        self._is_more = threading.Semaphore(0)
        self._is_ending = False
        self.thread = threading.Thread(target=self._work, name="edge-mer beside", daemon=True)
        self.thread.start()

    def feed(self, found: Fed | threading.Event) -> None:
        """Have it take something, later."""
        self._fed.append(found)
        self._is_more.release()

    def is_level(self, timeout_s: float) -> bool:
        """Whether it has done in time what it was fed with so far; if so, it does nothing now."""
        reached = threading.Event()
        self.feed(reached)
        return reached.wait(timeout_s) and self.failure is None

    def stop(self) -> None:
        """Do nothing after what it is doing now."""
        self._is_ending = True
        self._is_more.release()

    def _work(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # Linux: a thread has a niceness of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while self._is_more.acquire() and not self._is_ending:
            one = self._fed.popleft()
            if isinstance(one, threading.Event):
                one.set()
            elif self.failure is None:
                self._take(one)

    def _take(self, found: Fed) -> None:
        try:
            self.told.extend(_fed(self.pipeline, found))
        except Exception as failure:  # the session's thread looks at it
            self.failure = failure
        self.reached_ns = max(self.reached_ns, found if isinstance(found, int) else found.t_ns)


@dataclass(frozen=True)
class _Hop:
    """What a hop came to."""

    t_end_ns: int
    status: Status
    work_ms: float | None

    @classmethod
    def of(cls, prediction: Prediction) -> _Hop:
        """Of a prediction."""
        took, is_worked_on = prediction.latency_ms, "overloaded" not in prediction.reasons
        work_ms = took.preprocess + took.infer + took.postprocess if is_worked_on else None
        return cls(prediction.t_end_ns, prediction.status, work_ms)


class SwitchingPipeline:
    """Feeds the pipeline that serves, and one beside it while there is a trial.

    All but `propose` belongs to the session's thread.

    Args:
        make: Makes a pipeline of this session.
        setup: What serves first.
    """

    def __init__(self, make: MakePipeline, setup: PipelineSetup) -> None:
        self._make, self._setup = make, setup
        self._serving = make(setup, 0)
        self._served_setup = setup
        self._beside: _Beside | None = None
        self._trial: Trial | None = None
        self._proposed: Trial | None = None
        self._lock = threading.Lock()
        self._is_over = False
        self._relief = Relief()
        # In one, for those who ask meanwhile: who counts on, and what is to be added to it.
        self._counting = self._serving, Counters()
        self._now_ns = self._began_ns = 0
        self._last_end_ns, self._last_index = -1, -1
        self._offset: int | None = 0
        self._recent: deque[_Hop] = deque(maxlen=MAX_KEPT)
        self._n_hops = self._n_troubles = 0

    def propose(self, setup: PipelineSetup) -> Trial:
        """Begin a trial of something else; any thread may.

        Returns:
            The trial. While another one is under way, or after the session, it is refused at once. Whoever
            proposed it closes the engines of the loser once the trial is over and was joined.
        """
        trial = Trial(setup)
        with self._lock:
            if self._is_over:
                trial.become("refused", "the session is over")
            elif self._proposed is not None or self._trial is not None:
                trial.become("refused", "another change is under way")
            else:
                self._proposed = trial
        return trial

    def relieve(self, relief: Relief) -> None:
        """Spare the device from the next hop on; any thread may say how."""
        self._relief = relief
        for pipeline in (self._serving, None if (beside := self._beside) is None else beside.pipeline):
            if pipeline is not None:
                pipeline.relieve(relief)

    # -- what a session does with it ---------------------------------------------------------------

    def push(self, chunk: Chunk) -> list[Prediction]:
        """Take a chunk; returns the predictions that it completes."""
        self._now_ns = max(self._now_ns, chunk.t_ns)
        return self._feed(chunk)

    def advance(self, now_ns: int) -> list[Prediction]:
        """Let a live session's time go on; returns the predictions that are due."""
        self._now_ns = max(self._now_ns, now_ns)
        return self._feed(now_ns)

    def finish(self) -> list[Prediction]:
        """The session is over: the predictions of the last whole steps; no trial goes on."""
        self.abandon()
        return self._told(self._serving.finish())

    def abandon(self) -> None:
        """The session is over, and with it whatever trial there is."""
        with self._lock:
            self._is_over = True
            proposed, self._proposed = self._proposed, None
        if proposed is not None:
            proposed.become("refused", "the session is over")
        if self._trial is not None:
            self._end_trial("kept" if self._trial.state == "switched" else "refused", "the session is over")

    @property
    def counters(self) -> Counters:
        """What all that served have counted; any thread may ask."""
        serving, before = self._counting
        return _sum(before, serving.counters)

    def health(self) -> tuple[StreamHealth, ...]:
        """How each stream is doing."""
        return self._serving.health()

    # -- within ------------------------------------------------------------------------------------

    def _feed(self, found: Fed) -> list[Prediction]:
        if self._proposed is not None:
            self._begin()
        if self._beside is not None:
            self._beside.feed(found)
        try:
            predictions = self._told(_fed(self._serving, found))
        except Exception as failure:
            predictions = self._rescued(failure)
        if self._trial is not None and self._beside is not None:
            predictions += self._watched(self._trial, self._beside, predictions)
        return predictions

    def _begin(self) -> None:
        """Let the newcomer run beside the one that serves, from the next hop on."""
        with self._lock:
            trial, self._proposed = self._proposed, None
            self._trial = trial
        if trial is None:
            return
        first_step = (self._now_ns // _hop_ns(trial.setup) + 1) * trial.setup.hop_steps
        try:
            newcomer = self._make(trial.setup, first_step)
            newcomer.relieve(self._relief)
            self._beside = trial.beside(newcomer)
        except Exception as error:
            self._end_trial("refused", f"it does not fit this session: {error}")
            return
        self._began_ns = self._now_ns
        self._n_hops = self._n_troubles = 0
        self._recent.clear()
        trial.become("shadowing")

    def _end_trial(self, state: State, why: str = "") -> None:
        trial, self._trial = self._trial, None
        beside, self._beside = self._beside, None
        if beside is not None:
            beside.stop()
        if trial is not None:
            trial.become(state, why)

    def _watched(self, trial: Trial, beside: _Beside, predictions: list[Prediction]) -> list[Prediction]:
        self._recent.extend(map(_Hop.of, predictions))
        if trial.state == "switched":
            return self._on_probation(beside, predictions)
        if why := self._why_hopeless(trial.setup, beside):
            self._end_trial("refused", why)
        elif predictions and self._does_as_well(beside):
            if beside.is_level(self._patience_s()):
                told = self._changed_places(trial.setup, beside)
                trial.become("switched")
                return told
            self._n_troubles += 1
            if self._n_troubles >= MOST_TRIES:
                self._end_trial("refused", "it is too slow for this device")
        return []

    def _on_probation(self, beside: _Beside, predictions: list[Prediction]) -> list[Prediction]:
        reasons = [reason for prediction in predictions for reason in prediction.reasons]
        self._n_hops += len(predictions) > 0
        self._n_troubles += "overloaded" in reasons
        why = ""
        if "output_not_finite" in reasons:
            why = "its outputs are not finite"
        elif self._n_troubles >= MOST_TROUBLES and self._is_slower(beside):
            why = "it is too slow for this device"
        if why and beside.is_level(self._patience_s()):
            return self._gone_back(beside, why)
        if beside.failure is not None or self._is_behind(self._setup, beside):
            self._end_trial("kept", "nothing was left to go back to")
        elif not why and self._n_hops >= PROBATION_HOPS:
            self._end_trial("kept")
        return []

    def _is_slower(self, beside: _Beside) -> bool:
        """Whether what serves has more to do than what served before."""
        own_ms = [hop.work_ms for hop in self._recent if hop.work_ms is not None]
        before_ms = [ms for one in tuple(beside.told) if (ms := _Hop.of(one).work_ms) is not None]
        return not own_ms or not before_ms or median(own_ms) > SLOWER * median(before_ms)

    def _rescued(self, failure: Exception) -> list[Prediction]:
        """What served has failed: who served before does it, if there is one.

        Raises:
            Exception: The failure, if not.
        """
        beside = self._beside
        on_probation = self._trial is not None and self._trial.state == "switched"
        if beside is None or not on_probation or not beside.is_level(_RESCUE_S):
            raise failure
        return self._gone_back(beside, f"it fails: {failure}")

    def _gone_back(self, beside: _Beside, why: str) -> list[Prediction]:
        told = self._changed_places(None, beside)
        self._end_trial("rolled_back", why)
        return told

    def _changed_places(self, newcomer: PipelineSetup | None, beside: _Beside) -> list[Prediction]:
        """Both have done the same: the one beside serves now; the one that served goes on beside it.

        Args:
            newcomer: What the one beside runs on; None: what served before.
            beside: It is level.
        """
        beside.stop()
        retired, self._serving = self._serving, beside.pipeline
        self._counting = self._serving, _sum(self.counters, self._serving.counters, sign=-1)
        before = self._setup
        if newcomer is None:
            self._setup, self._beside = self._served_setup, None
        else:
            self._setup, self._served_setup = newcomer, self._setup
            self._beside = None if self._trial is None else self._trial.beside(retired)
        if _hop_ns(before) != _hop_ns(self._setup):
            self._offset = None
        self._n_hops = self._n_troubles = 0
        self._began_ns = self._now_ns
        self._recent.clear()
        return self._told([one for one in beside.told if one.t_end_ns > self._last_end_ns])

    def _why_hopeless(self, setup: PipelineSetup, beside: _Beside) -> str:
        """Why a newcomer will never serve; "" if it may."""
        if beside.failure is not None:
            return f"it fails: {beside.failure}"
        told = tuple(beside.told)
        if any("output_not_finite" in prediction.reasons for prediction in told):
            return "its outputs are not finite"
        if self._is_behind(setup, beside):
            return "it is too slow for this device"
        window_ns = to_ns(setup.model.step * setup.model.fusion.n_steps)
        if self._now_ns - self._began_ns > 2 * window_ns + HOPS_AS_GOOD * _hop_ns(setup) + PATIENCE_NS:
            reasons = ", ".join(told[-1].reasons) if told else ""
            return f"it does worse than what serves: {reasons or 'it says nothing'}"
        return ""

    def _is_behind(self, setup: PipelineSetup, beside: _Beside) -> bool:
        behind_ns = self._now_ns - max(beside.reached_ns, self._began_ns)
        return behind_ns > max(BEHIND_HOPS * _hop_ns(setup), BEHIND_NS)

    def _does_as_well(self, beside: _Beside) -> bool:
        """Whether its last hops are no worse than those of the one that serves."""
        last = tuple(beside.told)[-HOPS_AS_GOOD:]
        own = {hop.t_end_ns: hop.status for hop in self._recent}
        newest = self._recent[-1].status if self._recent else "withheld"  # of another grid
        return len(last) == HOPS_AS_GOOD and all(
            "warming_up" not in prediction.reasons
            and (prediction.status != "withheld" or own.get(prediction.t_end_ns, newest) == "withheld")
            for prediction in last
        )

    def _patience_s(self) -> float:
        """How long data may wait for a newcomer to catch up."""
        return min(_HANDOVER_S, _hop_ns(self._setup) / NS_PER_S / 2)

    def _told(self, predictions: list[Prediction]) -> list[Prediction]:
        """The same, numbered on."""
        told: list[Prediction] = []
        for prediction in predictions:
            if self._offset is None:
                self._offset = self._last_index + 1 - prediction.window_index
            index = prediction.window_index + self._offset
            self._last_end_ns, self._last_index = prediction.t_end_ns, index
            told.append(replace(prediction, window_index=index) if self._offset else prediction)
        return told


def _sum(one: Counters, other: Counters, sign: int = 1) -> Counters:
    """All that both counted; with a `sign` of -1, what the other did not."""
    return Counters(*(getattr(one, name) + sign * getattr(other, name) for name in _COUNTED))


def _fed(pipeline: Pipeline, found: Fed) -> list[Prediction]:
    return pipeline.advance(found) if isinstance(found, int) else pipeline.push(found)


def _hop_ns(setup: PipelineSetup) -> int:
    return to_ns(setup.model.step * setup.hop_steps)

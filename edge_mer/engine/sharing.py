"""One engine for many sessions: each has its own buffers; what they want at once may run as a batch."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge_mer.clock import NS_PER_S, Clock
from edge_mer.engine.base import Array, Engine

OFFLINE_BATCH = 8
"""The largest batch of work that is not live: evaluations and papers' protocols."""


def batch_sizes(most: int) -> tuple[int, ...]:
    """Sizes that batches may have: powers of two up to `most`, so that each of them can be proven."""
    return tuple(1 << power for power in range(most.bit_length()))


def parts(n: int, most: int) -> Iterator[slice]:
    """Cuts `n` rows into batches of those sizes, the largest first."""
    first = 0
    for size in reversed(batch_sizes(most)):
        while n - first >= size:
            yield slice(first, first + size)
            first += size


def takes_batches(engine: Engine) -> bool:
    """Whether rows of several sessions may be put together along the first axis of every tensor."""
    return all(spec.shape[:1] == ("batch",) for spec in (*engine.input_specs, *engine.output_specs))


class SharedRuns:
    """An engine that many sessions run, each on its own thread and alone.

    Args:
        engine: The engine; closed with this.
        guard: Held while it runs.
    """

    def __init__(self, engine: Engine, guard: AbstractContextManager[Any]) -> None:
        self.engine = engine
        self._guard = guard

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """What the engine makes of a session's tensors."""
        with self._guard:
            return self.engine.run(feed)

    def join(self) -> None:
        """One session more."""

    def leave(self) -> None:
        """One session less."""

    def close(self) -> None:
        """Close the engine, once no session uses it any more. Twice does no harm."""
        with self._guard:
            self.engine.close()


@dataclass(eq=False)
class _Request:
    """A session's tensors that wait for the engine, and what came of them."""

    feed: Mapping[str, Array]
    since_ns: int
    woken: threading.Event = field(default_factory=threading.Event)
    outputs: dict[str, Array] | None = None
    failure: BaseException | None = None

    @property
    def is_answered(self) -> bool:
        """Whether something came of them."""
        return self.outputs is not None or self.failure is not None


class Batcher(SharedRuns):
    """An engine whose sessions' tensors are put together while they wait.

    Who comes while the engine is free runs it, on its own thread, for all who wait by then: at once, or when
    all sessions wait, the largest batch is full, or `max_wait_ns` are over. Who comes meanwhile waits, and
    the first of them runs the next batch. Batches have the sizes of `batch_sizes`: three who wait run as two
    and one. What fails, fails for those in its batch.

    Tensors of another shape than the engine's buffers, such as a window that is not full yet, run alone.

    Args:
        engine: The engine; closed with this.
        guard: Held while it runs.
        max_batch: Of the largest batch.
        max_wait_ns: So long the first one waits for others, while the engine is free.
        clock: What that is taken from.
    """

    def __init__(
        self,
        engine: Engine,
        guard: AbstractContextManager[Any],
        max_batch: int,
        max_wait_ns: int,
        clock: Clock,
    ) -> None:
        super().__init__(engine, guard)
        self._max_batch, self._max_wait_ns, self._clock = max_batch, max_wait_ns, clock
        self._room = {
            name: np.empty((max_batch, *array.shape[1:]), array.dtype)
            for name, array in engine.inputs.items()
        }
        self._changed = threading.Condition()
        self._waiting: deque[_Request] = deque()
        self._is_led = False
        self._n_sessions = 0

    def join(self) -> None:
        """One session more, which may be waited for."""
        with self._changed:
            self._n_sessions += 1

    def leave(self) -> None:
        """One session less: nobody waits for it any more."""
        with self._changed:
            self._n_sessions -= 1
            self._changed.notify()

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """What the engine makes of a session's tensors, alone or beside others'."""
        if any(feed[name].shape != array.shape for name, array in self.engine.inputs.items()):
            return super().run(feed)
        request = _Request(feed, self._clock.now_ns())
        with self._changed:
            self._waiting.append(request)
            leads, self._is_led = not self._is_led, True
            self._changed.notify()
        if not leads:
            request.woken.wait()  # answered, or to lead
        if not request.is_answered:
            self._lead(request)
        if request.failure is not None:
            raise request.failure
        return request.outputs or {}

    def _lead(self, own: _Request) -> None:
        """Run the engine for all who wait, who came after `own`."""
        try:
            self._gather()
            with self._guard:
                together = self._take()
                for part in parts(len(together), self._max_batch):
                    self._answer(together[part])
        finally:
            self._hand_over(own)

    def _gather(self) -> None:
        """Return once nobody who waits need wait any longer."""
        with self._changed:
            until_ns = self._waiting[0].since_ns + self._max_wait_ns
            while not self._are_all_here() and (left_ns := until_ns - self._clock.now_ns()) > 0:
                self._changed.wait(left_ns / NS_PER_S)

    def _are_all_here(self) -> bool:
        return len(self._waiting) >= min(self._max_batch, self._n_sessions)

    def _take(self) -> list[_Request]:
        with self._changed:
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_batch))]

    def _answer(self, together: Sequence[_Request]) -> None:
        try:
            outputs = self.engine.run(self._stacked(together))
            for row, request in enumerate(together):
                request.outputs = {name: array[row : row + 1] for name, array in outputs.items()}
        except BaseException as failure:  # each of them raises it
            for request in together:
                request.failure = failure
        finally:
            for request in together:
                request.woken.set()

    def _stacked(self, together: Sequence[_Request]) -> Mapping[str, Array]:
        if len(together) == 1:
            return together[0].feed
        n = len(together)
        return {
            name: np.concatenate([request.feed[name] for request in together], out=room[:n])
            for name, room in self._room.items()
        }

    def _hand_over(self, own: _Request) -> None:
        """Have the first who waits lead, also where the leader was interrupted before it ran anything."""
        with self._changed:
            if own in self._waiting:
                self._waiting.remove(own)
            self._is_led = bool(self._waiting)
            if self._waiting:
                self._waiting[0].woken.set()


class SharedEngine(Engine):
    """A shared engine as one session sees it: with buffers of its own.

    Args:
        runs: Of the engine.
    """

    def __init__(self, runs: SharedRuns) -> None:
        engine = runs.engine
        super().__init__(engine.stage, engine.input_specs, engine.output_specs, engine.sizes)
        self.name = engine.name
        self._runs: SharedRuns | None = runs
        runs.join()

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        if self._runs is None:
            raise RuntimeError(f"stage {self.stage} was closed")
        return self._runs.run(feed)

    def close(self) -> None:
        """Leave the engine to the others. Twice does no harm."""
        runs, self._runs = self._runs, None
        if runs is not None:
            runs.leave()

"""A bundle's engines, opened once for many sessions."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any

from edge_mer.bundle.read import Bundle
from edge_mer.clock import Clock
from edge_mer.engine.base import Engine
from edge_mer.engine.sharing import Batcher, SharedEngine, SharedRuns, takes_batches
from edge_mer.errors import UsageError
from edge_mer.runtime.front import CpuFrontEnd
from edge_mer.runtime.pipeline_setup import Closeable, PipelineSetup
from edge_mer.runtime.target import Choice


class SharedModel:
    """Engines that many sessions run on, made by `edge_mer.open_model`.

    `edge_mer.open_session` takes it in a bundle's place. The sessions hold the weights once between them, and
    steps that they want encoded at the same time may run as one batch; their numbers are those of a session
    alone. What fails in one session ends that one; what fails in a batch ends those whose steps were in it.

    Use it as a context manager. Leaving it closes the sessions that are still open, then the engines.

    Args:
        bundle: What it runs.
        setup: Its engines.
        choice: How they run.
        was_built: As of `Opened`.
        max_batch: Stage -> the largest batch; a stage that is not named runs every session's tensors alone.
        max_wait_ns: So long a session's tensors wait for others' at most while an engine is free.
        clock: What that is taken from.
    """

    def __init__(
        self,
        bundle: Bundle,
        setup: PipelineSetup,
        choice: Choice,
        was_built: bool,
        max_batch: Mapping[str, int],
        max_wait_ns: int,
        clock: Clock,
    ) -> None:
        self._bundle, self._setup, self._choice, self._was_built = bundle, setup, choice, was_built
        self._max_batch = {
            stage: max_batch.get(stage, 1) if takes_batches(engine) else 1
            for stage, engine in setup.engines.items()
        }
        self._sessions: weakref.WeakSet[Closeable] = weakref.WeakSet()
        self._is_closed = False
        guards = guards_of(setup.engines)
        self._runs = {
            stage: SharedRuns(engine, guards[stage])
            if self._max_batch[stage] == 1
            else Batcher(engine, guards[stage], self._max_batch[stage], max_wait_ns, clock)
            for stage, engine in setup.engines.items()
        }

    @property
    def bundle(self) -> Bundle:
        """What it runs."""
        return self._bundle

    @property
    def precision(self) -> str:
        """The candidate that it runs, e.g. "fp32"."""
        return self._choice.precision

    @property
    def max_batch(self) -> dict[str, int]:
        """Stage -> how many sessions' tensors may run as one batch; 1: each runs alone."""
        return dict(self._max_batch)

    def lend(self) -> tuple[PipelineSetup, Choice, bool]:
        """Engines for one session more, as `open_chosen` gives them; closing them leaves the others theirs.

        What is shared is written by the processor, also where a GPU runs it.

        Raises:
            UsageError: The model was closed.
        """
        if self._is_closed:
            raise UsageError("this model was closed", hint="open sessions inside its `with` block")
        engines = {stage: SharedEngine(runs) for stage, runs in self._runs.items()}
        setup = replace(self._setup, engines=engines, resources=(), front_end=CpuFrontEnd())
        return setup, self._choice, self._was_built

    def close_with(self, session: Closeable) -> None:
        """Have a session closed when the model is."""
        self._sessions.add(session)

    def close(self) -> None:
        """Close the sessions that are still open, then the engines. Twice does no harm.

        Raises:
            EdgeMerError: What ended a session early, if nobody was told yet.
        """
        self._is_closed = True
        failures: list[BaseException] = []
        for session in list(self._sessions):
            try:
                session.close()
            except Exception as failure:  # the other sessions, and the engines, are closed all the same
                failures.append(failure)
        for runs in self._runs.values():
            runs.close()
        self._setup.close()
        if failures:
            raise failures[0]

    def __enter__(self) -> SharedModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception:
            if error is None:  # else what left the block counts
                raise


def guards_of(engines: Mapping[str, Engine]) -> dict[str, AbstractContextManager[Any]]:
    """Stage -> what is held while its engine runs: nothing, or a lock, one for all that share a GPU."""
    locks: dict[int, threading.Lock] = {}
    return {
        stage: nullcontext()
        if engine.exclusive is None
        else locks.setdefault(id(engine.exclusive), threading.Lock())
        for stage, engine in engines.items()
    }

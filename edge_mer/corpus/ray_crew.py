"""Workers on a Ray cluster, or on one that is started here for the purpose."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2

from edge_mer.corpus.crew import Crew, Done, Given, Result, Worker, attempt
from edge_mer.engine.threads import available_threads, limit_threads
from edge_mer.errors import EdgeMerError, MissingError, UsageError

MAX_DEATHS = 3
"""A job on which so many workers died is at fault itself."""

HERE = "local"
AUTO = "auto"

_LOOK_S = 1.0
_REACH_S, _JOIN_S = 5.0, 60.0
_JOIN = "import sys, ray; ray.init(address=sys.argv[1], logging_level='ERROR')"
_STORE_BYTES = 256 << 20


class RayCrew(Crew):
    """Workers that are actors, each on one processor, with one thread for its engines.

    A worker that dies is replaced, and its job done again.

    Args:
        address: Of the cluster; "auto": the one that this machine belongs to, or else one that is started
            here; "local": one that is started here.
        n_workers: How many; None: one for each processor.

    Raises:
        MissingError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str = AUTO, n_workers: int | None = None) -> None:
        self._ray = _ray()
        if n_workers is not None and n_workers < 1:
            raise UsageError("a crew needs a worker", expected="1 or more", found=str(n_workers))
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            self._join(address, n_workers)
        n_processors = int(self._ray.cluster_resources().get("CPU", 1))
        self.n_workers = n_workers or max(1, n_processors)
        self.n_replaced = 0
        self._make: Callable[[], Worker[Any, Any]] | None = None
        self._idle: list[Any] = []

    def _join(self, address: str, n_workers: int | None) -> None:
        if address not in (AUTO, HERE):
            _demand_somebody(address)
        quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        if address != HERE:
            try:
                self._ray.init(address=address, **quiet)
                return
            except (ConnectionError, RuntimeError, ValueError) as error:
                if address != AUTO:
                    raise _nobody(address, str(error)) from error
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # not one that another writes
        self._ray.init(
            address="local",
            num_cpus=max(n_workers or 1, available_threads()),
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            **quiet,
        )

    def each(
        self, make: Callable[[], Worker[Given, Result]], jobs: Sequence[Given]
    ) -> Iterator[Done[Result]]:
        """All at once, as many as there are workers; the first jobs first."""
        ray, errors = self._ray, self._ray.exceptions
        self._prepare(make)
        waiting, deaths = deque(range(len(jobs))), Counter[int]()
        busy: dict[Any, tuple[Any, int]] = {}

        def begin(actor: Any) -> None:
            number = waiting.popleft()
            busy[actor.do.remote(number, jobs[number])] = actor, number

        try:
            for _ in range(min(self.n_workers, len(jobs))):
                begin(self._hire())
            while busy:
                for reference in ray.wait(list(busy), num_returns=1, timeout=_LOOK_S)[0]:
                    actor, number = busy.pop(reference)
                    try:
                        found: Done[Result] | None = ray.get(reference)
                    except errors.RayTaskError as error:
                        ray.kill(actor)
                        raise error.cause if isinstance(error.cause, EdgeMerError) else error from None
                    except errors.RayError as death:
                        ray.kill(actor)
                        self.n_replaced += 1
                        deaths[number] += 1
                        found = Done(number, None, _fatal(death)) if deaths[number] == MAX_DEATHS else None
                        if found is None:
                            waiting.appendleft(number)
                        actor = self._hire() if waiting else None
                    if waiting:
                        begin(actor)
                    elif actor is not None:
                        self._idle.append(actor)
                    if found is not None:
                        yield found
        finally:
            for actor, _ in busy.values():
                ray.kill(actor)

    def _prepare(self, make: Callable[[], Worker[Any, Any]]) -> None:
        """Workers that were made in the same way go on."""
        if make is self._make:
            return
        self._dismiss()
        self._make, self._how = make, self._ray.put(make)
        self._kind = self._ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Actor)

    def _hire(self) -> Any:
        return self._idle.pop() if self._idle else self._kind.remote(self._how)

    def _dismiss(self) -> None:
        while self._idle:
            self._ray.kill(self._idle.pop())
        self._make = None

    def close(self) -> None:
        """Dismiss the workers and leave the cluster; stop it where it was started here."""
        if self._ray.is_initialized():
            self._dismiss()
        if self._is_ours and self._ray.is_initialized():
            self._ray.shutdown()


class _Actor:
    """A worker in a process of its own; it is made when its first job comes."""

    def __init__(self, make: Callable[[], Worker[Any, Any]]) -> None:
        limit_threads(1)
        cv2.setNumThreads(1)
        self._make = make
        self._worker: Worker[Any, Any] | None = None

    def do(self, number: int, job: Any) -> Done[Any]:
        if self._worker is None:
            self._worker = self._make()
        return attempt(self._worker, number, job)


def _demand_somebody(address: str) -> None:
    """Refuse soon what Ray would wait ten minutes for, in a process that can be ended."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(
            f"{address} is no address of a cluster",
            expected="HOST:PORT, auto or local",
            hint="the default port of a cluster's head is 6379",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_S).close()
        subprocess.run(  # noqa: S603 -- this very Python
            [sys.executable, "-c", _JOIN, address],
            check=True,
            timeout=_JOIN_S,
            capture_output=True,
            text=True,
        )
    except (OSError, OverflowError) as error:
        raise _nobody(address, str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise _nobody(address, f"something that does not answer as Ray does in {_JOIN_S:g} s") from error
    except subprocess.CalledProcessError as error:
        raise _nobody(address, (error.stderr.strip().splitlines() or ["nothing"])[-1]) from error


def _nobody(address: str, found: str) -> MissingError:
    return MissingError(
        f"no Ray cluster answers at {address}",
        found=found.split("\n", maxsplit=1)[0],
        hint="start one (ray start --head), copy its ~/.ray/auth_token here, or give local",
    )


def _fatal(death: Exception) -> str:
    why = str(death).strip().split("\n", maxsplit=1)[0]
    return f"the worker died {MAX_DEATHS} times on it. Found: {why}"


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if "ray" not in sys.modules:  # which reads it once
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # it listens to everybody, and runs what it is told
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        raise MissingError(
            "a cluster needs Ray", found=f"no module {error.name}", hint="pip install 'edge-mer[ray]'"
        ) from error
    return ray

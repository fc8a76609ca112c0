"""Stages that a server runs: found right before they are used, and watched while they are.

A server may be gone, and what comes back in its place may be another model. So it is held against the golden
sessions of the bundle before its first number counts, again whenever it was lost, and in between a few
recorded runs are repeated. All of this has connections of its own, and a thread that no session waits for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from edge_mer.bundle.manifest import candidate_of
from edge_mer.bundle.read import Bundle
from edge_mer.engine.standby import Connection, Server, StandbyEngine
from edge_mer.errors import AwayError, EdgeMerError, ParityError
from edge_mer.runtime.batches import Feed, encoded, off_by, windows_of
from edge_mer.runtime.pipeline import StepTrace
from edge_mer.runtime.pipeline_setup import PipelineSetup
from edge_mer.runtime.proof import expected_errors, golden_sessions, streaming_proof
from edge_mer.runtime.setup import assets_of
from edge_mer.types.health import ServerHealth
from edge_mer.types.model import ModelSpec, Words

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0
"""Before the server is called again; each pause is twice the one before."""

CALM_S = 10.0
"""A server that served for less before it was lost is called with longer and longer pauses, too."""

LOOK_AGAIN_S = 30.0
"""So often recorded runs are repeated while the server serves."""

_NICENESS = 5
_CLOSE_S = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """A run of a stage, when the server was found right.

    Attributes:
        stage: Which.
        feed: What went in.
        made: What came out.
    """

    stage: str
    feed: Feed
    made: Feed


class Prover:
    """Holds what a server gives against a bundle's golden sessions.

    Args:
        bundle: Holds them.
        precision: What the server runs.
    """

    def __init__(self, bundle: Bundle, precision: str) -> None:
        self._manifest, self._precision = bundle.manifest, precision
        self._assets = assets_of(bundle)
        self._sessions = partial(golden_sessions, bundle.manifest, bundle.read_arrays)
        self._expected = expected_errors(bundle.manifest, precision)

    def prove(self, connection: Connection) -> list[Sample]:
        """Play the golden sessions on a server; returns some of its runs.

        Raises:
            AwayError: It did not answer all of it in time.
            ParityError: Its numbers are not the bundle's.
        """
        model = self._manifest.model
        setup = PipelineSetup(model, connection.engines, None, assets=self._assets)
        proof = streaming_proof(setup, self._manifest.golden, self._sessions(), self._expected)
        if connection.failure is not None:
            raise connection.failure
        proof.demand(f"what the inference server makes of the golden sessions, as {self._precision}")
        return list(_samples(model, connection, [trace for one in proof.traces for trace in one]))

    def look_again(self, connection: Connection, samples: list[Sample]) -> None:
        """Repeat recorded runs.

        Raises:
            AwayError: It did not answer in time.
            ParityError: Its numbers are not those of then.
        """
        tolerances, deviation = self._manifest.model.tolerances, self._deviations()
        exact = self._expected is None
        for one in samples:
            found = connection.engines[one.stage].run(one.feed)
            for name, made in one.made.items():
                largest, rms = off_by(found[name], made, deviation[one.stage, name])
                if (largest if exact else rms) > (tolerances.parity if exact else tolerances.int8_drift):
                    raise ParityError(
                        f"stage {one.stage} of the inference server gives other numbers than before",
                        found=f"{name} off by {largest:.3g} standard deviations",
                    )

    def _deviations(self) -> dict[tuple[str, str], float]:
        """Stage and tensor -> how much it varies."""
        model, told = self._manifest.model, self._manifest.golden.deviation
        outputs = zip(model.outputs, model.fusion.outputs, strict=True)
        features = {(one.stage, one.output.name): told[f"feature.{one.stage}"] for one in model.encoders}
        return features | {(model.fusion.stage, spec.name): told[output.name] for output, spec in outputs}


def _samples(model: ModelSpec, connection: Connection, traces: list[StepTrace]) -> Iterator[Sample]:
    """The last run of each stage, but of words."""
    for encoder in model.encoders:
        if not isinstance(encoder.preprocess, Words) and (rows := encoded(encoder, traces)):
            yield Sample(encoder.stage, *rows[-1])
    windows = list(windows_of(model, traces))
    if windows:
        fusion = model.fusion.stage
        yield Sample(fusion, windows[-1], connection.engines[fusion].run(windows[-1]))


class ServerWatch:
    """Calls a server, has it proven, and calls it again when it was lost, on a thread of its own.

    Args:
        server: Whom.
        model: Declares the stages.
        prover: Finds out whether its numbers are right.
        fallback: Name of what runs in its place; "" where nothing does.
    """

    def __init__(self, server: Server, model: ModelSpec, prover: Prover, fallback: str) -> None:
        self._server, self._model, self._prover, self._fallback = server, model, prover, fallback
        self._connection: Connection | None = None
        self._samples: list[Sample] = []
        self._state: Literal["ok", "away", "refused"] = "away"
        self._why = "nobody was called yet"
        self._n_lost = self._n_stood_in = 0
        self._since_s, self._pause_s = -CALM_S, FIRST_PAUSE_S
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="edge-mer server watch", daemon=True)

    @property
    def connection(self) -> Connection | None:
        """The server, if it is there and its numbers were found right."""
        return self._connection

    def health(self) -> ServerHealth:
        """How it is; any thread may ask."""
        with self._lock:
            return ServerHealth(
                self._server.shown, self._state, self._why, self._fallback, self._n_lost, self._n_stood_in
            )

    def begin(self) -> None:
        """Call it, and have it proven; then watch it until `close`.

        Raises:
            AwayError: It is not there, and nothing runs in its place.
            MissingError: It has not what is needed.
            ParityError: Its numbers are not the bundle's.
        """
        try:
            self._call()
        except AwayError as why:
            if not self._fallback:
                raise
            self._note("away", why)
        self._thread.start()

    def lost(self, connection: Connection, why: EdgeMerError) -> None:
        """It gave no good answer; never waits."""
        with self._lock:
            if self._connection is not connection:
                return
            self._connection = None
            self._n_lost += 1
        connection.close()
        self._note("refused" if isinstance(why, ParityError) else "away", why)
        self._woken.set()

    def stood_in(self) -> None:
        """A stage was not run by the server."""
        with self._lock:
            self._n_stood_in += 1

    def close(self) -> None:
        """Watch no longer, and hang up. Twice does no harm."""
        self._closed.set()
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_S)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _note(self, state: Literal["ok", "away", "refused"], why: EdgeMerError | None = None) -> None:
        text = "" if why is None else str(why)
        with self._lock:
            is_new = (state, text) != (self._state, self._why)
            self._state, self._why = state, text
        if is_new and state == "ok":
            _log.info("%s runs the stages: its numbers are the bundle's.", self._server.shown)
        elif is_new:
            place = f"{self._fallback} runs in its place" if self._fallback else "predictions are withheld"
            _log.info("%s is not used, and %s: %s", self._server.shown, place, text)

    def _call(self) -> None:
        connection = self._server.connect(self._model)
        try:
            self._samples = self._prover.prove(connection)
        except BaseException:
            connection.close()
            raise
        self._note("ok")
        self._since_s = time.monotonic()
        with self._lock:
            self._connection = connection
        if self._closed.is_set():  # meanwhile
            connection.close()

    # -- on the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # Linux: a thread has a niceness of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while not self._closed.is_set():
            if (connection := self._connection) is None:
                self._call_until_there()
            elif not self._pause(LOOK_AGAIN_S):
                self._look_again(connection)

    def _pause(self, seconds: float) -> bool:
        """Wait; True if there is something to do before that."""
        is_woken = self._woken.wait(seconds)
        self._woken.clear()
        return is_woken

    def _call_until_there(self) -> None:
        if time.monotonic() - self._since_s > CALM_S:
            self._pause_s = FIRST_PAUSE_S
        while not self._closed.is_set():
            self._pause(self._pause_s)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            if self._closed.is_set():
                return
            try:
                self._call()
                return
            except AwayError as why:
                self._note("away", why)
            except EdgeMerError as why:
                self._note("refused", why)
            except Exception as bug:  # else nobody would ever call it again
                _log.exception("calling %s failed", self._server.shown)
                self._note("away", AwayError(f"calling it failed: {bug!r}"))

    def _look_again(self, serving: Connection) -> None:
        """Whether its numbers are still those of then; that it is away, sessions find out themselves."""
        with contextlib.suppress(AwayError):
            connection: Connection | None = None
            try:
                connection = self._server.connect(self._model)
                self._prover.look_again(connection, self._samples)
            except AwayError:
                raise
            except EdgeMerError as why:
                self.lost(serving, why)
            finally:
                if connection is not None:
                    connection.close()


def open_remote(bundle: Bundle, server: Server, own: PipelineSetup | None) -> PipelineSetup:
    """Engines that a server runs, and this device while it is away.

    Args:
        bundle: What the server is to serve.
        server: Not called yet.
        own: What stands in for it on this device, closed with what is returned; None: nothing does.

    Raises:
        AwayError: It is not there, and nothing is to stand in for it.
        MissingError: It has not what is needed.
        ParityError: Its numbers are not the bundle's.
    """
    model = bundle.manifest.model
    stand_ins = {} if own is None else own.engines
    fallback = "" if own is None else f"{own.engine_name} in {own.precision}"
    precision = server.precision if own is None else own.precision
    watch = ServerWatch(server, model, Prover(bundle, server.precision), fallback)
    engines = {
        stage: StandbyEngine(model, stage, server.name, watch, stand_ins.get(stage), precision)
        for stage in model.stages
    }
    watch.begin()
    return PipelineSetup(
        model=model,
        engines=engines,
        detector=None,
        engine_name=server.name,
        precision=server.precision,
        bundle_id=bundle.bundle_id,
        assets=assets_of(bundle),
        findings=bundle.manifest.candidates[candidate_of(server.precision)].findings,
        resources=(watch,) if own is None else (watch, own),
        server=watch,
    )

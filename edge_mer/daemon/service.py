"""The process that captures and infers: keeps a session going, and tells whoever is connected."""

from __future__ import annotations

import itertools
import logging
import os
import queue
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import edge_mer
from edge_mer.alarms.outputs import check_rules
from edge_mer.audit import AUDIT_NAME, AuditLog
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.clock import NS_PER_S, Clock
from edge_mer.config import DaemonConfig, read_config
from edge_mer.daemon.alarm_desk import AlarmDesk, alarm_id_in
from edge_mer.daemon.check import opened, problems
from edge_mer.daemon.everybody import Everybody
from edge_mer.daemon.health import (
    Latencies,
    Reported,
    told_of_machine,
    told_of_model,
    told_of_server,
    told_of_session,
)
from edge_mer.daemon.notify import Notifier
from edge_mer.daemon.relief import ReliefDesk
from edge_mer.daemon.store import BundleStore
from edge_mer.daemon.swap import Swaps, SwapState
from edge_mer.errors import BundleError, DataError, EdgeMerError, UsageError
from edge_mer.link.messages import PROTOCOL, Ask, Message
from edge_mer.link.server import LinkServer
from edge_mer.runtime.live_session import Session
from edge_mer.runtime.opening import facts_of, open_on
from edge_mer.runtime.pipeline_setup import PipelineSetup
from edge_mer.runtime.recording import checked_redact
from edge_mer.runtime.switching import Trial
from edge_mer.sinks.base import Sink, introduce
from edge_mer.types.predictions import Prediction

Event = Literal["stop", "reload", "look"]

HEALTH_EVERY_S = 1.0
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0
ASKS = ("status", "swap", "rollback", "acknowledge", "audit", "report")
STUCK_HOPS, STUCK_NS = 10, 20 * NS_PER_S
"""A session without any prediction for longer than both is stuck: the watchdog is not fed any more."""

_log = logging.getLogger(__name__)


class Service:
    """The inference process.

    Args:
        path: The configuration's file, read again when a reload is asked for.
        config: What it says now.
        clock: Where the time comes from.
        notifier: Tells systemd.
        on_reload: Called after another configuration was taken over.
        also: What else may keep a configuration from being carried out.

    Raises:
        UsageError: The configuration cannot be carried out.
        BundleError: The bundle is broken, or not trusted.
    """

    def __init__(
        self,
        path: Path,
        config: DaemonConfig,
        clock: Clock,
        notifier: Notifier,
        on_reload: Callable[[DaemonConfig], None] = lambda _: None,
        also: Callable[[DaemonConfig], list[EdgeMerError]] = lambda _: [],
    ) -> None:
        self._path, self._config, self._clock = path, config, clock
        self._notifier, self._on_reload, self._also = notifier, on_reload, also
        self._before: _TakenOver | None = None
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._instance = uuid.uuid4().hex
        self._began_ns = clock.now_ns()
        self._latencies = Latencies()
        self._last_ns: int | None = None
        self._state: Literal["starting", "serving", "stopping"] = "starting"
        self._trouble = ""
        self._session: Session | None = None
        self._recording: Path | None = None
        self._lock = threading.Lock()
        self._audit: AuditLog | None = None
        self._desk: AlarmDesk | None = None
        self._store = BundleStore(config.state_dir, config.bundle)
        self._swaps = Swaps(self, self._store, config, self._tell_swap)
        self._bundle = open_bundle(self._store.current)
        self._setup: PipelineSetup | None = None
        self._was_built = False
        self._file_sinks: tuple[Sink, ...] = ()
        self._relief: ReliefDesk | None = None
        self._relief_before: ReliefDesk | None = None
        self._reported = Reported()
        self._link = LinkServer(config.link_path, self._on_ask)

    # -- from signals ------------------------------------------------------------------------------

    def stop(self) -> None:
        """End soon; may be called from a signal handler."""
        self._events.put("stop")

    def reload(self) -> None:
        """Read the configuration again; may be called from a signal handler."""
        self._events.put("reload")

    # -- its life ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until `stop`.

        Raises:
            UsageError: The configuration cannot be carried out, or another daemon runs.
            BundleError: The bundle is broken, or not trusted.
        """
        self._swaps.check(self._bundle)
        self._link.start()
        try:
            self._audit = AuditLog(self._config.state_dir / AUDIT_NAME, self._clock)
            self._store.clean()
            self._desk = self._new_desk(self._config, self._bundle)
            self.note("daemon.started", "", bundle_id=self._bundle.bundle_id, pid=os.getpid())
            self._serve()
        finally:
            self._state = "stopping"
            self._notifier.stopping()
            self._swaps.stop()
            self._end_session()
            self.note("daemon.stopped", "")
            for one in (self._desk, self._audit):
                if one is not None:
                    one.close()
            self._link.close()

    def _new_desk(self, config: DaemonConfig, bundle: Bundle) -> AlarmDesk:
        return AlarmDesk(
            config.alarms, bundle.manifest.model, config.state_dir, self._clock, self.note, self._tell_alarms
        )

    def _serve(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            try:
                self._begin_session()
                self._settle()
                event = self._watch()
                retry_s = FIRST_RETRY_S
            except EdgeMerError as error:
                is_wrong = isinstance(error, (UsageError, BundleError))
                if is_wrong and self._before is not None:
                    self._take_over(self._before)
                    self._before = None
                    self._stays([error])
                elif is_wrong and self._state == "starting":
                    raise
                self._settle()
                self._trouble = str(error)
                _log.warning("%s Trying again in %.0f s.", error, retry_s)
                self._notifier.extend(retry_s + STUCK_NS / NS_PER_S)
                event = self._pause(retry_s)
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)
            self._end_session()
            if event == "stop":
                return

    def _pause(self, seconds: float) -> Event:
        """Wait, unless something else is asked for."""
        until_ns = self._clock.now_ns() + round(seconds * NS_PER_S)
        while (left_ns := until_ns - self._clock.now_ns()) > 0:
            self._tell_health()
            self._notifier.alive()
            try:
                event = self._events.get(timeout=min(HEALTH_EVERY_S, left_ns / NS_PER_S))
            except queue.Empty:
                continue
            if event == "stop" or (event == "reload" and self._reloaded()):
                return event
        return "look"

    def _watch(self) -> Event:
        """Until the session ends, or something is asked for.

        Raises:
            EdgeMerError: What ended the session.
        """
        session = self._session
        while session is not None and session.is_running:
            self._relieve(session, self._tell_health())
            if not self._is_stuck():
                self._notifier.alive()
            try:
                event = self._events.get(timeout=HEALTH_EVERY_S)
            except queue.Empty:
                continue
            if event == "stop" or (event == "reload" and self._reloaded()):
                return event
        if session is not None:
            session.wait()
        raise DataError("the session ended by itself", expected="sensors, which go on for ever")

    def _is_stuck(self) -> bool:
        if self._last_ns is None or self._setup is None:
            return False
        hop_ns = round(float(self._setup.model.step * self._setup.hop_steps) * NS_PER_S)
        return self._clock.now_ns() - self._last_ns > max(STUCK_HOPS * hop_ns, STUCK_NS)

    # -- the session -------------------------------------------------------------------------------

    def _begin_session(self) -> None:
        config = self._config
        found = opened(config, self._bundle)
        self._setup, self._was_built, self._file_sinks = found.setup, found.was_built, found.sinks
        record = config.record
        self._recording = None if record is None else named_by_time(record.file, self._clock.utc())
        if record is not None and self._recording is not None:
            self.note("recording.started", "", file=self._recording.name, redacted=list(record.redact))
        session = Session(
            replace(found, sinks=(*found.sinks, Everybody())),
            self._clock,
            callbacks=[self._on_prediction],
            record=self._recording,
            redacted=() if record is None else checked_redact(record.redact),
            switchable=True,
        )
        self._last_ns = None
        self._latencies = Latencies()
        self._relief = self._new_relief(found.setup, found.setup.precision)
        self._tell_model()
        try:
            session.start()
        except BaseException:
            session.close()
            raise
        self._session, self._trouble = session, ""

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if self._recording is not None:
            self.note("recording.stopped", "", file=self._recording.name)
            self._recording = None
        if session is None:
            return
        try:
            session.close()
        except EdgeMerError as error:
            _log.warning("%s", error)
        if self._setup is not None:
            self._setup.close()  # what was swapped in

    def _on_prediction(self, prediction: Prediction) -> None:
        """On the session's thread."""
        self._latencies.take(prediction)
        self._last_ns = self._clock.now_ns()
        if (relief := self._relief) is not None:
            relief.take(prediction, self._last_ns)
        self._link.publish({"kind": "prediction", "record": prediction.to_dict()})
        if self._desk is not None:
            self._desk.take(prediction)
        if self._state == "starting":
            self._state = "serving"
            _log.info("The first prediction is there: %s.", prediction.status)
            self._notifier.ready()

    def _reloaded(self) -> bool:
        """Take over what the configuration says now: all of it, or nothing."""
        self._notifier.reloading()
        try:
            config = read_config(self._path)
            if (config.state_dir, config.run_dir) != (self._config.state_dir, self._config.run_dir):
                raise UsageError("state_dir and run_dir cannot change in a running daemon", hint="restart it")
            if wrong := [*problems(config), *self._also(config)]:
                return self._stays(wrong)
            store = BundleStore(config.state_dir, config.bundle)
            swaps = Swaps(self, store, config, self._tell_swap)
            bundle = open_bundle(store.current)
            swaps.check(bundle)
            check_rules(config.alarms, bundle.manifest.model)
        except EdgeMerError as error:
            return self._stays([error])
        self._before = _TakenOver(self._config, self._store, self._bundle)
        self._take_over(_TakenOver(config, store, bundle), swaps)
        return True

    def _stays(self, wrong: list[EdgeMerError]) -> Literal[False]:
        for error in wrong:
            _log.error("The configuration stays as it was: %s", error)
        self._tell_reloaded()
        return False

    def _take_over(self, what: _TakenOver, swaps: Swaps | None = None) -> None:
        self._swaps.stop()
        if self._desk is not None:
            self._desk.close()
        self._desk = self._new_desk(what.config, what.bundle)
        self._config, self._store, self._bundle = what.config, what.store, what.bundle
        self._swaps = swaps or Swaps(self, self._store, self._config, self._tell_swap)

    def _settle(self) -> None:
        """There is no way back to the configuration before."""
        if self._before is None:
            return
        self._before = None
        self.note("daemon.reloaded", "")
        self._on_reload(self._config)
        self._link.publish({"kind": "reload"})
        self._tell_reloaded()
        _log.info("The configuration was read again.")

    def _tell_reloaded(self) -> None:
        if self._state == "serving":
            self._notifier.ready()

    # -- of heat and pressure ----------------------------------------------------------------------

    def _new_relief(self, setup: PipelineSetup, chosen: str) -> ReliefDesk | None:
        def note(level: int, why: str) -> None:
            self.note("relief", "edge-mer", level=level, why=why)

        config = self._config.relief
        return ReliefDesk(config, self._bundle, setup, chosen, note) if config.on else None

    def _relieve(self, session: Session, temperatures_c: Sequence[float]) -> None:
        """Spare the device as the pressure on it wants it."""
        setup, desk = self._setup, self._relief
        if setup is not None and desk is not None and self._state == "serving":
            to_candidate = None if self._swaps.is_busy else self._swaps.to_candidate
            session.relieve(desk.look(setup, temperatures_c, self._clock.now_ns(), to_candidate))

    # -- of a change of bundle ---------------------------------------------------------------------

    def open_engines(self, bundle: Bundle, precision: str | None = None) -> PipelineSetup:
        """Engines of a bundle, as the configuration wants them, or of another candidate."""
        config, present = self._config, self._setup
        if present is None:
            raise UsageError("no session runs", hint="ask again once the daemon serves")
        setup, _, _ = open_on(bundle, precision or config.precision, config.engine)
        try:
            return replace(
                setup,
                detector=present.detector or setup.detector,
                missing=present.missing,
                hop=config.hop,
                people=config.people,
            )
        except BaseException:
            setup.close()
            raise

    def propose(self, setup: PipelineSetup) -> Trial:
        """Begin a trial in the session that runs."""
        session = self._session
        if session is None:
            raise UsageError("no session runs", hint="ask again once the daemon serves")
        return session.propose(setup)

    def serve(self, bundle: Bundle, setup: PipelineSetup) -> PipelineSetup:
        """These engines predict from now on; returns those that did."""
        before, self._setup = self._setup, setup
        is_another, self._bundle = bundle.bundle_id != self._bundle.bundle_id, bundle
        if is_another:
            before_it = self._relief_before
            is_back = before_it is not None and before_it.bundle_id == bundle.bundle_id
            chosen = before_it.chosen if before_it is not None and is_back else setup.precision
            self._relief_before, self._relief = self._relief, self._new_relief(setup, chosen)
        for sink in self._file_sinks:
            introduce(sink, facts_of(setup))
        self._tell_model()
        if before is None:
            raise UsageError("no session runs")
        return before

    def is_built(self) -> bool:
        """Whether what serves was chosen by `build-engine`."""
        return self._was_built

    def note(self, event: str, who: str, **details: object) -> None:
        """Have something written into the audit log."""
        if self._audit is None:
            return
        try:
            self._audit.append(event, who or None, details)
        except EdgeMerError as error:
            _log.error("%s", error)

    # -- what is told ------------------------------------------------------------------------------

    def _tell_model(self) -> None:
        setup = self._setup
        if setup is None:
            return
        model = told_of_model(self._bundle, setup.precision, setup.engine_name, setup.hop_steps)
        process = {"edge_mer": edge_mer.__version__, "pid": os.getpid(), "instance": self._instance}
        hello = {"kind": "hello", "protocol": PROTOCOL, **process}
        self._link.publish(hello | {"model": model, "interval_s": model["hop_s"]})

    def _tell_alarms(self, alarms: list[dict[str, Any]]) -> None:
        self._link.publish({"kind": "alarms", "alarms": alarms})

    def _tell_swap(self, _: SwapState) -> None:
        self._tell_health()

    def _tell_health(self) -> list[float]:
        """Tell it, and return the temperatures in degrees Celsius."""
        health = self._health()
        self._link.publish({"kind": "health", "health": health})
        return list(health["temperature_c"].values())

    def _health(self) -> dict[str, Any]:
        session, previous, record = self._session, self._store.previous, self._config.record
        told = {
            "state": self._state,
            "trouble": self._trouble,
            "uptime_s": (self._clock.now_ns() - self._began_ns) / NS_PER_S,
            "bundle_id": self._bundle.bundle_id,
            "can_go_back": previous is not None,
            "latency_ms": self._latencies.summary(),
            "recording": None if self._recording is None else self._recording.name,
            "raw_media": record is not None and not {"faces", "voice"} <= set(record.redact),
            "swap": self._swaps.state.to_dict(),
            "relief": {"level": 0, "why": ""} if self._relief is None else self._relief.to_dict(),
            "server": told_of_server(self._setup),
            "network_sinks": self._reported.sinks(self._clock.now_ns()),
        }
        machine = told_of_machine(self._config.relief.thermal_dir)
        return told | ({} if session is None else told_of_session(session)) | machine

    def _on_ask(self, ask: Ask, fd: int | None) -> Message:
        """On the link's thread."""
        if ask.what == "status":
            return self._health()
        if ask.what == "swap":
            if fd is None:
                raise UsageError("a swap needs a bundle", expected="a tar that is open, sent along")
            return self._swaps.begin(fd, ask.who)
        if ask.what == "rollback":
            return self._swaps.roll_back(ask.who)
        if ask.what == "acknowledge" and self._desk is not None:
            return self._desk.acknowledge(alarm_id_in(ask.arguments), ask.who)
        if ask.what == "audit":
            self._note_of_gateway(ask)
            return {}
        if ask.what == "report":
            self._reported = Reported.of(ask.arguments, self._clock.now_ns())
            return {}
        raise UsageError(f"the daemon cannot {ask.what!r}", expected=", ".join(ASKS))

    def _note_of_gateway(self, ask: Ask) -> None:
        event, details = str(ask.arguments.get("event", ""))[:100], dict(ask.arguments)
        details.pop("event", None)
        self.note(f"gateway.{event}", ask.who, **details)


@dataclass(frozen=True)
class _TakenOver:
    """What a configuration brings with it."""

    config: DaemonConfig
    store: BundleStore
    bundle: Bundle


def named_by_time(path: Path, utc: datetime) -> Path:
    """Each session has a recording of its own, also those that begin in the same second."""
    stem = f"{path.stem}-{utc:%Y%m%dT%H%M%SZ}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    places = (path.with_name(name + path.suffix) for name in names)
    return next(place for place in places if not os.path.lexists(place))

"""What the process that infers said last, and everybody who wants to hear what it says next."""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from edge_mer.clock import NS_PER_S, Clock
from edge_mer.types.predictions import Latency, ModalityStatus, Prediction, SyncQuality

INFERENCE_LOST = "inference_lost"
"""The reason of the one record that takes the place of those that do not come."""

MAX_WAITING = 64
"""So many events wait for a slow client; then the oldest go, and are counted."""

MIN_SILENCE_S = 2.0
_N_SILENT_HOPS = 3


@dataclass(frozen=True)
class Event:
    """Something that clients are told.

    Attributes:
        kind: "model", "prediction", "health" or "alarms".
        text: The JSON object that they get, with "kind" in it.
    """

    kind: str
    text: str

    @classmethod
    def of(cls, kind: str, key: str, content: Any) -> Event:
        """An event whose object has `content` under `key`."""
        return cls(kind, json.dumps({"kind": kind, key: content}, allow_nan=False, separators=(",", ":")))


class Subscription:
    """The events that one client has yet to read; never more than a bounded number.

    Args:
        max_waiting: That number.
        is_welcome: Whether the client still may listen.
    """

    def __init__(self, max_waiting: int, is_welcome: Callable[[], bool] = lambda: True) -> None:
        self._waiting: deque[Event] = deque(maxlen=max_waiting)
        self.is_welcome = is_welcome
        self._changed = asyncio.Event()
        self._is_over = False
        self.n_dropped = 0

    def put(self, event: Event) -> bool:
        """Have an event read later; False when the oldest had to go for it."""
        has_room = len(self._waiting) < (self._waiting.maxlen or 0)
        self.n_dropped += not has_room
        self._waiting.append(event)
        self._changed.set()
        return has_room

    def end(self) -> None:
        """No more events will come."""
        self._is_over = True
        self._changed.set()

    def end_unless_welcome(self) -> None:
        """Not even what waits is for a client who may listen no more."""
        if not self.is_welcome():
            self._waiting.clear()
            self.end()

    async def next(self) -> Event | None:
        """The oldest event that waits, or the next one to come; None when there will be none."""
        while not self._waiting:
            if self._is_over:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.popleft()


class Feed:
    """Takes the messages of the link and gives them on; lives in one event loop.

    Args:
        clock: By which silence is measured.
        max_waiting: So many events wait for each client.

    Attributes:
        model: What is running, as the link's hello says; None before the first.
        health: The newest health; None before the first.
        alarms: Those that are there now.
        n_events_dropped: Events that clients were too slow for.
        n_losses: How often the process that infers fell silent.
    """

    def __init__(self, clock: Clock, max_waiting: int = MAX_WAITING) -> None:
        self._clock, self._max_waiting = clock, max_waiting
        self._subscriptions: set[Subscription] = set()
        self._records: dict[str | None, dict[str, Any]] = {}
        self._newest: dict[str, Any] | None = None
        self._heard_ns = clock.now_ns()
        self._interval_s = 0.0
        self._on_record: list[Callable[[dict[str, Any]], None]] = []
        self._on_model: list[Callable[[dict[str, Any]], None]] = []
        self.is_lost = False
        self.is_linked = False
        self.model: dict[str, Any] | None = None
        self.health: dict[str, Any] | None = None
        self.alarms: list[dict[str, Any]] = []
        self.n_events_dropped = self.n_losses = 0

    # -- what is known -----------------------------------------------------------------------------

    def latest(self, person: str | None = None) -> dict[str, Any] | None:
        """The newest record, or the newest hop's about one person; None: there is none.

        A record that says that inference is lost is about everybody.
        """
        if person is None or self.is_lost:
            return self._newest
        return self._records.get(person)

    @property
    def state(self) -> str:
        """It is "starting", "serving", "stopping", or "lost" when no prediction comes."""
        if self.is_lost:
            return "lost"
        return "starting" if self.health is None else str(self.health.get("state", "starting"))

    @property
    def is_ready(self) -> bool:
        """Predictions come, or could."""
        return self.is_linked and self.state == "serving"

    @property
    def silent_s(self) -> float:
        """Since the last prediction, or since the start."""
        return (self._clock.now_ns() - self._heard_ns) / NS_PER_S

    @property
    def n_clients(self) -> int:
        """Those who listen now."""
        return len(self._subscriptions)

    # -- what comes --------------------------------------------------------------------------------

    def take(self, message: dict[str, Any]) -> None:
        """Take a message of the link; kinds that are not for clients are passed over."""
        kind = message["kind"]
        if kind == "prediction":
            self._heard_ns, self.is_lost = self._clock.now_ns(), False
            self._take_record(message["record"])
        elif kind == "health":
            self.health = _without_passwords(message["health"])
            self._give(Event.of("health", "health", self.health_told()))
        elif kind == "alarms":
            self.alarms = message["alarms"]
            self._give(Event.of("alarms", "alarms", self.alarms))
        elif kind == "hello":
            self._interval_s = float(message["interval_s"])
            about = {key: message[key] for key in ("edge_mer", "instance", "interval_s")}
            self.model = {**message["model"], **about}
            for call in self._on_model:
                call(message)
            self._give(Event.of("model", "model", self.model))

    def link_is(self, up: bool) -> None:
        """Note whether somebody is at the other end."""
        self.is_linked = up

    def look(self) -> None:
        """Show out who may not stay, and say once that no predictions come: for 3 hops and at least 2 s."""
        for subscription in self._subscriptions:
            subscription.end_unless_welcome()
        if self.is_lost or self.silent_s <= max(_N_SILENT_HOPS * self._interval_s, MIN_SILENCE_S):
            return
        self.is_lost = True
        self.n_losses += 1
        self._take_record(self._lost_record())
        self._give(Event.of("health", "health", self.health_told()))

    def health_told(self) -> dict[str, Any]:
        """The newest health, its state as it is seen from here."""
        return {**(self.health or {}), "state": self.state}

    def _take_record(self, record: dict[str, Any]) -> None:
        if self._newest is None or record["t_end_ns"] != self._newest["t_end_ns"]:
            self._records.clear()
        self._newest = record
        self._records[record.get("person")] = record
        for call in self._on_record:
            call(record)
        self._give(Event.of("prediction", "record", record))

    def _lost_record(self) -> dict[str, Any]:
        """What every interface gives in place of predictions: nothing is known, not even the last value."""
        last, model = self._newest or {}, self.model or {}
        elapsed_s = self.silent_s
        n_hops = int(elapsed_s / self._interval_s) if self._interval_s > 0 else 1
        t_ns = int(last.get("t_end_ns", 0)) + round(elapsed_s * NS_PER_S)
        return Prediction(
            window_index=int(last.get("window_index", -1)) + max(1, n_hops),
            t_start_ns=t_ns,
            t_end_ns=t_ns,
            utc=self._clock.utc().isoformat(),
            utc_synchronised=self._clock.is_utc_synchronised(),
            status="withheld",
            reasons=(INFERENCE_LOST,),
            affect=None,
            modalities={name: ModalityStatus(False, 0.0, None) for name in model.get("modalities", ())},
            sync=SyncQuality(0.0, None),
            latency_ms=Latency(None, None, 0.0, 0.0, 0.0, 0.0),
            engine=str(model.get("engine", "")),
            precision=str(model.get("precision", "")),
            bundle_id=str(model.get("bundle_id", "")),
        ).to_dict()

    # -- who listens -------------------------------------------------------------------------------

    def on_record(self, call: Callable[[dict[str, Any]], None]) -> None:
        """Have every record given to `call`, which must not take long."""
        self._on_record.append(call)

    def on_model(self, call: Callable[[dict[str, Any]], None]) -> None:
        """Have every "hello" given to `call`, which must not take long."""
        self._on_model.append(call)

    @contextmanager
    def subscribe(self, is_welcome: Callable[[], bool] = lambda: True) -> Iterator[Subscription]:
        """Hear what is known now, and then everything, for as long as `is_welcome` says so."""
        subscription = Subscription(self._max_waiting, is_welcome)
        for event in self._known():
            subscription.put(event)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def close(self) -> None:
        """Tell everybody that nothing more will come."""
        for subscription in self._subscriptions:
            subscription.end()

    def _known(self) -> Iterator[Event]:
        if self.model is not None:
            yield Event.of("model", "model", self.model)
        if self.health is not None or self.is_lost:
            yield Event.of("health", "health", self.health_told())
        yield Event.of("alarms", "alarms", self.alarms)
        records = [self._newest] if self.is_lost else list(self._records.values())
        for record in records:
            yield Event.of("prediction", "record", record)

    def _give(self, event: Event) -> None:
        for subscription in self._subscriptions:
            self.n_events_dropped += not subscription.put(event)


def _without_passwords(health: dict[str, Any]) -> dict[str, Any]:
    """Health without what stands before the @ of an address: whoever may read need not know it."""
    hidden = dict(health)
    for part, key in (("sources", "uri"), ("sinks", "target")):
        told = health.get(part, ())
        hidden[part] = [{**one, key: re.sub("//[^/@]*@", "//", one.get(key) or "")} for one in told]
    return hidden

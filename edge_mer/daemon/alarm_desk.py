"""Alarms of the daemon: judged beside inference, kept on the disk, written into the audit log."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_mer.alarms.board import AlarmBoard
from edge_mer.clock import Clock
from edge_mer.errors import EdgeMerError, UsageError
from edge_mer.files import remove_unfinished
from edge_mer.types.alarms import AlarmEvent, AlarmRule
from edge_mer.types.model import ModelSpec
from edge_mer.types.predictions import Prediction

FILE_NAME = "alarms.json"
MAX_WAITING = 1024

_log = logging.getLogger(__name__)

Note = Callable[..., None]
Tell = Callable[[list[dict[str, Any]]], None]


class AlarmDesk:
    """A board in a thread of its own, since the disk may be slow.

    Args:
        rules: What to watch.
        model: What makes the predictions.
        state_dir: Where alarms are kept.
        clock: Where the wall time comes from.
        note: Writes into the audit log.
        tell: Given all alarms that stand, whenever they change.

    Raises:
        UsageError: The model cannot fulfil a rule, or the file cannot be read.
        DataError: What was kept is no board.
    """

    def __init__(
        self,
        rules: Sequence[AlarmRule],
        model: ModelSpec,
        state_dir: Path,
        clock: Clock,
        note: Note,
        tell: Tell,
    ) -> None:
        self._path, self._note, self._tell = state_dir / FILE_NAME, note, tell
        with contextlib.suppress(OSError):  # of use, not of need
            remove_unfinished(self._path)
        self._board = AlarmBoard.load(self._path, rules, clock, model=model)
        self._lock = threading.Lock()
        self._waiting: queue.Queue[Prediction | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._work, name="edge-mer alarms", daemon=True)
        self._thread.start()
        self._tell(self.standing())

    def take(self, prediction: Prediction) -> None:
        """Judge a prediction, soon; never waits."""
        try:
            self._waiting.put_nowait(prediction)
        except queue.Full:
            _log.warning("alarms: a prediction was not judged: the disk is too slow")

    def standing(self) -> list[dict[str, Any]]:
        """Alarms that stand; any thread may ask."""
        with self._lock:
            return [alarm.to_dict() for alarm in self._board.active()]

    def acknowledge(self, alarm_id: str, who: str) -> dict[str, Any]:
        """Somebody knows of an alarm; any thread may say so.

        Raises:
            UsageError: No such alarm stands, or somebody did so before.
        """
        with self._lock:
            event = self._board.acknowledge(alarm_id, who)
            self._keep([event])
        self._tell(self.standing())
        return event.alarm.to_dict()

    def close(self) -> None:
        """Judge what waits, and end."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (prediction := self._waiting.get()) is not None:
            with self._lock:
                events = self._board.update(prediction)
                self._keep(events)
            if events:
                self._tell(self.standing())

    def _keep(self, events: Sequence[AlarmEvent]) -> None:
        lasting = [event for event in events if not event.is_of_sight]
        if not lasting:
            return
        try:
            self._board.save(self._path)
        except EdgeMerError as error:
            _log.error("%s", error)
        for event in lasting:
            alarm = event.alarm
            about = {"id": alarm.id, "name": alarm.name, "state": alarm.state, "text": alarm.text}
            self._note(f"alarm.{event.kind}", event.who or "", **about)


def alarm_id_in(arguments: dict[str, Any]) -> str:
    """Which alarm somebody means.

    Raises:
        UsageError: They did not say.
    """
    found = arguments.get("id")
    if not isinstance(found, str) or not found:
        raise UsageError("an acknowledgement names an alarm", expected="its id")
    return found

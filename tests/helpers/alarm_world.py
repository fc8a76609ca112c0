"""Predictions for boards of alarms, one per second, and what a board does with them."""

from __future__ import annotations

from typing import Any

from edge_mer.alarms.board import AlarmBoard
from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.types.alarms import AlarmEvent, AlarmRule
from edge_mer.types.predictions import Affect, Latency, Pain, Prediction, Status, SyncQuality


def predicted(
    index: int,
    arousal: float | None = 0.0,
    status: Status = "ok",
    person: str | None = None,
    interval: tuple[float, float] | None = None,
    pain: Pain | None = None,
    emotion: dict[str, float] | None = None,
) -> Prediction:
    """The prediction for the end of second `index`; a withheld one has no estimate."""
    is_withheld = status == "withheld"
    intervals = None if interval is None else {"arousal": interval}
    return Prediction(
        window_index=index,
        t_start_ns=index * NS_PER_S,
        t_end_ns=(index + 1) * NS_PER_S,
        utc=f"second {index}",
        utc_synchronised=True,
        status=status,
        reasons=() if status == "ok" else ("visual_missing",),
        affect=None if is_withheld else Affect(None, arousal, intervals),
        modalities={},
        sync=SyncQuality(0.0, 0.0),
        latency_ms=Latency(None, None, 1.0, 1.0, 1.0, 3.0),
        engine="none",
        precision="fp32",
        bundle_id="sha256:0",
        pain=None if is_withheld else pain,
        emotion=None if is_withheld else emotion,
        person=person,
    )


def withheld(index: int, person: str | None = None) -> Prediction:
    """A prediction without an estimate."""
    return predicted(index, None, "withheld", person)


def high(**changes: Any) -> AlarmRule:
    """Arousal above 0.5; over below 0.2."""
    return AlarmRule(
        **{"name": "high", "output": "affect.arousal", "above": 0.5, "clear_below": 0.2, **changes}
    )


def board_of(*rules: AlarmRule) -> AlarmBoard:
    """A board whose clock stands still."""
    return AlarmBoard(rules, ManualClock())


def happened(events: list[AlarmEvent]) -> list[tuple[str, str]]:
    """Kind of each event, and the state of its alarm since."""
    return [(event.kind, event.alarm.state) for event in events]


def play(board: AlarmBoard, *values: float | None, start: int = 0) -> dict[int, list[str]]:
    """One value per second, None for withheld: what happened, by second."""
    told = {}
    for index, value in enumerate(values, start):
        events = board.update(withheld(index) if value is None else predicted(index, value))
        if events:
            told[index] = [event.kind for event in events]
    return told

"""Alarms: what is to be watched, as it is declared, and what a board of alarms says."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from edge_mer.types.model import Declared

Finite = Annotated[float, Field(allow_inf_nan=False)]
_Duration = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]

PATHS = ("affect.valence", "affect.arousal", "pain.expected")
"""Outputs whose name no model chooses."""

PREFIXES = ("pain.level_probs.", "emotion.")
"""What stands before the name of a level or a class."""


class AlarmRule(Declared):
    """When to raise an alarm: an output beyond a threshold, or no estimate at all.

    Just one of `above`, `below` and `no_estimate_for_s` is given. People who are followed are watched
    separately, but for `no_estimate_for_s`, which is about all of them.

    Attributes:
        name: What the alarm is called: letters, digits, "-" and "_".
        output: What is watched, as in a record: "pain.expected", "pain.level_probs.<level>",
            "affect.valence", "affect.arousal" or "emotion.<class>".
        above: Raised when the output is higher.
        below: Raised when the output is lower.
        clear_below: Of `above`: over when the output is lower again; None = `above` itself.
        clear_above: Of `below`: over when the output is higher again; None = `below` itself.
        no_estimate_for_s: Raised when there was no estimate to judge by for so many seconds.
        for_s: Seconds for which the output must be beyond the threshold without a break.
        quiet_s: Seconds after the end of an alarm in which it is not raised again.
        latched: It stays until somebody acknowledges it, even when it is over.
        degraded: Degraded estimates count; otherwise they are as good as none.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    output: str | None = None
    above: Finite | None = None
    below: Finite | None = None
    clear_below: Finite | None = None
    clear_above: Finite | None = None
    no_estimate_for_s: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] | None = None
    for_s: _Duration = 0.0
    quiet_s: _Duration = 0.0
    latched: bool = True
    degraded: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> AlarmRule:
        limits = {name: getattr(self, name) for name in ("above", "below", "no_estimate_for_s")}
        given = [name for name, limit in limits.items() if limit is not None]
        if len(given) != 1:
            raise ValueError(
                f"alarm {self.name}: takes one of above, below and no_estimate_for_s, not "
                f"{' and '.join(given) or 'none'}"
            )
        _check_clear(self)
        if self.no_estimate_for_s is None:
            _check_output(self)
        elif self.output is not None or self.for_s:
            raise ValueError(
                f"alarm {self.name}: no_estimate_for_s is about all outputs and says for how long itself; "
                "leave out output and for_s"
            )
        return self

    @property
    def threshold(self) -> float:
        """Of the output, or seconds without an estimate."""
        limits = (self.above, self.below, self.no_estimate_for_s)
        return next(limit for limit in limits if limit is not None)

    def is_beyond(self, value: float) -> bool:
        """Whether an output's value is beyond the threshold."""
        return value > self.above if self.above is not None else value < self.threshold

    def is_over(self, value: float) -> bool:
        """Whether an alarm that stands is over at this value of its output."""
        if self.above is not None:
            return value < self.clear_below if self.clear_below is not None else value <= self.above
        return value > self.clear_above if self.clear_above is not None else value >= self.threshold


def _check_clear(rule: AlarmRule) -> None:
    if rule.clear_below is not None and (rule.above is None or rule.clear_below > rule.above):
        raise ValueError(f"alarm {rule.name}: clear_below goes with above, and is not higher than it")
    if rule.clear_above is not None and (rule.below is None or rule.clear_above < rule.below):
        raise ValueError(f"alarm {rule.name}: clear_above goes with below, and is not lower than it")


def _check_output(rule: AlarmRule) -> None:
    if rule.output is None:
        raise ValueError(f"alarm {rule.name}: says no output to watch, such as {', '.join(PATHS)}")
    has_name = any(rule.output.startswith(prefix) and rule.output != prefix for prefix in PREFIXES)
    if rule.output not in PATHS and not has_name:
        near = difflib.get_close_matches(rule.output, PATHS, n=1)
        known = (*PATHS, *(f"{prefix}<name>" for prefix in PREFIXES))
        raise ValueError(
            f"alarm {rule.name}: unknown output {rule.output!r}, "
            + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")
        )


AlarmState = Literal["active", "latched", "acknowledged", "ended"]
"""`active`: it is so, and nobody said that they know; `latched`: it is over, and nobody said that they know;
`acknowledged`: somebody knows, and it is not over; `ended`: it no longer stands."""

AlarmEventKind = Literal[
    "raised", "returned", "cleared", "acknowledged", "ended", "lost_sight", "sees_again", "dropped"
]
"""What happened to an alarm: see `edge_mer.AlarmBoard`."""


@dataclass(frozen=True)
class Alarm:
    """An alarm that was raised.

    Attributes:
        id: Names it; never given twice.
        name: Of its rule.
        output: What was beyond the threshold; None where there was no estimate.
        state: "active", "latched", "acknowledged" or "ended".
        sees: Whether the newest prediction says anything about it. An alarm that sees nothing stays.
        since_utc: ISO 8601 wall time at which it was raised.
        value: The output's value that raised it, or seconds without an estimate.
        threshold: Of its rule, when it was raised.
        interval: 90 % interval around `value`; None until it is measured.
        person: Who it is about, such as "p1"; None where one person is followed.
        is_gone: Nobody watches it any more: the person left, the session ended, the rule was taken away.
        acknowledged_by: Who acknowledged it; None: nobody yet.
        text: All of it in words.
    """

    id: str
    name: str
    output: str | None
    state: AlarmState
    sees: bool
    since_utc: str
    value: float
    threshold: float
    interval: tuple[float, float] | None
    person: str | None
    is_gone: bool
    acknowledged_by: str | None
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, ready for JSON."""
        return {**asdict(self), "interval": None if self.interval is None else list(self.interval)}


@dataclass(frozen=True)
class AlarmEvent:
    """Something that happened to an alarm.

    Attributes:
        kind: What happened.
        utc: ISO 8601 wall time.
        t_ns: Time of the newest prediction, on the session's clock; None before the first.
        alarm: As it is since then.
        who: Who did it; None where nobody did.
    """

    kind: AlarmEventKind
    utc: str
    t_ns: int | None
    alarm: Alarm
    who: str | None = None

    @property
    def is_of_sight(self) -> bool:
        """Whether only what can be seen of it changed: such events may come often, and need not be kept."""
        return self.kind in ("lost_sight", "sees_again")

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, ready for JSON."""
        return {**asdict(self), "alarm": self.alarm.to_dict()}

"""What a board of alarms remembers, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from edge_mer.errors import DataError
from edge_mer.types.alarms import Alarm, AlarmRule


@dataclass
class Watch:
    """What a rule knows of one person; of no estimates, what it knows of everybody.

    Attributes:
        rule: Its name.
        person: Whom it watches; None where one person is followed.
        hop: The last hop that told something: of values any prediction, of no estimates an estimate.
        since_ns: Since when the value has been beyond the threshold; None: it is not. Of no estimates: when
            there were enough of them last.
        run_ns: Of no estimates: since when estimates have come without a break.
        quiet_until_ns: Until then nothing is raised; None: no alarm has ended.
        alarm: Id of the alarm that stands; None: none does.
    """

    rule: str
    person: str | None
    hop: int
    since_ns: int | None = None
    run_ns: int | None = None
    quiet_until_ns: int | None = None
    alarm: str | None = None

    def forget_time(self) -> None:
        """What was measured on a clock that is gone means nothing."""
        self.since_ns = self.run_ns = self.quiet_until_ns = None


@dataclass
class BoardState:
    """All of a board.

    Attributes:
        instance: Begins the ids of its alarms, so that no other board gives the same ones.
        rules: By which it was kept.
        schema_version: Of this record.
        n_raised: Alarms so far.
        hop: Counts the hops that it saw.
        t_ns: End of the last hop; None before the first of a session.
        window_index: Of the last hop.
        stride: Hops from the one before to the last one.
        made_by: Bundle, precision and engine of the last hop.
        alarms: Those that stand, oldest first.
        watches: One per rule and person.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    instance: str
    rules: list[AlarmRule]
    schema_version: Literal[1] = 1
    n_raised: int = 0
    hop: int = 0
    t_ns: int | None = None
    window_index: int | None = None
    stride: int = 1
    made_by: tuple[str, str, str] | None = None
    alarms: list[Alarm] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, ready for JSON."""
        return {
            **asdict(self),
            "rules": [rule.model_dump() for rule in self.rules],
            "alarms": [alarm.to_dict() for alarm in self.alarms],
        }

    @classmethod
    def from_dict(cls, raw: Any) -> BoardState:
        """What `to_dict` gave.

        Raises:
            DataError: It is something else.
        """
        try:
            return _STATE.validate_python(raw)
        except ValidationError as error:
            first = error.errors()[0]
            raise DataError(
                "this is no board of alarms",
                expected="what a board was saved as",
                found=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            ) from error


_STATE = TypeAdapter(BoardState)

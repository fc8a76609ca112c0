"""A board of alarms: predictions in, what happened to alarms out. No thread, no clock of its own."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from edge_mer.alarms.outputs import check_rules, interval_of, value_of
from edge_mer.alarms.state import BoardState, Watch
from edge_mer.alarms.wording import worded
from edge_mer.clock import NS_PER_S, Clock, MonotonicClock
from edge_mer.errors import DataError, UsageError
from edge_mer.files import write_atomically
from edge_mer.types.alarms import Alarm, AlarmEvent, AlarmEventKind, AlarmRule
from edge_mer.types.model import ModelSpec
from edge_mer.types.predictions import Prediction

MAX_ALARMS = 1000
"""Alarms that stand at most; beyond, the oldest whose person or session is gone is dropped."""

MAX_STRIDE = 4
"""A device that is spared predicts after every second hop, and none is missing; farther apart, some are."""

_MAX_FILE_BYTES = 16 << 20
_MAX_WHO = 200


class AlarmBoard:
    """Raises alarms by rules, and keeps them until somebody acknowledges them.

    Give it every prediction, in order. Time is the predictions' `t_end_ns`. A prediction that is withheld, a
    degraded one where the rule does not take it, and one without the rule's output are no estimate: they
    raise nothing, end nothing, and break off the time for which a value must be beyond its threshold. So do
    predictions that are missing.

    What happens to an alarm, as `AlarmEvent.kind`:

    - `raised`: the value was beyond the threshold for `for_s`; the alarm is "active".
    - `cleared`: it is over, and nobody acknowledged it: "latched".
    - `returned`: a latched alarm is active again; it keeps its id.
    - `acknowledged`: somebody knows. The state is "acknowledged" until it is over, or "ended" if it was.
    - `ended`: it is over, and was acknowledged or is not latched. For `quiet_s` it is not raised again.
    - `lost_sight`, `sees_again`: there is no estimate to judge it by, and there is again. It stays as it was.
    - `dropped`: too many alarms of people who are gone were never acknowledged; this was the oldest.

    Args:
        rules: What to watch; names differ.
        clock: Where the wall time of an acknowledgement comes from; the host's clock unless a test brings its
            own.
        model: What makes the predictions; None: outputs and thresholds are not held against it.

    Raises:
        UsageError: Rules share a name, or the model cannot fulfil one.
    """

    def __init__(
        self, rules: Sequence[AlarmRule], clock: Clock | None = None, *, model: ModelSpec | None = None
    ) -> None:
        check_rules(rules, model)
        self._rules = list(rules)
        self._clock: Clock = clock or MonotonicClock()
        self._watches: dict[tuple[str, str | None], Watch] = {}
        self._alarms: dict[str, Alarm] = {}
        self._instance = secrets.token_hex(4)
        self._n_raised = 0
        self._hop = 0
        self._t_ns: int | None = None
        self._window_index: int | None = None
        self._stride = 1
        self._made_by: tuple[str, str, str] | None = None
        self._for_none = {rule.name for rule in rules if rule.output is None}
        self._longest_ns = max((_ns(rule.for_s) for rule in rules), default=0)

    # -- what it says ----------------------------------------------------------------------------

    @property
    def rules(self) -> tuple[AlarmRule, ...]:
        """What it watches."""
        return tuple(self._rules)

    def active(self) -> list[Alarm]:
        """Alarms that stand, oldest first: active, latched and acknowledged ones."""
        return list(self._alarms.values())

    # -- what happens ----------------------------------------------------------------------------

    def update(self, prediction: Prediction) -> list[AlarmEvent]:
        """Take the next prediction; of several people, one after the other.

        A `t_end_ns` that goes back begins a new session, as `begin_session` does. Another bundle, precision
        or engine breaks off what was running, and gives names anew; quiet times go on.

        Returns:
            What it changed, in order; often nothing.
        """
        events = self._begin_hop(prediction)
        for rule in self._rules:
            if rule.output is None:
                events += self._watch_for_none(rule, prediction)
            else:
                events += self._watch_value(rule, rule.output, prediction)
        return events

    def begin_session(self) -> list[AlarmEvent]:
        """Say that a new session begins: its times and people have nothing to do with those before.

        Alarms stay. Times that were running are broken off, quiet ones too: nobody knows how long nobody
        looked. Names of people begin anew with the session, so that alarms about them see nobody any more.

        Returns:
            What it changed.
        """
        self._t_ns = self._window_index = None
        self._stride = 1
        for watch in self._watches.values():
            watch.forget_time()
        utc = self._utc()
        events = self._part_from_people(utc)
        for watch in self._watches.values():
            events += self._lose_sight(watch, utc)
        return events

    def _part_from_people(self, utc: str) -> list[AlarmEvent]:
        """Names are given anew, and mean others from now on."""
        named = [watch for watch in self._watches.values() if watch.person is not None]
        return [event for watch in named for event in self._leave(watch, utc)]

    def acknowledge(self, alarm_id: str, who: str) -> AlarmEvent:
        """Somebody knows of an alarm; one that is over, or whose person is gone, ends.

        Args:
            alarm_id: `Alarm.id`.
            who: Whoever does it, in up to 200 characters.

        Raises:
            UsageError: No such alarm stands, somebody did so before, or nobody is named.
        """
        alarm = self._alarms.get(alarm_id)
        if alarm is None:
            raise UsageError(
                f"no alarm {alarm_id} stands",
                expected=f"one of {', '.join(self._alarms)}" if self._alarms else "no alarm: none stands",
                hint="it may have ended",
            )
        if alarm.acknowledged_by is not None:
            raise UsageError(f"alarm {alarm_id} was acknowledged before", found=f"by {alarm.acknowledged_by}")
        if not who.strip() or not who.isprintable() or len(who) > _MAX_WHO:
            raise UsageError("an acknowledgement names who it is from", expected=f"up to {_MAX_WHO} letters")
        is_over = alarm.state == "latched" or alarm.is_gone
        changed = replace(alarm, state="ended" if is_over else "acknowledged", acknowledged_by=who)
        return self._change(changed, "acknowledged", self._utc(), who)

    # -- hops ------------------------------------------------------------------------------------

    def _begin_hop(self, prediction: Prediction) -> list[AlarmEvent]:
        """Before the first prediction of a hop: what is missing since the one before."""
        t_ns, index = prediction.t_end_ns, prediction.window_index
        if (t_ns, index) == (self._t_ns, self._window_index):
            return []
        events: list[AlarmEvent] = []
        made_by = (prediction.bundle_id, prediction.precision, prediction.engine)
        if self._t_ns is not None and t_ns <= self._t_ns:
            events += self.begin_session()
        elif self._window_index is not None:
            if made_by != self._made_by:
                events += self._part_from_people(prediction.utc)
            stride = index - self._window_index
            if made_by != self._made_by or not 1 <= stride <= min(self._stride, MAX_STRIDE):
                self._break_off()
            self._stride = max(1, stride)
        for watch in list(self._watches.values()):
            if watch.hop < self._hop and watch.rule not in self._for_none:
                events += self._leave(watch, prediction.utc)
        self._hop += 1
        self._t_ns, self._window_index, self._made_by = t_ns, index, made_by
        return events

    def _break_off(self) -> None:
        """Nobody knows what was in predictions that are missing, and other models give other numbers."""
        for watch in self._watches.values():
            watch.run_ns = None
            if watch.rule not in self._for_none:
                watch.since_ns = None

    # -- a value beyond a threshold --------------------------------------------------------------

    def _watch_value(self, rule: AlarmRule, output: str, prediction: Prediction) -> list[AlarmEvent]:
        key = (rule.name, prediction.person)
        value = value_of(prediction, output) if _counts(rule, prediction) else None
        watch = self._watches.get(key)
        if value is None:
            if watch is None:
                return []
            watch.hop, watch.since_ns = self._hop, None
            return self._lose_sight(watch, prediction.utc)
        if watch is None:
            watch = self._watches[key] = Watch(rule.name, prediction.person, self._hop)
        watch.hop = self._hop
        events = self._see_again(watch, prediction.utc)
        if not rule.is_beyond(value):
            watch.since_ns = None
        elif watch.since_ns is None:
            watch.since_ns = prediction.t_end_ns
        alarm = self._alarms.get(watch.alarm or "")
        if alarm is not None and alarm.state != "latched":
            return events + (self._clear(rule, watch, prediction.utc) if rule.is_over(value) else [])
        held_ns = None if watch.since_ns is None else prediction.t_end_ns - watch.since_ns
        if held_ns is None or held_ns < _ns(rule.for_s):
            return events
        return events + self._raise(rule, watch, prediction, value)

    # -- no estimate -----------------------------------------------------------------------------

    def _watch_for_none(self, rule: AlarmRule, prediction: Prediction) -> list[AlarmEvent]:
        """Estimates count once they came for as long, without a break, as the slowest rule needs them to."""
        t_ns, limit_ns = prediction.t_end_ns, _ns(rule.threshold)
        watch = self._watches.setdefault((rule.name, None), Watch(rule.name, None, self._hop))
        watch.since_ns = t_ns if watch.since_ns is None else watch.since_ns
        if _counts(rule, prediction):
            if watch.run_ns is None or watch.hop < self._hop - 1:
                watch.run_ns = t_ns
            watch.hop = self._hop
            if t_ns - watch.run_ns >= min(self._longest_ns, limit_ns):
                watch.since_ns = t_ns
                return self._clear(rule, watch, prediction.utc)
        elif prediction.person is not None and watch.run_ns is not None and watch.hop >= self._hop - 1:
            return []  # somebody else in this hop may still be estimated
        if t_ns - watch.since_ns < limit_ns:
            return []
        return self._raise(rule, watch, prediction, (t_ns - watch.since_ns) / NS_PER_S)

    # -- alarms ----------------------------------------------------------------------------------

    def _raise(self, rule: AlarmRule, watch: Watch, prediction: Prediction, value: float) -> list[AlarmEvent]:
        """A new alarm, or a latched one that is active again; nothing while one is, or it must be quiet."""
        standing = self._alarms.get(watch.alarm or "")
        if standing is not None:
            if standing.state != "latched":
                return []
            return [self._change(replace(standing, state="active"), "returned", prediction.utc)]
        if watch.quiet_until_ns is not None and prediction.t_end_ns < watch.quiet_until_ns:
            return []
        events = self._make_room(prediction.utc)
        self._n_raised += 1
        alarm = Alarm(
            id=f"{self._instance}-{self._n_raised}",
            name=rule.name,
            output=rule.output,
            state="active",
            sees=True,
            since_utc=prediction.utc,
            value=value,
            threshold=rule.threshold,
            interval=None if rule.output is None else interval_of(prediction, rule.output),
            person=watch.person,
            is_gone=False,
            acknowledged_by=None,
            text="",
        )
        watch.alarm = alarm.id
        return [*events, self._change(alarm, "raised", prediction.utc)]

    def _clear(self, rule: AlarmRule, watch: Watch, utc: str) -> list[AlarmEvent]:
        """The value is back, or estimates are."""
        alarm = self._alarms.get(watch.alarm or "")
        if alarm is None or alarm.state == "latched":
            return []
        if rule.latched and alarm.state == "active":
            return [self._change(replace(alarm, state="latched"), "cleared", utc)]
        return [self._change(replace(alarm, state="ended"), "ended", utc)]

    def _lose_sight(self, watch: Watch, utc: str) -> list[AlarmEvent]:
        alarm = self._alarms.get(watch.alarm or "")
        if alarm is None or not alarm.sees or alarm.output is None:
            return []
        return [self._change(replace(alarm, sees=False), "lost_sight", utc)]

    def _see_again(self, watch: Watch, utc: str) -> list[AlarmEvent]:
        alarm = self._alarms.get(watch.alarm or "")
        if alarm is None or alarm.sees:
            return []
        return [self._change(replace(alarm, sees=True), "sees_again", utc)]

    def _leave(self, watch: Watch, utc: str) -> list[AlarmEvent]:
        """Nobody watches here any more. An alarm that is not acknowledged stays until it is."""
        del self._watches[watch.rule, watch.person]
        alarm = self._alarms.get(watch.alarm or "")
        if alarm is None:
            return []
        gone = replace(alarm, is_gone=True, sees=False)
        if alarm.acknowledged_by is not None:
            return [self._change(replace(gone, state="ended"), "ended", utc)]
        return [self._change(gone, "lost_sight", utc)]

    def _make_room(self, utc: str) -> list[AlarmEvent]:
        if len(self._alarms) < MAX_ALARMS:
            return []
        alarms = list(self._alarms.values())
        oldest = next((alarm for alarm in alarms if alarm.is_gone), alarms[0])
        return [self._change(replace(oldest, state="ended"), "dropped", utc)]

    def _change(self, alarm: Alarm, kind: AlarmEventKind, utc: str, who: str | None = None) -> AlarmEvent:
        """Put an alarm on the board as it is now, or take it off where it ended."""
        alarm = replace(alarm, text=worded(alarm, self._rule_of(alarm)))
        if alarm.state == "ended":
            self._alarms.pop(alarm.id, None)
            self._keep_quiet(alarm)
        else:
            self._alarms[alarm.id] = alarm
        return AlarmEvent(kind, utc, self._t_ns, alarm, who)

    def _keep_quiet(self, ended: Alarm) -> None:
        for watch in self._watches.values():
            if watch.alarm == ended.id:
                rule = self._rule_of(ended)
                quiet_ns = 0 if rule is None else _ns(rule.quiet_s)
                watch.alarm = None
                watch.quiet_until_ns = None if self._t_ns is None else self._t_ns + quiet_ns

    def _rule_of(self, alarm: Alarm) -> AlarmRule | None:
        return next((rule for rule in self._rules if rule.name == alarm.name), None)

    def _utc(self) -> str:
        return self._clock.utc().isoformat()

    # -- kept ------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """All that it remembers: plain dicts, lists and numbers, ready for JSON."""
        return BoardState(
            instance=self._instance,
            rules=self._rules,
            n_raised=self._n_raised,
            hop=self._hop,
            t_ns=self._t_ns,
            window_index=self._window_index,
            stride=self._stride,
            made_by=self._made_by,
            alarms=list(self._alarms.values()),
            watches=list(self._watches.values()),
        ).to_dict()

    @classmethod
    def from_dict(
        cls,
        raw: Mapping[str, Any],
        rules: Sequence[AlarmRule],
        clock: Clock | None = None,
        *,
        model: ModelSpec | None = None,
    ) -> AlarmBoard:
        """The board that `to_dict` was asked of; with the same predictions it does the same.

        A rule that was changed goes on with its alarms. Alarms of rules that are gone stay until they are
        acknowledged.

        Args:
            raw: What `to_dict` gave.
            rules: As of a new board.
            clock: Likewise.
            model: Likewise.

        Raises:
            DataError: No board was saved as this.
            UsageError: As of a new board.
        """
        board = cls(rules, clock, model=model)
        state = BoardState.from_dict(raw)
        board._instance, board._n_raised, board._hop = state.instance, state.n_raised, state.hop
        board._t_ns, board._window_index = state.t_ns, state.window_index
        board._stride, board._made_by = state.stride, state.made_by
        board._alarms = {alarm.id: alarm for alarm in state.alarms}
        board._watches = {(watch.rule, watch.person): watch for watch in state.watches}
        for was in state.rules:
            board._adopt(was)
        return board

    def _adopt(self, was: AlarmRule) -> None:
        """Go on with what was kept for a rule, as far as it is still the same."""
        now = next((rule for rule in self._rules if rule.name == was.name), None)
        if now == was:
            return
        for watch in [watch for watch in self._watches.values() if watch.rule == was.name]:
            if now is None or now.output != was.output:
                self._leave(watch, self._utc())
            else:
                watch.forget_time()

    def save(self, path: str | PathLike[str]) -> None:
        """Write all that it remembers into a file, whole or not at all.

        Save whenever `update` or `acknowledge` gave an event that is not `is_of_sight`, and before telling
        anybody.

        Raises:
            UsageError: The file cannot be written.
        """
        try:
            write_atomically(Path(path), json.dumps(self.to_dict(), allow_nan=False, indent=1).encode())
        except OSError as error:
            raise UsageError(
                f"cannot keep alarms in {path}",
                found=error.strerror,
                hint="name a file in a folder that you may write to",
            ) from error

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        rules: Sequence[AlarmRule],
        clock: Clock | None = None,
        *,
        model: ModelSpec | None = None,
    ) -> AlarmBoard:
        """The board of a file, at the begin of a session; a new one where there is no file.

        Args:
            path: What `save` wrote.
            rules: As of a new board.
            clock: Likewise.
            model: Likewise.

        Raises:
            DataError: The file holds no board.
            UsageError: As of a new board, or the file cannot be read.
        """
        hint = "move it away to begin without its alarms"
        try:
            with Path(path).open("rb") as stream:
                data = stream.read(_MAX_FILE_BYTES + 1)
            if len(data) > _MAX_FILE_BYTES:
                raise DataError(f"{path} is too large", expected=f"{_MAX_FILE_BYTES} bytes", hint=hint)
            board = cls.from_dict(json.loads(data), rules, clock, model=model)
        except FileNotFoundError:
            return cls(rules, clock, model=model)
        except OSError as error:
            raise UsageError(f"cannot read {path}", found=error.strerror) from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is no JSON", found=str(error), hint=hint) from error
        board.begin_session()
        return board


def _counts(rule: AlarmRule, prediction: Prediction) -> bool:
    """Whether a prediction is an estimate to this rule."""
    return prediction.status == "ok" or (prediction.status == "degraded" and rule.degraded)


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)

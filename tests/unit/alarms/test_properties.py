"""What holds for every course of predictions, acknowledgements and restarts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from edge_mer.alarms.board import AlarmBoard
from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.types.alarms import Alarm, AlarmEvent, AlarmRule
from edge_mer.types.predictions import Prediction, Status
from tests.helpers.alarm_world import high, predicted

ABOVE, CLEAR = 0.5, 0.2
PEOPLE = (None, "p1", "p2")


@dataclass(frozen=True)
class Hop:
    """A second: how many seconds are missing before it, and what is said of each person."""

    n_missing: int
    said: tuple[tuple[str | None, Status, float], ...]


Action = Hop | Literal["acknowledge", "restart"]

RULES = st.builds(
    high,
    for_s=st.sampled_from([0, 1, 2, 4]),
    quiet_s=st.sampled_from([0, 3, 10]),
    latched=st.booleans(),
    degraded=st.booleans(),
    clear_below=st.sampled_from([CLEAR, None]),
)
STATUSES: st.SearchStrategy[Status] = st.sampled_from(["ok", "ok", "ok", "degraded", "withheld"])
VALUES = st.sampled_from([0.9, 0.51, 0.51, 0.5, 0.3, 0.2, 0.19, -1.0])
MISSING = st.sampled_from([0, 0, 0, 0, 0, 0, 1, 1, 5])


def hops(people: tuple[str | None, ...]) -> st.SearchStrategy[Hop]:
    one = st.tuples(st.sampled_from(people), STATUSES, VALUES)
    said = st.lists(one, min_size=1, max_size=len(people), unique_by=lambda said: said[0]).map(tuple)
    return st.builds(Hop, MISSING, said)


def courses(people: tuple[str | None, ...], *others: Action) -> st.SearchStrategy[list[Action]]:
    return st.lists(st.one_of(*[hops(people)] * 8, *map(st.just, others)), max_size=60)


ALONE = courses((None,), "acknowledge")
ANYTHING = courses(PEOPLE, "acknowledge", "restart")


@dataclass
class Player:
    """Plays a course, and keeps what was said and what happened."""

    board: AlarmBoard
    index: int = -1
    heard: list[Prediction] = field(default_factory=list)
    told: list[tuple[int, AlarmEvent]] = field(default_factory=list)
    stood: list[list[Alarm]] = field(default_factory=list)

    def play(self, course: list[Action]) -> Player:
        for action in course:
            if action == "restart":
                self._tell(self.board.begin_session())
                self.index = -1
            elif isinstance(action, Hop):
                self._play_hop(action)
            elif waiting := [alarm for alarm in self.board.active() if alarm.acknowledged_by is None]:
                self._tell([self.board.acknowledge(waiting[0].id, "ward-3")])
            self.stood.append(self.board.active())
        return self

    def _play_hop(self, hop: Hop) -> None:
        self.index += 1 + hop.n_missing
        for person, status, value in hop.said:
            self.heard.append(predicted(self.index, value, status, person))
            self._tell(self.board.update(self.heard[-1]))

    def _tell(self, events: list[AlarmEvent]) -> None:
        self.told += [(self.index, event) for event in events]


def new_board(*rules: AlarmRule) -> AlarmBoard:
    board = AlarmBoard(rules, ManualClock())
    board._instance = "0"  # drawn by chance, and the only thing that is
    return board


def counts(rule: AlarmRule, prediction: Prediction) -> bool:
    return prediction.status == "ok" or (rule.degraded and prediction.status == "degraded")


@given(RULES, ALONE)
def test_a_board_does_what_the_rules_say_when_all_of_the_past_is_looked_at(
    rule: AlarmRule, course: list[Action]
) -> None:
    """The same rules, reckoned anew for each second from everything that was ever said."""
    player = Player(new_board(rule))
    heard: list[tuple[int, float | None]] = []
    state, ended = "none", float("-inf")
    for action in course:
        player.told.clear()
        player.play([action])
        found = [event.kind for _, event in player.told if not event.is_of_sight]
        expected: list[str] = []
        if isinstance(action, Hop):
            value = _value(rule, player.heard[-1])
            heard.append((player.index, value))
            has_held = value is not None and value > ABOVE and _held_s(heard) >= rule.for_s
            is_over = value is not None and (value <= ABOVE if rule.clear_below is None else value < CLEAR)
            if state == "none" and has_held and player.index - ended >= rule.quiet_s:
                state, expected = "active", ["raised"]
            elif state == "latched" and has_held:
                state, expected = "active", ["returned"]
            elif state == "active" and is_over and rule.latched:
                state, expected = "latched", ["cleared"]
            elif state in ("active", "acknowledged") and is_over:
                state, ended, expected = "none", player.index, ["ended"]
        elif state == "active":
            state, expected = "acknowledged", ["acknowledged"]
        elif state == "latched":
            state, ended, expected = "none", player.index, ["acknowledged"]
        assert found == expected
        assert [alarm.state for alarm in player.board.active()] == [state] * (state != "none")


def _held_s(heard: list[tuple[int, float | None]]) -> int:
    """For how long the newest values are beyond the threshold; a pace that gets slower is a gap."""
    strides = [1, *(later - sooner for (sooner, _), (later, _) in pairwise(heard))]
    first = len(heard) - 1
    while first and (value := heard[first - 1][1]) is not None and value > ABOVE:
        if strides[first] > min(strides[first - 1], 4):
            break
        first -= 1
    return heard[-1][0] - heard[first][0]


def _value(rule: AlarmRule, prediction: Prediction | None) -> float | None:
    if prediction is None or prediction.affect is None or not counts(rule, prediction):
        return None
    return prediction.affect.arousal


@given(RULES, ANYTHING)
def test_no_alarm_comes_from_a_withheld_prediction(rule: AlarmRule, course: list[Action]) -> None:
    player = Player(new_board(rule)).play(course)
    allowed = {(p.person, p.utc) for p in player.heard if counts(rule, p) and p.affect is not None}
    for _, event in player.told:
        if event.kind in ("raised", "returned", "cleared", "sees_again"):
            assert (event.alarm.person, event.utc) in allowed
        if event.kind == "raised":
            assert event.alarm.value > ABOVE


@given(RULES, ANYTHING)
def test_an_alarm_between_its_thresholds_stays_as_it_is(rule: AlarmRule, course: list[Action]) -> None:
    player = Player(new_board(rule)).play(course)
    values = {(p.person, p.utc): set[float | None]() for p in player.heard}
    for p in player.heard:  # after a restart a second comes again
        values[p.person, p.utc].add(p.affect and p.affect.arousal)
    limit = ABOVE if rule.clear_below is None else CLEAR
    for _, event in player.told:
        is_end_by_value = event.kind == "cleared" or (event.kind == "ended" and not event.alarm.is_gone)
        if is_end_by_value:
            found = values[event.alarm.person, event.utc]
            assert any(value is not None and value <= limit for value in found)


@given(RULES, ANYTHING)
def test_a_latched_alarm_stands_until_somebody_acknowledged_it(rule: AlarmRule, course: list[Action]) -> None:
    rule = rule.model_copy(update={"latched": True})
    player = Player(new_board(rule)).play(course)
    raised = {event.alarm.id for _, event in player.told if event.kind == "raised"}
    known = {event.alarm.id for _, event in player.told if event.kind == "acknowledged"}
    assert raised - known <= {alarm.id for alarm in player.board.active()}
    for _, event in player.told:
        assert event.kind != "ended" or event.alarm.id in known


@given(RULES, ALONE)
def test_nothing_is_raised_while_it_must_be_quiet(rule: AlarmRule, course: list[Action]) -> None:
    player = Player(new_board(rule)).play(course)
    ends = [index for index, event in player.told if event.alarm.state == "ended"]
    for index, event in player.told:
        if event.kind == "raised":
            assert not any(end < index < end + rule.quiet_s for end in ends)


@given(st.lists(RULES, min_size=1, max_size=2), ANYTHING, ANYTHING, st.sampled_from([1.0, 4.0]))
def test_a_board_that_was_saved_and_restored_has_the_same_future(
    drawn: list[AlarmRule], past: list[Action], future: list[Action], blind_s: float
) -> None:
    rules = [rule.model_copy(update={"name": f"a{number}"}) for number, rule in enumerate(drawn)]
    rules.append(AlarmRule(name="blind", no_estimate_for_s=blind_s))
    player = Player(new_board(*rules)).play(past)
    written = json.loads(json.dumps(player.board.to_dict(), allow_nan=False))
    restored = Player(AlarmBoard.from_dict(written, rules, ManualClock()), index=player.index)
    assert restored.board.active() == player.board.active()
    player.told.clear()
    player.stood.clear()
    assert restored.play(future).told == player.play(future).told
    assert restored.stood == player.stood
    assert restored.board.to_dict() == player.board.to_dict()


@given(st.floats(0.1, 6), ALONE)
def test_no_estimate_is_said_just_when_there_was_none_for_so_long(
    limit_s: float, course: list[Action]
) -> None:
    """Reckoned from when estimates came; without rules that need several of them in a row."""
    course = [action for action in course if isinstance(action, Hop)]
    board = new_board(AlarmRule(name="blind", no_estimate_for_s=limit_s))
    player, seen_ns, first_ns = Player(board), None, None
    for action in course:
        player.play([action])
        t_ns = (player.index + 1) * NS_PER_S
        first_ns = t_ns if first_ns is None else first_ns
        if any(status == "ok" for _, status, _ in action.said):
            seen_ns = t_ns
        is_blind = t_ns - (first_ns if seen_ns is None else seen_ns) >= limit_s * NS_PER_S
        states = [alarm.state for alarm in board.active()]
        assert states in ([["active"]] if is_blind else [[], ["latched"]])


@given(RULES, ANYTHING)
def test_what_a_board_keeps_is_bounded_by_who_is_there(rule: AlarmRule, course: list[Action]) -> None:
    board = Player(new_board(rule)).play(course).board
    assert len(board.to_dict()["watches"]) <= 2 * len(PEOPLE)
    ids = [alarm.id for alarm in board.active()]
    assert len(set(ids)) == len(ids)

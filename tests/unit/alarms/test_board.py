"""A board of alarms, second by second."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_mer.alarms import board as boards
from edge_mer.alarms.board import AlarmBoard
from edge_mer.clock import ManualClock
from edge_mer.errors import DataError, UsageError
from edge_mer.types.alarms import AlarmRule
from tests.helpers.alarm_world import board_of, happened, high, play, predicted, withheld

BLIND = AlarmRule(name="blind", no_estimate_for_s=3)


# -- a value beyond a threshold -------------------------------------------------------------------


def test_an_alarm_is_raised_stays_and_ends_when_it_is_over_and_acknowledged() -> None:
    board = board_of(high())
    assert play(board, 0.4, 0.5, 0.6, 0.9) == {2: ["raised"]}
    [alarm] = board.active()
    assert (alarm.state, alarm.value, alarm.threshold, alarm.since_utc) == ("active", 0.6, 0.5, "second 2")
    assert alarm.text == "high: affect.arousal 0.6, above 0.5"
    assert play(board, 0.3, 0.2, 0.19, -1.0, start=4) == {6: ["cleared"]}
    [latched] = board.active()
    assert (latched.id, latched.state) == (alarm.id, "latched")
    assert latched.text == "high: affect.arousal 0.6, above 0.5; now over"
    event = board.acknowledge(alarm.id, "ward-3")
    assert (event.kind, event.who, event.alarm.state, event.alarm.acknowledged_by) == (
        "acknowledged",
        "ward-3",
        "ended",
        "ward-3",
    )
    assert event.utc == ManualClock().utc().isoformat()
    assert board.active() == []


def test_an_acknowledged_alarm_stands_until_it_is_over() -> None:
    board = board_of(high())
    play(board, 0.6)
    assert board.acknowledge(board.active()[0].id, "ward-3").alarm.state == "acknowledged"
    assert play(board, 0.9, 0.3, 0.1, start=1) == {3: ["ended"]}
    assert board.active() == []


def test_a_latched_alarm_returns_under_its_id() -> None:
    board = board_of(high(for_s=2))
    assert play(board, 0.6, 0.6, 0.6, 0.1, 0.6, 0.6, 0.6) == {2: ["raised"], 3: ["cleared"], 6: ["returned"]}
    assert len(board.active()) == 1


def test_an_alarm_that_is_not_latched_ends_by_itself() -> None:
    board = board_of(high(latched=False))
    assert play(board, 0.6, 0.1, 0.6) == {0: ["raised"], 1: ["ended"], 2: ["raised"]}


def test_below_is_the_mirror_of_above() -> None:
    low = AlarmRule(name="low", output="affect.arousal", below=-0.5, clear_above=-0.2)
    board = board_of(low)
    assert play(board, -0.5, -0.6, -0.3, -0.2, -0.1) == {1: ["raised"], 4: ["cleared"]}
    assert board.active()[0].text.startswith("low: affect.arousal -0.6, below -0.5")


def test_without_an_end_of_its_own_the_threshold_is_the_end() -> None:
    assert play(board_of(high(clear_below=None)), 0.6, 0.5) == {0: ["raised"], 1: ["cleared"]}
    low = AlarmRule(name="low", output="affect.arousal", below=-0.5)
    assert play(board_of(low), -0.6, -0.5) == {0: ["raised"], 1: ["cleared"]}


# -- how long -------------------------------------------------------------------------------------


def test_the_minimum_duration_is_without_a_break() -> None:
    board = board_of(high(for_s=3))
    assert play(board, 0.6, 0.6, 0.6, 0.4, 0.6, 0.6, 0.6) == {}
    assert play(board, 0.6, start=7) == {7: ["raised"]}
    assert board.active()[0].text == "high: affect.arousal 0.6, above 0.5, for 3 s"


def test_time_without_estimates_never_counts() -> None:
    assert play(board_of(high(for_s=3)), 0.6, 0.6, None, 0.6, 0.6, 0.6) == {}
    assert play(board_of(high(for_s=3)), 0.6, 0.6, 0.6, 0.6) == {3: ["raised"]}


def test_predictions_that_are_missing_break_the_duration_too() -> None:
    board = board_of(high(for_s=3))
    play(board, 0.6, 0.6, 0.6)
    assert play(board, 0.6, 0.6, 0.6, start=4) == {}
    assert play(board, 0.6, start=7) == {7: ["raised"]}


@pytest.mark.parametrize("stride", [2, 4])
def test_a_slower_pace_breaks_the_duration_once(stride: int) -> None:
    board = board_of(high(for_s=2 * stride), AlarmRule(name="blind", no_estimate_for_s=3 * stride))
    play(board, 0.6, 0.6)
    told = [board.update(predicted(1 + stride * hop, 0.6)) for hop in range(1, 5)]
    assert [happened(events) for events in told] == [[], [], [("raised", "active")], []]
    faster = board_of(high(for_s=3))
    for index in (0, 2, 4):
        faster.update(predicted(index, 0.6))
    assert happened(faster.update(predicted(5, 0.6))) == [("raised", "active")]


def test_a_pace_is_kept_with_the_board_and_forgotten_with_the_session() -> None:
    rule = high(for_s=4)
    board = board_of(rule)
    for index in (0, 2, 4):
        board.update(predicted(index, 0.6))
    restored = AlarmBoard.from_dict(board.to_dict(), [rule], ManualClock())
    assert happened(restored.update(predicted(6, 0.6))) == [("raised", "active")]
    board.begin_session()
    assert [board.update(predicted(index, 0.6)) for index in (0, 2, 4)] == [[]] * 3


def test_a_pace_that_is_too_slow_is_a_row_of_gaps() -> None:
    board = board_of(high(for_s=5))
    assert [board.update(predicted(index, 0.6)) for index in range(0, 40, 5)] == [[]] * 8


def test_after_an_alarm_ended_there_is_quiet() -> None:
    board = board_of(high(quiet_s=5))
    play(board, 0.6, 0.1)
    board.acknowledge(board.active()[0].id, "ward-3")  # second 1
    assert play(board, *[0.6] * 5, start=2) == {6: ["raised"]}


def test_what_lasts_through_the_quiet_is_raised_at_its_end() -> None:
    board = board_of(high(quiet_s=5, for_s=4))
    play(board, *[0.6] * 5, 0.1)
    board.acknowledge(board.active()[0].id, "ward-3")  # second 5
    assert play(board, *[0.6] * 5, start=6) == {10: ["raised"]}


# -- what is no estimate --------------------------------------------------------------------------


def test_a_withheld_prediction_raises_nothing_even_with_numbers_in_it() -> None:
    board = board_of(high())
    forged = replace(predicted(0, 0.9), status="withheld")
    assert board.update(forged) == []


def test_an_alarm_stays_while_it_sees_nothing_and_says_so() -> None:
    board = board_of(high())
    assert play(board, 0.6, None, None, None) == {0: ["raised"], 1: ["lost_sight"]}
    [alarm] = board.active()
    assert (alarm.state, alarm.sees) == ("active", False)
    assert alarm.text == "high: affect.arousal 0.6, above 0.5; cannot be seen now"
    assert play(board, 0.3, start=4) == {4: ["sees_again"]}
    assert play(board, None, 0.1, start=5) == {5: ["lost_sight"], 6: ["sees_again", "cleared"]}


def test_degraded_estimates_count_only_where_the_rule_takes_them() -> None:
    weak = [predicted(index, 0.9, "degraded") for index in range(2)]
    assert board_of(high()).update(weak[0]) == []
    board = board_of(high(degraded=True))
    assert happened(board.update(weak[0])) == [("raised", "active")]
    strict = board_of(high())
    strict.update(predicted(0, 0.9))
    low = predicted(1, 0.0, "degraded")
    assert happened(strict.update(low)) == [("lost_sight", "active")], "and they end nothing"


def test_a_number_that_is_none_is_no_estimate() -> None:
    board = board_of(high())
    assert board.update(predicted(0, float("nan"))) == []
    assert board.update(predicted(1, None)) == []


# -- no estimate at all ---------------------------------------------------------------------------


def test_no_estimate_is_an_alarm_of_its_own() -> None:
    board = board_of(BLIND)
    assert play(board, 0.1, None, None, None, None, 0.1) == {3: ["raised"], 5: ["cleared"]}
    [alarm] = board.active()
    assert (alarm.output, alarm.value, alarm.threshold) == (None, 3.0, 3.0)
    assert alarm.text == "blind: no estimate for 3.0 s; now over"


def test_a_limit_shorter_than_a_hop_is_beyond_with_the_first_hop_without_an_estimate() -> None:
    board = board_of(AlarmRule(name="blind", no_estimate_for_s=0.5))
    assert play(board, 0.1, 0.1, None) == {2: ["raised"]}


def test_it_is_raised_when_there_never_was_an_estimate() -> None:
    assert play(board_of(BLIND), None, None, None, None) == {3: ["raised"]}


def test_predictions_that_are_missing_are_no_estimates() -> None:
    board = board_of(BLIND)
    play(board, 0.1)
    assert play(board, None, start=9) == {9: ["raised"]}


def test_estimates_that_flicker_too_fast_for_the_other_rules_are_none() -> None:
    flicker = [0.6, 0.6, None] * 4
    board = board_of(high(for_s=2), BLIND)
    told = play(board, *flicker)
    assert told == {3: ["raised"]}
    assert board.active()[0].name == "blind"
    steady = board_of(high(for_s=1), BLIND)
    assert [alarm.name for alarm in (play(steady, *flicker), steady.active())[1]] == ["high"]


def test_a_rule_that_takes_longer_than_that_is_not_blind_from_the_start() -> None:
    board = board_of(high(for_s=60), BLIND)
    assert play(board, *[0.6] * 60) == {}
    assert play(board, 0.6, start=60) == {60: ["raised"]}


@pytest.mark.parametrize("limit_s", [0.5, 1, 3])
def test_of_several_people_one_estimate_is_enough(limit_s: float) -> None:
    board = board_of(AlarmRule(name="blind", no_estimate_for_s=limit_s))
    for index in range(9):
        assert board.update(withheld(index, "p1")) == []
        assert board.update(predicted(index, person="p2")) == []
    told = [event for index in range(9, 13) for event in board.update(withheld(index))]
    assert happened(told) == [("raised", "active")]


# -- people ---------------------------------------------------------------------------------------


def test_people_are_watched_separately() -> None:
    board = board_of(high(for_s=1))
    for index in range(3):
        board.update(predicted(index, 0.9, person="p1"))
        board.update(predicted(index, 0.9 if index == 0 else 0.1, person="p2"))
    [alarm] = board.active()
    assert (alarm.person, alarm.since_utc) == ("p1", "second 1")
    assert alarm.text == "high: affect.arousal of p1 0.9, above 0.5, for 1 s"


def test_the_alarm_of_somebody_who_left_waits_to_be_acknowledged() -> None:
    board = board_of(high(latched=False))
    board.update(predicted(0, 0.9, person="p1"))
    assert board.update(withheld(1)) == []
    [event] = board.update(withheld(2))
    assert (event.kind, event.alarm.is_gone, event.alarm.state) == ("lost_sight", True, "active")
    assert event.alarm.text.endswith("; watched no more")
    assert board.acknowledge(event.alarm.id, "ward-3").alarm.state == "ended"


def test_an_acknowledged_alarm_of_somebody_who_left_ends() -> None:
    board = board_of(high())
    board.update(predicted(0, 0.9, person="p1"))
    board.acknowledge(board.active()[0].id, "ward-3")
    board.update(withheld(1))
    assert happened(board.update(withheld(2))) == [("ended", "ended")]


def test_what_nobody_acknowledges_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "MAX_ALARMS", 3)
    board = board_of(high())
    told = [
        event for index in range(6) for event in board.update(predicted(index, 0.9, person=f"p{index + 1}"))
    ]
    assert [event.alarm.person for event in told if event.kind == "dropped"] == ["p1", "p2", "p3"]
    assert [alarm.person for alarm in board.active()] == ["p4", "p5", "p6"]
    assert len(board.to_dict()["watches"]) <= 2, "who is gone is forgotten"


# -- acknowledging --------------------------------------------------------------------------------


def test_what_cannot_be_acknowledged_is_refused() -> None:
    board = board_of(high())
    with pytest.raises(UsageError, match="none stands"):
        board.acknowledge("x-1", "ward-3")
    play(board, 0.9)
    [alarm] = board.active()
    with pytest.raises(UsageError, match=alarm.id):
        board.acknowledge("x-1", "ward-3")
    for who in ("", " ", "w" * 201, "ward\n3"):
        with pytest.raises(UsageError, match="names who"):
            board.acknowledge(alarm.id, who)
    board.acknowledge(alarm.id, "ward-3")
    with pytest.raises(UsageError, match="by ward-3"):
        board.acknowledge(alarm.id, "ward-4")


def test_events_are_data_for_json() -> None:
    board = board_of(high())
    [event] = board.update(predicted(0, 0.9, interval=(0.7, 1.0)))
    written = json.loads(json.dumps(event.to_dict(), allow_nan=False))
    assert written["alarm"]["interval"] == [0.7, 1.0]
    assert (written["kind"], written["t_ns"], written["alarm"]["person"]) == ("raised", 1_000_000_000, None)


# -- sessions and files ---------------------------------------------------------------------------


def test_a_restart_neither_forgets_an_alarm_nor_raises_it_twice(tmp_path: Path) -> None:
    path, rules = tmp_path / "alarms.json", [high(for_s=1)]
    board = AlarmBoard.load(path, rules, ManualClock())
    play(board, 0.6, 0.6)
    board.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    again = AlarmBoard.load(path, rules, ManualClock())
    [alarm] = again.active()
    assert (alarm.id, alarm.state, alarm.sees) == (board.active()[0].id, "active", False)
    assert play(again, 0.6, 0.6, 0.6, 0.1) == {0: ["sees_again"], 3: ["cleared"]}


def test_a_restart_breaks_off_what_was_running(tmp_path: Path) -> None:
    path, rules = tmp_path / "alarms.json", [high(for_s=2)]
    board = AlarmBoard(rules, ManualClock())
    play(board, 0.6, 0.6)
    board.save(path)
    again = AlarmBoard.load(path, rules, ManualClock())
    assert play(again, 0.6, start=2) == {}, "although it is the next prediction by its number"


def test_time_that_goes_back_is_a_new_session() -> None:
    board = board_of(high(for_s=2))
    play(board, 0.6, 0.6)
    assert play(board, 0.6, 0.6) == {}
    assert play(board, 0.6, start=2) == {2: ["raised"]}


def test_a_new_session_knows_nothing_of_quiet_times_of_an_old_clock() -> None:
    board = board_of(high(quiet_s=5))
    play(board, 0.6, 0.1, start=1000)
    board.acknowledge(board.active()[0].id, "ward-3")
    assert play(board, 0.6) == {0: ["raised"]}


@pytest.mark.parametrize(
    "change", [{"bundle_id": "sha256:1"}, {"precision": "int8-cpu"}, {"engine": "other"}]
)
def test_numbers_of_another_model_do_not_add_up_with_those_of_the_one_before(change: dict[str, Any]) -> None:
    board = board_of(high(for_s=2))
    play(board, 0.6, 0.6)
    told = [board.update(replace(predicted(index, 0.6), **change)) for index in (2, 3, 4)]
    assert [happened(events) for events in told] == [[], [], [("raised", "active")]]


def test_quiet_times_go_on_when_another_model_takes_over() -> None:
    board = board_of(high(quiet_s=5))
    play(board, 0.6, 0.1)
    board.acknowledge(board.active()[0].id, "ward-3")  # second 1
    told = [board.update(replace(predicted(index, 0.6), precision="fp16")) for index in range(2, 7)]
    assert [len(events) for events in told] == [0, 0, 0, 0, 1]


def test_names_are_given_anew_when_another_model_takes_over() -> None:
    board = board_of(high())
    board.update(predicted(0, 0.9, person="p1"))
    told = board.update(replace(predicted(1, 0.1, person="p1"), bundle_id="sha256:1"))
    assert [(event.kind, event.alarm.is_gone) for event in told] == [("lost_sight", True)]


def test_people_of_an_earlier_session_are_others() -> None:
    board = board_of(high())
    board.update(predicted(0, 0.9, person="p1"))
    assert happened(board.begin_session()) == [("lost_sight", "active")]
    assert happened(board.update(predicted(0, 0.9, person="p1"))) == [("raised", "active")]
    board.update(predicted(1, 0.0, person="p1"))
    assert [(alarm.state, alarm.is_gone) for alarm in board.active()] == [
        ("active", True),
        ("latched", False),
    ]


def test_alarms_of_rules_that_are_gone_wait_and_changed_rules_go_on() -> None:
    board = board_of(high(), high(name="other"))
    play(board, 0.6)
    again = AlarmBoard.from_dict(board.to_dict(), [high(above=0.9, clear_below=0.8)], ManualClock())
    assert [(alarm.name, alarm.is_gone) for alarm in again.active()] == [("high", False), ("other", True)]
    assert play(again, 0.7, start=1) == {1: ["cleared"]}
    assert again.acknowledge(again.active()[1].id, "ward-3").alarm.state == "ended"


def test_a_rule_of_another_output_does_not_go_on_with_alarms() -> None:
    board = board_of(high())
    play(board, 0.6)
    other = high(output="affect.valence")
    [alarm] = AlarmBoard.from_dict(board.to_dict(), [other], ManualClock()).active()
    assert alarm.is_gone


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"schema_version": 2}', b"\xff", b"[" * 100_000], ids=range(6)
)
def test_a_file_that_holds_no_board_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "alarms.json"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        AlarmBoard.load(path, [high()])
    assert "Traceback" not in str(caught.value)


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot keep alarms"):
        board_of(high()).save(tmp_path / "nowhere" / "alarms.json")
    with pytest.raises(UsageError, match="cannot read"):
        AlarmBoard.load(tmp_path, [high()])


def test_a_write_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, board = tmp_path / "alarms.json", board_of(high())
    play(board, 0.6)
    board.save(path)
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    board.acknowledge(board.active()[0].id, "ward-3")
    with pytest.raises(UsageError, match="No space left"):
        board.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]

"""People who leave, for readers who keep the last value of each."""

from __future__ import annotations

from edge_mer.sinks.people import Departures
from tests.helpers.sent import ok, withheld


def test_of_whoever_left_it_is_said_once() -> None:
    departures = Departures()
    given = [
        ok(0, 0.5, person="p1"),
        ok(0, 0.1, person="p2"),
        ok(1, 0.2, person="p2"),
        ok(2, 0.3, person="p2"),
        withheld(3, "nobody_seen"),
        withheld(4, "nobody_seen"),
        withheld(5, "nobody_seen"),
    ]
    found = [one for prediction in given for one in departures.before(prediction)]
    assert [(one.window_index, one.person, one.status) for one in found] == [
        (0, "p1", "ok"),
        (0, "p2", "ok"),
        (1, "p2", "ok"),
        (2, "p1", "withheld"),
        (2, "p2", "ok"),
        (3, "p2", "withheld"),
        (3, None, "withheld"),
        (4, None, "withheld"),
        (5, None, "withheld"),
    ]
    (gone,) = [one for one in found if (one.window_index, one.person) == (2, "p1")]
    assert (gone.affect, gone.reasons, gone.t_end_ns) == (None, ("nobody_seen",), ok(2).t_end_ns)


def test_one_person_without_a_name_never_leaves() -> None:
    departures = Departures()
    assert [len(list(departures.before(ok(index)))) for index in range(4)] == [1, 1, 1, 1]


def test_when_nothing_is_known_of_anybody_it_is_said_of_each_at_once() -> None:
    departures = Departures()
    for person in ("p1", "p2"):
        assert len(list(departures.before(ok(0, person=person)))) == 1
    found = list(departures.before(withheld(9, "inference_lost")))
    assert [(one.person, one.status, one.reasons) for one in found] == [
        ("p1", "withheld", ("inference_lost",)),
        ("p2", "withheld", ("inference_lost",)),
        (None, "withheld", ("inference_lost",)),
    ]


def test_who_is_back_is_not_gone() -> None:
    departures = Departures()
    given = [ok(0, person="p1"), ok(1, person="p2"), ok(2, person="p1"), ok(3, person="p1")]
    found = [one for prediction in given for one in departures.before(prediction)]
    assert [(one.window_index, one.person, one.status) for one in found] == [
        (0, "p1", "ok"),
        (1, "p2", "ok"),
        (2, "p1", "ok"),
        (3, "p2", "withheld"),
        (3, "p1", "ok"),
    ]

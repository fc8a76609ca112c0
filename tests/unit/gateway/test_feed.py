"""What the gateway knows, and what it says when it hears nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.gateway.feed import Event, Feed, Subscription
from edge_mer.gateway.shapes import PredictionShape
from edge_mer.types.predictions import Prediction
from tests.helpers.inference import ALARM, HELLO, INTERVAL_S, health
from tests.helpers.predictions import record


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def feed(clock: ManualClock) -> Feed:
    made = Feed(clock, max_waiting=4)
    made.link_is(up=True)
    made.take(HELLO)
    made.take({"kind": "health", "health": health()})
    return made


def predict(feed: Feed, index: int, **changes: Any) -> None:
    feed.take({"kind": "prediction", "record": record(index, **changes)})


def kinds(subscription: Subscription) -> list[str]:
    async def read() -> list[str]:
        subscription.end()
        found = []
        while (event := await subscription.next()) is not None:
            found.append(event.kind)
        return found

    return asyncio.run(read())


def records_of(subscription: Subscription) -> list[dict[str, Any]]:
    async def read() -> list[dict[str, Any]]:
        subscription.end()
        found = []
        while (event := await subscription.next()) is not None:
            if event.kind == "prediction":
                found.append(json.loads(event.text)["record"])
        return found

    return asyncio.run(read())


def test_a_new_client_hears_what_is_known(feed: Feed) -> None:
    predict(feed, 0)
    feed.take({"kind": "alarms", "alarms": [ALARM]})
    with feed.subscribe() as subscription:
        assert feed.n_clients == 1
        assert kinds(subscription) == ["model", "health", "alarms", "prediction"]
    assert feed.n_clients == 0


def test_who_may_not_stay_is_shown_out_without_what_waits(feed: Feed) -> None:
    may = {"a": True, "b": True}
    with feed.subscribe(lambda: may["a"]) as shown_out, feed.subscribe(lambda: may["b"]) as other:
        predict(feed, 0)
        may["a"] = False
        feed.look()
        assert asyncio.run(shown_out.next()) is None
        assert kinds(other) == ["model", "health", "alarms", "prediction"]


def test_a_slow_client_loses_the_oldest_and_nobody_else_does(feed: Feed) -> None:
    with feed.subscribe() as slow:
        for index in range(10):
            predict(feed, index)
        with feed.subscribe() as fresh:
            assert [one["window_index"] for one in records_of(slow)] == [6, 7, 8, 9]
            assert slow.n_dropped == 9  # model, health and alarms, which it had not read either
            assert feed.n_events_dropped == 9
            assert [one["window_index"] for one in records_of(fresh)] == [9]
            assert fresh.n_dropped == 0


@given(st.lists(st.sampled_from(["put", "next"]), max_size=60), st.integers(1, 5))
def test_what_waits_is_bounded_and_in_order(steps: list[str], bound: int) -> None:
    async def play() -> None:
        subscription, n_put, waiting = Subscription(bound), 0, []
        for step in steps:
            if step == "put":
                subscription.put(Event("prediction", str(n_put)))
                waiting = [*waiting, str(n_put)][-bound:]
                n_put += 1
            elif waiting:
                event = await subscription.next()
                assert event is not None
                assert event.text == waiting.pop(0)
        assert subscription.n_dropped + len(waiting) <= n_put

    asyncio.run(play())


def test_silence_is_told_once_and_never_with_the_last_value(feed: Feed, clock: ManualClock) -> None:
    predict(feed, 7, valence=0.9)
    clock.advance_ns(2 * NS_PER_S)
    feed.look()
    assert not feed.is_lost
    with feed.subscribe() as subscription:
        clock.advance_ns(1)
        for _ in range(3):
            feed.look()
            clock.advance_ns(NS_PER_S)
        last, lost = records_of(subscription)
    assert last["affect"]["valence"] == 0.9
    assert feed.latest() == lost
    assert (feed.is_ready, feed.state, feed.n_losses) == (False, "lost", 1)
    assert lost["status"] == "withheld"
    assert lost["reasons"] == ["inference_lost"]
    assert [lost[key] for key in ("affect", "pain", "emotion", "confidence")] == [None] * 4
    assert lost["modalities"] == {
        name: {"present": False, "coverage": 0.0, "age_ms": None, "source": None, "quality": None}
        for name in ("visual", "audio")
    }
    assert lost["t_end_ns"] == last["t_end_ns"] + 2 * NS_PER_S + 1
    assert lost["window_index"] == 7 + 8
    PredictionShape.model_validate(lost)
    assert Prediction.from_dict(lost).to_dict() == lost


def test_a_prediction_ends_the_loss(feed: Feed, clock: ManualClock) -> None:
    clock.advance_ns(3 * NS_PER_S)
    feed.look()
    assert feed.latest() is not None
    predict(feed, 12)
    assert (feed.is_lost, feed.is_ready) == (False, True)
    latest = feed.latest()
    assert latest is not None
    assert latest["status"] == "ok"
    clock.advance_ns(3 * NS_PER_S)
    feed.look()
    assert feed.n_losses == 2


def test_slow_models_are_given_three_hops(feed: Feed, clock: ManualClock) -> None:
    feed.take({**HELLO, "interval_s": 10 * INTERVAL_S})
    predict(feed, 0)
    clock.advance_ns(round(30 * INTERVAL_S * NS_PER_S))
    feed.look()
    assert not feed.is_lost
    clock.advance_ns(1)
    feed.look()
    assert feed.is_lost


def test_nothing_was_ever_heard(clock: ManualClock) -> None:
    feed = Feed(clock)
    assert feed.latest() is None
    assert (feed.is_ready, feed.state) == (False, "starting")
    clock.advance_ns(3 * NS_PER_S)
    feed.look()
    lost = feed.latest()
    assert lost is not None
    assert (lost["window_index"], lost["modalities"], lost["reasons"]) == (0, {}, ["inference_lost"])
    assert feed.health_told() == {"state": "lost"}


def test_each_of_several_people_has_a_newest_record(feed: Feed, clock: ManualClock) -> None:
    for person in ("p1", "p2"):
        predict(feed, 3, person=person)
    for person in ("p1", "p2"):
        found = feed.latest(person)
        assert found is not None
        assert found["person"] == person
    with feed.subscribe() as subscription:
        assert [one["person"] for one in records_of(subscription)] == ["p1", "p2"]
    predict(feed, 4, person="p2")
    assert feed.latest("p1") is None  # gone
    clock.advance_ns(3 * NS_PER_S)
    feed.look()
    lost = feed.latest("p2")
    assert lost is not None
    assert lost["status"] == "withheld"


def test_passwords_of_addresses_are_left_out(feed: Feed) -> None:
    told = json.dumps(feed.health_told())
    assert "rtsp://camera/1" in told
    assert "secret" not in told


def test_numbers_that_json_has_not_are_refused(feed: Feed) -> None:
    with pytest.raises(ValueError, match="JSON"):
        predict(feed, 0, confidence=float("nan"))

"""FeatureRing: what each slot holds, and for how long."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.sync.features import FeatureRing, Slot

L = 4


def fresh() -> FeatureRing:
    return FeatureRing(np.zeros((1, L, 2), np.float32))


def feature(value: float) -> NDArray[np.float32]:
    return np.array([value, -value], np.float32)


def test_a_new_ring_is_empty() -> None:
    ring = fresh()
    assert ring.slots == ["empty"] * L
    assert ring.present == [False] * L
    assert ring.held(100) is None


@given(values=st.lists(st.integers(1, 99), max_size=3 * L))
def test_the_newest_feature_is_last_and_the_oldest_falls_out(values: list[int]) -> None:
    ring = fresh()
    for value in values:
        ring.push(feature(value), "present")
    expected = ([0] * L + values)[-L:]
    np.testing.assert_array_equal(ring.buffer[0, :, 0], expected)
    assert ring.present == [value > 0 for value in expected]


def test_the_ring_lies_in_the_buffer_it_was_given() -> None:
    buffer = np.zeros((1, L, 2), np.float32)
    FeatureRing(buffer).push(feature(3), "present")
    np.testing.assert_array_equal(buffer[0, -1], feature(3))


def test_a_pushed_feature_may_change_afterwards() -> None:
    ring, value = fresh(), feature(3)
    ring.push(value, "present")
    value[:] = 9
    np.testing.assert_array_equal(ring.buffer[0, -1], feature(3))
    np.testing.assert_array_equal(ring.held(1), feature(3))


@pytest.mark.parametrize(
    ("slot", "is_present"),
    [("present", True), ("filled", True), ("absent", False), ("empty", False), ("cleared", False)],
)
def test_only_encoded_and_filled_slots_count_as_present(slot: Slot, is_present: bool) -> None:
    ring = fresh()
    ring.push(feature(1), slot)
    assert ring.present[-1] is is_present


def test_an_absent_step_is_zero() -> None:
    ring = fresh()
    ring.push(feature(3), "present")
    ring.push(None, "absent")
    np.testing.assert_array_equal(ring.buffer[0, -1], 0)
    np.testing.assert_array_equal(ring.buffer[0, -2], feature(3))


@pytest.mark.parametrize("max_age", [0, 1, 2, 3])
def test_a_feature_is_held_until_it_is_too_old(max_age: int) -> None:
    """`max_age` steps may be bridged with it, and no more."""
    ring = fresh()
    ring.push(feature(5), "present")
    bridged = 0
    while (held := ring.held(max_age)) is not None and bridged < 10:
        np.testing.assert_array_equal(held, feature(5))
        ring.push(held, "filled")
        bridged += 1
    assert bridged == max_age


def test_absent_steps_make_the_held_feature_older() -> None:
    ring = fresh()
    ring.push(feature(5), "present")
    ring.push(None, "absent")
    assert ring.held(1) is None
    assert ring.held(2) is not None


def test_a_new_feature_replaces_the_held_one() -> None:
    ring = fresh()
    ring.push(feature(5), "present")
    ring.push(None, "absent")
    ring.push(feature(6), "present")
    np.testing.assert_array_equal(ring.held(1), feature(6))


def test_what_a_policy_filled_in_is_not_held() -> None:
    ring = fresh()
    ring.push(feature(5), "filled")
    assert ring.held(10) is None


def test_another_person_leaves_nothing_of_the_first() -> None:
    ring = fresh()
    ring.push(feature(5), "present")
    ring.push(None, "absent")
    ring.clear()
    assert not ring.buffer.any()
    assert ring.slots == ["empty", "empty", "cleared", "cleared"]
    assert ring.present == [False] * L
    assert ring.held(100) is None


def test_after_a_switch_the_ring_fills_anew() -> None:
    ring = fresh()
    ring.push(feature(5), "present")
    ring.clear()
    for value in (6, 7):
        ring.push(feature(value), "present")
    assert ring.slots == ["empty", "cleared", "present", "present"]
    np.testing.assert_array_equal(ring.buffer[0, :, 0], [0, 0, 6, 7])

"""What an error says, and the exit code it means."""

from __future__ import annotations

import inspect

import pytest

from edge_mer import errors
from edge_mer.errors import (
    BundleError,
    DataError,
    EdgeMerError,
    MissingError,
    ParityError,
    SpecMismatchError,
    UsageError,
)


def test_a_message_says_what_failed_expected_found_and_what_to_do() -> None:
    error = UsageError("cannot read x", expected="a video", found="a song", hint="give a video")
    assert str(error) == "cannot read x. Expected: a video. Found: a song. Next: give a video."


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({}, "It failed."),
        ({"expected": "a"}, "It failed. Expected: a."),
        ({"found": "b"}, "It failed. Found: b."),
        ({"hint": "c"}, "It failed. Next: c."),
        ({"expected": "a", "hint": "c"}, "It failed. Expected: a. Next: c."),
    ],
)
def test_what_is_not_known_is_left_out(parts: dict[str, str], text: str) -> None:
    assert str(EdgeMerError("It failed", **parts)) == text


def test_full_stops_are_not_doubled() -> None:
    error = EdgeMerError("It failed.", expected="a.", found="b.", hint="c.")
    assert str(error) == "It failed. Expected: a. Found: b. Next: c."


def test_a_question_keeps_its_mark() -> None:
    assert str(EdgeMerError("It failed", hint="did you mean x?")) == "It failed. Next: did you mean x?"


def test_the_parts_can_be_read_one_by_one() -> None:
    error = DataError("It failed", expected="a", found="b", hint="c")
    assert (error.what, error.expected, error.found, error.hint) == ("It failed", "a", "b", "c")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (EdgeMerError, 1),
        (UsageError, 2),
        (DataError, 3),
        (SpecMismatchError, 3),
        (BundleError, 3),
        (ParityError, 4),
        (MissingError, 5),
    ],
)
def test_each_kind_has_its_exit_code(kind: type[EdgeMerError], code: int) -> None:
    assert kind("x").exit_code == code


def test_a_stream_that_does_not_fit_is_unusable_data() -> None:
    assert issubclass(SpecMismatchError, DataError)


def test_every_error_is_documented_in_the_table() -> None:
    kinds = [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, EdgeMerError)
    ]
    assert errors.__doc__ is not None
    assert len(kinds) == 9
    for kind in kinds:
        assert kind.__name__ in errors.__doc__

"""The order in which a device proves what it timed."""

from __future__ import annotations

import pytest

from edge_mer.cli.build_engine import _verdict
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.runtime.build import Trial, by_worth
from edge_mer.runtime.target import Choice


def timed(precision: str, hop_ms: float, threads: int = 1) -> Trial:
    return Trial(Choice(precision, OrtOptions(threads=threads, graph="all")), hop_ms)


@pytest.mark.parametrize(
    ("int8_ms", "first"),
    [(5.0, "int8-cpu"), (8.9, "int8-cpu"), (9.1, "fp32"), (9.9, "fp32"), (12.0, "fp32")],
)
def test_fewer_bits_must_save_a_tenth(int8_ms: float, first: str) -> None:
    trials = [timed("int8-cpu", int8_ms), timed("fp32", 10.0)]
    assert by_worth(trials)[0].choice.precision == first


def test_among_the_like_the_fastest_comes_first() -> None:
    trials = [timed("fp32", 10.0), timed("fp32", 9.9, 2), timed("int8-cpu", 8.0), timed("int8-cpu", 7.9, 2)]
    assert [one.hop_ms for one in by_worth(trials)] == [7.9, 8.0, 9.9, 10.0]


def test_the_table_says_why_something_faster_was_not_taken() -> None:
    chosen = Trial(timed("fp32", 10.0).choice, 10.0, error=0.0)
    assert _verdict(timed("int8-cpu", 9.5), chosen) == "saves less than 10 %"
    assert _verdict(timed("int8-cpu", 10.5), chosen) == "slower"
    assert _verdict(chosen, chosen) == "passed"

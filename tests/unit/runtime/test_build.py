"""The order in which a device proves what it timed."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_mer.bundle.read import open_bundle
from edge_mer.cli.build_engine import _verdict
from edge_mer.clock import MonotonicClock
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.runtime import target_cpu
from edge_mer.runtime.build import Trial, build, by_worth, fitting_build
from edge_mer.runtime.opening import open_chosen
from edge_mer.runtime.target import Choice
from edge_mer.runtime.target_cpu import CpuTarget


def timed(precision: str, hop_ms: float, threads: int = 1) -> Trial:
    return Trial(Choice(precision, (("fusion", OrtOptions(threads=threads)),)), hop_ms)


@pytest.mark.parametrize(
    ("int8_ms", "bf16_ms", "first"),
    [
        (5.0, 12.0, "int8-cpu"),
        (8.0, 12.0, "int8-cpu"),
        (8.2, 12.0, "fp32"),
        (12.0, 8.9, "bf16"),
        (12.0, 9.1, "fp32"),
        (5.0, 5.0, "bf16"),
        (4.6, 5.0, "bf16"),
        (4.4, 5.0, "int8-cpu"),
    ],
)
def test_each_halving_of_the_bits_must_save_a_tenth(int8_ms: float, bf16_ms: float, first: str) -> None:
    trials = [timed("int8-cpu", int8_ms), timed("bf16", bf16_ms), timed("fp32", 10.0)]
    assert by_worth(trials)[0].choice.precision == first


def test_among_the_like_the_fastest_comes_first() -> None:
    trials = [timed("fp32", 10.0), timed("fp32", 9.9, 2), timed("int8-cpu", 8.0), timed("int8-cpu", 7.9, 2)]
    assert [one.hop_ms for one in by_worth(trials)] == [7.9, 8.0, 9.9, 10.0]


def test_the_table_says_why_something_faster_was_not_taken() -> None:
    chosen = Trial(timed("fp32", 10.0).choice, 10.0, error=0.0)
    assert _verdict(timed("int8-cpu", 9.5), chosen) == "saves too little"
    assert _verdict(timed("int8-cpu", 10.5), chosen) == "slower"
    assert _verdict(chosen, chosen) == "passed"


def test_what_was_chosen_for_more_threads_is_passed_over(
    shared_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, target = open_bundle(shared_bundle), CpuTarget()
    list(build(bundle, MonotonicClock(), target))
    assert fitting_build(bundle, target) is not None
    _, choice, was_built = open_chosen(bundle, None)
    assert was_built
    monkeypatch.setattr(target_cpu, "available_threads", lambda: 64)
    assert fitting_build(bundle, target) is None
    _, choice, was_built = open_chosen(bundle, None)
    assert (choice.precision, was_built) == ("fp32", False)

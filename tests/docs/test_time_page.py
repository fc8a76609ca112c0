"""The page on time says what the code does, and what `benchmarks/clocks.py` measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import clocks
from edge_mer.runtime.pipeline import MAX_AHEAD_NS
from edge_mer.sync import nominal_rate, remote_clock, resampler, windower

PAGE = (Path(__file__).resolve().parents[2] / "docs/how-time-works.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())
MS = 1_000_000


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("name", list(clocks.SENSORS)[::3])
def test_rates_are_followed_as_well_as_the_page_says(name: str) -> None:
    assert row(clocks.rate_row(name, clocks.SENSORS[name])) in PAGE


@pytest.mark.parametrize("rate_hz", [250, 64, 4])
def test_tones_are_kept_as_well_as_the_page_says(rate_hz: int) -> None:
    assert row(clocks.tones_row(rate_hz)) in PAGE


def test_clocks_are_known_as_well_as_the_page_says() -> None:
    name = next(iter(clocks.WAYS))
    assert row(clocks.clocks_row(name, clocks.WAYS[name], 5)) in PAGE


def test_every_row_that_is_measured_is_there() -> None:
    for name in (*clocks.WAYS, *clocks.SENSORS, *(f"{rate_hz} Hz" for rate_hz in clocks.TONES_HZ)):
        assert f"\n| {name} |" in PAGE


def test_the_page_names_the_numbers_of_the_code() -> None:
    tolerance_ms = [nominal_rate.TOLERANCE_NS[basis] // MS for basis in ("driver", "remote", "arrival")]
    driver_ms, remote_ms, arrival_ms = tolerance_ms
    shortest_ns, longest_ns = windower.LATENESS_LIMITS_NS
    for said in (
        f"counts half after {remote_clock.HALF_LIFE_NS // 10**9} s",
        f"off by more than {remote_clock.MAX_DRIFT * 1e6:.0f} ppm",
        f"more than {remote_clock.WANDER_PER_S * 60e6:.1f} ppm a minute",
        f"to within {remote_clock.WARM_NS // MS} ms for the next {remote_clock.WARM_AHEAD_NS // 10**9} s",
        f"({driver_ms} ms for a driver, {remote_ms} ms for a remote clock, {arrival_ms} ms on arrival)",
        f"all late for {nominal_rate.PERSISTING_NS // 10**9} s",
        f"more than {nominal_rate.EARLY_NS // MS} ms early",
        f"From {resampler.FAST_HZ} Hz on this is a windowed sinc",
        f"from {resampler.SLOW_HZ} Hz on a cubic",
        f"more than {resampler.MAX_CHANGE:.3f} from 1",
        f"within {resampler.ENGAGE_NS // MS} ms of the grid",
        f"at least {shortest_ns / 1e9:.1f} s",
        f"at most {longest_ns // 10**9} s",
        f"stays {windower.MAX_WAIT_NS // 10**9} s behind",
    ):
        assert said in WORDS, said
    assert (remote_clock.N_WARM, remote_clock.N_JUMP, MAX_AHEAD_NS) == (4, 3, 10**9)

"""The page on long runs is of what was measured, and what was measured is good enough."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.soak import daemon_page, kills, swaps
from benchmarks.soak.__main__ import MEASURES, TOGETHER
from benchmarks.soak.kept import kept
from benchmarks.soak.page import MAX_MB_PER_HOUR, PAGE, of_samples, page, verdict
from benchmarks.soak.sessions import Samples, slope_of

MORE_THREADS = {"inference": 3, "gateway": 6}
"""One for each engine of a bundle that serves; workers of the gateway, on two processors."""


def test_the_page_is_of_what_was_measured() -> None:
    measured = {name: kept(name) for name in MEASURES}
    assert PAGE.read_text(encoding="utf-8") == page(measured), "run make soak"


@pytest.mark.parametrize("name", TOGETHER)
def test_growth_is_that_of_the_samples(name: str) -> None:
    found = kept(name)
    assert found["mb_per_hour"] == slope_of(found["samples"], found["warm_after_h"])
    assert len(of_samples(found, "rss_mb")) >= 10
    assert sum(found["n_restarts"].values()) >= 20


@pytest.mark.parametrize("name", ["simulated", "bundle"])
def test_simulated_hours_did_not_grow(name: str) -> None:
    assert kept(name)["mb_per_hour"] < MAX_MB_PER_HOUR


def test_what_grew_is_told() -> None:
    well, grown = {"mb_per_hour": 0.9}, {"mb_per_hour": 1.0}
    assert verdict({"simulated": well, "bundle": well, "live": well}) == "All reached it."
    assert verdict({"simulated": well, "bundle": grown, "live": grown}) == (
        "**Not reached**: bundle, real pace."
    )


def test_growth_would_be_seen() -> None:
    samples = Samples()
    for hour in range(20):
        samples.take(hour, 100_000_000 + (1_500_000 * hour if hour > 2 else 0), 3, 10)
    assert samples.found(warm_after_h=3)["mb_per_hour"] == 1.5
    assert samples.found(warm_after_h=18)["mb_per_hour"] == 1.5


def test_a_hundred_changes_lost_nothing_and_left_nothing() -> None:
    found = kept("swaps")
    assert found["came_to"]["kept"] == swaps.N_SWAPS
    assert found["n_new"] >= swaps.N_SWAPS // swaps.NEW_EVERY
    assert (found["is_whole"], found["n_lost"], found["n_lost_http"]) == (True, 0, 0)
    assert found["held"] == found["left"] == found["stray"] == []


@pytest.mark.parametrize("name", MORE_THREADS)
def test_a_hundred_changes_did_not_grow(name: str) -> None:
    found = kept("swaps")
    samples = found["samples"][name]
    assert found["growth"][name] == swaps.growth(samples["rss_mb"])
    assert found["growth"][name]["mb_per_100"] < swaps.MAX_MB_PER_100
    assert max(samples["n_threads"]) - min(samples["n_threads"]) <= MORE_THREADS[name]
    assert len(set(samples["n_fds"])) == 1


def test_growth_by_changes_would_be_seen() -> None:
    rng = np.random.default_rng(0)
    leaky = 200 + 0.1 * np.arange(101) + rng.normal(0, 4, 101)
    found = swaps.growth(leaky.tolist())
    assert found["mb_per_100"] == pytest.approx(10, abs=3 * found["error"])
    assert daemon_page.verdict({"inference": {"mb_per_100": 5.0}, "gateway": {"mb_per_100": 0.0}}) == (
        "**Not reached**: inference."
    )


def test_a_lost_hop_would_be_seen() -> None:
    def told(*indices: int) -> list[dict[str, Any]]:
        return [{"window_index": index} for index in indices]

    assert swaps.n_missing(told(3, 4, 5)) == 0
    assert swaps.n_missing(told(3, 5)) == 1
    assert swaps.n_missing(told(3, 4, 4, 5)) == 1


def test_after_each_kill_it_served_and_nothing_was_spoilt() -> None:
    found = kept("kills")
    for name, doings in (("inference", kills.INFERENCE), ("gateway", kills.GATEWAY)):
        one = found[name]
        assert one["n_kills"] == sum(doings.values()) == 50
        assert one["n_doing"] == doings
        assert one["n_ended_otherwise"] == 0
        assert one["took_s"] == swaps.spread(one["all_took_s"])
    assert found["faults"] == found["stray"] == []
    assert found["n_lost_meanwhile"] == 0
    assert sum(found["phases"].values()) == kills.INFERENCE["changing"]
    assert len(found["phases"]) >= 4, "changes were cut off in different states"
    assert min(found[what] for what in ("n_acknowledged", "n_audit", "n_lines", "n_recorded")) > 0

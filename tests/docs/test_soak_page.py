"""The page on long runs is of what was measured, and what was measured is good enough."""

from __future__ import annotations

import pytest

from benchmarks import soak


def test_the_page_is_of_what_was_measured() -> None:
    measured = {name: soak.kept(name) for name in soak.MEASURES}
    assert soak.PAGE.read_text(encoding="utf-8") == soak.page(measured), "run make soak"


@pytest.mark.parametrize("name", soak.MEASURES)
def test_growth_is_that_of_the_samples(name: str) -> None:
    found = soak.kept(name)
    assert found["mb_per_hour"] == soak.slope_of(found["samples"], found["warm_after_h"])
    assert len(soak.of_samples(found, "rss_mb")) >= 10
    assert sum(found["n_restarts"].values()) >= 20


@pytest.mark.parametrize("name", ["simulated", "bundle"])
def test_simulated_hours_did_not_grow(name: str) -> None:
    assert soak.kept(name)["mb_per_hour"] < soak.MAX_MB_PER_HOUR


def test_what_grew_is_told() -> None:
    well, grown = {"mb_per_hour": 0.9}, {"mb_per_hour": 1.0}
    assert soak.verdict({"simulated": well, "bundle": well, "live": well}) == "All reached it."
    assert soak.verdict({"simulated": well, "bundle": grown, "live": grown}) == (
        "**Not reached**: bundle, real pace."
    )


def test_growth_would_be_seen() -> None:
    samples = soak.Samples()
    for hour in range(20):
        samples.take(hour, 100_000_000 + (1_500_000 * hour if hour > 2 else 0), 3, 10)
    assert samples.found(warm_after_h=3)["mb_per_hour"] == 1.5
    assert samples.found(warm_after_h=18)["mb_per_hour"] == 1.5

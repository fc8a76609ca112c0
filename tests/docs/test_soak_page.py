"""The page on long runs is of what was measured, and what was measured is good enough."""

from __future__ import annotations

import pytest

from benchmarks import soak


def test_the_page_is_of_what_was_measured() -> None:
    measured = {name: soak.kept(name) for name in soak.MEASURES}
    assert soak.PAGE.read_text(encoding="utf-8") == soak.page(measured), "run make soak"


@pytest.mark.parametrize("name", soak.MEASURES)
def test_a_session_did_not_grow(name: str) -> None:
    found = soak.kept(name)
    assert found["mb_per_hour"] < soak.MAX_MB_PER_HOUR
    assert found["mb_per_hour"] == soak.slope_of(found["samples"], found["warm_after_h"])
    assert len(soak.of_samples(found, "rss_mb")) >= 10
    assert found["n_restarts"]


def test_growth_would_be_seen() -> None:
    samples = soak.Samples()
    for hour in range(20):
        samples.take(hour, 100_000_000 + (1_500_000 * hour if hour > 2 else 0), 3, 10)
    assert samples.found(warm_after_h=3)["mb_per_hour"] == 1.5
    assert samples.found(warm_after_h=18)["mb_per_hour"] == 1.5

"""RateMeter: what came in the last seconds."""

from __future__ import annotations

import pytest

from edge_mer.sync.rate_meter import RateMeter

NS = 1_000_000_000


@pytest.mark.parametrize(("rate_hz", "n"), [(250, 1), (250, 25), (16_000, 320), (30, 1), (4, 1), (1, 3)])
def test_it_counts(rate_hz: int, n: int) -> None:
    meter = RateMeter()
    for i in range(30 * rate_hz // n):
        meter.push(2**62 + i * n * NS // rate_hz, n)
        assert len(meter._cells) <= 101
    assert meter.rate_hz == pytest.approx(rate_hz, rel=0.01)


def test_before_two_chunks_nothing_can_be_told() -> None:
    meter = RateMeter()
    assert meter.rate_hz is None
    meter.push(7, 100)
    assert meter.rate_hz is None


def test_a_device_at_a_wrong_rate_and_one_that_pauses_are_seen() -> None:
    meter = RateMeter()
    for i in range(300):
        meter.push(i * NS // 10, 20)
    assert meter.rate_hz == pytest.approx(200, rel=0.01)
    meter.push(35 * NS, 20)
    meter.push(35 * NS + NS // 10, 20)
    assert meter.rate_hz is not None
    assert meter.rate_hz < 120
    meter.push(100 * NS, 20)
    assert meter.rate_hz is None

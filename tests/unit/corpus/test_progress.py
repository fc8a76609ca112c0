"""What is left is told by how much of the data is done, and never too often."""

from __future__ import annotations

import pytest

from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.corpus.progress import Progress, duration


def test_what_is_left_goes_by_the_data_and_not_by_the_number() -> None:
    clock, said = ManualClock(), []
    progress = Progress(lambda text, *_: said.append(text), "playing", [10, 10, 80], clock, every_s=0)
    clock.advance_ns(30 * NS_PER_S)
    progress.ended(1, is_good=True)
    clock.advance_ns(30 * NS_PER_S)
    progress.ended(0, is_good=False)
    clock.advance_ns(240 * NS_PER_S)
    progress.ended(2, is_good=True)
    assert said == [
        "playing, 1 of 3, 4 min left",  # 30 s for a tenth: 270 s for the rest
        "playing, 2 of 3, 1 failed, 4 min left",  # 60 s for two: 240 s
        "playing, 3 of 3, 1 failed",
    ]


def test_it_is_told_now_and_then_and_at_the_end() -> None:
    clock, said = ManualClock(), []
    progress = Progress(lambda *one: said.append(one), "playing", [1] * 10, clock, every_s=2)
    for number in range(10):
        clock.advance_ns(NS_PER_S)
        progress.ended(number, is_good=True)
    assert [(done, of) for _, done, of in said] == [(2, 10), (4, 10), (6, 10), (8, 10), (10, 10)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (3000, "50 min"), (5400, "1 h 30 min"), (7199, "2 h 0 min")],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text

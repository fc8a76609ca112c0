"""Faces that are searched before they are asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_mer.preprocess.face import Detection
from edge_mer.preprocess.look_ahead import MAX_HELD, LookAheadDetector
from tests.helpers.tiny_session import SquareDetector, frame_of


class Counting(SquareDetector):
    """Notes what is searched."""

    def __init__(self) -> None:
        super().__init__()
        self.searched: list[int] = []

    def detect(self, frame: NDArray[np.uint8]) -> list[Detection]:
        self.searched.append(id(frame))
        return super().detect(frame)


def test_a_frame_is_searched_once_and_found_alike() -> None:
    counting = Counting()
    ahead = LookAheadDetector(counting)
    frames = [frame_of(0), frame_of(None), frame_of(1)]
    for frame in frames[:2]:
        ahead.look_ahead(frame)
        ahead.look_ahead(frame)
    assert counting.searched == [id(frame) for frame in frames[:2]]
    assert [ahead.detect(frame) for frame in frames] == [SquareDetector().detect(frame) for frame in frames]
    assert counting.searched == [id(frame) for frame in frames]
    assert ahead.name == "square"


def test_what_was_asked_for_last_is_not_searched_again() -> None:
    counting = Counting()
    ahead, frame = LookAheadDetector(counting), frame_of(0)
    ahead.detect(frame)
    ahead.look_ahead(frame)
    assert len(counting.searched) == 1


def test_frames_that_nobody_asks_for_are_forgotten() -> None:
    counting = Counting()
    ahead, frames = LookAheadDetector(counting), [frame_of(0) for _ in range(MAX_HELD + 1)]
    for frame in frames:
        ahead.look_ahead(frame)
    ahead.detect(frames[0])  # pushed out
    assert counting.searched.count(id(frames[0])) == 2
    ahead.detect(frames[-1])
    ahead.detect(frames[-2])  # older than what was asked for
    assert counting.searched.count(id(frames[-1])) == 1
    assert counting.searched.count(id(frames[-2])) == 2

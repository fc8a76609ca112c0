"""Several people for the tiny model: squares with a pattern each, side by side before one wall."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mer.preprocess.face import TYPICAL_EYES, Detection
from edge_mer.types.signals import Chunk, StreamSpec
from tests.helpers.tiny_model import FRAME, STEP
from tests.helpers.tiny_session import AUDIO, VISUAL, TinySession

HEIGHT, WIDTH, SIDE = 60, 240, 32
TOP = 14
PLACES = (10, 104, 198)
"""Where the first three people are."""

CROWD = replace(VISUAL, shape=(HEIGHT, WIDTH, 3))


class SquaresDetector:
    """Finds every square of bright red that nothing covers; their eyes are where eyes usually are.

    Args:
        backwards: Give them from right to left.

    Attributes:
        n_frames: How many it was asked for.
    """

    name = "squares"

    def __init__(self, *, backwards: bool = False) -> None:
        self._backwards = backwards
        self.n_frames = 0

    def detect(self, frame: NDArray[np.uint8]) -> list[Detection]:
        """Those that are whole."""
        self.n_frames += 1
        bright = (frame[:, :, 0] >= 200).astype(np.uint8)
        boxes = sorted(cv2.connectedComponentsWithStats(bright)[2][1:].tolist())
        whole = [box for box in boxes if box[2:4] == [SIDE, SIDE]]
        return [_square(box[0], box[1]) for box in (reversed(whole) if self._backwards else whole)]


def _square(x: int, y: int) -> Detection:
    left, right = ((x + fx * SIDE, y + fy * SIDE) for fx, fy in TYPICAL_EYES)
    return Detection(box_px=(x, y, SIDE, SIDE), score=1.0, eyes_px=(left, right))


@cache
def _pattern(person: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(person).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    square = np.asarray(cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST), np.uint8)
    square[:, :, 0] = 210
    return square


def crowd(places: Mapping[int, float], shade: int = 0) -> NDArray[np.uint8]:
    """A picture of people at places (left edges in pixels); who comes later is nearer to the camera."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:, :, 1] = 120 * ((x // 10 + y // 7) % 2)
    for person, place in places.items():
        left = round(place)
        square = np.clip(_pattern(person).astype(int) + np.array((0, shade, 0)), 0, 255)
        picture[TOP : TOP + SIDE, left : left + SIDE] = square
    return picture


@dataclass
class TinyCrowd(TinySession):
    """A session in which people sit side by side at `PLACES`, or `places`.

    Attributes:
        here: Person -> steps in which they are seen.
        places: Person -> left edge in pixels.
    """

    here: Mapping[int, Collection[int]] = field(default_factory=dict)
    places: Mapping[int, int] = field(default_factory=lambda: dict(enumerate(PLACES)))

    @property
    def specs(self) -> list[StreamSpec]:
        """Its streams."""
        return [spec for spec in (CROWD, AUDIO) if spec.modality in self.streams]

    def _frames(self) -> Iterator[Chunk]:
        for seq in range(int(self.n_steps * STEP / FRAME)):
            step = int(seq * FRAME / STEP)
            if step in self.frameless:
                continue
            seen = {person: self.places[person] for person, steps in self.here.items() if step in steps}
            frame = crowd(seen, shade=5 * (step % 5))
            yield Chunk(CROWD.name, "visual", seq, int(seq * FRAME * 1_000_000_000), frame)

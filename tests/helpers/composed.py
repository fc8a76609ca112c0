"""Pictures of several people, each moving and hidden as a test wants, put together from pictures of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.sources.sim import SimSource

Frame = NDArray[np.uint8]
HZ = 7.5
"""Pictures per second, of a slow camera: people get far between two of them."""

TILE_PX = (144, 128)
"""Height and width of one person's picture."""


@dataclass(frozen=True)
class Walk:
    """Where one person is.

    Attributes:
        x_px: The left edge of their picture at a time in seconds.
        hidden_s: From when to when nothing is seen of them; several times.
    """

    x_px: Callable[[float], float]
    hidden_s: Sequence[tuple[float, float]] = ()

    def is_hidden(self, t_s: float) -> bool:
        """At a time in seconds."""
        return any(start <= t_s < end for start, end in self.hidden_s)


def stay(x_px: float, *hidden_s: tuple[float, float]) -> Walk:
    """At one place."""
    return Walk(lambda _: x_px, hidden_s)


@cache
def pictures_of(person: int, duration_s: float, hz: float = HZ) -> tuple[Frame, ...]:
    """A simulated person alone."""
    height, width = TILE_PX
    source = SimSource(
        f"seed=1&person={person}&duration_s={duration_s:g}&streams=visual&fps={hz:g}&width={width}&height={height}"
    )
    source.ensure_ready()
    source.start()
    found: list[Frame] = []
    while not source.ended:
        chunk = source.read(100)
        if chunk is not None:
            found.append(chunk.data.astype(np.uint8))
    return tuple(found)


def composed(
    walks: Mapping[int, Walk], duration_s: float, *, hz: float = HZ, width_px: int = 480
) -> list[tuple[Frame, int]]:
    """Pictures and their times in ns; who comes later in `walks` is nearer to the camera."""
    clips = {person: pictures_of(person, duration_s, hz) for person in walks}
    frames = []
    for index in range(round(duration_s * hz)):
        canvas = np.full((TILE_PX[0], width_px, 3), 90, np.uint8)
        for person, walk in walks.items():
            if not walk.is_hidden(index / hz):
                _paste(canvas, clips[person][index], round(walk.x_px(index / hz)))
        frames.append((canvas, round(index * NS_PER_S / hz)))
    return frames


def _paste(canvas: Frame, tile: Frame, x_px: int) -> None:
    left, right = max(0, x_px), min(canvas.shape[1], x_px + tile.shape[1])
    if left < right:
        canvas[:, left:right] = tile[:, left - x_px : right - x_px]

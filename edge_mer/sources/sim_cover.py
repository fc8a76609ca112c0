"""What is held before the simulated face at times: a hand, a cup or a mask.

Everything is drawn in face units (see `sim_face`), opaque, onto the head as it stands in the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mer.sources.sim_course import Episodes, Times
from edge_mer.sources.sim_look import Colour, Look, mixed, scaled

Floats = NDArray[np.floating[Any]]
Point = tuple[float, float]
Place = Callable[[Floats], NDArray[np.int32]]
"""Turns points in face units, (n, 2), into fixed point on the picture."""

SUBPIXEL_BITS = 4
"""Bits behind the point of OpenCV's coordinates."""

KINDS = ("hand", "cup", "mask")
_LENGTH_S = (2.0, 6.0)
_RAISING_S = 0.3
_AROUND = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.stack((np.cos(_AROUND), np.sin(_AROUND)), axis=1)


@dataclass(frozen=True)
class Cover:
    """What is held before the face.

    Attributes:
        kind: One of `KINDS`.
        side: -1 = from the left, 1 = from the right.
        raised: How far it has been raised, from 0 (out of sight) to 1 (in place).
        offset: Where the place lies, relative to the usual one, in face units.
        tint: Its shade, 0 to 1.
    """

    kind: str
    side: int = 1
    raised: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)
    tint: float = 0.5


class Covering:
    """When something is held before the face, and what.

    Args:
        rng: Chooses it.
        until_s: End of the session.
        share: Share of the time, 0 to 1.
    """

    def __init__(self, rng: np.random.Generator, until_s: float, share: float) -> None:
        self._episodes = None
        if share > 0:
            pause_s = sum(_LENGTH_S) / 2 * (1 - share) / share
            pauses_s = (0.5 * pause_s, 1.5 * pause_s)
            self._episodes = Episodes.draw(rng, until_s + 60, _LENGTH_S, pauses_s, n_draws=5)

    def at(self, t_s: Times) -> list[Cover | None]:
        """What is held before the face at times in seconds: (n,)."""
        if self._episodes is None:
            return [None] * len(t_s)
        return [_cover(self._episodes, at_s) for at_s in t_s.tolist()]


def _cover(episodes: Episodes, t_s: float) -> Cover | None:
    """It is raised before its episode begins and lowered after it has ended."""
    latest = int(episodes.latest(t_s))
    gone = 1 - (t_s - float(episodes.end_s[latest])) / _RAISING_S
    upcoming = min(latest + 1, len(episodes.start_s) - 1)
    coming = 1 - (float(episodes.start_s[upcoming]) - t_s) / _RAISING_S
    number, raised = (latest, gone) if gone >= coming else (upcoming, coming)
    if raised <= 0:
        return None
    kind, side, x, y, tint = episodes.draws[number].tolist()
    offset = (0.16 * (x - 0.5), 0.14 * (y - 0.5))
    return Cover(KINDS[int(kind * len(KINDS))], 1 if side < 0.5 else -1, min(1.0, raised), offset, tint)


def draw_cover(picture: NDArray[np.uint8], cover: Cover, look: Look, place: Place) -> None:
    """Draw it.

    Args:
        picture: The head as it stands in the picture, (height, width, 4) RGBA; drawn upon.
        cover: What is held.
        look: The person.
        place: Where face units lie in the picture.
    """
    shift = np.array([cover.offset[0], cover.offset[1] + 2.0 * (1 - cover.raised)])

    def fill(points: Floats, colour: Colour) -> None:
        mirrored = points * np.array([cover.side, 1.0]) + shift
        cv2.fillPoly(picture, [place(mirrored)], (*colour, 255.0), cv2.LINE_AA, SUBPIXEL_BITS)

    if cover.kind == "mask":
        _draw_mask(fill, look, cover.tint)
    elif cover.kind == "cup":
        _draw_cup(fill, look, cover.tint)
    else:
        _draw_hand(fill, look, 0.12, look.mouth_y - 0.08)


_Fill = Callable[[Floats, Colour], None]


def _draw_mask(fill: _Fill, look: Look, tint: float) -> None:
    colour = mixed((206, 224, 232), (150, 176, 206), tint)
    width, top = look.face_width, look.nose_y - 0.16
    outline = [
        (-0.93 * width, top + 0.1),
        (-0.35, top - 0.02),
        (0.0, top - 0.08),
        (0.35, top - 0.02),
        (0.93 * width, top + 0.1),
        (0.78 * width, 0.72),
        (0.36, 1.02),
        (-0.36, 1.02),
        (-0.78 * width, 0.72),
    ]
    near, far = 0.9 * width, 1.05 * width
    strap = np.array([(near, top + 0.1), (far, -0.02), (far, 0.03), (near, top + 0.16)])
    for side in (-1, 1):
        fill(strap * (side, 1), scaled(colour, 0.9))
    fill(np.array(outline), colour)
    for height in (0.42, 0.58, 0.74):
        fill(_bar(-0.7 * width, 0.7 * width, height, 0.012), scaled(colour, 0.86))


def _draw_cup(fill: _Fill, look: Look, tint: float) -> None:
    colour = mixed((232, 226, 214), (96, 122, 150), tint)
    rim, foot = look.mouth_y - 0.22, look.mouth_y + 0.34
    fill(_CIRCLE * (0.16, 0.17) + (0.36, (rim + foot) / 2), scaled(colour, 0.8))
    fill(np.array([(-0.34, rim), (0.34, rim), (0.28, foot), (-0.28, foot)]), colour)
    fill(np.array([(0.14, rim), (0.34, rim), (0.28, foot), (0.10, foot)]), scaled(colour, 0.9))
    fill(_CIRCLE * (0.34, 0.06) + (0.0, rim), scaled(colour, 0.72))
    _draw_arm(fill, look, 0.42, (rim + foot) / 2 + 0.1)
    for k in range(4):
        y = rim + 0.13 + 0.125 * k
        _draw_finger(fill, look, (0.42, y), (0.08, y + 0.01))


def _draw_hand(fill: _Fill, look: Look, x: float, y: float) -> None:
    """A hand before mouth and cheek, its palm at a point."""
    _draw_arm(fill, look, x + 0.1, y + 0.2)
    fill(_CIRCLE * (0.31, 0.29) + (x, y + 0.08), scaled(look.skin, 0.5))
    for k, reach in enumerate((0.42, 0.50, 0.48, 0.38)):
        root_x, root_y = x - 0.2 + 0.13 * k, y - 0.05
        _draw_finger(fill, look, (root_x, root_y), (root_x - 0.09 + 0.03 * k, root_y - reach))
    fill(_CIRCLE * (0.29, 0.27) + (x, y + 0.08), scaled(look.skin, 0.9))
    _draw_finger(fill, look, (x - 0.16, y + 0.14), (x - 0.46, y - 0.1))


def _draw_finger(fill: _Fill, look: Look, root: Point, tip: Point) -> None:
    """A finger with a dark rim, so that it stands out from the face and from its neighbours."""
    fill(_finger(root, tip, 0.082), scaled(look.skin, 0.5))
    fill(_finger(root, tip, 0.064), scaled(look.skin, 0.9))


def _draw_arm(fill: _Fill, look: Look, x: float, y: float) -> None:
    """Wrist and sleeve, down to below the picture."""
    wrist = [(x - 0.16, y), (x + 0.16, y), (x + 0.26, y + 0.6), (x - 0.1, y + 0.6)]
    fill(np.array(wrist), scaled(look.skin, 0.8))
    sleeve = [(x - 0.14, y + 0.36), (x + 0.28, y + 0.32), (x + 0.7, 2.6), (x + 0.0, 2.6)]
    fill(np.array(sleeve), scaled(look.shirt, 0.9))


def _bar(left: float, right: float, y: float, half: float) -> Floats:
    return np.array([(left, y - half), (right, y - half), (right, y + half), (left, y + half)])


def _finger(root: Point, tip: Point, half: float) -> Floats:
    """A rounded bar from root to tip."""
    start, end = np.array(root), np.array(tip)
    along = (end - start) / np.hypot(*(end - start))
    across = np.array([-along[1], along[0]])
    turn = np.linspace(-np.pi / 2, np.pi / 2, 9)[:, None]
    cap = end + half * (np.cos(turn) * along + np.sin(turn) * across)
    finger: Floats = np.concatenate((start[None] - half * across, cap, start[None] + half * across))
    return finger

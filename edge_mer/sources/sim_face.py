"""Draws the simulated person: one small RGB picture from a look, an expression and a pose.

Coordinates are in face units: the origin lies between the eyes and the mouth, y points down, the
chin is at y = 1. What never moves within a head (skin, shading, hair) is painted once per person;
eyes, brows and mouth are drawn anew for every frame on a copy, which is then moved into place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mer.sources.sim_cover import SUBPIXEL_BITS, Cover, draw_cover
from edge_mer.sources.sim_look import Colour, Look, mixed, scaled

Floats = NDArray[np.floating[Any]]

_OVERSAMPLING = 2
"""Pixels of the head's canvas per pixel of the picture, against jagged edges."""

_CANVAS_LEFT, _CANVAS_TOP, _CANVAS_WIDTH, _CANVAS_HEIGHT = -1.2, -1.5, 2.4, 2.75
_NOISE_MARGIN_PX = 64
_LIGHT_TURN = 0.4
_COLOURS_ONLY = np.array([1, 1, 1, 0], np.float32)
_ACROSS = np.linspace(-1, 1, 15, dtype=np.float32)
_BOW = 1 - _ACROSS**2
_CUPID = _BOW**0.7 * (1 - 0.25 * np.exp(-((_ACROSS / 0.16) ** 2)))
_OUTWARD = np.linspace(0, 1, 9, dtype=np.float32)
_BROW_ARCH = 0.035 * _OUTWARD - 0.05 * np.sin(np.float32(math.pi) * _OUTWARD**1.2)
_BROW_TAPER = (0.5 - 0.375 * _OUTWARD**2) * (0.7 + 0.3 * np.minimum(1, 6 * _OUTWARD))


@dataclass(frozen=True)
class Expression:
    """What the face does.

    Attributes:
        smile: Corners of the mouth, -1 (down) to 1 (up).
        mouth_open: 0 (closed) to 1.
        brow_raise: -1 (lowered) to 1 (raised).
        brow_tilt: -1 (inner ends down, frowning) to 1 (inner ends up, sorrowful).
        eye_open: 0 (closed) to 1 (wide).
        grimace: Muscles that pain draws together, 0 to 1: brows to each other, nose wrinkled, cheeks
            and upper lip raised, mouth stretched.
        gaze: Where the irises look, (x, y), each -1 to 1.
    """

    smile: float = 0.0
    mouth_open: float = 0.0
    brow_raise: float = 0.0
    brow_tilt: float = 0.0
    eye_open: float = 0.6
    grimace: float = 0.0
    gaze: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Pose:
    """Where the head is.

    Attributes:
        x: To the right, in face units.
        y: Downwards, in face units.
        roll_rad: Turned clockwise in the picture.
        scale: 1 = as far away as usual.
        yaw_rad: Turned to the right in the picture.
        pitch_rad: Turned downwards.
    """

    x: float = 0.0
    y: float = 0.0
    roll_rad: float = 0.0
    scale: float = 1.0
    yaw_rad: float = 0.0
    pitch_rad: float = 0.0


@dataclass(frozen=True)
class Light:
    """What falls on the scene.

    Attributes:
        gain: Strength of the light times gain of the camera.
        turn: Where it comes from, -1 (more from the left than usual) to 1 (more from the right).
        noise: Factor of the camera's noise.
    """

    gain: float = 1.0
    turn: float = 0.0
    noise: float = 1.0


_USUAL_LIGHT = Light()


class FacePainter:
    """Paints pictures of one person.

    Args:
        look: The person.
        width_px: Width of the pictures.
        height_px: Height of the pictures.
        wall: What is behind the person: (height, width, 3), 0 to 255; None = the person's own room.
    """

    def __init__(self, look: Look, width_px: int, height_px: int, wall: Floats | None = None) -> None:
        self._look = look
        self._size_px = (width_px, height_px)
        self._picture_unit_px = 0.335 * min(height_px, width_px)
        self._unit_px = self._picture_unit_px * _OVERSAMPLING
        wall = paint_wall(look, width_px, height_px) if wall is None else wall
        self._room = _room(look, wall, self._picture_unit_px)
        self._heads = tuple(self._lit_head(turn) for turn in (-_LIGHT_TURN, _LIGHT_TURN))
        self._brow_colour = _brow_colour(look)
        self._fold_area, self._smile_fold, self._frown_fold = self._folds()
        self._grimace_area, self._grimace_fold = self._grimace()
        shape = (height_px + _NOISE_MARGIN_PX, width_px + _NOISE_MARGIN_PX, 3)
        self._noise = 2.0 * _texture(look, "camera").standard_normal(shape, dtype=np.float32)
        self._turn_area, self._straight, self._depth = self._turning()

    def _lit_head(self, turn: float) -> NDArray[np.uint8]:
        light_x, light_y = self._look.light
        look = replace(self._look, light=(light_x + turn, light_y))
        return _head(look, self._unit_px, _texture(look, "head"))

    def paint(
        self,
        expression: Expression,
        pose: Pose,
        index: int,
        light: Light = _USUAL_LIGHT,
        cover: Cover | None = None,
    ) -> NDArray[np.uint8]:
        """One picture.

        Args:
            expression: What the face does.
            pose: Where the head is.
            index: Counts the frames; chooses the camera's noise.
            light: What falls on the scene.
            cover: What is held before the face; None = nothing.

        Returns:
            Picture (height, width, 3), uint8 RGB.
        """
        share = 0.5 + 0.5 * light.turn
        head = np.asarray(cv2.addWeighted(self._heads[0], 1 - share, self._heads[1], share, 0.0), np.uint8)
        self._draw_folds(head, expression)
        for side in (-1, 1):
            self._draw_eye(head, expression, side)
            self._draw_brow(head, expression, side)
        self._draw_mouth(head, expression)
        self._turn(head, pose)
        placement = self._placement(pose)
        placed = cv2.warpAffine(head, placement, self._size_px, flags=cv2.INTER_LINEAR)
        if cover is not None:
            draw_cover(np.asarray(placed), cover, self._look, self._points_placed(placement))
        return self._develop(np.asarray(placed), light, index)

    def _develop(self, placed: NDArray[np.uint8], light: Light, index: int) -> NDArray[np.uint8]:
        width_px, height_px = self._size_px
        clear = cv2.cvtColor(255 - placed[..., 3], cv2.COLOR_GRAY2RGB)
        seen_room = cv2.multiply(self._room, clear, scale=1 / 255, dtype=cv2.CV_32F)
        picture = cv2.add(seen_room, cv2.cvtColor(placed, cv2.COLOR_RGBA2RGB), dtype=cv2.CV_32F)
        top, left = index * 37 % _NOISE_MARGIN_PX, index * 23 % (_NOISE_MARGIN_PX - 1)
        noise = self._noise[top : top + height_px, left : left + width_px]
        developed = cv2.addWeighted(picture, light.gain, noise, light.noise, 0.0, dtype=cv2.CV_8U)
        return np.asarray(developed, np.uint8)

    def _turning(self) -> tuple[tuple[slice, slice], tuple[Floats, Floats], Floats]:
        """Where a turn of the head shows, pixels there when it looks straight, and the face's relief."""
        look = self._look
        area = self._area(-0.85, -1.05, 0.85, 1.05)
        x, y = _grid(self._unit_px)
        x, y = x[area], y[area]
        bulge = np.maximum(0, 1 - (x / (1.05 * look.face_width)) ** 2 - (y / 1.05) ** 2)
        relief = 0.72 * bulge + 0.12 * _blob(x, y, 0, look.nose_y, 0.16, 0.22)
        columns, rows = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in x.shape[::-1]))
        return area, (columns, rows), (relief * self._unit_px).astype(np.float32)

    def _turn(self, head: NDArray[np.uint8], pose: Pose) -> None:
        """Move what stands out of the face by a turn of the head, as a turning globe moves its front."""
        columns, rows = self._straight
        from_columns = cv2.scaleAdd(self._depth, -pose.yaw_rad, columns)
        from_rows = cv2.scaleAdd(self._depth, -pose.pitch_rad, rows)
        patch = head[self._turn_area]
        patch[...] = cv2.remap(
            patch, from_columns, from_rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )

    def _points_placed(self, placement: NDArray[np.float64]) -> Callable[[Floats], NDArray[np.int32]]:
        """Turns points in face units, (n, 2), into OpenCV's fixed point on the picture."""
        corner = np.array([_CANVAS_LEFT, _CANVAS_TOP])

        def placed(points: Floats) -> NDArray[np.int32]:
            on_canvas = (points - corner) * self._unit_px
            at_px = on_canvas @ placement[:, :2].T + placement[:, 2]
            fixed: NDArray[np.int32] = np.rint(at_px * (1 << SUBPIXEL_BITS)).astype(np.int32)
            return fixed

        return placed

    def _placement(self, pose: Pose) -> NDArray[np.float64]:
        width_px, height_px = self._size_px
        cosine = math.cos(pose.roll_rad) * pose.scale / _OVERSAMPLING
        sine = math.sin(pose.roll_rad) * pose.scale / _OVERSAMPLING
        origin_x, origin_y = -_CANVAS_LEFT * self._unit_px, -_CANVAS_TOP * self._unit_px
        to_x = width_px / 2 + pose.x * self._picture_unit_px
        to_y = height_px * 0.54 + pose.y * self._picture_unit_px
        return np.array(
            [
                [cosine, -sine, to_x - cosine * origin_x + sine * origin_y],
                [sine, cosine, to_y - sine * origin_x - cosine * origin_y],
            ]
        )

    def _fill(
        self, canvas: NDArray[np.uint8], x: Floats, upper: Floats, lower: Floats, colour: Colour
    ) -> None:
        points = _band(x, upper, lower, self._unit_px)
        cv2.fillPoly(canvas, [points], (*colour, 255.0), cv2.LINE_AA, SUBPIXEL_BITS)

    def _line(
        self, canvas: NDArray[np.uint8], x: Floats, y: Floats, colour: Colour, thickness: float
    ) -> None:
        points = _to_fixed(x, y, self._unit_px)
        thickness_px = max(1, round(thickness * self._unit_px))
        cv2.polylines(canvas, [points], False, (*colour, 255.0), thickness_px, cv2.LINE_AA, SUBPIXEL_BITS)

    def _area(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
        unit = self._unit_px
        rows = slice(round((top - _CANVAS_TOP) * unit), round((bottom - _CANVAS_TOP) * unit))
        return rows, slice(round((left - _CANVAS_LEFT) * unit), round((right - _CANVAS_LEFT) * unit))

    def _folds(self) -> tuple[tuple[slice, slice], Floats, Floats]:
        """Where cheeks and the folds beside the mouth change, and by which factor at full strength."""
        look = self._look
        area = self._area(-0.6, 0.1, 0.6, 0.85)
        x, y = _grid(self._unit_px)
        x, y = np.abs(x[area]), y[area]
        along = look.nose_width + 0.05 + 0.28 * (y - look.nose_y)
        ridge = np.exp(-(((x - along) / 0.035) ** 2)) * _blob(
            x, y, 0.25, (look.nose_y + look.mouth_y) / 2, 0.3, 0.2
        )
        cheek = _blob(x, y, 0.42, look.nose_y - 0.05, 0.16, 0.13)
        below_corner = _blob(x, y, look.mouth_width + 0.04, look.mouth_y + 0.12, 0.05, 0.10)
        smile = (0.16 * cheek - 0.30 * ridge)[..., None] * _COLOURS_ONLY
        frown = (0.14 * ridge + 0.22 * below_corner)[..., None] * _COLOURS_ONLY
        return area, smile, frown

    def _grimace(self) -> tuple[tuple[slice, slice], Floats]:
        """Where skin is drawn together in pain, and by which factor at full strength."""
        look = self._look
        area = self._area(-0.62, -0.5, 0.62, 0.6)
        x, y = _grid(self._unit_px)
        x, y = np.abs(x[area]), y[area]
        frown_lines = _blob(x, y, 0.055, look.eye_y - 0.17, 0.022, 0.11)
        bridge = np.sin((y - look.eye_y) * 60) * _blob(x, y, 0.0, look.eye_y + 0.04, 0.10, 0.11)
        beside_nose = _blob(x, y, look.nose_width + 0.02, look.nose_y - 0.08, 0.035, 0.11)
        along = look.nose_width + 0.07 + 0.42 * (y - look.nose_y)
        ridge = np.exp(-(((x - along) / 0.035) ** 2)) * _blob(x, y, 0.28, look.nose_y + 0.12, 0.2, 0.16)
        cheek = _blob(x, y, look.eye_x + 0.03, look.eye_y + 0.24, 0.17, 0.07)
        below_eye = _blob(x, y, look.eye_x, look.eye_y + 0.13, 0.17, 0.025)
        corner = _blob(x, y, look.eye_x + 0.23, look.eye_y + 0.02, 0.06, 0.05) * np.sin((y - look.eye_y) * 90)
        dark = 0.5 * frown_lines + 0.22 * bridge + 0.3 * beside_nose + 0.36 * ridge + 0.3 * below_eye
        return area, (0.16 * cheek - dark - 0.15 * corner)[..., None] * _COLOURS_ONLY

    def _draw_folds(self, head: NDArray[np.uint8], expression: Expression) -> None:
        smile = np.float32(expression.smile)
        factor = smile * (self._smile_fold if smile > 0 else self._frown_fold) + np.float32(1)
        patch = head[self._fold_area]
        patch[...] = cv2.multiply(patch, factor, dtype=cv2.CV_8U)
        if expression.grimace > 0.02:
            factor = np.float32(expression.grimace) * self._grimace_fold + np.float32(1)
            patch = head[self._grimace_area]
            patch[...] = cv2.multiply(patch, factor, dtype=cv2.CV_8U)

    def _draw_eye(self, head: NDArray[np.uint8], expression: Expression, side: int) -> None:
        look, skin = self._look, self._look.skin
        x = side * look.eye_x + look.eye_size * _ACROSS
        slant = look.eye_y - 0.012 * side * _ACROSS
        opening = look.eye_size * 0.95 * expression.eye_open
        upper = slant - opening * 0.62 * _BOW**0.8
        raised = 0.02 * expression.grimace * _BOW
        lower = np.maximum(slant + (opening * 0.38 - 0.015) * _BOW + 0.006 - raised, upper)
        self._draw_eyeball(head, expression, side, _band(x, upper, lower, self._unit_px))
        crease = upper - 0.075 * _BOW - 0.01
        self._line(head, x[1:-1], crease[1:-1], scaled(skin, 0.62), 0.014)
        self._line(head, x[1:-1], lower[1:-1], scaled(skin, 0.60), 0.012)
        self._line(head, x, upper, mixed(scaled(skin, 0.15), scaled(look.hair, 0.5), 0.4), 0.028)

    def _draw_eyeball(
        self, head: NDArray[np.uint8], expression: Expression, side: int, opening: NDArray[np.int32]
    ) -> None:
        """Sclera, iris and pupil, seen through the polygon between the lids."""
        look, unit = self._look, self._unit_px
        middle, reach = side * look.eye_x, look.eye_size + 0.02
        area = self._area(middle - reach, look.eye_y - 0.16, middle + reach, look.eye_y + 0.12)
        rows, columns = area
        centre_x = (middle + 0.035 * expression.gaze[0] - _CANVAS_LEFT) * unit - columns.start
        centre_y = (look.eye_y - 0.012 + 0.02 * expression.gaze[1] - _CANVAS_TOP) * unit - rows.start
        patch = head[area]
        ball = np.full_like(patch, 255)
        ball[..., :3] = (216, 212, 208)
        self._disc(ball, centre_x, centre_y, 0.082, scaled(look.iris, 0.45))
        self._disc(ball, centre_x, centre_y, 0.070, look.iris)
        self._disc(ball, centre_x, centre_y, 0.036, (12, 10, 10))
        self._disc(ball, centre_x - 0.026 * unit, centre_y - 0.028 * unit, 0.018, (250, 250, 250))
        mask = np.zeros(patch.shape[:2], np.uint8)
        corner = np.array([columns.start, rows.start], np.int32) << SUBPIXEL_BITS
        cv2.fillPoly(mask, [opening - corner], (255,), cv2.LINE_AA, SUBPIXEL_BITS)
        weight = mask[..., None].astype(np.float32) / np.float32(255)
        # the upper lid shades the top of the ball; opacity stays as it is
        shade = np.linspace(0.72, 1.0, len(patch), dtype=np.float32)[:, None, None]
        seen = ball * (1 - (1 - shade) * _COLOURS_ONLY)
        patch[...] = (patch + (seen - patch) * weight).astype(np.uint8)

    def _disc(
        self, canvas: NDArray[np.uint8], x_px: float, y_px: float, radius: float, colour: Colour
    ) -> None:
        one = 1 << SUBPIXEL_BITS
        at, radius_px = (round(x_px * one), round(y_px * one)), round(radius * self._unit_px * one)
        cv2.circle(canvas, at, radius_px, (*colour, 255.0), -1, cv2.LINE_AA, SUBPIXEL_BITS)

    def _draw_brow(self, head: NDArray[np.uint8], expression: Expression, side: int) -> None:
        look = self._look
        x = side * (look.eye_x - 0.17 + 0.36 * _OUTWARD - expression.grimace * (0.055 - 0.03 * _OUTWARD))
        height = look.eye_y - look.brow_gap - 0.075 * expression.brow_raise
        middle = height + _BROW_ARCH - 0.085 * expression.brow_tilt * (1 - 1.6 * _OUTWARD)
        half = look.brow_thickness * _BROW_TAPER
        self._fill(head, x, middle - half, middle + half, self._brow_colour)

    def _draw_mouth(self, head: NDArray[np.uint8], expression: Expression) -> None:
        look, smile, grimace = self._look, expression.smile, expression.grimace
        gap = 0.17 * expression.mouth_open + 0.15 * grimace**2
        width = look.mouth_width * (1 + 0.16 * smile - 0.12 * expression.mouth_open + 0.2 * grimace)
        x = width * _ACROSS
        # stretched, the mouth becomes a box: the lips part along their whole length
        bow = _BOW ** (1 - 0.45 * grimace)
        middle = look.mouth_y + 0.05 * smile - 0.15 * smile * _ACROSS**2
        upper, lower = middle - (0.35 * gap + 0.045 * grimace) * bow, middle + 0.65 * gap * bow
        full = look.lip_fullness * (1 - 0.2 * abs(smile))
        lip = mixed(scaled(look.skin, 0.80), (176, 70, 72), 0.48)
        self._fill(head, x, upper - full * 0.85 * _CUPID, upper, scaled(lip, 0.84))
        self._fill(head, x, lower, lower + full * 1.15 * _BOW**0.8, lip)
        if gap > 0.01:
            self._fill(head, x, upper, lower, (52, 20, 22))
            teeth = np.minimum(upper + 0.055 * _BOW, lower)
            self._fill(head, x[1:-1], upper[1:-1], teeth[1:-1], (226, 220, 208))
        self._line(head, x, upper, scaled(lip, 0.45), 0.016)
        gloss = slice(5, 10)
        self._line(head, x[gloss], lower[gloss] + 0.5 * full, mixed(lip, (255, 235, 230), 0.25), 0.018)


def _band(x: Floats, upper: Floats, lower: Floats, unit_px: float) -> NDArray[np.int32]:
    """The polygon between two curves, for OpenCV."""
    return np.concatenate((_to_fixed(x, upper, unit_px), _to_fixed(x, lower, unit_px)[::-1]))


def _brow_colour(look: Look) -> Colour:
    """Of the hair, but dark enough to stand out from the skin."""
    colour = mixed(look.hair, scaled(look.skin, 0.35), 0.5)
    return scaled(colour, min(1.0, 0.5 * sum(look.skin) / sum(colour)))


def _blob(x: Floats, y: Floats, at_x: float, at_y: float, width: float, height: float) -> Floats:
    """A soft spot, 1 at its middle."""
    spot: Floats = np.exp(-(((x - at_x) / width) ** 2) - ((y - at_y) / height) ** 2)
    return spot


def _grid(unit_px: float) -> tuple[Floats, Floats]:
    """X and y in face units of every pixel of the head's canvas."""
    x = np.arange(round(_CANVAS_WIDTH * unit_px), dtype=np.float32) / np.float32(unit_px) + np.float32(
        _CANVAS_LEFT
    )
    y = np.arange(round(_CANVAS_HEIGHT * unit_px), dtype=np.float32) / np.float32(unit_px) + np.float32(
        _CANVAS_TOP
    )
    grid_x, grid_y = np.meshgrid(x, y)
    return grid_x, grid_y


def _to_fixed(x: Floats, y: Floats, unit_px: float) -> NDArray[np.int32]:
    """Points (n, 2) on the canvas in OpenCV's fixed point."""
    points = np.empty((len(x), 2), np.float32)
    points[:, 0], points[:, 1] = x - _CANVAS_LEFT, y - _CANVAS_TOP
    points *= unit_px * (1 << SUBPIXEL_BITS)
    return np.rint(points).astype(np.int32)


def _inside(x: Floats, y: Floats, unit_px: float, shape: tuple[int, ...]) -> Floats:
    """1 inside a polygon, 0 outside, soft at its edge."""
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [_to_fixed(x, y, unit_px)], 255, cv2.LINE_AA, SUBPIXEL_BITS)
    soft = cv2.GaussianBlur(mask, (0, 0), 0.012 * unit_px)
    return soft.astype(np.float32) / np.float32(255)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma_x: float, sigma_y: float) -> Floats:
    noise = cv2.GaussianBlur(
        rng.standard_normal(shape, dtype=np.float32), (0, 0), sigmaX=sigma_x, sigmaY=sigma_y
    )
    smooth: Floats = (noise / noise.std()).astype(np.float32)
    return smooth


def _outline(look: Look, widen: float = 1.0) -> tuple[Floats, Floats]:
    angle = np.linspace(0, 2 * math.pi, 96, endpoint=False, dtype=np.float32)
    sine = np.sin(angle)
    cosine = np.cos(angle)
    blunt = np.sign(cosine) * np.abs(cosine) ** np.where(sine > 0, 0.72, 0.9)
    x = widen * look.face_width * blunt * (1 - look.jaw_taper * np.maximum(sine, 0) ** 1.5)
    y = sine * np.where(sine > 0, 1.0, 1.04 * widen)
    return x.astype(np.float32), y.astype(np.float32)


def _skin_shade(look: Look, x: Floats, y: Floats) -> Floats:
    """Brightness of the skin, 1 = full light."""
    across, down = x / look.face_width, y / 1.15
    depth = np.sqrt(np.maximum(0.04, 1 - 0.85 * across**2 - 0.8 * down**2))
    light_x, light_y = look.light
    shade = 0.60 + 0.40 * depth + 0.16 * (light_x * across + light_y * down)
    mirrored = np.abs(x)
    for weight, at_x, at_y, width, height in (
        (-0.30, look.eye_x - 0.01, look.eye_y - 0.05, 0.19, 0.12),
        (-0.16, look.eye_x - 0.13, look.eye_y, 0.07, 0.12),
        (0.10, look.eye_x + 0.05, look.nose_y - 0.08, 0.18, 0.13),
        (-0.14, look.nose_width + 0.01, look.nose_y - 0.02, 0.05, 0.10),
        (0.10, 0.0, 0.02, 0.055, 0.24),
        (0.14, 0.0, look.nose_y - 0.04, 0.07, 0.06),
        (-0.24, 0.0, look.nose_y + 0.085, 0.13, 0.035),
        (-0.16, 0.0, look.mouth_y + 0.17, 0.15, 0.04),
        (0.07, 0.0, look.mouth_y + 0.30, 0.13, 0.09),
        (0.06, 0.0, -0.62, 0.35, 0.18),
        (-0.35, look.nose_width * 0.55, look.nose_y + 0.05, 0.035, 0.022),
    ):
        shade = shade + weight * _blob(mirrored, y, at_x, at_y, width, height)
    return shade


def _skin_colour(look: Look, x: Floats, y: Floats) -> Floats:
    colour = np.asarray(look.skin, np.float32) * _skin_shade(look, x, y)[..., None]
    flush = _blob(np.abs(x), y, 0.42, look.nose_y, 0.2, 0.16) + _blob(x, y, 0, look.nose_y, 0.12, 0.1)
    colour *= 1 + flush[..., None] * np.array([0.03, -0.04, -0.03], np.float32)
    beard = np.clip((y - 0.3) * 4, 0, 1) * np.clip((np.abs(x) * 0.6 + y - 0.42) * 5, 0, 1)
    colour *= 1 - 0.4 * look.stubble * beard[..., None]
    return colour.astype(np.float32)


def _hair_masks(look: Look, x: Floats, y: Floats, unit_px: float) -> tuple[Floats, Floats]:
    """Hair behind the head, and hair that lies on the face's outline; 0 to 1 each."""
    outer_x, outer_y = _outline(look, 1.13)
    if look.hair_style == 1:
        outer_x = (outer_x * (1 + 0.45 * np.maximum(outer_y, 0))).astype(np.float32)
        outer_y = np.where(outer_y > 0, outer_y * 1.15, outer_y).astype(np.float32)
    behind = _inside(outer_x, outer_y, unit_px, x.shape)
    if look.hair_style == 1:
        behind = behind * (1 - np.clip((0.36 - np.abs(x)) * 10, 0, 1) * (y > 0.5))
    else:
        behind = behind * np.clip((0.1 - y) * 8, 0, 1)
    if look.hair_style == 3:
        behind = behind * 0
    line = {0: -0.72, 1: -0.70, 2: -0.56, 3: -2.0}[look.hair_style]
    droop = {0: 0.55, 1: 1.0, 2: 0.25, 3: 0.0}[look.hair_style]
    hairline = line + droop * (np.abs(x) / look.face_width) ** 4
    front = np.clip((hairline - y) * 14, 0, 1)
    return behind.astype(np.float32), front.astype(np.float32)


def _head(look: Look, unit_px: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The head without eyes, brows and mouth: RGBA, colours multiplied by opacity."""
    x, y = _grid(unit_px)
    face = _inside(*_outline(look), unit_px, x.shape)
    behind, front = _hair_masks(look, x, y, unit_px)
    strands = _smooth_noise(rng, x.shape, 0.012 * unit_px, 0.12 * unit_px)
    gloss = 1 + 0.10 * strands + 0.35 * _blob(x, y, look.light[0] * 0.8, -0.95, 0.5, 0.16)
    hair = np.asarray(look.hair, np.float32) * gloss[..., None]
    skin = _skin_colour(look, x, y)
    skin *= 1 + 0.012 * _smooth_noise(rng, x.shape, 0.01 * unit_px, 0.01 * unit_px)[..., None]
    picture, opaque = _over(np.zeros_like(hair), np.zeros_like(behind), hair * 0.8, behind)
    for side in (-1, 1):
        ear = np.clip((_blob(x, y, side * (look.face_width + 0.02), 0.03, 0.11, 0.2) - 0.4) * 9, 0, 1)
        picture, opaque = _over(picture, opaque, skin * 0.85, ear * (1 if look.hair_style != 1 else 0))
    picture, opaque = _over(picture, opaque, skin, face)
    picture, opaque = _over(picture, opaque, hair, front * np.maximum(face, behind))
    rgba: Floats = np.concatenate((picture, 255 * opaque[..., None]), axis=-1)
    head: NDArray[np.uint8] = np.rint(rgba.clip(0, 255)).astype(np.uint8)
    return head


def _over(below: Floats, opaque: Floats, colour: Floats, mask: Floats) -> tuple[Floats, Floats]:
    weight = mask[..., None]
    return below * (1 - weight) + colour * weight, opaque * (1 - mask) + mask


def _texture(look: Look, purpose: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox([look.texture_seed, *purpose.encode()]))


def _shares(width_px: int, height_px: int) -> tuple[Floats, Floats]:
    """How far to the right and how far down each pixel lies, 0 to 1: (height, width) each."""
    columns, rows = np.meshgrid(
        np.linspace(0, 1, width_px, dtype=np.float32), np.linspace(0, 1, height_px, dtype=np.float32)
    )
    return columns, rows


def paint_wall(look: Look, width_px: int, height_px: int) -> Floats:
    """The background of a person's room: (height, width, 3), 0 to 255."""
    rng = _texture(look, "wall")
    columns, rows = _shares(width_px, height_px)
    share = ((columns + rows) / 2)[..., None]
    picture = (
        np.asarray(look.wall[0], np.float32) * (1 - share) + np.asarray(look.wall[1], np.float32) * share
    )
    picture += 7 * _smooth_noise(rng, (height_px, width_px), 0.12 * width_px, 0.12 * width_px)[..., None]
    wall: Floats = picture.astype(np.float32)
    return wall


def _room(look: Look, wall: Floats, unit_px: float) -> Floats:
    """Neck and shoulders before a wall: (height, width, 3), 0 to 255."""
    height_px, width_px = wall.shape[:2]
    columns, rows = _shares(width_px, height_px)
    x = (columns - 0.5) * np.float32(width_px / unit_px)
    y = (rows - 0.54) * np.float32(height_px / unit_px)
    shoulders = np.clip((y - 1.12 - 0.25 * x**2) * 12, 0, 1)[..., None]
    neck = (np.clip((0.40 - np.abs(x) + 0.4 * np.maximum(0, y - 1.1)) * 20, 0, 1) * (y > 0))[..., None]
    collar = np.clip((1.30 - 0.5 * x**2 - y) * 14, 0, 1)[..., None]
    cloth = (
        np.asarray(look.shirt, np.float32) * (0.95 - 0.12 * np.abs(x) + 0.1 * look.light[0] * x)[..., None]
    )
    throat = (
        np.asarray(look.skin, np.float32) * (0.52 + 0.15 * np.clip(y - 0.9, 0, 1) - 0.25 * x**2)[..., None]
    )
    picture = wall * (1 - shoulders) + cloth * shoulders
    bare = neck * collar
    dressed: Floats = (picture * (1 - bare) + throat * bare).astype(np.float32)
    return dressed

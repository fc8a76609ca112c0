"""From a camera frame to the normalised pixels of an aligned crop.

A crop is defined by an affine map from crop pixels to frame pixels (pixel centres at integers).
The frame, black all around, is averaged over blocks of k x k pixels that begin in its corner, k = the
factor by which the crop shrinks it, to the nearest whole number (at most 16). Each crop pixel is one
bilinear sample of these means. This definition is exact, so a GPU kernel can be held against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mer.errors import DataError
from edge_mer.types.model import Clip

MAX_BLOCK_PX = 16

LayoutKind = Literal["rgb", "bgr", "nv12", "yuyv"]
"""Bytes R, G, B or B, G, R; a plane of brightness, then one of colours (U, V) for 2 x 2 pixels; or Y, U, Y, V
for two pixels beside each other."""

_BYTES_PER_PIXEL = {"rgb": 3, "bgr": 3, "nv12": 1, "yuyv": 2}


@dataclass(frozen=True)
class FrameLayout:
    """How a camera's frame lies in memory.

    Attributes:
        kind: What its bytes mean.
        height_px: Rows; even for "nv12".
        width_px: Columns; even for "nv12" and "yuyv".
        pitch_bytes: From one row to the next; 0: as much as a row takes.

    Raises:
        DataError: A frame cannot be so.
    """

    kind: LayoutKind
    height_px: int
    width_px: int
    pitch_bytes: int = 0

    def __post_init__(self) -> None:
        """Put in the smallest pitch where none is given."""
        if not self.pitch_bytes:
            object.__setattr__(self, "pitch_bytes", self.row_bytes)
        is_odd = (self.kind != "rgb" and self.kind != "bgr" and self.width_px % 2) or (
            self.kind == "nv12" and self.height_px % 2
        )
        if is_odd or min(self.height_px, self.width_px) < 1 or self.pitch_bytes < self.row_bytes:
            raise DataError(
                f"a frame in {self.kind} cannot be of {self.height_px} rows of {self.width_px} pixels, "
                f"{self.pitch_bytes} bytes from row to row",
                expected=f"even sizes where colours are shared, and {self.row_bytes} bytes or more",
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of a row that are looked at."""
        return self.width_px * _BYTES_PER_PIXEL[self.kind]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, with those of a second plane, and bytes of each."""
        rows = self.height_px * 3 // 2 if self.kind == "nv12" else self.height_px
        return rows, self.pitch_bytes


def to_rgb(data: NDArray[np.uint8], layout: FrameLayout) -> NDArray[np.uint8]:
    """A camera's frame as red, green and blue.

    "nv12" and "yuyv" are BT.601 of limited range (brightness 16 to 235), and pixels that share a colour get
    the same one, unsmoothed: what OpenCV's `cvtColor` computes.

    Args:
        data: `layout.shape` bytes.
        layout: How the frame lies in it.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    rows = np.ascontiguousarray(data.reshape(layout.shape)[:, : layout.row_bytes])
    if layout.kind == "nv12":
        return np.asarray(cv2.cvtColor(rows, cv2.COLOR_YUV2RGB_NV12), np.uint8)
    pixels = rows.reshape(layout.height_px, layout.width_px, -1)
    if layout.kind == "yuyv":
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_YUV2RGB_YUYV), np.uint8)
    return pixels if layout.kind == "rgb" else np.ascontiguousarray(pixels[:, :, ::-1])


def block_px(transform: NDArray[np.float64]) -> int:
    """Side of the blocks that a frame is averaged over before it is cropped, 1 to 16; `transform` is (2, 3).

    The whole number that is nearest, as a ratio, to the factor by which the crop shrinks the frame.
    """
    (a, b, _), (c, d, _) = transform.tolist()
    area_px = abs(a * d - b * c)  # of the frame, to a pixel of the crop
    return min(MAX_BLOCK_PX, max(1, math.floor(math.sqrt(area_px + 0.25) + 0.5)))


def in_blocks(transform: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """(2, 3): from crop pixels to places among blocks of `block` pixels a side, block centres at integers."""
    placed = transform / block
    placed[:, 2] -= (block - 1) / (2 * block)
    return placed


def crop(
    frame: NDArray[np.uint8], transform: NDArray[np.float64], size_px: int | tuple[int, int]
) -> NDArray[np.float32]:
    """Cut an aligned, antialiased rectangle out of a frame.

    Args:
        frame: (height, width, 3) uint8.
        transform: (2, 3): crop pixel (x, y, 1) -> frame pixel (x, y).
        size_px: Height and width of the crop, or the side of a square one.

    Returns:
        (height, width, 3) float32 in 0..255, not rounded.
    """
    block = block_px(transform)
    height, width = (size_px, size_px) if isinstance(size_px, int) else size_px
    (ax, bx, x0), (ay, by, y0) = in_blocks(transform, block).tolist()
    across, down = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
    xs, ys = (
        np.add.outer(down * one_down, across * one_across + start)
        for one_across, one_down, start in ((ax, bx, x0), (ay, by, y0))
    )
    columns, rows = (
        _used(places, math.ceil(n_px / block))
        for places, n_px in zip((xs, ys), frame.shape[1::-1], strict=True)
    )
    planes = np.zeros((3, height, width), np.float32)
    if columns and rows:
        _interpolate(_blocks(frame, block, rows, columns), xs - columns.start, ys - rows.start, planes)
    return planes.transpose(1, 2, 0)


def _used(places: NDArray[np.float64], n_blocks: int) -> range:
    """Blocks of the frame that samples at `places` look at."""
    return range(max(0, math.floor(places.min())), min(n_blocks, math.floor(places.max()) + 2))


def _blocks(frame: NDArray[np.uint8], block: int, rows: range, columns: range) -> NDArray[np.float32]:
    """(row, column, 3): means of blocks, those at the frame's end with the black that lies beyond it."""
    part = frame[rows.start * block : rows.stop * block, columns.start * block : columns.stop * block]
    lacking = len(rows) * block - part.shape[0], len(columns) * block - part.shape[1]
    if any(lacking):
        part = np.pad(part, ((0, lacking[0]), (0, lacking[1]), (0, 0)))
    pixels = part.astype(np.float32)
    if block == 1:
        return pixels
    return np.asarray(cv2.resize(pixels, (len(columns), len(rows)), interpolation=cv2.INTER_AREA), np.float32)


def _interpolate(
    picture: NDArray[np.float32],
    xs: NDArray[np.float64],
    ys: NDArray[np.float64],
    out: NDArray[np.float32],
) -> None:
    """Write bilinear samples of `picture`, (row, column, 3), at (xs, ys); black is around it."""
    height, width = picture.shape[:2]
    # One black row and column before it and two behind: every place, once clipped, has four neighbours.
    bordered = np.asarray(cv2.copyMakeBorder(picture, 1, 2, 1, 2, cv2.BORDER_CONSTANT))
    xs, ys = np.clip(xs + 1.0, 0.0, width + 1.0), np.clip(ys + 1.0, 0.0, height + 1.0)
    left, top = xs.astype(np.intp), ys.astype(np.intp)
    x_weight, y_weight = (xs - left).astype(np.float32), (ys - top).astype(np.float32)
    stride = width + 3
    place = top * stride + left
    for channel in range(3):
        flat = bordered[:, :, channel].ravel()
        upper, right = flat.take(place), flat[1:].take(place)
        _mix(upper, right, x_weight)
        lower, right = flat[stride:].take(place), flat[stride + 1 :].take(place)
        _mix(lower, right, x_weight)
        _mix(upper, lower, y_weight)
        out[channel] = upper


def _mix(a: NDArray[np.float32], b: NDArray[np.float32], weight: NDArray[np.float32]) -> None:
    """(1 - weight) of `a` and weight of `b`, into `a`; `b` is used up."""
    b -= a
    b *= weight
    a += b


class Crop(NamedTuple):
    """A rectangle to be cut out of a frame.

    Attributes:
        frame: (height, width, 3) uint8 RGB.
        transform: (2, 3): crop pixel (x, y, 1) -> frame pixel (x, y).
    """

    frame: NDArray[np.uint8]
    transform: NDArray[np.float64]


def write_clip(crops: Sequence[Crop | None], spec: Clip, out: NDArray[np.float32]) -> None:
    """Write a normalised clip into `out`.

    Args:
        crops: One per frame, oldest first; None = missing, which is black.
        spec: What the model declares.
        out: (3, frame, height, width) float32.
    """
    for index, one in enumerate(crops):
        pixels = None if one is None else crop(one.frame, one.transform, spec.shape_px)
        normalise_into(pixels, spec, out[:, index])


def normalise_into(pixels: NDArray[np.float32] | None, spec: Clip, out: NDArray[np.float32]) -> None:
    """Write one normalised frame of a clip into `out`.

    Args:
        pixels: (height, width, 3) float32 in 0..255, or None for a missing frame (black).
        spec: What the model declares.
        out: (3, height, width) float32.
    """
    for channel, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
        if pixels is None:
            out[channel] = -mean / std
        else:
            np.multiply(pixels[:, :, channel], 1.0 / (255.0 * std), out=out[channel])
            out[channel] -= mean / std

"""From a camera frame to the normalised pixels of an aligned crop.

A crop is defined by an affine map from crop pixels to frame pixels (pixel centres at integers).
Each crop pixel is the mean of n x n bilinear samples spread over its area, n = the factor by which
the crop shrinks the frame, rounded up (at most 8); outside the frame is black. This definition is
exact, so a GPU kernel can be held against it.
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

MAX_SAMPLES_PER_SIDE = 8

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


def samples_per_side(transform: NDArray[np.float64]) -> int:
    """How many bilinear samples per side a crop pixel needs, 1 to 8; `transform` is (2, 3)."""
    (a, b, _), (c, d, _) = transform.tolist()
    scale = math.sqrt(abs(a * d - b * c))
    return min(MAX_SAMPLES_PER_SIDE, max(1, math.ceil(scale - 1e-6)))


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
    n = samples_per_side(transform)
    height, width = (size_px, size_px) if isinstance(size_px, int) else size_px
    across_px, down_px = (
        np.arange(width, dtype=np.float64),
        np.arange(height, dtype=np.float64)[:, np.newaxis],
    )
    xs = transform[0, 0] * across_px + transform[0, 2] + transform[0, 1] * down_px
    ys = transform[1, 0] * across_px + transform[1, 2] + transform[1, 1] * down_px
    reach = np.abs(transform[:, :2]).sum(axis=1) / 2
    used, x0, y0 = _used_part(frame, xs, ys, reach)
    total = np.zeros((height * width, 3), np.float32)
    if used.size:
        # Sample by sample: arrays of one crop's size stay in the processor's cache.
        for down in (np.arange(n) + 0.5) / n - 0.5:
            for across in (np.arange(n) + 0.5) / n - 0.5:
                dx, dy = transform[:, :2] @ (across, down)
                total += _bilinear(used, xs + (dx - x0), ys + (dy - y0))
    total /= n * n
    return total.reshape(height, width, 3)


def _used_part(
    frame: NDArray[np.uint8], xs: NDArray[np.float64], ys: NDArray[np.float64], reach: NDArray[np.float64]
) -> tuple[NDArray[np.float32], int, int]:
    """The part of `frame` that is looked at, with one black pixel around it, and where it begins."""
    height, width = frame.shape[:2]
    x0, x1 = max(0, int(np.floor(xs.min() - reach[0]))), min(width, int(np.floor(xs.max() + reach[0])) + 2)
    y0, y1 = max(0, int(np.floor(ys.min() - reach[1]))), min(height, int(np.floor(ys.max() + reach[1])) + 2)
    if x1 <= x0 or y1 <= y0:
        return np.zeros((0, 0, 3), np.float32), 0, 0
    used = np.zeros((y1 - y0 + 2, x1 - x0 + 2, 3), np.float32)
    used[1:-1, 1:-1] = frame[y0:y1, x0:x1]
    return used, x0 - 1, y0 - 1


def _bilinear(
    used: NDArray[np.float32], xs: NDArray[np.float64], ys: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Samples of `used` at (xs, ys); its black edge stands for everything outside; (xs.size, 3)."""
    height, width = used.shape[:2]
    x_left, y_top = np.floor(xs), np.floor(ys)
    x_weight = (xs - x_left).astype(np.float32).reshape(-1, 1)
    y_weight = (ys - y_top).astype(np.float32).reshape(-1, 1)
    left = np.clip(x_left, 0, width - 1).astype(np.int64)
    right = np.clip(x_left + 1, 0, width - 1).astype(np.int64)
    top = np.clip(y_top, 0, height - 1).astype(np.int64) * width
    bottom = np.clip(y_top + 1, 0, height - 1).astype(np.int64) * width
    flat = used.reshape(-1, 3)
    upper = _mix(flat, (top + left).ravel(), (top + right).ravel(), x_weight)
    lower = _mix(flat, (bottom + left).ravel(), (bottom + right).ravel(), x_weight)
    lower -= upper
    lower *= y_weight
    upper += lower
    return upper


def _mix(
    flat: NDArray[np.float32], a: NDArray[np.int64], b: NDArray[np.int64], weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(1 - weight) of the pixels `a` and weight of the pixels `b`."""
    mixed, other = flat.take(a, axis=0), flat.take(b, axis=0)
    other -= mixed
    other *= weight
    mixed += other
    return mixed


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

"""From a camera frame to the normalised pixels of an aligned crop.

A crop is defined by an affine map from crop pixels to frame pixels (pixel centres at integers).
The frame, black all around, is averaged over blocks of k x k pixels that begin in its corner, k = half
the factor by which the crop shrinks it, to the nearest whole number (at most 16). Where the crop shrinks
the frame, each crop pixel is the mean of 2 x 2 bilinear samples of these means, spread over its area;
else it is one sample. This definition is exact, so a GPU kernel can be held against it.
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
_BAND_SAMPLES = 4096

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


class Sampling(NamedTuple):
    """How a crop's pixels are made of a frame's.

    Attributes:
        block_px: Side of the blocks that the frame is averaged over, 1 to 16.
        per_side: Bilinear samples of these means per side of a crop's pixel, 1 or 2.
        transform: (2, 3): crop pixel (x, y, 1) -> place among the blocks, whose centres lie at integers.
    """

    block_px: int
    per_side: int
    transform: NDArray[np.float64]

    @classmethod
    def of(cls, transform: NDArray[np.float64]) -> Sampling:
        """By how much a crop shrinks its frame; `transform` (2, 3) goes from its pixels to the frame's."""
        (a, b, _), (c, d, _) = transform.tolist()
        shrink = math.sqrt(abs(a * d - b * c))
        per_side = 1 if shrink <= 1 + 1e-6 else 2
        # the whole number that is nearest, as a ratio, to what the samples leave
        block = min(MAX_BLOCK_PX, max(1, math.floor(math.hypot(shrink / per_side, 0.5) + 0.5)))
        placed = transform / block
        placed[:, 2] -= (block - 1) / (2 * block)
        return cls(block, per_side, placed)


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
    block, n, placed = Sampling.of(transform)
    height, width = (size_px, size_px) if isinstance(size_px, int) else size_px
    across, down = ((np.arange(n * size, dtype=np.float64) + 0.5) / n - 0.5 for size in (width, height))
    (x_steps, x_starts), (y_steps, y_starts) = ((across * a + x0, down * b) for a, b, x0 in placed)
    columns = _used(x_steps, x_starts, math.ceil(frame.shape[1] / block))
    rows = _used(y_steps, y_starts, math.ceil(frame.shape[0] / block))
    planes = np.zeros((3, height, width), np.float32)
    if not (columns and rows):
        return planes.transpose(1, 2, 0)
    means = _Means(_blocks(frame, block, rows, columns))
    x_steps, y_steps = x_steps - columns.start, y_steps - rows.start
    band = max(1, _BAND_SAMPLES // (n * n * width))  # of few rows: what is worked on stays in the cache
    for top in range(0, height, band):
        part = slice(n * top, n * (top + band))
        xs, ys = np.add.outer(x_starts[part], x_steps), np.add.outer(y_starts[part], y_steps)
        means.sample(xs, ys, planes[:, top : top + band])
    return planes.transpose(1, 2, 0)


def _used(steps: NDArray[np.float64], starts: NDArray[np.float64], n_blocks: int) -> range:
    """Blocks of the frame that samples at all sums of `steps` and `starts` look at."""
    least, most = steps.min() + starts.min(), steps.max() + starts.max()
    return range(max(0, math.floor(least)), min(n_blocks, math.floor(most) + 2))


def _blocks(frame: NDArray[np.uint8], block: int, rows: range, columns: range) -> NDArray[np.float32]:
    """(row, column, 3): means of blocks, those at the frame's end with the black that lies beyond it."""
    part = frame[rows.start * block : rows.stop * block, columns.start * block : columns.stop * block]
    lacking = len(rows) * block - part.shape[0], len(columns) * block - part.shape[1]
    if any(lacking):
        part = np.pad(part, ((0, lacking[0]), (0, lacking[1]), (0, 0)))
    pixels = part.astype(np.float32)
    if block == 1:
        return pixels
    return _means(pixels, (len(columns), len(rows)))


class _Means:
    """A picture that is black all around, to be sampled; (row, column, 3)."""

    def __init__(self, picture: NDArray[np.float32]) -> None:
        self._height, self._width = picture.shape[:2]
        # One black row and column before it and two behind: every place, once clipped, has four neighbours.
        bordered = np.asarray(cv2.copyMakeBorder(picture, 1, 2, 1, 2, cv2.BORDER_CONSTANT))
        self._planes = [bordered[:, :, channel].ravel() for channel in range(3)]

    def sample(self, xs: NDArray[np.float64], ys: NDArray[np.float64], out: NDArray[np.float32]) -> None:
        """Write bilinear samples at (xs, ys); into each of `out`, (3, height, width), the mean of its own."""
        xs, ys = np.clip(xs + 1.0, 0.0, self._width + 1.0), np.clip(ys + 1.0, 0.0, self._height + 1.0)
        left, top = xs.astype(np.intp), ys.astype(np.intp)
        x_weight, y_weight = (xs - left).astype(np.float32), (ys - top).astype(np.float32)
        stride = self._width + 3
        place = top * stride + left
        for flat, plane in zip(self._planes, out, strict=True):
            upper, right = flat.take(place), flat[1:].take(place)
            _mix(upper, right, x_weight)
            lower, right = flat[stride:].take(place), flat[stride + 1 :].take(place)
            _mix(lower, right, x_weight)
            _mix(upper, lower, y_weight)
            plane[...] = upper if upper.shape == plane.shape else _means(upper, plane.shape[::-1])


def _means(samples: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Over whole rectangles of samples; `size` is how many across and down."""
    return np.asarray(cv2.resize(samples, size, interpolation=cv2.INTER_AREA), np.float32)


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

"""From a camera frame to the normalised pixels of an aligned crop.

A crop is defined by an affine map from crop pixels to frame pixels (pixel centres at integers).
The frame, black all around, is averaged over blocks of k x k pixels that begin in its corner, k = half
the factor by which the crop shrinks it, to the nearest whole number (at most 16). Where the crop shrinks
the frame, each crop pixel is the mean of 2 x 2 bilinear samples of these means, spread over its area;
else it is one sample. Samples lie at multiples of 1/32 of a block. All of this is counted in whole
numbers, so that a GPU kernel can be held against it.
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

_ONE = 1 << 32
_PER_BLOCK = 32
_ROUNDING = 1 << 10
"""Half of 1/32, in 2^-16."""

_NEAR, _FARTHEST = 1 << 30, 1 << 46
"""So near in 2^-16 of a block that OpenCV can count the blocks; and farther than this is an error."""

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

    Sample (u, v) of a crop, counted across and down it, `per_side` times as many as its pixels, lies at
    (start + u * across) // 2^16 + v * down // 2^16, in units of 2^-16 of a block, rounded to 1/32 of one.

    Attributes:
        block_px: Side of the blocks that the frame is averaged over, 1 to 16.
        per_side: Bilinear samples of these means per side of a crop's pixel, 1 or 2.
        start: (x, y) of the first sample among the blocks, whose centres lie at integers; in units of
            2^-32 of one.
        across: (x, y) from a sample to the next one across the crop, in the same units.
        down: (x, y) from a sample to the next one down the crop.
    """

    block_px: int
    per_side: int
    start: tuple[int, int]
    across: tuple[int, int]
    down: tuple[int, int]

    @classmethod
    def of(cls, transform: NDArray[np.float64]) -> Sampling:
        """By how much a crop shrinks its frame; `transform` (2, 3) goes from its pixels to the frame's."""
        (a, b, x), (c, d, y) = transform.tolist()
        shrink = math.sqrt(abs(a * d - b * c))
        n = 1 if shrink <= 1 + 1e-6 else 2
        # the whole number that is nearest, as a ratio, to what the samples leave
        block = min(MAX_BLOCK_PX, max(1, math.floor(math.hypot(shrink / n, 0.5) + 0.5)))
        first, corner = 0.5 / n - 0.5, (block - 1) / 2
        start = (x + (a + b) * first - corner) / block, (y + (c + d) * first - corner) / block
        per_sample = 1.0 / (block * n)
        return cls(
            block,
            n,
            _fixed(*start),
            _fixed(a * per_sample, c * per_sample),
            _fixed(b * per_sample, d * per_sample),
        )


def _fixed(x: float, y: float) -> tuple[int, int]:
    return round(x * _ONE), round(y * _ONE)


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
    sampling = Sampling.of(transform)
    block, n = sampling[:2]
    height, width = (size_px, size_px) if isinstance(size_px, int) else size_px
    samples = n * height, n * width
    x, columns = _places(sampling, 0, samples, math.ceil(frame.shape[1] / block))
    y, rows = _places(sampling, 1, samples, math.ceil(frame.shape[0] / block))
    if not (columns and rows):
        return np.zeros((height, width, 3), np.float32)
    means = _blocks(frame, block, rows, columns)
    whole = np.empty((*samples, 2), np.int16)
    np.right_shift(x, 5, out=whole[:, :, 0], casting="unsafe")
    np.right_shift(y, 5, out=whole[:, :, 1], casting="unsafe")
    x &= _PER_BLOCK - 1
    y &= _PER_BLOCK - 1
    y *= _PER_BLOCK
    y += x
    # so told, OpenCV rounds no place of its own
    found = cv2.remap(means, whole, y.astype(np.uint16), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    sampled = np.asarray(found, np.float32)
    return sampled if n == 1 else _means(sampled, (width, height))


def _places(
    sampling: Sampling, axis: int, samples: tuple[int, int], n_blocks: int
) -> tuple[NDArray[np.signedinteger], range]:
    """Where all samples lie along an axis, and which of the frame's blocks they look at.

    Returns:
        `samples` places from the first of these blocks on, in 1/32 of one; meaningless without blocks.
    """
    start, across, down = sampling.start[axis], sampling.across[axis], sampling.down[axis]
    ends = (start >> 16, (start + across * (samples[1] - 1)) >> 16), (0, (down * (samples[0] - 1)) >> 16)
    least, most = (sum(extreme(pair) for pair in ends) + _ROUNDING for extreme in (min, max))
    if max(abs(least), abs(most)) >= _FARTHEST:
        raise DataError(f"a crop that lies more than {_FARTHEST >> 16} pixels outside of its frame")
    used = range(max(0, least >> 16), min(n_blocks, (most >> 16) + 2))
    corner = used.start << 16
    is_near = max(corner - least, most - corner) < _NEAR
    steps = ((start + across * np.arange(samples[1])) >> 16) + (_ROUNDING - corner)
    starts = (down * np.arange(samples[0])) >> 16
    kind = np.int32 if is_near else np.int64
    places = np.add.outer(starts.astype(kind), steps.astype(kind))
    places >>= 11
    if not is_near:  # what is black is near enough where OpenCV can count it
        np.clip(places, -2 * _PER_BLOCK, (len(used) + 1) * _PER_BLOCK, out=places)
    return places, used


def _blocks(frame: NDArray[np.uint8], block: int, rows: range, columns: range) -> NDArray[np.float32]:
    """(row, column, 3): means of blocks, those at the frame's end with the black that lies beyond it."""
    part = frame[rows.start * block : rows.stop * block, columns.start * block : columns.stop * block]
    lacking = len(rows) * block - part.shape[0], len(columns) * block - part.shape[1]
    if any(lacking):
        part = np.pad(part, ((0, lacking[0]), (0, lacking[1]), (0, 0)))
    pixels = part.astype(np.float32)
    return pixels if block == 1 else _means(pixels, (len(columns), len(rows)))


def _means(pixels: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Over whole rectangles of pixels; `size` is how many across and down."""
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.float32)


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

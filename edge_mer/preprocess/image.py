"""From a camera frame to the normalised pixels of an aligned crop.

A crop is defined by an affine map from crop pixels to frame pixels (pixel centres at integers).
Each crop pixel is the mean of n x n bilinear samples spread over its area, n = the factor by which
the crop shrinks the frame, rounded up (at most 8); outside the frame is black. This definition is
exact, so a GPU kernel can be held against it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge_mer.types.model import Clip

MAX_SAMPLES_PER_SIDE = 8


def samples_per_side(transform: NDArray[np.float64]) -> int:
    """How many bilinear samples per side a crop pixel needs, 1 to 8; `transform` is (2, 3)."""
    scale = math.sqrt(abs(float(np.linalg.det(transform[:, :2]))))
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

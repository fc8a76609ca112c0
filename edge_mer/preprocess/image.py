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

from edge_mer.types.model import FaceClip

MAX_SAMPLES_PER_SIDE = 8


def samples_per_side(transform: NDArray[np.float64]) -> int:
    """How many bilinear samples per side a crop pixel needs, 1 to 8; `transform` is (2, 3)."""
    scale = math.sqrt(abs(float(np.linalg.det(transform[:, :2]))))
    return min(MAX_SAMPLES_PER_SIDE, max(1, math.ceil(scale - 1e-6)))


def crop(frame: NDArray[np.uint8], transform: NDArray[np.float64], size_px: int) -> NDArray[np.float32]:
    """Cut an aligned, antialiased square out of a frame.

    Args:
        frame: (height, width, 3) uint8.
        transform: (2, 3): crop pixel (x, y, 1) -> frame pixel (x, y).
        size_px: Side of the crop.

    Returns:
        (size_px, size_px, 3) float32 in 0..255, not rounded.
    """
    n = samples_per_side(transform)
    positions = (np.arange(size_px * n) + 0.5) / n - 0.5
    xs = transform[0, 0] * positions + transform[0, 2] + transform[0, 1] * positions[:, np.newaxis]
    ys = transform[1, 0] * positions + transform[1, 2] + transform[1, 1] * positions[:, np.newaxis]
    sampled = _bilinear(frame, xs, ys)
    if n == 1:
        return sampled
    blocks = sampled.reshape(size_px, n, size_px, n, 3)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32), np.float32)


def _bilinear(
    frame: NDArray[np.uint8], xs: NDArray[np.float64], ys: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Samples of `frame` at (xs, ys), black outside; (*xs.shape, 3) float32."""
    height, width = frame.shape[:2]
    x_left, y_top = np.floor(xs).astype(np.int64), np.floor(ys).astype(np.int64)
    x0, y0 = max(0, int(x_left.min())), max(0, int(y_top.min()))
    x1, y1 = min(width, int(x_left.max()) + 2), min(height, int(y_top.max()) + 2)
    if x1 <= x0 or y1 <= y0:
        return np.zeros((*xs.shape, 3), np.float32)
    # One black pixel around the part in use stands for everything outside it.
    used = np.pad(frame[y0:y1, x0:x1].astype(np.float32), ((1, 1), (1, 1), (0, 0)))
    stride = used.shape[1]
    left = np.clip(x_left - x0 + 1, 0, stride - 1)
    right = np.clip(x_left - x0 + 2, 0, stride - 1)
    top = np.clip(y_top - y0 + 1, 0, used.shape[0] - 1) * stride
    bottom = np.clip(y_top - y0 + 2, 0, used.shape[0] - 1) * stride
    x_weight = (xs - x_left).astype(np.float32)[..., np.newaxis]
    y_weight = (ys - y_top).astype(np.float32)[..., np.newaxis]
    flat = used.reshape(-1, 3)
    upper = flat[top + left] * (1 - x_weight) + flat[top + right] * x_weight
    lower = flat[bottom + left] * (1 - x_weight) + flat[bottom + right] * x_weight
    return np.asarray(upper * (1 - y_weight) + lower * y_weight, np.float32)


def normalise_into(pixels: NDArray[np.float32] | None, spec: FaceClip, out: NDArray[np.float32]) -> None:
    """Write one normalised frame of a clip into `out`.

    Args:
        pixels: (size, size, 3) float32 in 0..255, or None for a missing frame (black).
        spec: What the model declares.
        out: (3, size, size) float32.
    """
    for channel, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
        if pixels is None:
            out[channel] = -mean / std
        else:
            np.multiply(pixels[:, :, channel], 1.0 / (255.0 * std), out=out[channel])
            out[channel] -= mean / std

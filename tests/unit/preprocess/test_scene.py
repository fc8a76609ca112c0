"""The whole picture in a clip: fitted, centred, black around it, held against a slow computation."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.preprocess.image import write_clip
from edge_mer.preprocess.scene import SceneClipMaker, fit_transform
from edge_mer.types.model import SceneClip

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def clip(height: int, width: int, n_frames: int = 1) -> SceneClip:
    numbers: dict[str, Any] = {"height_px": height, "width_px": width, "n_frames": n_frames}
    second = Fraction(1)
    return SceneClip(
        frame_interval=second,
        last_frame_before_end=second,
        frame_tolerance=second,
        mean=MEAN,
        std=STD,
        **numbers,
    )


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def brightness(frame: NDArray[np.float64], x: float, y: float, channel: int) -> float:
    """Bilinear; every pixel outside the frame is black."""
    left, top = int(np.floor(x)), int(np.floor(y))
    total = 0.0
    for row, down in ((top, top + 1 - y), (top + 1, y - top)):
        for column, across in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= row < frame.shape[0] and 0 <= column < frame.shape[1]:
                total += down * across * float(frame[row, column, channel])
    return total


def to_32nd(place: float) -> float:
    return float(np.floor(place * 32 + 0.5)) / 32


def fitted(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """Edge to edge along the side that is tighter; samples of means over k x k pixels, at 32nds of these."""
    scale = max(frame.shape[0] / height, frame.shape[1] / width)
    n = 1 if scale <= 1 + 1e-6 else 2
    k = next((k for k in range(1, 16) if (scale / n) ** 2 < k * (k + 1) - 1e-9), 16)
    tall, wide = -(-frame.shape[0] // k), -(-frame.shape[1] // k)
    whole = np.zeros((tall * k, wide * k, 3))
    whole[: frame.shape[0], : frame.shape[1]] = frame
    means = whole.reshape(tall, k, wide, k, 3).mean(axis=(1, 3))
    out = np.zeros((3, height, width))
    for channel in range(3):
        for v in range(height):
            for u in range(width):
                samples = []
                for j in range(n):
                    for i in range(n):
                        # from the clip's centre in its pixels to the frame's centre in its own
                        right = (u + (i + 0.5) / n - width / 2) * scale
                        below = (v + (j + 0.5) / n - height / 2) * scale
                        x, y = (frame.shape[1] / 2 + right) / k - 0.5, (frame.shape[0] / 2 + below) / k - 0.5
                        samples.append(brightness(means, to_32nd(x), to_32nd(y), channel))
                out[channel, v, u] = (np.mean(samples) / 255 - MEAN[channel]) / STD[channel]
    return out


def made(spec: SceneClip, *frames: NDArray[np.uint8] | None) -> tuple[NDArray[np.float32], Any]:
    out = np.full((3, spec.n_frames, *spec.shape_px), np.nan, np.float32)
    timed = [None if frame is None else (10 * i, frame) for i, frame in enumerate(frames)]
    return out, SceneClipMaker(spec).make(timed, partial(write_clip, spec=spec, out=out))


SIZES = [
    ((12, 16), (12, 16)),  # as it is
    ((24, 32), (12, 16)),  # to the half
    ((30, 40), (8, 8)),  # wider than the clip
    ((40, 30), (8, 8)),  # higher than the clip
    ((6, 8), (12, 16)),  # to the double
    ((5, 7), (13, 11)),  # grown, odd
    ((23, 31), (9, 7)),  # shrunk, odd
    ((1, 1), (3, 4)),
    ((90, 7), (5, 6)),  # so narrow that most stays black
]


@pytest.mark.parametrize(("frame_px", "clip_px"), SIZES)
def test_a_frame_is_fitted_and_centred(frame_px: tuple[int, int], clip_px: tuple[int, int]) -> None:
    frame = picture(*frame_px)
    found, _ = made(clip(*clip_px), frame)
    np.testing.assert_allclose(found[:, 0], fitted(frame, *clip_px), atol=2e-4)


@settings(max_examples=15, deadline=None)
@given(
    frame_px=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    clip_px=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_whatever_the_sizes(frame_px: tuple[int, int], clip_px: tuple[int, int]) -> None:
    frame = picture(*frame_px)
    found, _ = made(clip(*clip_px), frame)
    np.testing.assert_allclose(found[:, 0], fitted(frame, *clip_px), atol=2e-4)


def test_a_frame_of_the_clips_own_size_is_left_as_it_is() -> None:
    frame = picture(7, 9)
    found, _ = made(clip(7, 9), frame)
    expected = (np.moveaxis(frame / 255, 2, 0) - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5)


def test_channels_are_red_green_blue() -> None:
    frame = np.zeros((6, 8, 3), np.uint8)
    frame[:, :, 0], frame[:, :, 1], frame[:, :, 2] = 255, 51, 102
    found, _ = made(clip(3, 4), frame)
    for channel, value in enumerate((1.0, 0.2, 0.4)):
        np.testing.assert_allclose(found[channel], (value - MEAN[channel]) / STD[channel], atol=1e-5)


def test_what_a_wide_picture_leaves_free_is_black_above_and_below() -> None:
    frame = np.full((12, 48, 3), 255, np.uint8)
    found, _ = made(clip(8, 8), frame)
    bright = (1 - MEAN[0]) / STD[0]
    black = -MEAN[0] / STD[0]
    rows = found[0, 0].mean(axis=1)
    np.testing.assert_allclose(rows[[0, 1, 6, 7]], black, atol=1e-5)
    assert rows[[2, 5]].max() < black + (bright - black) / 4  # a block's mean reaches half a block further
    np.testing.assert_allclose(rows[3:5], bright, atol=0.25)


def test_a_missing_frame_is_black_and_not_covered() -> None:
    spec = clip(4, 4, n_frames=4)
    frame = picture(8, 8)
    found, report = made(spec, frame, None, frame, None)
    np.testing.assert_allclose(found[:, 1], np.broadcast_to(black(), (3, 4, 4)), atol=1e-6)
    np.testing.assert_array_equal(found[:, 1], found[:, 3])
    np.testing.assert_array_equal(found[:, 0], found[:, 2])
    assert (report.coverage, report.newest_ns) == (0.5, 20)
    assert (report.n_unaligned, report.switched) == (0, False)


def test_without_a_frame_there_is_nothing() -> None:
    found, report = made(clip(4, 4, n_frames=2), None, None)
    np.testing.assert_allclose(found, np.broadcast_to(black()[:, np.newaxis], found.shape), atol=1e-6)
    assert (report.coverage, report.newest_ns) == (0.0, None)


def black() -> NDArray[np.float64]:
    return np.reshape([-mean / std for mean, std in zip(MEAN, STD, strict=True)], (3, 1, 1))


def test_frames_of_several_sizes_are_each_fitted() -> None:
    small, large = picture(6, 8, 1), picture(15, 20, 2)
    found, _ = made(clip(3, 4, n_frames=2), small, large)
    np.testing.assert_allclose(found[:, 0], fitted(small, 3, 4), atol=2e-4)
    np.testing.assert_allclose(found[:, 1], fitted(large, 3, 4), atol=2e-4)


def test_the_fit_maps_corners_to_corners() -> None:
    transform = fit_transform((480, 640), (240, 320))
    corner = transform @ [-0.5, -0.5, 1.0]
    opposite = transform @ [319.5, 239.5, 1.0]
    np.testing.assert_allclose(corner, [-0.5, -0.5])
    np.testing.assert_allclose(opposite, [639.5, 479.5])

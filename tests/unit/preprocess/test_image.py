"""Crops and normalised pixels against an independent computation."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from edge_mer.preprocess.image import MAX_BLOCK_PX, Sampling, crop, normalise_into
from tests.helpers.data import real
from tests.helpers.front_ends import JMT_CLIP
from tests.helpers.independent import crop_reference

Frame = NDArray[np.uint8]
Doubles = NDArray[np.float64]

TOLERANCE = 1e-4  # in normalised units
UNIT = 255.0 * min(JMT_CLIP.std)  # grey levels in one normalised unit


def random_frame(height: int, width: int, seed: int = 3) -> Frame:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def gradient_frame(height: int, width: int) -> Frame:
    y, x = np.mgrid[:height, :width]
    planes = (255 * x / width, 255 * y / height, 255 * (x + y) / (height + width))
    return np.stack(planes, axis=-1).astype(np.uint8)


def astronaut() -> Frame:
    picture = cv2.imread(str(real("face_photos", "astronaut_512.png")))
    return np.ascontiguousarray(picture[:, :, ::-1])


def similarity(shrink: float, turn_deg: float, x0: float, y0: float) -> Doubles:
    """Crop pixel (0, 0) lies on frame pixel (x0, y0); a step in the crop is `shrink` pixels long."""
    cosine, sine = (shrink * f(math.radians(turn_deg)) for f in (math.cos, math.sin))
    return np.array([[cosine, -sine, x0], [sine, cosine, y0]])


def assert_agrees(frame: Frame, transform: Doubles, size_px: int) -> None:
    found = crop(frame, transform, size_px)
    assert found.shape == (size_px, size_px, 3)
    assert found.dtype == np.float32
    error = np.abs(found - crop_reference(frame, transform, size_px)).max() / UNIT
    assert error <= TOLERANCE, f"the largest error is {error:.2e} normalised units"


@pytest.mark.parametrize("shrink", [0.5, 0.99, 1.0, 1.01, 1.5, 2.0, 2.7, 3.0, 4.2, 6.0])
@pytest.mark.parametrize("turn_deg", [0.0, 17.0])
def test_any_shrinking_agrees_with_the_reference(shrink: float, turn_deg: float) -> None:
    assert_agrees(random_frame(150, 170), similarity(shrink, turn_deg, 21.3, 8.7), 20)


@pytest.mark.parametrize("turn_deg", [-170.0, -90.0, -45.0, 5.0, 90.0, 180.0])
def test_any_rotation_agrees_with_the_reference(turn_deg: float) -> None:
    assert_agrees(random_frame(120, 120), similarity(1.3, turn_deg, 60.0, 60.0), 32)


def test_a_gradient_agrees_with_the_reference() -> None:
    assert_agrees(gradient_frame(240, 320), similarity(1.8, 3.0, 80.2, 20.9), 48)


def test_a_real_photo_agrees_with_the_reference() -> None:
    assert_agrees(astronaut(), similarity(1.35, -4.0, 150.5, 40.25), 112)


@pytest.mark.parametrize(
    ("x0", "y0"),
    [(-20.5, 30.2), (90.3, 30.2), (30.1, -20.7), (30.1, 70.9), (-15.2, -15.4), (95.0, 75.0), (-0.5, -0.5)],
)
@pytest.mark.parametrize("shrink", [0.7, 1.0, 2.5])
def test_a_crop_over_the_edge_agrees_with_the_reference(shrink: float, x0: float, y0: float) -> None:
    assert_agrees(random_frame(90, 110), similarity(shrink, 11.0, x0, y0), 24)


@pytest.mark.parametrize(
    ("x0", "y0"), [(-500.0, 0.0), (500.0, 0.0), (0.0, -500.0), (0.0, 500.0), (-1e9, 1e9)]
)
def test_a_crop_outside_the_frame_is_black(x0: float, y0: float) -> None:
    assert not crop(random_frame(60, 80), similarity(1.5, 30.0, x0, y0), 16).any()


@pytest.mark.parametrize("size_px", [1, 7, 13, 33])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 1), (41, 63)])
def test_odd_sizes_agree_with_the_reference(height: int, width: int, size_px: int) -> None:
    frame = random_frame(height, width)
    assert_agrees(frame, similarity(2.3, 9.0, -1.2, -0.4), size_px)


@settings(max_examples=40, deadline=None)
@given(
    shrink=st.floats(0.3, 9.0),
    turn_deg=st.floats(-180, 180),
    x0=st.floats(-60, 120),
    y0=st.floats(-60, 120),
    seed=st.integers(0, 9),
)
def test_any_similarity_agrees_with_the_reference(
    shrink: float, turn_deg: float, x0: float, y0: float, seed: int
) -> None:
    assert_agrees(random_frame(60, 70, seed), similarity(shrink, turn_deg, x0, y0), 8)


def test_the_identity_copies_the_frame() -> None:
    frame = random_frame(32, 32)
    np.testing.assert_array_equal(crop(frame, similarity(1.0, 0.0, 0.0, 0.0), 32), frame)


def test_halving_averages_blocks() -> None:
    frame = random_frame(32, 32)
    blocks = frame.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(crop(frame, similarity(2.0, 0.0, 0.5, 0.5), 16), blocks, atol=1e-3)


def test_a_fine_pattern_is_averaged_and_does_not_alias() -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[:, ::2] = 255
    inner = crop(frame, similarity(4.0, 0.0, 1.5, 1.5), 16)
    np.testing.assert_allclose(inner, 127.5, atol=0.01)


def test_a_mirrored_frame_gives_a_mirrored_crop() -> None:
    frame = random_frame(50, 50)
    mirrored = np.ascontiguousarray(frame[:, ::-1])
    mirror = np.array([[-1.7, 0.0, 49.0 - 3.2], [0.0, 1.7, 4.1]])
    straight = crop(frame, similarity(1.7, 0.0, 3.2, 4.1), 20)
    np.testing.assert_allclose(crop(mirrored, mirror, 20), straight, atol=1e-3)


def test_the_frame_is_not_touched() -> None:
    frame = random_frame(40, 40)
    before = frame.copy()
    crop(frame, similarity(1.5, 20.0, -3.0, 2.0), 24)
    np.testing.assert_array_equal(frame, before)


def test_a_frame_that_is_a_view_of_a_larger_one_gives_the_same_crop() -> None:
    large = random_frame(80, 90)
    part, transform = large[10:70, 20:80], similarity(1.4, 8.0, 5.0, 5.0)
    np.testing.assert_array_equal(crop(part, transform, 16), crop(np.ascontiguousarray(part), transform, 16))


@pytest.mark.parametrize(
    ("shrink", "block_px", "per_side"),
    [
        (0.2, 1, 1),
        (1.0, 1, 1),
        (1.001, 1, 2),
        (2.0, 1, 2),
        (2.82, 1, 2),  # the geometric mean of 2 and 4
        (2.84, 2, 2),
        (4.89, 2, 2),
        (4.91, 3, 2),
        (32.0, 16, 2),
        (99.0, 16, 2),
    ],
)
def test_blocks_and_samples_together_are_the_shrink_factor_to_the_nearest_even_number_as_a_ratio(
    shrink: float, block_px: int, per_side: int
) -> None:
    assert Sampling.of(similarity(shrink, 33.0, 0.0, 0.0))[:2] == (block_px, per_side)
    assert block_px <= MAX_BLOCK_PX


def test_a_crop_is_near_to_the_mean_over_each_pixel_s_area() -> None:
    """By 64 samples of a real face in its usual sizes; a single one is off by more, and aliases."""
    frame = astronaut()
    for shrink in (1.3, 1.9, 2.6, 3.4, 4.6):
        whole = similarity(shrink, 4.0, 224.0 - 24 * shrink, 130.0 - 24 * shrink)
        fine = whole.copy()
        fine[:, :2] /= 8
        fine[:, 2] += whole[:, :2].sum(axis=1) * (0.5 / 8 - 0.5)
        ideal = crop_at(frame, fine, 8 * 48).reshape(48, 8, 48, 8, 3).mean(axis=(1, 3))
        error = np.sqrt(((crop(frame, whole, 48) - ideal) ** 2).mean()) / UNIT
        assert error < 0.045, f"shrunk by {shrink}: {error:.3f}"


def crop_at(frame: Frame, transform: Doubles, size_px: int) -> Doubles:
    """Single bilinear samples."""
    v, u = np.mgrid[:size_px, :size_px]
    columns, rows = (row[0] * u + row[1] * v + row[2] for row in transform)
    found = [map_coordinates(frame[:, :, c].astype(np.float64), [rows, columns], order=1) for c in range(3)]
    return np.stack(found, axis=-1)


# -- normalisation --------------------------------------------------------------------------------


def normalised(pixels: NDArray[np.float32] | None, size_px: int = 16) -> NDArray[np.float32]:
    out = np.full((3, size_px, size_px), np.nan, np.float32)
    normalise_into(pixels, JMT_CLIP, out)
    return out


def test_pixels_become_channels_first_with_mean_and_deviation_removed() -> None:
    pixels = crop(random_frame(40, 40), similarity(1.7, 12.0, 3.0, 4.0), 16)
    mean, std = np.array(JMT_CLIP.mean), np.array(JMT_CLIP.std)
    expected = ((pixels.astype(np.float64) / 255 - mean) / std).transpose(2, 0, 1)
    error = np.abs(normalised(pixels) - expected).max()
    assert error <= 1e-5, f"the largest error is {error:.2e}"


def test_a_missing_frame_is_black_before_normalisation() -> None:
    black = np.zeros((16, 16, 3), np.float32)
    np.testing.assert_allclose(normalised(None), normalised(black), rtol=1e-6)


def test_a_missing_frame_is_not_zero_after_normalisation() -> None:
    expected = [-mean / std for mean, std in zip(JMT_CLIP.mean, JMT_CLIP.std, strict=True)]
    np.testing.assert_allclose(normalised(None)[:, 3, 5], expected, rtol=1e-6)


def test_a_frame_may_be_written_into_the_middle_of_a_clip() -> None:
    clip = np.zeros((3, 4, 16, 16), np.float32)
    pixels = crop(random_frame(16, 16), similarity(1.0, 0.0, 0.0, 0.0), 16)
    normalise_into(pixels, JMT_CLIP, clip[:, 2])
    np.testing.assert_array_equal(clip[:, 2], normalised(pixels))
    assert not clip[:, [0, 1, 3]].any()

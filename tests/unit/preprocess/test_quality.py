"""What is too bad to be read is seen; what real people gave is not called bad."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.preprocess.quality import (
    CLIPPED_AT,
    CLIPPED_SHARE,
    SILENT_PEAK,
    QualityTrack,
    is_black,
    of_face,
    sharpness,
)
from edge_mer.types.signals import Modality
from tests.helpers.data import real

Samples = NDArray[np.float32]
RATE_HZ = {"audio": 16_000, "eda": 4, "skt": 4, "ecg": 250, "emg": 250, "ppg": 64, "rsp": 25}


def verdict(modality: Modality, samples: Samples, span_s: float = 1.0, size: int = 7) -> str | None:
    """Of a whole recording, pushed in pieces of `size` samples."""
    rate_hz = RATE_HZ[modality]
    track = QualityTrack(modality, rate_hz, round(span_s * NS_PER_S))
    for first in range(0, len(samples), size):
        track.push(first * NS_PER_S // rate_hz, samples[first : first + size, None])
    return track.verdict(len(samples) * NS_PER_S // rate_hz)


def waves(modality: Modality, seconds: float = 70.0, level: float = 1.0, swing: float = 0.5) -> Samples:
    t = np.arange(int(seconds * RATE_HZ[modality])) / RATE_HZ[modality]
    return (level + swing * np.sin(2 * np.pi * 1.1 * t) * np.sin(t)).astype(np.float32)


def changed(samples: Samples, what: Callable[[Samples], None]) -> Samples:
    what(samples)
    return samples


def _hold(seconds: float, modality: Modality) -> Callable[[Samples], None]:
    def hold(samples: Samples) -> None:
        n = int(seconds * RATE_HZ[modality])
        samples[-n:] = samples[-n]

    return hold


@pytest.mark.parametrize(
    ("modality", "samples", "found"),
    [
        ("audio", waves("audio", 2, 0.0), None),
        ("audio", waves("audio", 2, 0.0, 0.01), None),
        ("audio", waves("audio", 2, 0.0, 5e-5), "silent"),
        ("audio", np.clip(waves("audio", 2, 0.0, 3.0), -1, 1), "clipped"),
        ("audio", np.full(32_000, np.nan, np.float32), "not_a_number"),
        ("eda", waves("eda"), None),
        ("eda", changed(waves("eda"), _hold(9, "eda")), None),
        ("eda", changed(waves("eda"), _hold(10.5, "eda")), "flat"),
        ("eda", waves("eda", level=0.004, swing=0.003), "lead_off"),
        ("eda", waves("eda", level=100.2), "saturated"),
        ("skt", waves("skt", level=33.0), None),
        ("skt", waves("skt", level=12.0), "lead_off"),
        ("skt", changed(waves("skt", level=33.0), _hold(40, "skt")), None),
        ("skt", changed(waves("skt", level=33.0), _hold(61, "skt")), "flat"),
        ("ecg", waves("ecg", 5), None),
        ("ecg", changed(waves("ecg", 5), _hold(1.1, "ecg")), "flat"),
        ("ecg", np.clip(waves("ecg", 5, 0.0, 3.0), -0.5, 0.5), "saturated"),
        ("ppg", changed(waves("ppg", 5), _hold(0.9, "ppg")), None),
        ("rsp", np.where(np.arange(200) % 3 == 0, 0.5, np.nan).astype(np.float32), "not_a_number"),
    ],
)
def test_what_is_wrong_is_named(modality: Modality, samples: Samples, found: str | None) -> None:
    assert verdict(modality, samples) == found


def of_sound_by_definition(samples: Samples) -> str | None:
    """(n, channels), sample by sample."""
    if np.isnan(samples).any(axis=1).mean() > 0.5:
        return "not_a_number"
    loudness = np.abs(samples)
    if loudness.max() < SILENT_PEAK:
        return "silent"
    return "clipped" if (loudness >= CLIPPED_AT).mean() > CLIPPED_SHARE else None


@given(
    level=st.sampled_from([0.0, 5e-5, SILENT_PEAK, 0.5, CLIPPED_AT, 1.0]),
    loud=st.floats(0.0, 0.03),
    lacking=st.floats(0.0, 1.0) | st.just(0.0),
    sign=st.sampled_from([-1, 1]),
    n_channels=st.integers(1, 3),
)
def test_sound_is_judged_by_every_sample(
    level: float, loud: float, lacking: float, sign: int, n_channels: int
) -> None:
    rng = np.random.default_rng(0)
    samples = np.zeros((4_000, n_channels), np.float32)
    samples[rng.random(samples.shape) < loud] = sign * level
    samples[rng.random(len(samples)) < lacking, -1] = np.nan
    track = QualityTrack("audio", 16_000, NS_PER_S)
    for first in range(0, len(samples), 700):
        track.push(None, samples[first : first + 700])
    assert track.verdict(NS_PER_S) == of_sound_by_definition(samples)


@given(st.integers(1, 5000))
def test_the_size_of_pieces_changes_nothing(size: int) -> None:
    samples = np.clip(waves("ecg", 5, 0.0, 3.0), -0.5, 0.5)
    assert verdict("ecg", samples, size=size) == "saturated"


def test_a_pause_in_the_stream_is_not_flatness() -> None:
    track = QualityTrack("eda", 4, NS_PER_S)
    track.push(0, np.ones((8, 1), np.float32))
    track.push(60 * NS_PER_S, np.ones((8, 1), np.float32))
    assert track.verdict(62 * NS_PER_S) is None


def test_where_nothing_came_nothing_is_wrong() -> None:
    track = QualityTrack("eda", 4, NS_PER_S)
    assert track.verdict(0) is None
    track.push(0, np.ones((80, 1), np.float32))
    assert track.verdict(30 * NS_PER_S) is None


def test_a_long_session_holds_only_what_came_of_late() -> None:
    track = QualityTrack("ecg", 250, NS_PER_S)
    for second in range(3600):
        track.push(second * NS_PER_S, np.random.default_rng(second).normal(size=(250, 1)))
        track.verdict((second + 1) * NS_PER_S)
    assert len(track._pieces) <= 3


@pytest.mark.parametrize(
    ("modality", "name", "rate_hz"),
    [("eda", "EDA.csv", 4), ("ppg", "BVP.csv.gz", 64), ("skt", "TEMP.csv", 4)],
)
def test_a_real_wristband_is_well_nearly_always(modality: Modality, name: str, rate_hz: int) -> None:
    path = real("stress_predict", "Raw_data", "S02", name)
    samples = np.loadtxt(path, skiprows=2, max_rows=rate_hz * 1200, dtype=np.float32)
    track = QualityTrack(modality, rate_hz, NS_PER_S)
    found = []
    for second in range(len(samples) // rate_hz):
        track.push(second * NS_PER_S, samples[second * rate_hz : (second + 1) * rate_hz, None])
        found.append(track.verdict((second + 1) * NS_PER_S))
    assert sum(one is not None for one in found) <= 0.002 * len(found)


def face_in(side_px: int) -> NDArray[np.uint8]:
    """A real face, cut out and scaled; it fills the picture."""
    image = cv2.imread(str(real("face_photos", "astronaut_512.png")))
    face = cv2.resize(image[60:210, 145:295], (side_px, side_px), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(face[..., ::-1])


def crop_of(side_px: int, size_px: int = 112) -> NDArray[np.float64]:
    scale = side_px / size_px
    return np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]])


@pytest.mark.parametrize("side_px", [64, 150, 600])
def test_a_sharp_face_is_well_and_a_blurred_one_is_seen(side_px: int) -> None:
    face, crop = face_in(side_px), crop_of(side_px)
    assert of_face(face, crop, 112) is None
    blurred = cv2.GaussianBlur(face, (0, 0), 0.04 * side_px)
    assert of_face(blurred, crop, 112) == "blurred_face"
    assert sharpness(face, crop, 112) > 4 * sharpness(blurred, crop, 112)


def test_a_small_face_is_seen_by_what_the_model_wants() -> None:
    face = face_in(30)
    assert of_face(face, crop_of(30), 112) == "small_face"
    assert of_face(face, crop_of(30, 32), 32) is None


def test_a_face_without_contrast_is_blurred() -> None:
    assert of_face(np.full((112, 112, 3), 90, np.uint8), crop_of(112), 112) == "blurred_face"


def test_a_covered_lens_is_black() -> None:
    rng = np.random.default_rng(1)
    assert is_black(rng.integers(0, 12, (48, 64, 3), np.uint8))
    assert not is_black(rng.integers(0, 60, (48, 64, 3), np.uint8))

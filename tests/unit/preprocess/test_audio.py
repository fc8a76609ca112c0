"""Log-mel spectrograms against an independent computation; mixing and resampling of raw sound."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.preprocess.audio import SoundConditioner, log_mel, mel_filters
from edge_mer.types.model import LogMel
from tests.helpers.data import real
from tests.helpers.front_ends import JMT_LOG_MEL
from tests.helpers.independent import log_mel_reference

Samples = NDArray[np.float32]

STEP_SAMPLES = 47_040  # 32 frames of 30 fps at 44.1 kHz
TOLERANCE = 1e-4  # in normalised units: 0.002 dB
NARROW_BAND = LogMel(
    rate_hz=16_000,
    n_fft=512,
    win_samples=400,
    hop_samples=160,
    n_mels=40,
    f_min_hz=125.0,
    f_max_hz=7_500.0,
    amin=1e-5,
    top_db=60.0,
    mean=-20.0,
    std=15.0,
    width=96,
)


def noise(n_samples: int = STEP_SAMPLES, level: float = 0.1) -> Samples:
    return np.random.default_rng(7).normal(0.0, level, n_samples).astype(np.float32)


def tone(
    frequency_hz: float, n_samples: int = STEP_SAMPLES, rate_hz: int = 44_100, phase_rad: float = 0.0
) -> Samples:
    t_s = np.arange(n_samples) / rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * t_s + phase_rad)).astype(np.float32)


def spectrogram(samples: Samples, spec: LogMel = JMT_LOG_MEL) -> NDArray[np.float32]:
    out = np.full((1, spec.n_mels, spec.width), np.nan, np.float32)
    log_mel(samples, spec, out)
    return out


def assert_agrees(samples: Samples, spec: LogMel = JMT_LOG_MEL) -> None:
    error = np.abs(spectrogram(samples, spec) - log_mel_reference(samples, spec)).max()
    assert error <= TOLERANCE, f"the largest error is {error:.2e} normalised units"


def conditioned(sound: Samples, source_rate_hz: int, rate_hz: int, cuts: list[int] | None = None) -> Samples:
    """All samples of a stream given in pieces; `sound` (n,) or (n, channel)."""
    sound = sound.reshape(len(sound), -1)
    conditioner = SoundConditioner(source_rate_hz, rate_hz)
    pieces = [conditioner.push(piece) for piece in np.split(sound, sorted(cuts or []))]
    return np.concatenate([*pieces, conditioner.flush()])


def speech_files() -> Iterator[Path]:
    yield from sorted(real("speech").glob("*.wav"))


def read_wav(path: Path) -> tuple[Samples, int]:
    with wave.open(str(path)) as file:
        data = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
        return (data.mean(axis=1) / 32_768).astype(np.float32), file.getframerate()


# -- spectrograms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [JMT_LOG_MEL, NARROW_BAND], ids=["jmt", "narrow_band"])
@pytest.mark.parametrize("level", [1.0, 0.1, 1e-4])
def test_noise_agrees_with_the_reference(level: float, spec: LogMel) -> None:
    assert_agrees(noise(level=level), spec)


@pytest.mark.parametrize("frequency_hz", [30.0, 440.0, 1_234.5, 9_999.0, 21_900.0])
def test_a_tone_agrees_with_the_reference(frequency_hz: float) -> None:
    assert_agrees(tone(frequency_hz))


def test_a_click_agrees_with_the_reference() -> None:
    samples = np.zeros(STEP_SAMPLES, np.float32)
    samples[[0, 20_000, STEP_SAMPLES - 1]] = 1.0, -1.0, 0.5
    assert_agrees(samples)


def test_real_speech_agrees_with_the_reference() -> None:
    worst: dict[str, float] = {}
    for path in speech_files():
        samples, rate_hz = read_wav(path)
        piece = conditioned(samples, rate_hz, JMT_LOG_MEL.rate_hz)[20_000 : 20_000 + STEP_SAMPLES]
        difference = spectrogram(piece) - log_mel_reference(piece, JMT_LOG_MEL)
        worst[path.name] = float(np.abs(difference).max())
    assert worst, "the folder of real speech holds no .wav"
    assert max(worst.values()) <= TOLERANCE, f"largest errors in normalised units: {worst}"


def test_silence_is_the_smallest_power_everywhere() -> None:
    floor = (10 * np.log10(JMT_LOG_MEL.amin) - JMT_LOG_MEL.mean) / JMT_LOG_MEL.std
    np.testing.assert_allclose(spectrogram(np.zeros(STEP_SAMPLES, np.float32)), floor, rtol=1e-6)


def test_nothing_lies_more_than_top_db_below_the_maximum() -> None:
    out = spectrogram(tone(1_000.0))
    range_db = float(out.max() - out.min()) * JMT_LOG_MEL.std
    assert range_db == pytest.approx(JMT_LOG_MEL.top_db, abs=1e-3)


def test_a_step_of_the_published_model_fills_all_columns() -> None:
    narrower = JMT_LOG_MEL.model_copy(update={"width": 106})
    np.testing.assert_array_equal(
        spectrogram(noise())[:, :, 1:],
        spectrogram(noise(), narrower),
        err_msg="one column too many must cost the oldest",
    )
    assert np.all(spectrogram(noise())[0, :, 0] != 0.0)


def test_a_short_piece_is_padded_with_zero_at_the_left() -> None:
    piece = noise(10 * JMT_LOG_MEL.hop_samples)
    out = spectrogram(piece)
    assert np.all(out[:, :, :-11] == 0.0)
    assert np.all(out[:, :, -11:] != 0.0)
    assert_agrees(piece)


def test_a_long_piece_loses_its_oldest_columns() -> None:
    piece = noise(3 * STEP_SAMPLES)
    late = 3 * STEP_SAMPLES // JMT_LOG_MEL.hop_samples - JMT_LOG_MEL.width // 2
    piece[late * JMT_LOG_MEL.hop_samples :] *= 0.01
    assert_agrees(piece)


@pytest.mark.parametrize("n_samples", [1, 2, 100, 512, 513, 1_024])
def test_a_piece_shorter_than_the_window_is_mirrored_until_it_fills_it(n_samples: int) -> None:
    assert_agrees(noise(n_samples))


def test_the_filters_peak_where_the_mel_scale_has_their_centres() -> None:
    filters = mel_filters(JMT_LOG_MEL)
    bins_hz = np.arange(filters.shape[0]) * JMT_LOG_MEL.rate_hz / JMT_LOG_MEL.n_fft
    top_mel = 2595 * np.log10(1 + JMT_LOG_MEL.f_max_hz / 700)
    centres_hz = 700 * (10 ** (np.arange(1, 65) / 65 * top_mel / 2595) - 1)
    peaks_hz = bins_hz[filters.argmax(axis=0)]
    bin_hz = JMT_LOG_MEL.rate_hz / JMT_LOG_MEL.n_fft
    wide = filters.max(axis=0) > 0  # the lowest bands are narrower than a bin
    assert np.all(np.abs(peaks_hz - centres_hz)[wide] <= bin_hz)


def test_what_was_in_the_buffer_before_leaves_no_trace() -> None:
    out = np.full((1, 64, 107), 9.0, np.float32)
    log_mel(noise(1_000), JMT_LOG_MEL, out)
    np.testing.assert_array_equal(out, spectrogram(noise(1_000)))


# -- raw sound ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 6_000), max_size=30))
@pytest.mark.parametrize(
    ("source_rate_hz", "rate_hz"), [(48_000, 44_100), (16_000, 44_100), (44_100, 16_000), (8_000, 8_000)]
)
def test_any_cut_into_chunks_gives_the_same_bits(source_rate_hz: int, rate_hz: int, cuts: list[int]) -> None:
    sound = noise(6_000, 0.2)
    whole = conditioned(sound, source_rate_hz, rate_hz)
    np.testing.assert_array_equal(conditioned(sound, source_rate_hz, rate_hz, cuts), whole)


def test_single_samples_as_chunks_give_the_same_bits() -> None:
    sound = noise(500, 0.2)
    cut = conditioned(sound, 48_000, 44_100, list(range(1, 500)))
    np.testing.assert_array_equal(cut, conditioned(sound, 48_000, 44_100))


@pytest.mark.parametrize("rate_hz", [44_100, 48_000])
def test_channels_are_averaged(rate_hz: int) -> None:
    left, right = noise(9_000, 0.2), tone(440.0, 9_000)
    mixed = conditioned(np.stack([left, right], axis=1), 48_000, rate_hz)
    np.testing.assert_allclose(mixed, conditioned((left + right) / 2, 48_000, rate_hz), atol=1e-6)


def test_opposite_channels_cancel() -> None:
    left = noise(9_000, 0.2)
    assert np.abs(conditioned(np.stack([left, -left], axis=1), 48_000, 44_100)).max() == 0.0


def test_a_tone_above_the_new_band_vanishes() -> None:
    """15 kHz at 48 kHz would come back as 1 kHz at 16 kHz, in the middle of a voice."""
    sound = tone(15_000.0, 48_000, 48_000)
    middle = conditioned(sound, 48_000, 16_000)[1_000:-1_000]
    left_over_db = 20 * np.log10(np.abs(middle).max() / 0.5)
    assert left_over_db < -70, f"{left_over_db:.1f} dB are left"


@pytest.mark.parametrize(
    ("source_rate_hz", "rate_hz", "frequency_hz"),
    [
        (48_000, 44_100, 1_000.0),
        (48_000, 44_100, 15_000.0),
        (44_100, 16_000, 3_000.0),
        (16_000, 44_100, 5_000.0),
        (22_050, 44_100, 440.0),
        (8_000, 44_100, 2_500.0),
    ],
)
def test_a_tone_keeps_frequency_phase_and_level(
    source_rate_hz: int, rate_hz: int, frequency_hz: float
) -> None:
    sound = tone(frequency_hz, 2 * source_rate_hz, source_rate_hz, phase_rad=0.7)
    resampled = conditioned(sound, source_rate_hz, rate_hz)
    ideal = tone(frequency_hz, len(resampled), rate_hz, phase_rad=0.7)
    inner = slice(rate_hz // 50, -rate_hz // 50)
    error = np.abs(resampled - ideal)[inner].max()
    assert error < 1e-3, f"largest error {error:.2e} of an amplitude of 0.5"


@pytest.mark.parametrize(
    ("source_rate_hz", "rate_hz"),
    [(48_000, 44_100), (44_100, 16_000), (16_000, 44_100), (8_000, 44_100), (22_050, 44_100)],
)
def test_a_second_of_sound_stays_a_second(source_rate_hz: int, rate_hz: int) -> None:
    assert abs(len(conditioned(noise(source_rate_hz), source_rate_hz, rate_hz)) - rate_hz) <= 1


@pytest.mark.parametrize("at_s", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize(
    ("source_rate_hz", "rate_hz"), [(48_000, 44_100), (44_100, 16_000), (16_000, 44_100), (44_100, 44_100)]
)
def test_an_impulse_stays_where_it_was(source_rate_hz: int, rate_hz: int, at_s: float) -> None:
    sound = np.zeros(source_rate_hz, np.float32)
    sound[round(at_s * source_rate_hz)] = 1.0
    energy = conditioned(sound, source_rate_hz, rate_hz).astype(np.float64) ** 2
    centre = float((energy * np.arange(len(energy))).sum() / energy.sum())
    assert abs(centre - at_s * rate_hz) < 1.0


def test_an_impulse_stays_where_it_was_after_a_minute() -> None:
    sound = np.zeros(60 * 48_000, np.float32)
    sound[-4_800] = 1.0
    energy = conditioned(sound, 48_000, 44_100, list(range(0, len(sound), 4_800))).astype(np.float64) ** 2
    assert abs(int(energy.argmax()) - (60 * 44_100 - 4_410)) <= 1


def test_after_a_reset_the_past_is_forgotten() -> None:
    conditioner = SoundConditioner(48_000, 44_100)
    conditioner.push(noise(5_000, 0.5)[:, np.newaxis])
    conditioner.reset()
    sound = tone(440.0, 5_000, 48_000)
    again = np.concatenate([conditioner.push(sound[:, np.newaxis]), conditioner.flush()])
    np.testing.assert_array_equal(again, conditioned(sound, 48_000, 44_100))


def test_after_a_flush_it_starts_anew() -> None:
    conditioner = SoundConditioner(48_000, 44_100)
    sound = noise(5_000, 0.5)
    first, second = (
        np.concatenate([conditioner.push(sound[:, np.newaxis]), conditioner.flush()]) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("rate_hz", [44_100, 48_000])
def test_an_empty_chunk_changes_nothing(rate_hz: int) -> None:
    conditioner = SoundConditioner(48_000, rate_hz)
    assert conditioner.push(np.zeros((0, 2), np.float32)).size == 0


@pytest.mark.parametrize("rate_hz", [44_100, 48_000])
def test_a_flush_without_sound_gives_nothing(rate_hz: int) -> None:
    assert SoundConditioner(48_000, rate_hz).flush().size == 0


def test_only_a_few_milliseconds_wait_inside() -> None:
    conditioner = SoundConditioner(48_000, 44_100)
    given = sum(conditioner.push(noise(480)[:, np.newaxis]).size for _ in range(100))
    assert 44_100 - given < 0.005 * 44_100

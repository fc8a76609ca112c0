"""VGGish's log-mel spectrogram, held against plain loops, and the pieces of sound that it is made of."""

from __future__ import annotations

import cmath
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.preprocess.audio import SoundConditioner
from edge_mer.preprocess.vggish_audio import mel_bands, vggish_log_mel
from edge_mer.sync.samples import SampleRing
from edge_mer.types.model import Encoder, TensorSpec, VggishLogMel

Samples = NDArray[np.float32]

VGGISH = VggishLogMel()
SMALL = VggishLogMel(
    rate_hz=8_000,
    n_fft=64,
    win_samples=50,
    hop_samples=20,
    n_mels=5,
    f_min_hz=100.0,
    f_max_hz=3_500.0,
    width=3,
)
RATE_HZ = VGGISH.rate_hz


def plain(samples: Samples, spec: VggishLogMel) -> NDArray[np.float64]:
    """The definition, number by number; (column, mel)."""
    out = np.zeros((spec.width, spec.n_mels))
    for column in range(spec.width):
        magnitude = []
        for k in range(spec.n_fft // 2 + 1):
            total = 0j
            for i in range(spec.win_samples):
                hann = 0.5 * (1 - math.cos(2 * math.pi * i / spec.win_samples))
                sample = float(samples[column * spec.hop_samples + i])
                total += hann * sample * cmath.exp(-2j * math.pi * k * i / spec.n_fft)
            magnitude.append(abs(total))
        for band in range(spec.n_mels):
            weights = [triangle(k * spec.rate_hz / spec.n_fft, band, spec) for k in range(len(magnitude))]
            weights[0] = 0.0
            energy = sum(w * m for w, m in zip(weights, magnitude, strict=True))
            out[column, band] = math.log(energy + spec.offset)
    return out


def mel(frequency_hz: float) -> float:
    return 2595 * math.log10(1 + frequency_hz / 700)


def triangle(frequency_hz: float, band: int, spec: VggishLogMel) -> float:
    lowest, highest = mel(spec.f_min_hz), mel(spec.f_max_hz)
    apart = (highest - lowest) / (spec.n_mels + 1)
    return max(0.0, 1 - abs(mel(frequency_hz) - (lowest + (band + 1) * apart)) / apart)


def spectrogram(samples: Samples, spec: VggishLogMel = VGGISH) -> Samples:
    out = np.full((spec.width, spec.n_mels), np.nan, np.float32)
    vggish_log_mel(samples, spec, out)
    return out


def noise(n: int, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).uniform(-1, 1, n).astype(np.float32)


def tone(frequency_hz: float, n: int) -> Samples:
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(n) / RATE_HZ)).astype(np.float32)


def test_it_is_the_definition_number_by_number() -> None:
    samples = noise(SMALL.n_samples)
    np.testing.assert_allclose(spectrogram(samples, SMALL), plain(samples, SMALL), atol=1e-5)


def test_with_the_published_numbers_too() -> None:
    """One column, since the loops are slow."""
    one = VGGISH.model_copy(update={"width": 1})
    samples = noise(one.n_samples, 1)
    np.testing.assert_allclose(spectrogram(samples, one), plain(samples, one), atol=1e-4)


def test_an_example_is_96_columns_of_10_ms_and_64_bands() -> None:
    assert VGGISH.n_samples == 15_600
    assert spectrogram(noise(VGGISH.n_samples)).shape == (96, 64)


def test_each_column_is_that_of_its_own_samples() -> None:
    samples = noise(VGGISH.n_samples, 2)
    whole, one = spectrogram(samples), VGGISH.model_copy(update={"width": 1})
    for column in (0, 1, 50, 95):
        alone = spectrogram(samples[column * 160 : column * 160 + 400], one)
        np.testing.assert_allclose(whole[column], alone[0], atol=1e-6)


def test_silence_is_the_logarithm_of_the_offset() -> None:
    found = spectrogram(np.zeros(VGGISH.n_samples, np.float32))
    np.testing.assert_allclose(found, math.log(0.01), rtol=1e-6)


@pytest.mark.parametrize("level", [1.0, -1.0])
def test_full_scale_stays_finite(level: float) -> None:
    """A constant has no frequency but the lowest, which no band hears."""
    constant = spectrogram(np.full(VGGISH.n_samples, level, np.float32))
    assert np.isfinite(constant).all()
    loud = spectrogram(np.sign(noise(VGGISH.n_samples)) * np.float32(level))
    assert np.isfinite(loud).all()
    assert loud.max() > 2.0 > constant.max()


@pytest.mark.parametrize("frequency_hz", [200.0, 440.0, 1_000.0, 3_000.0, 7_000.0])
def test_a_tone_is_loudest_in_its_band(frequency_hz: float) -> None:
    found = spectrogram(tone(frequency_hz, VGGISH.n_samples)).mean(axis=0)
    heard = [triangle(frequency_hz, band, VGGISH) for band in range(64)]
    assert abs(int(found.argmax()) - int(np.argmax(heard))) <= 1


def test_bands_lie_between_125_and_7500_hz() -> None:
    bands = mel_bands(VGGISH)
    assert bands.shape == (257, 64)
    heard = np.flatnonzero(bands.sum(axis=1)) * RATE_HZ / 512
    assert 125 <= heard.min() < 160
    assert 7_300 < heard.max() <= 7_500
    assert bands.max() <= 1.0
    np.testing.assert_array_equal(bands[0], 0.0)


# -- the pieces ------------------------------------------------------------------------------------


def encoder(fps: int | Fraction = 30, repeat: int = 1) -> Encoder:
    """An example per frame; it begins where the frame does, and looks ahead."""
    period, span = repeat / Fraction(fps), Fraction(VGGISH.n_samples, RATE_HZ)
    return Encoder(
        stage="audio",
        modality="audio",
        input=TensorSpec(name="x", axes=("batch", "column", "mel"), shape=("batch", 96, 64)),
        output=TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", 4)),
        period=period,
        span=span,
        offset=span - period,
        repeat=repeat,
        preprocess=VGGISH,
    )


def ring(fps: int | Fraction = 30) -> SampleRing:
    return SampleRing(encoder(fps), RATE_HZ, VGGISH.hop_samples)


@pytest.mark.parametrize("fps", [25, 30, 60, Fraction(30_000, 1_001), 8])
def test_a_piece_begins_at_the_nearest_column_halves_to_the_even_one(fps: int | Fraction) -> None:
    n_steps = 40
    held = ring(fps)
    held.append(np.arange(1, 16_000 * 8, dtype=np.float32))
    for step in range(n_steps):
        piece = held.take(step)
        start = round(Fraction(step * 100) / fps) * 160
        assert piece.samples[0] == start + 1
        assert piece.samples.size == 15_600
        assert piece.coverage == 1.0


def test_halves_go_to_the_even_column() -> None:
    """At 8 fps the second frame begins at 12.5 columns, the fourth at 37.5."""
    held = ring(8)
    held.append(np.arange(16_000 * 2, dtype=np.float32))
    starts = [int(held.take(step).samples[0]) // 160 for step in range(6)]
    assert starts == [0, 12, 25, 38, 50, 62]


def test_a_step_is_complete_with_the_last_sample_of_its_piece() -> None:
    held = ring(30)
    held.append(np.zeros(15_600 - 1, np.float32))
    assert not held.is_complete(0)
    held.append(np.zeros(1, np.float32))
    assert held.is_complete(0)
    assert not held.is_complete(1)
    held.append(np.zeros(3 * 160, np.float32))
    assert held.is_complete(1)


@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 5_000), min_size=1, max_size=12))
def test_sound_in_any_chunks_gives_the_spectrograms_of_the_whole(rate_hz: int, sizes: list[int]) -> None:
    sound = noise(2 * rate_hz, 3)[:, np.newaxis]
    whole = SoundConditioner(rate_hz, RATE_HZ)
    offline = np.concatenate([whole.push(sound), whole.flush()])
    held, conditioner, found, step = ring(30), SoundConditioner(rate_hz, RATE_HZ), [], 0
    ends = [*np.cumsum(sizes).tolist(), len(sound)]
    for part in [*np.split(sound, [end for end in ends if end < len(sound)]), None]:
        held.append(conditioner.flush() if part is None else conditioner.push(part))
        while held.is_complete(step):
            found.append(held.take(step).samples)
            step += 1
    starts = [round(Fraction(100 * step, 30)) * 160 for step in range(60)]
    expected = [offline[start : start + 15_600] for start in starts if start + 15_600 <= offline.size]
    assert len(found) == len(expected) > 25
    for cut, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(cut, right, atol=1e-6)
    np.testing.assert_allclose(spectrogram(found[-1]), spectrogram(expected[-1]), atol=1e-4)

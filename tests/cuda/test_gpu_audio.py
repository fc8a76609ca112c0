"""Spectrograms on the GPU against their twins on the processor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.cuda import Gpu, Kernel
from edge_mer.errors import DataError, UsageError
from edge_mer.preprocess.audio import log_mel
from edge_mer.preprocess.gpu_audio import GpuSpectrogramWriter
from edge_mer.preprocess.vggish_audio import vggish_log_mel
from edge_mer.types.model import LogMel, VggishLogMel
from tests.helpers.front_ends import JMT_LOG_MEL
from tests.helpers.independent import log_mel_reference

TOLERANCE = 1e-4  # in normalised units; of VGGish in natural logarithms
STEP = 47_040  # samples of one of jmt's steps

Kernels = dict[str, Kernel]
Floats = NDArray[np.float32]

SMALL = LogMel(
    rate_hz=8_000,
    n_fft=128,
    win_samples=100,
    hop_samples=37,
    n_mels=13,
    f_min_hz=50.0,
    f_max_hz=3_700.0,
    amin=1e-10,
    top_db=80.0,
    mean=-14.8,
    std=19.895,
    width=20,
)


def on_gpu(gpu: Gpu, kernels: Kernels, spec: LogMel | VggishLogMel, steps: Floats) -> Floats:
    """Spectrograms of `steps` (batch, n)."""
    shape = (spec.width, spec.n_mels) if isinstance(spec, VggishLogMel) else (1, spec.n_mels, spec.width)
    out = gpu.tensor((len(steps), *shape), "float32")
    writer = GpuSpectrogramWriter(gpu, kernels, spec, steps.shape[1], out)
    writer.samples.host[...] = steps
    writer.write()
    out.download()
    gpu.synchronize()
    found: Floats = out.host.copy()
    writer.free()
    out.free()
    return found


def twin(spec: LogMel | VggishLogMel, samples: Floats) -> Floats:
    if isinstance(spec, VggishLogMel):
        out = np.full((spec.width, spec.n_mels), np.nan, np.float32)
        vggish_log_mel(samples, spec, out)
        return out
    out = np.full((1, spec.n_mels, spec.width), np.nan, np.float32)
    log_mel(samples, spec, out)
    return out


def assert_agree(gpu: Gpu, kernels: Kernels, spec: LogMel | VggishLogMel, *steps: Floats) -> None:
    found = on_gpu(gpu, kernels, spec, np.stack(steps))
    for one, samples in zip(found, steps, strict=True):
        expected = twin(spec, samples)
        np.testing.assert_array_equal(np.isnan(one), np.isnan(expected))
        error = np.nan_to_num(np.abs(one - expected)).max()
        assert error <= TOLERANCE, f"the largest error is {error:.2e}"


def noise(n: int, seed: int = 1, loudness: float = 0.1) -> Floats:
    return (np.random.default_rng(seed).standard_normal(n) * loudness).astype(np.float32)


def tone(n: int, frequency_hz: float, rate_hz: int) -> Floats:
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(n) / rate_hz)).astype(np.float32)


def test_steps_as_jmt_takes_them(gpu: Gpu, kernels: Kernels) -> None:
    quiet_then_loud = noise(STEP) * np.linspace(0, 1, STEP, dtype=np.float32) ** 6
    assert_agree(gpu, kernels, JMT_LOG_MEL, noise(STEP), tone(STEP, 440.0, 44_100), quiet_then_loud)


def test_it_agrees_with_the_textbook_too(gpu: Gpu, kernels: Kernels) -> None:
    samples = noise(1_200) + tone(1_200, 700.0, 8_000)
    (found,) = on_gpu(gpu, kernels, SMALL, samples[np.newaxis])
    np.testing.assert_allclose(found, log_mel_reference(samples, SMALL), rtol=0, atol=TOLERANCE)


def test_a_pure_tone_keeps_its_dynamic_range(gpu: Gpu, kernels: Kernels) -> None:
    """80 dB below it, single precision must still be right."""
    wide = SMALL.model_copy(update={"n_fft": 4096, "win_samples": 4096, "hop_samples": 2048, "n_mels": 40})
    assert_agree(gpu, kernels, wide, tone(9_000, 1_234.5, 8_000))


@pytest.mark.parametrize("n_fft", [64, 128, 256, 512, 1024, 2048, 4096])
def test_every_size_of_fft(gpu: Gpu, kernels: Kernels, n_fft: int) -> None:
    sizes = {"n_fft": n_fft, "win_samples": n_fft - 5, "hop_samples": n_fft // 2 + 1}
    assert_agree(gpu, kernels, SMALL.model_copy(update=sizes), noise(5_000))


@pytest.mark.parametrize("n_samples", [1, 2, 3, 36, 37, 38, 63, 64, 65, 200, 719, 740, 2_000])
def test_any_number_of_samples(gpu: Gpu, kernels: Kernels, n_samples: int) -> None:
    assert_agree(gpu, kernels, SMALL, noise(n_samples))


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 30.0])
def test_silence_and_loudness(gpu: Gpu, kernels: Kernels, scale: float) -> None:
    assert_agree(gpu, kernels, SMALL, noise(800) * np.float32(scale))


def test_what_is_not_a_number_spreads_as_on_the_processor(gpu: Gpu, kernels: Kernels) -> None:
    spoiled = noise(800)
    spoiled[300] = np.nan
    assert_agree(gpu, kernels, SMALL, noise(800), spoiled, noise(800, seed=2))
    vggish = VggishLogMel(width=12)
    heard = noise(vggish.n_samples)
    heard[900] = np.nan
    assert_agree(gpu, kernels, vggish, heard)


def test_the_maximum_may_lie_in_a_column_that_is_cut_off(gpu: Gpu, kernels: Kernels) -> None:
    samples = noise(2_000, loudness=1e-5)
    samples[:300] = noise(300, loudness=1.0)
    assert_agree(gpu, kernels, SMALL, samples)


@settings(max_examples=30, deadline=None)
@given(
    log_n_fft=st.integers(6, 9),
    window=st.floats(0.1, 1.0),
    hop=st.integers(1, 300),
    n_mels=st.integers(1, 70),
    low_hz=st.floats(0.0, 2_000.0),
    high_hz=st.floats(2_100.0, 4_000.0),
    width=st.integers(1, 30),
    # a handful, mirrored over a window, is a tone with exact nulls: single precision has no digits there
    n_samples=st.integers(64, 900),
    seed=st.integers(0, 9),
)
def test_any_declaration(
    gpu: Gpu,
    kernels: Kernels,
    log_n_fft: int,
    window: float,
    hop: int,
    n_mels: int,
    low_hz: float,
    high_hz: float,
    width: int,
    n_samples: int,
    seed: int,
) -> None:
    n_fft = 2**log_n_fft
    sizes = {"n_fft": n_fft, "win_samples": max(2, int(n_fft * window)), "hop_samples": hop + n_samples // 20}
    bands = {"n_mels": n_mels, "f_min_hz": low_hz, "f_max_hz": high_hz, "width": width}
    assert_agree(gpu, kernels, SMALL.model_copy(update=sizes | bands), noise(n_samples, seed))


def test_vggish(gpu: Gpu, kernels: Kernels) -> None:
    spec = VggishLogMel(width=24)
    n = spec.n_samples
    tones = [tone(n, frequency_hz, 16_000) for frequency_hz in (150.0, 440.0, 1_234.5)]
    assert_agree(gpu, kernels, spec, noise(n), *tones, np.zeros(n, np.float32))


def test_vggish_with_another_fft(gpu: Gpu, kernels: Kernels) -> None:
    spec = VggishLogMel(rate_hz=44_100, n_fft=4096, win_samples=3000, hop_samples=441, width=5)
    assert_agree(gpu, kernels, spec, noise(spec.n_samples))


def test_it_may_be_written_again_and_again(gpu: Gpu, kernels: Kernels) -> None:
    out = gpu.tensor((1, 1, 13, 20), "float32")
    writer = GpuSpectrogramWriter(gpu, kernels, SMALL, 800, out)
    for seed in range(4):
        samples = noise(800, seed)
        writer.samples.host[0] = samples
        writer.write()
        out.download()
        gpu.synchronize()
        np.testing.assert_allclose(out.host[0], twin(SMALL, samples), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("n_fft", [32, 96, 1000, 8192])
def test_other_sizes_of_fft_are_refused(gpu: Gpu, kernels: Kernels, n_fft: int) -> None:
    spec = SMALL.model_copy(update={"n_fft": n_fft, "win_samples": 32})
    with pytest.raises(UsageError, match=f"FFT of {n_fft} samples"):
        GpuSpectrogramWriter(gpu, kernels, spec, 800, gpu.tensor((1, 1, 13, 20), "float32"))


def test_no_samples_are_refused(gpu: Gpu, kernels: Kernels) -> None:
    with pytest.raises(DataError, match="Found: 0"):
        GpuSpectrogramWriter(gpu, kernels, SMALL, 0, gpu.tensor((1, 1, 13, 20), "float32"))
    spec = VggishLogMel(width=12)
    with pytest.raises(DataError, match=r"Expected: 2160\. Found: 2161"):
        GpuSpectrogramWriter(gpu, kernels, spec, 2161, gpu.tensor((1, 12, 64), "float32"))


def test_a_tensor_that_does_not_fit_is_refused(gpu: Gpu, kernels: Kernels) -> None:
    with pytest.raises(UsageError, match="do not fit the tensor"):
        GpuSpectrogramWriter(gpu, kernels, SMALL, 800, gpu.tensor((1, 13, 20), "float32"))

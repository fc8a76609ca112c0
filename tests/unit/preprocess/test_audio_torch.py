"""Log-mel spectrograms against PyTorch's short-time Fourier transform, which models are trained with."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

from torch import Tensor

from edge_mer.preprocess.audio import log_mel
from edge_mer.types.model import LogMel
from edge_mer_export.models.zoo import build
from tests.helpers.front_ends import JMT_LOG_MEL

pytestmark = pytest.mark.workbench

STEP_SAMPLES = 47_040


def torch_log_mel(samples: NDArray[np.float32], spec: LogMel) -> Tensor:
    """The published front end as torchaudio's MelSpectrogram and AmplitudeToDB compute it."""
    wave = torch.from_numpy(samples).double()
    spectrum = torch.stft(
        wave,
        spec.n_fft,
        hop_length=spec.hop_samples,
        win_length=spec.win_samples,
        window=torch.hann_window(spec.win_samples, periodic=True, dtype=torch.float64),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    mel = spectrum.abs().square().T @ torch_filters(spec)
    db = 10.0 * torch.log10(torch.clamp(mel, min=spec.amin)) - 10.0 * math.log10(max(spec.amin, 1.0))
    db = torch.maximum(db, db.max() - spec.top_db)
    return ((db - spec.mean) / spec.std).T[None, :, -spec.width :]


def torch_filters(spec: LogMel) -> Tensor:
    frequencies = torch.linspace(0, spec.rate_hz // 2, spec.n_fft // 2 + 1, dtype=torch.float64)
    low, high = (2595.0 * math.log10(1.0 + f / 700.0) for f in (spec.f_min_hz, spec.f_max_hz))
    edges = 700.0 * (10.0 ** (torch.linspace(low, high, spec.n_mels + 2, dtype=torch.float64) / 2595.0) - 1)
    widths = edges.diff()
    slopes = edges.unsqueeze(0) - frequencies.unsqueeze(1)
    falling, rising = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    return torch.clamp(torch.minimum(falling, rising), min=0.0)


@pytest.mark.parametrize("kind", ["noise", "tone", "silence", "onset"])
def test_the_published_front_end_agrees_with_pytorch(kind: str) -> None:
    t_s = np.arange(STEP_SAMPLES) / JMT_LOG_MEL.rate_hz
    samples = {
        "noise": np.random.default_rng(1).normal(0, 0.1, STEP_SAMPLES),
        "tone": 0.5 * np.sin(2 * np.pi * 440 * t_s),
        "silence": np.zeros(STEP_SAMPLES),
        "onset": np.where(t_s > 0.6, 0.3 * np.sin(2 * np.pi * 2_000 * t_s), 0.0),
    }[kind].astype(np.float32)
    out = np.zeros((1, JMT_LOG_MEL.n_mels, JMT_LOG_MEL.width), np.float32)
    log_mel(samples, JMT_LOG_MEL, out)
    expected = torch_log_mel(samples, JMT_LOG_MEL).numpy()
    assert expected.shape == out.shape
    error = np.abs(out - expected).max()
    assert error <= 1e-4, f"the largest error is {error:.2e} normalised units"


def test_the_tests_use_the_numbers_that_the_model_zoo_declares() -> None:
    declared = build("jmt-tiny").spec.encoders[1].preprocess
    assert declared.model_copy(update={"width": JMT_LOG_MEL.width}) == JMT_LOG_MEL

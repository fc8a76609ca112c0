"""Pieces of biosignals on the GPU against their twin on the processor."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.cuda import Gpu, Kernel
from edge_mer.errors import UsageError
from edge_mer.preprocess.gpu_signal import GpuSignalResampler, GpuSignalWriter
from edge_mer.preprocess.signal import write_resampled, write_signal
from edge_mer.types.model import Course, Signal

Floats = NDArray[np.float32]


def signal(n_channels: int, mean: float = 0.37, std: float = 2.9) -> Signal:
    if n_channels == 1:
        return Signal(rate_hz=64, unit="uS", mean=mean, std=std)
    courses = tuple(Course(kind="level", floor=0.1) for _ in range(n_channels))
    memory = Fraction(60)
    return Signal(
        rate_hz=64, unit="uS", mean=mean, std=std, courses=courses, course_hz=4, normalise_memory=memory
    )


def assert_agree(gpu: Gpu, kernels: dict[str, Kernel], spec: Signal, pieces: Floats) -> None:
    """`pieces`: (batch, n, channels)."""
    n_pieces, n_samples, n_channels = pieces.shape
    out = gpu.tensor((n_pieces, n_channels, n_samples), "float32")
    writer = GpuSignalWriter(gpu, kernels, spec, out)
    writer.samples.host[...] = pieces
    writer.write()
    out.download()
    gpu.synchronize()
    for found, piece in zip(out.host, pieces, strict=True):
        expected = np.full((n_channels, n_samples), np.nan, np.float32)
        write_signal(piece, spec, expected)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    writer.free()
    out.free()


@settings(max_examples=40, deadline=None)
@given(
    n_pieces=st.integers(1, 3),
    n_samples=st.integers(0, 300),
    n_channels=st.integers(1, 5),
    mean=st.floats(-10, 10),
    std=st.floats(0.1, 10),
    seed=st.integers(0, 99),
)
def test_any_piece(
    gpu: Gpu,
    kernels: dict[str, Kernel],
    n_pieces: int,
    n_samples: int,
    n_channels: int,
    mean: float,
    std: float,
    seed: int,
) -> None:
    numbers = np.random.default_rng(seed).standard_normal((n_pieces, n_samples, n_channels))
    assert_agree(gpu, kernels, signal(n_channels, mean, std), numbers.astype(np.float32))


def test_what_is_not_a_number_stays_where_it_is(gpu: Gpu, kernels: dict[str, Kernel]) -> None:
    piece = np.ones((1, 50, 3), np.float32)
    piece[0, 17, 1], piece[0, 18, 2], piece[0, 19, 0] = np.nan, np.inf, -np.inf
    assert_agree(gpu, kernels, signal(3), piece)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 2, 9), "float32"), ((1, 9), "float32"), ((1, 1, 9), "int8")]
)
def test_a_tensor_that_does_not_fit_is_refused(
    gpu: Gpu, kernels: dict[str, Kernel], shape: tuple[int, ...], dtype: str
) -> None:
    with pytest.raises(UsageError, match="do not fit the tensor"):
        GpuSignalWriter(gpu, kernels, signal(1), gpu.tensor(shape, dtype))


# -- streams of other rates -------------------------------------------------------------------------


def assert_resampled_alike(
    gpu: Gpu,
    kernels: dict[str, Kernel],
    spec: Signal,
    pieces: Floats,
    firsts: list[float],
    step: float,
    n_written: int,
) -> None:
    """`pieces`: (batch, n)."""
    out = gpu.tensor((len(pieces), 1, n_written), "float32")
    writer = GpuSignalResampler(gpu, kernels, spec, pieces.shape[1], step, out)
    writer.samples.host[...], writer.firsts.host[...] = pieces, firsts
    writer.write()
    out.download()
    gpu.synchronize()
    for found, piece, first in zip(out.host, pieces, firsts, strict=True):
        expected = np.full((1, n_written), np.nan, np.float32)
        write_resampled(piece, first, step, spec, expected)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    writer.free()
    out.free()


@settings(max_examples=60, deadline=None)
@given(
    n_pieces=st.integers(1, 3),
    n_streamed=st.integers(0, 400),
    n_written=st.integers(0, 300),
    rates=st.sampled_from([(4, 64), (250, 100), (130.3, 128), (1_000, 50), (1, 100), (63.999, 64), (64, 64)]),
    first=st.floats(-20, 40),
    share_missing=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    seed=st.integers(0, 99),
)
def test_any_piece_of_another_rate(
    gpu: Gpu,
    kernels: dict[str, Kernel],
    n_pieces: int,
    n_streamed: int,
    n_written: int,
    rates: tuple[float, float],
    first: float,
    share_missing: float,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    pieces = random.standard_normal((n_pieces, n_streamed)).astype(np.float32)
    pieces[random.random(pieces.shape) < share_missing] = np.nan
    firsts = [first + 0.37 * i for i in range(n_pieces)]
    assert_resampled_alike(gpu, kernels, signal(1), pieces, firsts, rates[0] / rates[1], n_written)


@pytest.mark.parametrize("step", [1 / 3, 2 / 3, 1.0, 5 / 3, 7.0])
@pytest.mark.parametrize("missing", [0, 1, 20, 98, 99])
def test_at_the_edges_of_what_is_there(
    gpu: Gpu, kernels: dict[str, Kernel], step: float, missing: int
) -> None:
    """Places on whole samples, on the first and the last one, and just beside a hole."""
    piece = np.linspace(3, 9, 100, dtype=np.float32)[np.newaxis]
    piece[0, missing] = np.nan
    assert_resampled_alike(gpu, kernels, signal(1), piece, [0.0], step, math.ceil(100 / step) + 3)


def test_only_one_channel_is_resampled(gpu: Gpu, kernels: dict[str, Kernel]) -> None:
    with pytest.raises(UsageError, match="do not fit the tensor"):
        GpuSignalResampler(gpu, kernels, signal(1), 9, 0.5, gpu.tensor((1, 2, 9), "float32"))

"""Crops on the GPU against their twin on the processor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.cuda import Gpu, Kernel
from edge_mer.errors import DataError, UsageError
from edge_mer.preprocess.gpu_image import GpuClipWriter, GpuCrop
from edge_mer.preprocess.image import FrameLayout, LayoutKind, crop, normalise_into, to_rgb
from edge_mer.preprocess.scene import fit_transform
from edge_mer.types.model import Clip, SceneClip

TOLERANCE = 1e-5  # in normalised units
KINDS: tuple[LayoutKind, ...] = ("rgb", "bgr", "nv12", "yuyv")

Kernels = dict[str, Kernel]
Doubles = NDArray[np.float64]
Cut = tuple[NDArray[np.uint8], FrameLayout, Doubles] | None


def clip_spec(height_px: int, width_px: int, n_frames: int = 1) -> SceneClip:
    return SceneClip(
        n_frames=n_frames,
        frame_interval=Fraction(1, 30),
        last_frame_before_end=Fraction(0),
        frame_tolerance=Fraction(1, 30),
        mean=(0.43216, 0.394666, 0.37645),
        std=(0.22803, 0.22145, 0.216989),
        height_px=height_px,
        width_px=width_px,
    )


def camera(layout: FrameLayout, seed: int = 3) -> NDArray[np.uint8]:
    """Any bytes are a frame; what lies between the rows must not matter."""
    return np.random.default_rng(seed).integers(0, 256, layout.shape, np.uint8)


def similarity(shrink: float, turn_deg: float, x0: float, y0: float) -> Doubles:
    cosine, sine = (shrink * f(math.radians(turn_deg)) for f in (math.cos, math.sin))
    return np.array([[cosine, -sine, x0], [sine, cosine, y0]])


def on_gpu(
    gpu: Gpu,
    kernels: Kernels,
    spec: Clip,
    cuts: Sequence[Cut],
    dtype: str = "float32",
    scale: float | None = None,
) -> NDArray[np.generic]:
    """The clips of `cuts`, (batch, 3, frame, height, width)."""
    out = gpu.tensor((len(cuts) // spec.n_frames, 3, spec.n_frames, *spec.shape_px), dtype)
    frames = [None if cut is None else gpu.tensor(cut[1].shape, "uint8") for cut in cuts]
    crops: list[GpuCrop | None] = []
    for cut, frame in zip(cuts, frames, strict=True):
        if cut is None or frame is None:
            crops.append(None)
            continue
        frame.host[...] = cut[0]
        frame.upload()
        crops.append(GpuCrop(frame.pointer, cut[1], cut[2]))
    writer = GpuClipWriter(gpu, kernels, spec, out, scale)
    writer.write(crops)
    out.download()
    gpu.synchronize()
    found = out.host.copy()
    for one in (writer, out, *filter(None, frames)):
        one.free()
    return found


def twin(spec: Clip, cuts: Sequence[Cut]) -> NDArray[np.float32]:
    """The same on the processor."""
    out = np.full((len(cuts) // spec.n_frames, 3, spec.n_frames, *spec.shape_px), np.nan, np.float32)
    for index, cut in enumerate(cuts):
        clip, frame = divmod(index, spec.n_frames)
        pixels = None if cut is None else crop(to_rgb(cut[0], cut[1]), cut[2], spec.shape_px)
        normalise_into(pixels, spec, out[clip, :, frame])
    return out


def assert_agree(gpu: Gpu, kernels: Kernels, spec: Clip, cuts: Sequence[Cut]) -> None:
    error = np.abs(on_gpu(gpu, kernels, spec, cuts) - twin(spec, cuts)).max()
    assert error <= TOLERANCE, f"the largest error is {error:.2e} normalised units"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shrink", [0.4, 1.0, 1.01, 2.0, 2.7, 8.0, 11.0, 20.0])
@pytest.mark.parametrize("turn_deg", [0.0, 17.0])
def test_any_layout_and_shrinking(
    gpu: Gpu, kernels: Kernels, kind: LayoutKind, shrink: float, turn_deg: float
) -> None:
    layout = FrameLayout(kind, 90, 122)
    cut = (camera(layout), layout, similarity(shrink, turn_deg, 11.3, 4.7))
    assert_agree(gpu, kernels, clip_spec(19, 23), [cut])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("x0", "y0"), [(-9.5, 30.2), (50.3, 30.2), (10.1, -9.7), (10.1, 40.9), (-0.5, -0.5)])
def test_over_the_edges(gpu: Gpu, kernels: Kernels, kind: LayoutKind, x0: float, y0: float) -> None:
    layout = FrameLayout(kind, 46, 58, pitch_bytes=200)
    cuts = [(camera(layout), layout, similarity(shrink, 11.0, x0, y0)) for shrink in (0.7, 1.0, 2.5)]
    assert_agree(gpu, kernels, clip_spec(16, 24, n_frames=3), cuts)


@pytest.mark.parametrize(("x0", "y0"), [(-500.0, 0.0), (500.0, 0.0), (0.0, -500.0), (-1e9, 1e9)])
def test_outside_of_the_frame_is_black(gpu: Gpu, kernels: Kernels, x0: float, y0: float) -> None:
    layout, spec = FrameLayout("rgb", 20, 30), clip_spec(8, 8)
    cut = (camera(layout), layout, similarity(1.5, 30.0, x0, y0))
    np.testing.assert_array_equal(on_gpu(gpu, kernels, spec, [cut]), on_gpu(gpu, kernels, spec, [None]))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 1), (41, 63)])
@pytest.mark.parametrize(("tall", "wide"), [(1, 1), (7, 33), (13, 5)])
def test_odd_sizes(gpu: Gpu, kernels: Kernels, height: int, width: int, tall: int, wide: int) -> None:
    for kind in ("rgb", "bgr"):
        layout = FrameLayout(kind, height, width)
        cut = (camera(layout), layout, similarity(2.3, 9.0, -1.2, -0.4))
        assert_agree(gpu, kernels, clip_spec(tall, wide), [cut])


def test_far_from_the_corner_of_a_large_frame(gpu: Gpu, kernels: Kernels) -> None:
    layout = FrameLayout("rgb", 2160, 3840)
    cut = (camera(layout), layout, similarity(1.7, 23.0, 3700.3, 2011.9))
    assert_agree(gpu, kernels, clip_spec(40, 40), [cut])


@pytest.mark.parametrize("kind", ["rgb", "bgr"])
def test_sums_of_bytes_do_not_overflow(gpu: Gpu, kernels: Kernels, kind: LayoutKind) -> None:
    """The brightest frame, and as many samples as there are at most."""
    layout = FrameLayout(kind, 200, 200)
    white = np.full(layout.shape, 255, np.uint8)
    for x0 in (40.0, 40.5, 40.999):
        found = on_gpu(gpu, kernels, clip_spec(9, 9), [(white, layout, similarity(8.0, 7.0, x0, 41.3))])
        expected = (1.0 - np.array([0.43216, 0.394666, 0.37645])) / np.array([0.22803, 0.22145, 0.216989])
        np.testing.assert_allclose(found[0, :, 0], expected[:, None, None] * np.ones((9, 9)), atol=TOLERANCE)


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
@pytest.mark.parametrize("gap", [0, 1, 2, 3])
def test_frames_that_begin_anywhere(gpu: Gpu, kernels: Kernels, offset: int, gap: int) -> None:
    """Words are read whole, and a frame need not begin with one."""
    layout = FrameLayout("rgb", 40, 50, 150 + gap)
    data = camera(layout)
    given = gpu.tensor((data.size + offset,), "uint8")
    given.host[offset:] = data.reshape(-1)
    given.upload()
    spec, out = clip_spec(12, 12), gpu.tensor((1, 3, 12, 12), "float32")
    writer, turned = GpuClipWriter(gpu, kernels, spec, out), similarity(2.3, 11.0, 9.0, 4.0)
    writer.write([GpuCrop(given.pointer + offset, layout, turned)])
    out.download()
    gpu.synchronize()
    expected = twin(spec, [(data, layout, turned)])[:, :, 0]
    np.testing.assert_allclose(out.host, expected, rtol=0, atol=TOLERANCE)
    for one in (writer, out, given):
        one.free()


def test_several_people_in_several_frames_some_of_them_missing(gpu: Gpu, kernels: Kernels) -> None:
    layouts = [FrameLayout(kind, 40, 60, pitch_bytes=192) for kind in KINDS]
    cuts: list[Cut] = [
        (camera(layout, seed), layout, similarity(1.0 + seed / 3, 20.0 * seed, 30.0, 5.0))
        for seed, layout in enumerate(layouts)
    ]
    cuts.insert(2, None)
    cuts.append(None)
    assert_agree(gpu, kernels, clip_spec(9, 11, n_frames=3), cuts)


def test_a_whole_picture(gpu: Gpu, kernels: Kernels) -> None:
    layout = FrameLayout("nv12", 120, 214)
    cut = (camera(layout), layout, fit_transform((120, 214), (56, 70)))
    assert_agree(gpu, kernels, clip_spec(56, 70), [cut])


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    half_height=st.integers(1, 30),
    half_width=st.integers(1, 30),
    gap=st.integers(0, 7),
    affine=st.lists(st.floats(-9.0, 9.0), min_size=4, max_size=4),
    x0=st.floats(-40, 80),
    y0=st.floats(-40, 80),
)
def test_any_affine_map_of_any_frame(
    gpu: Gpu,
    kernels: Kernels,
    kind: LayoutKind,
    half_height: int,
    half_width: int,
    gap: int,
    affine: list[float],
    x0: float,
    y0: float,
) -> None:
    tight = FrameLayout(kind, 2 * half_height, 2 * half_width)
    layout = FrameLayout(kind, 2 * half_height, 2 * half_width, tight.pitch_bytes + gap)
    transform = np.array([[affine[0], affine[1], x0], [affine[2], affine[3], y0]])
    assert_agree(gpu, kernels, clip_spec(6, 9), [(camera(layout), layout, transform)])


def test_half_precision_is_the_same_rounded(gpu: Gpu, kernels: Kernels) -> None:
    layout, spec = FrameLayout("yuyv", 30, 40), clip_spec(16, 16)
    cuts = [(camera(layout), layout, similarity(1.3, 5.0, 3.0, 2.0))]
    found = on_gpu(gpu, kernels, spec, cuts, "float16").astype(np.float32)
    single = on_gpu(gpu, kernels, spec, cuts).astype(np.float32)
    np.testing.assert_array_equal(found, single.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("scale", [2.64 / 127, 0.005])
def test_eight_bits_are_steps_of_the_scale(gpu: Gpu, kernels: Kernels, scale: float) -> None:
    layout, spec = FrameLayout("rgb", 30, 40), clip_spec(16, 16)
    cuts = [(camera(layout), layout, similarity(1.3, 5.0, -3.0, 2.0)), None]
    found = on_gpu(gpu, kernels, spec, cuts, "int8", scale).astype(np.int32)
    exact = twin(spec, cuts).astype(np.float64) / scale
    assert np.abs(found - np.clip(exact, -128, 127)).max() <= 0.5 + 1e-3
    if scale == 0.005:
        assert (found.min(), found.max()) == (-128, 127)


def test_a_writer_may_be_used_again_at_once(gpu: Gpu, kernels: Kernels) -> None:
    layout, spec = FrameLayout("rgb", 30, 40), clip_spec(16, 16)
    frame, out = gpu.tensor(layout.shape, "uint8"), gpu.tensor((1, 3, 16, 16), "float32")
    frame.host[...] = camera(layout)
    frame.upload()
    writer = GpuClipWriter(gpu, kernels, spec, out)
    first, second = similarity(1.3, 5.0, 3.0, 2.0), similarity(0.6, 50.0, 9.0, 2.0)
    writer.write([GpuCrop(frame.pointer, layout, first)])
    out.download()
    is_copied = gpu.event()
    is_copied.record()
    writer.write([GpuCrop(frame.pointer, layout, second)])
    is_copied.wait()
    if not gpu.is_integrated:  # the first launch has run, with what it was given
        expected = twin(spec, [(frame.host, layout, first)])[:, :, 0]
        np.testing.assert_allclose(out.host, expected, rtol=0, atol=TOLERANCE)
    out.download()
    gpu.synchronize()
    expected = twin(spec, [(frame.host, layout, second)])[:, :, 0]
    np.testing.assert_allclose(out.host, expected, rtol=0, atol=TOLERANCE)


def test_a_tensor_that_does_not_fit_is_refused(gpu: Gpu, kernels: Kernels) -> None:
    spec = clip_spec(16, 16, n_frames=2)
    for shape, dtype in (((1, 3, 16, 16), "float32"), ((1, 3, 2, 16, 16), "float64")):
        with pytest.raises(UsageError, match="do not fit the tensor"):
            GpuClipWriter(gpu, kernels, spec, gpu.tensor(shape, dtype))
    with pytest.raises(UsageError, match="scale"):
        GpuClipWriter(gpu, kernels, spec, gpu.tensor((1, 3, 2, 16, 16), "int8"))
    with pytest.raises(UsageError, match="number of crops"):
        GpuClipWriter(gpu, kernels, spec, gpu.tensor((1, 3, 2, 16, 16), "float32")).write([None])


def test_a_crop_at_the_end_of_the_world_is_refused(gpu: Gpu, kernels: Kernels) -> None:
    layout = FrameLayout("rgb", 3, 4)
    writer = GpuClipWriter(gpu, kernels, clip_spec(8, 8), gpu.tensor((1, 3, 8, 8), "float32"))
    with pytest.raises(DataError, match="outside of its frame"):
        writer.write([GpuCrop(1, layout, similarity(1.0, 0.0, 2.0e9, 0.0))])
    with pytest.raises(DataError, match="outside of its frame"):
        writer.write([GpuCrop(1, layout, similarity(math.nan, 0.0, 0.0, 0.0))])

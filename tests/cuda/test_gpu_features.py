"""Rings of features on the GPU against their twin on the processor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.cuda import Gpu, GpuTensor, Kernel
from edge_mer.errors import UsageError
from edge_mer.preprocess.gpu_features import GpuFeatureRings, GpuStep
from edge_mer.sync.features import FeatureRing

Kernels = dict[str, Kernel]
EVENTS = ("encoded", "held", "zeros", "absent", "cleared", "cleared and absent")


class Both:
    """The same session on the GPU and on the processor."""

    def __init__(
        self, gpu: Gpu, kernels: Kernels, sizes: list[int], n_steps: int, has_mask: bool = True
    ) -> None:
        self.gpu = gpu
        self.buffers = [gpu.tensor((1, n_steps, size), "float32") for size in sizes]
        self.outputs = [gpu.tensor((1, size), "float32") for size in sizes]  # of the encoders
        self.mask = gpu.tensor((1, len(sizes), n_steps), "bool") if has_mask else None
        self.rings = GpuFeatureRings(gpu, kernels, self.buffers, self.mask)
        self.twins = [FeatureRing(np.zeros((1, n_steps, size), np.float32)) for size in sizes]
        self.random = np.random.default_rng(5)

    def push(self, events: list[str]) -> None:
        self.rings.push([self._step(i, event) for i, event in enumerate(events)])

    def _step(self, i: int, event: str) -> GpuStep:
        twin, clears = self.twins[i], event.startswith("cleared")
        if clears:
            twin.clear()
        if event in ("encoded", "cleared"):
            feature = self.random.standard_normal(twin.buffer.shape[2]).astype(np.float32)
            self.gpu.synchronize()  # a true encoder writes in the stream's order
            self.outputs[i].host[...] = feature
            self.outputs[i].upload()
            twin.push(feature, "present")
            return GpuStep(self.outputs[i], is_present=True, is_kept=True, clears=clears)
        held = twin.held(1_000) if event == "held" else None
        if held is not None:
            twin.push(held, "filled")
            return GpuStep(self.rings.held[i], is_present=True)
        twin.push(None, "filled" if event == "zeros" else "absent")
        return GpuStep(None, is_present=event == "zeros", clears=clears)

    def assert_equal(self) -> None:
        for tensor in self.tensors():
            tensor.download()
        self.gpu.synchronize()
        for buffer, twin in zip(self.buffers, self.twins, strict=True):
            np.testing.assert_array_equal(buffer.host, twin.buffer)
        if self.mask is not None:
            expected: NDArray[np.bool_] = np.array([twin.present for twin in self.twins], np.bool_)
            np.testing.assert_array_equal(self.mask.host[0], expected)

    def tensors(self) -> list[GpuTensor]:
        return [*self.buffers, *([] if self.mask is None else [self.mask])]

    def free(self) -> None:
        for one in (self.rings, *self.tensors(), *self.outputs):
            one.free()


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    n_steps=st.integers(1, 17),
    has_mask=st.booleans(),
    data=st.data(),
)
def test_any_session(
    gpu: Gpu, kernels: Kernels, sizes: list[int], n_steps: int, has_mask: bool, data: st.DataObject
) -> None:
    both = Both(gpu, kernels, sizes, n_steps, has_mask)
    events = st.lists(st.sampled_from(EVENTS), min_size=len(sizes), max_size=len(sizes))
    for _ in range(data.draw(st.integers(0, 8))):
        both.push(data.draw(events))
    both.assert_equal()
    both.free()


def test_features_move_from_the_end_to_the_beginning(gpu: Gpu, kernels: Kernels) -> None:
    both = Both(gpu, kernels, [2], 3)
    for _ in range(5):
        both.push(["encoded"])
    both.assert_equal()
    assert both.buffers[0].host.all()


def test_what_is_not_a_number_is_carried_along(gpu: Gpu, kernels: Kernels) -> None:
    both = Both(gpu, kernels, [3], 4)
    both.outputs[0].host[...] = [1.0, np.nan, np.inf]
    both.outputs[0].upload()
    both.rings.push([GpuStep(both.outputs[0], is_present=True)])
    both.buffers[0].download()
    gpu.synchronize()
    np.testing.assert_array_equal(both.buffers[0].host[0, -1], [1.0, np.nan, np.inf])


def test_several_steps_may_be_given_before_anybody_waits(gpu: Gpu, kernels: Kernels) -> None:
    both = Both(gpu, kernels, [2, 5], 4)
    for event in ("zeros", "absent", "zeros"):
        both.push([event, "absent"])
    both.assert_equal()


def test_a_buffer_that_does_not_fit_is_refused(gpu: Gpu, kernels: Kernels) -> None:
    good = gpu.tensor((1, 4, 5), "float32")
    for bad in (gpu.tensor((1, 3, 5), "float32"), gpu.tensor((1, 4, 5), "float16")):
        with pytest.raises(UsageError, match=r"Expected: float32 \(1, 4, feature\)"):
            GpuFeatureRings(gpu, kernels, [good, bad], None)
    with pytest.raises(UsageError, match=r"Expected: bool \(1, 2, 4\)"):
        GpuFeatureRings(gpu, kernels, [good, good], gpu.tensor((1, 1, 4), "bool"))

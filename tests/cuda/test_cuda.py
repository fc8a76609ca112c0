"""Memory, kernels and errors of one GPU."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from edge_mer.cuda import Gpu, open_gpu
from edge_mer.errors import EdgeMerError, MissingError
from edge_mer.nvrtc import compile_cubin
from tests.helpers.host_cuda import faulty, live, needs_host

BOTH = pytest.mark.parametrize("integrated", ["0", "1"])


def test_it_says_what_it_is(gpu: Gpu) -> None:
    major, minor = gpu.capability
    assert gpu.sm == f"sm_{major}{minor}"
    assert gpu.name
    assert 12.0 <= float(gpu.driver_version) < 20.0
    assert 0 < gpu.free_bytes() <= gpu.total_bytes
    assert gpu.stream.handle > 0


@pytest.mark.parametrize("ordinal", [-1, 99])
def test_another_number_than_there_are_is_told(gpu: Gpu, ordinal: int) -> None:
    with pytest.raises(MissingError, match=f"no GPU {ordinal}"):
        open_gpu(ordinal)


@needs_host
@BOTH
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5, 7), (2, 0, 4)])
def test_a_tensor_is_zero_on_both_sides(
    monkeypatch: pytest.MonkeyPatch, integrated: str, dtype: str, shape: tuple[int, ...]
) -> None:
    monkeypatch.setenv("HOST_CUDA_INTEGRATED", integrated)
    with open_gpu() as gpu:
        tensor = gpu.tensor(shape, dtype)
        assert (tensor.shape, tensor.dtype) == (shape, np.dtype(dtype))
        assert tensor.n_bytes == tensor.host.nbytes
        assert not tensor.host.any()
        if integrated == "0":
            tensor.host[...] = 1
        tensor.download()
        gpu.synchronize()
        assert not tensor.host.any()


@needs_host
@BOTH
def test_what_is_uploaded_reaches_a_kernel_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, integrated: str
) -> None:
    monkeypatch.setenv("HOST_CUDA_INTEGRATED", integrated)
    with open_gpu() as gpu:
        assert gpu.is_integrated == (integrated == "1")
        check_reversal(gpu)


def test_a_kernel_of_this_gpu_runs(gpu: Gpu) -> None:
    check_reversal(gpu)


def check_reversal(gpu: Gpu) -> None:
    numbers = np.random.default_rng(1).random((5, 64), np.float32)
    given, taken = gpu.tensor((5, 64), "float32"), gpu.tensor((5, 64), "float32")
    given.host[...] = numbers
    given.upload()
    faulty(gpu, "reversed").launch((5, 1, 1), (64, 1, 1), given, taken, shared_bytes=64 * 4)
    taken.download()
    gpu.synchronize()
    np.testing.assert_array_equal(taken.host, numbers[:, ::-1])


@needs_host
def test_on_an_integrated_gpu_both_sides_are_one_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_CUDA_INTEGRATED", "1")
    with open_gpu() as gpu:
        before = live()
        tensor = gpu.tensor((4,), "float32")
        assert tensor.host.ctypes.data == tensor.pointer  # so it is for the host's driver
        assert live().device_allocations == before.device_allocations


@needs_host
def test_nothing_has_happened_before_somebody_waits() -> None:
    with open_gpu() as gpu:
        tensor = gpu.tensor((4,), "float32")
        gpu.synchronize()
        tensor.host[...] = 3.0
        tensor.upload()
        tensor.host[...] = 4.0  # too early: the copy reads it later
        tensor.download()
        gpu.synchronize()
        np.testing.assert_array_equal(tensor.host, [4.0] * 4)


def test_arguments_of_all_kinds_arrive(gpu: Gpu) -> None:
    seven, out = gpu.tensor((1,), "float32"), gpu.tensor((6,), "float32")
    seven.host[...] = 7.0
    seven.upload()
    kernel = faulty(gpu, "kinds")
    pointer = np.uintp(seven.pointer)
    kernel.launch((1, 1, 1), (1, 1, 1), np.int8(-3), pointer, 5, 2.5, np.int16(-9), np.float64(0.25), out)
    out.download()
    gpu.synchronize()
    np.testing.assert_array_equal(out.host, [-3.0, 7.0, 5.0, 2.5, -9.0, 0.25])


def test_memory_of_the_gpu_alone_can_be_given_to_kernels(gpu: Gpu) -> None:
    between, out = gpu.scratch(64 * 4), gpu.tensor((64,), "float32")
    given = gpu.tensor((64,), "float32")
    given.host[...] = np.arange(64)
    given.upload()
    kernel = faulty(gpu, "reversed")
    kernel.launch((1, 1, 1), (64, 1, 1), given, between, shared_bytes=256)
    kernel.launch((1, 1, 1), (64, 1, 1), between, out, shared_bytes=256)
    out.download()
    gpu.synchronize()
    np.testing.assert_array_equal(out.host, np.arange(64))


def test_a_kernel_may_take_more_shared_memory_than_is_usual(gpu: Gpu) -> None:
    given, taken = gpu.tensor((64,), "float32"), gpu.tensor((64,), "float32")
    faulty(gpu, "reversed").launch((1, 1, 1), (64, 1, 1), given, taken, shared_bytes=60 * 1024)
    gpu.synchronize()


def test_events_tell_the_time_between_them(gpu: Gpu) -> None:
    first, last = gpu.event(), gpu.event()
    first.record()
    check_reversal(gpu)
    last.record()
    assert 0.0 <= last.elapsed_ms(first) < 60_000.0


def test_another_thread_may_use_it(gpu: Gpu) -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            check_reversal(gpu)
            with gpu.current():
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed


@needs_host
@BOTH
def test_closing_frees_all_of_it(monkeypatch: pytest.MonkeyPatch, integrated: str) -> None:
    monkeypatch.setenv("HOST_CUDA_INTEGRATED", integrated)
    before = live()
    gpu = open_gpu()
    tensor, memory = gpu.tensor((3, 4), "float32"), gpu.scratch(1000)
    faulty(gpu, "reversed"), gpu.event(), gpu.tensor((7,), "int8")
    assert live() != before
    tensor.free()
    tensor.free()
    memory.free()
    gpu.close()
    gpu.close()
    assert live() == before


@needs_host
def test_a_thread_may_close_what_another_opened() -> None:
    before = live()
    gpu = open_gpu()
    gpu.tensor((3,), "float32"), gpu.scratch(8), gpu.event(), faulty(gpu, "reversed")
    thread = threading.Thread(target=gpu.close)
    thread.start()
    thread.join()
    assert live() == before


@needs_host
def test_a_program_that_forgets_to_close_ends_quietly() -> None:
    code = "from edge_mer.cuda import open_gpu; gpu = open_gpu(); gpu.tensor((4,), 'float32'), gpu.event()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_closed_gpu_refuses_work(gpu: Gpu) -> None:
    with open_gpu() as closed:
        tensor = closed.tensor((4,), "float32")
    with pytest.raises(EdgeMerError, match="closed"):
        closed.tensor((4,), "float32")
    with pytest.raises(EdgeMerError, match="closed"):
        tensor.upload()
    assert tensor.host.size == 0


# -- what goes wrong ------------------------------------------------------------------------------


@needs_host
def test_too_little_memory_says_how_much_was_asked_and_how_much_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = live()
    monkeypatch.setenv("HOST_CUDA_BYTES", str(before.device_bytes + 10_000_000))
    with open_gpu() as gpu:
        held = gpu.scratch(4_000_000)
        expected = r"8 MB.*Expected: 8 MB free\. Found: 6 MB of .* free"
        with pytest.raises(MissingError, match=expected):
            gpu.tensor((2_000_000,), "float32")
        with pytest.raises(MissingError, match=expected):
            gpu.scratch(8_000_000)
        held.free()
        gpu.tensor((2_000_000,), "float32")
    assert live() == before


def test_a_kernel_of_another_gpu_is_told(gpu: Gpu) -> None:
    source = 'extern "C" __global__ void reversed() {}'
    other = "sm_80" if gpu.capability == (7, 5) else "sm_75"
    with pytest.raises(EdgeMerError, match="loading the kernels reversed failed"):
        gpu.load(compile_cubin(source, "other.cu", other), ("reversed",))


def test_what_is_no_kernel_is_told(gpu: Gpu) -> None:
    with pytest.raises(EdgeMerError, match="loading the kernels reversed failed"):
        gpu.load(b"this is no cubin" * 100, ("reversed",))


def test_a_missing_kernel_is_told(gpu: Gpu) -> None:
    with pytest.raises(EdgeMerError, match="loading the kernels nothing"):
        faulty(gpu, "nothing")


@pytest.mark.parametrize(
    ("grid", "block"), [((0, 1, 1), (64, 1, 1)), ((1, 1, 1), (2048, 1, 1)), ((1, 1, 1), (1, 1, 65))]
)
def test_a_launch_that_cannot_be_is_told(
    gpu: Gpu, grid: tuple[int, int, int], block: tuple[int, int, int]
) -> None:
    tensor = gpu.tensor((64,), "float32")
    with pytest.raises(EdgeMerError, match="launching the kernel reversed"):
        faulty(gpu, "reversed").launch(grid, block, tensor, tensor, shared_bytes=256)


def test_too_few_arguments_are_told(gpu: Gpu) -> None:
    with pytest.raises(EdgeMerError, match="launching the kernel reversed"):
        faulty(gpu, "reversed").launch((1, 1, 1), (64, 1, 1), gpu.tensor((64,), "float32"))


@needs_host
def test_no_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_CUDA_NO_DEVICE", "1")
    with pytest.raises(MissingError, match="no CUDA-capable device") as raised:
        open_gpu()
    assert raised.value.exit_code == 5


@needs_host
def test_no_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    code = "from edge_mer.cuda import open_gpu; open_gpu()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingError: the GPU cannot be used: PyCUDA does not find the NVIDIA driver" in done.stderr
    assert "libcuda.so.1: cannot open" in done.stderr
    assert "Warning" not in done.stderr

"""The host's driver finds the faults that it is there to find."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from edge_mer.cuda import Gpu
from edge_mer.errors import EdgeMerError
from tests.helpers.host_cuda import faulty, needs_asan, needs_host, needs_no_asan

pytestmark = needs_host

LAUNCH = """
import sys
from edge_mer.cuda import open_gpu
from tests.helpers.host_cuda import faulty
name, n, shared_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open_gpu() as gpu:
    out = gpu.tensor((n,), "float32")
    arguments = (out, n) if name == "overruns" else (out,)
    faulty(gpu, name).launch((1, 1, 1), (64, 1, 1), *arguments, shared_bytes=shared_bytes)
    gpu.synchronize()
print("done")
"""


def launch(name: str, n: int, shared_bytes: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LAUNCH, name, str(n), str(shared_bytes)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def n_wrong(gpu: Gpu, name: str) -> int:
    """Numbers that a reversal in shared memory puts wrong."""
    given, taken = gpu.tensor((4, 64), "float32"), gpu.tensor((4, 64), "float32")
    given.host[...] = np.arange(256).reshape(4, 64)
    given.upload()
    faulty(gpu, name).launch((4, 1, 1), (64, 1, 1), given, taken, shared_bytes=256)
    taken.download()
    gpu.synchronize()
    return int((taken.host != given.host[:, ::-1]).sum())


def test_threads_that_race_give_wrong_numbers(gpu: Gpu) -> None:
    assert n_wrong(gpu, "reversed_in_a_race") > 32
    assert n_wrong(gpu, "reversed") == 0


def test_blocks_run_in_random_order(gpu: Gpu) -> None:
    out = gpu.tensor((1,), "float32")
    kernel = faulty(gpu, "last_block")
    found = set()
    for _ in range(20):
        kernel.launch((8, 1, 1), (1, 1, 1), out)
        out.download()
        gpu.synchronize()
        found.add(float(out.host[0]))
    assert len(found) > 3


@needs_no_asan
def test_threads_that_wait_apart_are_told(gpu: Gpu) -> None:
    done = launch("waits_apart", 64, 0)
    assert done.returncode != 0
    assert "waited at different barriers" in done.stderr
    assert "unspecified launch failure" in done.stderr


@needs_asan
@pytest.mark.parametrize(("n", "is_overrun"), [(63, True), (64, False)])
def test_an_overrun_of_memory_is_told(n: int, is_overrun: bool) -> None:
    done = launch("overruns", n, 0)  # 64 threads write numbers 0 to n
    assert ("heap-buffer-overflow" in done.stderr) == is_overrun
    assert ("done" in done.stdout) != is_overrun


@needs_asan
@pytest.mark.parametrize(("shared_bytes", "is_overrun"), [(64 * 4, True), (65 * 4, False)])
def test_an_overrun_of_shared_memory_is_told(shared_bytes: int, is_overrun: bool) -> None:
    done = launch("overruns_shared", 64, shared_bytes)
    assert ("use-after-poison" in done.stderr) == is_overrun
    assert ("done" in done.stdout) != is_overrun


def test_a_kernel_that_failed_fails_all_that_follows(gpu: Gpu) -> None:
    code = LAUNCH.replace("gpu.synchronize()", FOLLOWING)
    command = [sys.executable, "-c", code, "waits_apart", "64", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.count("running what the stream held failed") == 2


FOLLOWING = """
    from edge_mer.errors import EdgeMerError
    for _ in range(2):
        try:
            gpu.synchronize()
        except EdgeMerError as error:
            print(error)
"""


def test_a_wrong_number_of_arguments_is_refused(gpu: Gpu) -> None:
    with pytest.raises(EdgeMerError, match="invalid argument"):
        faulty(gpu, "last_block").launch((1, 1, 1), (1, 1, 1), 1)

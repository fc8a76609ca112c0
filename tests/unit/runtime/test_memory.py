"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading

import numpy as np
import pytest

from edge_mer.clock import NS_PER_S
from edge_mer.runtime import session
from edge_mer.runtime.memory import give_back_memory
from tests.helpers.live_faults import Scene
from tests.helpers.process import rss_bytes

MB = 1_000_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, which keeps freed memory")
def test_what_threads_freed_is_given_back() -> None:
    """In a thread, as capturing does; every sixteenth piece is still held, so no pool is free as a whole."""
    held: list[np.ndarray] = []

    def work() -> None:
        pieces = [np.ones(2_000) for _ in range(4_000)]  # 16 kB each
        held.extend(pieces[::16])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    before = rss_bytes()
    give_back_memory()
    assert before - rss_bytes() > 30 * MB
    assert all(piece.sum() == 2_000 for piece in held)


def test_a_live_session_gives_it_back_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[None] = []
    monkeypatch.setattr(session, "GIVE_BACK_EVERY_NS", 2 * NS_PER_S)
    monkeypatch.setattr(session, "give_back_memory", lambda: given.append(None))
    Scene().play()
    assert len(given) in (4, 5)  # of almost eleven seconds


_MANY_THREADS = """
import ctypes, threading
from edge_mer.runtime.memory import keep_few_pools
{call}
go_on = threading.Barrier(9)
def work():
    held = [ctypes.create_string_buffer(1000) for _ in range(100)]
    go_on.wait()
    go_on.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
go_on.wait()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = libc.fdopen(1, b"w")
libc.malloc_info(0, ctypes.c_void_p(out))
libc.fflush(ctypes.c_void_p(out))
go_on.wait()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, which has pools for threads")
def test_threads_share_two_pools() -> None:
    def n_pools(call: str) -> int:
        script = [sys.executable, "-c", _MANY_THREADS.format(call=call)]
        return subprocess.run(script, capture_output=True, text=True, check=True).stdout.count("<heap nr=")

    assert n_pools("keep_few_pools()") <= 2 < n_pools("")


_ARRAYS = """
import resource
import numpy as np
from edge_mer.runtime.memory import keep_freed_memory
{call}
def work():
    arrays = [np.ones(50_000) for _ in range(10)]  # 400 kB each
    del arrays
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, which returns freed memory")
def test_what_was_freed_is_used_again_without_new_pages() -> None:
    """50 times 4 MB are 50,000 pages of 4 kB."""
    n_pages = []
    for call in ("", "keep_freed_memory()"):
        code = _ARRAYS.format(call=call)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        n_pages.append(int(done.stdout))
    returned, kept = n_pages
    assert returned > 20_000
    assert kept < 2_000


def test_what_only_several_people_need_is_not_loaded_for_one() -> None:
    """SciPy's optimizers take 25 MB; sessions of one person are to fit into small devices."""
    code = "import sys, edge_mer.cli.run, edge_mer.runtime.start_up\nassert 'scipy.fft' in sys.modules\n"
    code += "sys.exit('scipy.optimize' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

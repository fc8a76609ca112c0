"""One engine for many sessions: who runs with whom, who waits how long, and whom a failure reaches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mer.bundle.read import open_bundle
from edge_mer.clock import NS_PER_S, Clock, ManualClock, MonotonicClock
from edge_mer.engine.base import Array, Engine
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.engine.openvino import OvOptions, computes_bf16, is_installed
from edge_mer.engine.sharing import Batcher, SharedEngine, SharedRuns, batch_sizes, parts, takes_batches
from edge_mer.errors import BundleError
from edge_mer.runtime.setup import open_engine
from edge_mer.runtime.shared_model import guards_of
from edge_mer.runtime.target import CpuOptions
from edge_mer.types.model import TensorSpec
from tests.helpers.numpy_engines import NumpyEngine
from tests.helpers.waiting import wait_until

NEVER_NS = 3600 * NS_PER_S
ROW = ("batch", "feature")


class Twice:
    """Doubles each row, notes its batches, fails at NaN, and holds still while its gate is closed."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.n_inside = self.most_inside = 0
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()

    def __call__(self, rows: Array) -> tuple[Array, ...]:
        with self._lock:
            self.sizes.append(len(rows))
            self.n_inside += 1
            self.most_inside = max(self.most_inside, self.n_inside)
        assert self.gate.wait(30)
        with self._lock:
            self.n_inside -= 1
        if np.isnan(rows).any():
            raise BundleError("a row was no number")
        return (rows * 2,)


def engine_of(function: Callable[..., tuple[Array, ...]], batch: int | str = "batch") -> Engine:
    spec, out = (TensorSpec(name=name, axes=ROW, shape=(batch, 2)) for name in ("x", "y"))
    return NumpyEngine("double", (spec,), (out,), {"batch": 1}, function)


def row(value: float) -> dict[str, Array]:
    return {"x": np.full((1, 2), value, np.float32)}


@contextmanager
def shared(
    function: Callable[..., tuple[Array, ...]],
    n_sessions: int,
    *,
    max_wait_ns: int = NEVER_NS,
    clock: Clock | None = None,
    max_batch: int = 8,
) -> Iterator[tuple[Batcher, list[SharedEngine]]]:
    """Sessions' views of one engine. By default time stands still: nobody has ever waited too long."""
    batcher = Batcher(engine_of(function), nullcontext(), max_batch, max_wait_ns, clock or ManualClock())
    yield batcher, [SharedEngine(batcher) for _ in range(n_sessions)]


@contextmanager
def asked(sessions: Sequence[Engine], values: Sequence[float]) -> Iterator[list[Future[Any]]]:
    """Each session asks for its value, on a thread of its own."""
    with ThreadPoolExecutor(len(sessions)) as threads:
        yield [threads.submit(one.run, row(value)) for one, value in zip(sessions, values, strict=True)]


def values_of(futures: Sequence[Future[Any]]) -> list[float]:
    return [float(future.result(timeout=30)["y"][0, 1]) for future in futures]


# -- sizes -----------------------------------------------------------------------------------------


def test_batches_have_few_sizes() -> None:
    assert [batch_sizes(most) for most in (1, 2, 7, 8)] == [(1,), (1, 2), (1, 2, 4), (1, 2, 4, 8)]
    for most in (1, 2, 3, 8):
        for n in range(20):
            cut = list(parts(n, most))
            assert [i for part in cut for i in range(n)[part]] == list(range(n))
            assert {part.stop - part.start for part in cut} <= set(batch_sizes(most))


def test_an_engine_for_one_row_takes_no_batches() -> None:
    assert takes_batches(engine_of(Twice()))
    assert not takes_batches(engine_of(Twice(), batch=1))


# -- who runs with whom ----------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "sizes"), [(1, [1]), (2, [2]), (3, [2, 1]), (4, [4]), (7, [4, 2, 1])])
def test_all_who_wait_run_at_once_and_each_gets_its_own(n: int, sizes: list[int]) -> None:
    double = Twice()
    with shared(double, n) as (_, sessions), asked(sessions, range(n)) as futures:
        assert values_of(futures) == [2.0 * i for i in range(n)]
    assert double.sizes == sizes


def test_more_gather_while_the_engine_runs() -> None:
    double = Twice()
    double.gate.clear()
    with shared(double, 4, max_wait_ns=0) as (batcher, sessions), ThreadPoolExecutor(4) as threads:
        first = threads.submit(sessions[0].run, row(1))
        wait_until(lambda: double.n_inside == 1, "the first runs")
        others = [threads.submit(one.run, row(2 + i)) for i, one in enumerate(sessions[1:])]
        wait_until(lambda: len(batcher._waiting) == 3, "the others wait")
        double.gate.set()
        assert values_of([first, *others]) == [2, 4, 6, 8]
    assert double.sizes == [1, 2, 1]


def test_no_batch_is_larger_than_allowed() -> None:
    double = Twice()
    with shared(double, 5, max_batch=2, max_wait_ns=0) as (_, sessions), asked(sessions, range(5)) as futures:
        assert values_of(futures) == [0, 2, 4, 6, 8]
    assert max(double.sizes) <= 2


def test_nobody_waits_longer_than_the_bound_for_who_does_not_come() -> None:
    double, clock = Twice(), MonotonicClock()
    with shared(double, 3, max_wait_ns=30_000_000, clock=clock) as (_, sessions):
        began_ns = clock.now_ns()
        assert sessions[0].run(row(3))["y"][0, 0] == 6
        took_ns = clock.now_ns() - began_ns
    assert took_ns >= 30_000_000
    assert double.sizes == [1]


def test_who_leaves_is_waited_for_no_more() -> None:
    double = Twice()
    with shared(double, 3) as (batcher, sessions), asked(sessions[:2], (1, 2)) as futures:
        wait_until(lambda: len(batcher._waiting) == 2, "two wait for the third")
        assert not any(future.done() for future in futures)
        sessions[2].close()
        sessions[2].close()
        assert values_of(futures) == [2, 4]
    with pytest.raises(RuntimeError, match="stage double was closed"):
        sessions[2].run(row(1))


def test_other_shapes_run_alone_and_wait_for_nobody() -> None:
    double = Twice()
    with shared(double, 3) as (_, sessions):
        found = sessions[0].run({"x": np.ones((2, 2), np.float32)})
    np.testing.assert_array_equal(found["y"], 2 * np.ones((2, 2)))


def test_what_comes_out_is_each_sessions_to_keep() -> None:
    with shared(Twice(), 2) as (_, sessions):
        sessions[0].inputs["x"][...], sessions[1].inputs["x"][...] = 1, 2
        with ThreadPoolExecutor(2) as threads:
            first, second = (future.result(30)["y"] for future in [threads.submit(s.infer) for s in sessions])
            again = [threads.submit(one.run, row(9)) for one in sessions]
            assert values_of(again) == [18, 18]
    np.testing.assert_array_equal(first, 2 * np.ones((1, 2)))
    np.testing.assert_array_equal(second, 4 * np.ones((1, 2)))


# -- failures and ends -----------------------------------------------------------------------------


def test_a_failure_reaches_those_in_its_batch_and_nobody_else() -> None:
    double = Twice()
    with shared(double, 3) as (_, sessions):
        with asked(sessions, (1, 2, np.nan)) as futures:
            failed = [future.exception(timeout=30) for future in futures]
        assert sum(one is None for one in failed) in (1, 2)  # the third alone, or with one of the others
        assert all(isinstance(one, BundleError) for one in failed if one is not None)
        assert failed[2] is not None
        with asked(sessions, (1, 2, 3)) as futures:
            assert values_of(futures) == [2, 4, 6]


def test_a_session_that_is_interrupted_leaves_the_others_theirs() -> None:
    """Ctrl-C in a program that plays on its main thread, and waits for others."""
    double = Twice()
    with shared(double, 3, clock=Interrupted()) as (batcher, sessions):
        with pytest.raises(KeyboardInterrupt):
            sessions[0].run(row(1))
        assert not batcher._waiting
        with asked(sessions, (2, 3, 4)) as futures:
            assert sorted(values_of(futures)) == [4, 6, 8]


class Interrupted(ManualClock):
    """Somebody presses Ctrl-C while the first one waits."""

    n_asked = 0

    def now_ns(self) -> int:
        """The time, or not."""
        self.n_asked += 1
        if self.n_asked == 2:
            raise KeyboardInterrupt
        return super().now_ns()


@pytest.mark.parametrize(("exclusive", "most"), [(None, 2), ("a GPU", 1)])
def test_what_shares_a_gpu_runs_one_after_the_other(exclusive: object, most: int) -> None:
    double = Twice()
    double.gate.clear()
    engines = {name: engine_of(double) for name in ("visual", "audio")}
    for engine in engines.values():
        engine.exclusive = exclusive
    guards = guards_of(engines)
    runs = [SharedRuns(engine, guards[stage]) for stage, engine in engines.items()]
    with asked([SharedEngine(one) for one in runs], (1, 2)) as futures:
        wait_until(lambda: double.n_inside == most, "as many run as may")
        double.gate.set()
        assert values_of(futures) == [2, 4]
    assert double.most_inside == most


# -- real engines ----------------------------------------------------------------------------------

needs_openvino = pytest.mark.skipif(not is_installed(), reason="needs OpenVINO: edge-mer[openvino]")
needs_bf16 = pytest.mark.skipif(not computes_bf16(), reason="needs a processor with bf16, and OpenVINO")


@pytest.mark.parametrize(
    ("precision", "options"),
    [
        ("fp32", OrtOptions()),
        ("int8-cpu", OrtOptions()),
        pytest.param("fp32", OvOptions(), marks=needs_openvino),
        pytest.param("int8-cpu", OvOptions(), marks=needs_openvino),
        pytest.param("fp32", OvOptions(1, "bf16"), marks=needs_bf16),
    ],
)
def test_real_numbers_do_not_depend_on_who_else_is_in_the_batch(
    precision: str, options: CpuOptions, shared_bundle: Path
) -> None:
    """On x86-64 with AVX-512 they are equal to the bit; a thousandth of their deviation is demanded."""
    bundle = open_bundle(shared_bundle)
    golden = [bundle.read_arrays(name) for name in bundle.manifest.golden.sessions]
    steps = np.concatenate([one["input.visual"] for one in golden] * 2)[:7]
    engine = open_engine(bundle.manifest.model, "visual", bundle.read_stage(precision, "visual"), options)
    alone = [engine.run({"clip": steps[i : i + 1]})["feature"] for i in range(7)]
    batcher = Batcher(engine, nullcontext(), 8, NEVER_NS, ManualClock())
    sessions = [SharedEngine(batcher) for _ in range(7)]
    with ThreadPoolExecutor(7) as threads:
        tasks = [partial(one.run, {"clip": steps[i : i + 1]}) for i, one in enumerate(sessions)]
        found = [future.result(30)["feature"] for future in [threads.submit(task) for task in tasks]]
    batcher.close()
    deviation = float(np.concatenate(alone).std(axis=0).mean())
    for together, by_itself in zip(found, alone, strict=True):
        assert np.abs(together - by_itself).max() <= 1e-3 * deviation

"""How long work takes, on the GPU and as it is called, so that two ways may be compared.

Ways are timed in turn, round after round, so that what the card does meanwhile (clocks, heat, other programs)
meets all of them; a way's time is the median of its rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edge_mer.cuda import Gpu
from edge_mer.cuda_graph import capture

Work = Callable[[], None]
Measure = Callable[[], float]
"""Does the work some times and returns the milliseconds of one."""


@dataclass(frozen=True)
class Plan:
    """How often work is repeated.

    Attributes:
        warm_up_s: All ways take turns for so long first.
        n_rounds: Rounds that count.
        n_repeats: How often a round does what takes microseconds.
    """

    warm_up_s: float = 1.0
    n_rounds: int = 15
    n_repeats: int = 20


QUICK = Plan(warm_up_s=0.0, n_rounds=1, n_repeats=1)


@dataclass(frozen=True)
class Time:
    """Of one way, over the rounds.

    Attributes:
        median_ms: What is compared.
        least_ms: The fastest round.
        most_ms: The slowest round.
    """

    median_ms: float
    least_ms: float
    most_ms: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def in_turn(ways: Mapping[str, Measure], plan: Plan) -> dict[str, Time]:
    """Time all ways in one run."""
    end_s = time.monotonic() + plan.warm_up_s
    while True:
        for measure in ways.values():
            measure()
        if time.monotonic() >= end_s:
            break
    rounds = [{name: measure() for name, measure in ways.items()} for _ in range(plan.n_rounds)]
    return {name: _time([one[name] for one in rounds]) for name in ways}


def _time(found_ms: list[float]) -> Time:
    return Time(statistics.median(found_ms), min(found_ms), max(found_ms))


class Stopwatch:
    """Times what goes into our own stream, by events of the GPU.

    Args:
        gpu: Whose stream.
        n_repeats: How often one measurement does the work.
    """

    def __init__(self, gpu: Gpu, n_repeats: int) -> None:
        self._gpu, self._n_repeats = gpu, n_repeats
        self._begin, self._end = gpu.event(), gpu.event()

    def recorded(self, *works: Work) -> Measure:
        """Work as one CUDA graph, so that the processor does not hold the GPU up.

        Args:
            works: One after the other until `n_repeats` of them lie in the graph; only launches and copies.
                Several take memory of their own each, so that a cache does not hold what the next one reads.

        Returns:
            Of one work; launched as it is where the driver cannot record.
        """
        n = max(self._n_repeats, len(works))

        def all_of_them() -> None:
            for index in range(n):
                works[index % len(works)]()

        all_of_them()  # what is only done the first time cannot be recorded
        self._gpu.synchronize()
        graph = capture(self._gpu, all_of_them)
        return self._spanned(all_of_them if graph is None else graph.launch, n)

    def launched(self, work: Work) -> Measure:
        """Work as it is launched, once after the other."""

        def all_of_them() -> None:
            for _ in range(self._n_repeats):
                work()

        return self._spanned(all_of_them, self._n_repeats)

    def _spanned(self, work: Work, n: int) -> Measure:
        def measure() -> float:
            self._begin.record()
            work()
            self._end.record()
            return self._end.elapsed_ms(self._begin) / n

        return measure


def called(work: Work, wait: Work) -> Measure:
    """Work from the call until it is done, by the processor's clock."""

    def measure() -> float:
        begin_ns = time.perf_counter_ns()
        work()
        wait()
        return (time.perf_counter_ns() - begin_ns) / 1e6

    return measure


class TorchStopwatch:
    """Times what PyTorch does on the GPU, by its own events in its own stream.

    Args:
        torch: The module.
        n_repeats: How often one measurement does the work.
    """

    def __init__(self, torch: Any, n_repeats: int) -> None:
        self._torch, self._n_repeats = torch, n_repeats

    def launched(self, work: Callable[[], Any]) -> Measure:
        """As people call it, one operation after the other."""

        def all_of_them() -> None:
            for _ in range(self._n_repeats):
                work()

        return self._spanned(all_of_them)

    def recorded(self, work: Callable[[], Any]) -> Measure:
        """As one CUDA graph; raises RuntimeError where PyTorch cannot record it."""
        torch = self._torch
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what is only done the first times cannot be recorded
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(self._n_repeats):
                work()
        return self._spanned(graph.replay)

    def _spanned(self, work: Work) -> Measure:
        torch = self._torch
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def measure() -> float:
            begin.record()
            work()
            end.record()
            end.synchronize()
            return float(begin.elapsed_time(end)) / self._n_repeats

        return measure

"""Whoever does the jobs, all are done once; a failure costs its own, and a dead worker nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edge_mer.corpus.crew import Alone, Crew
from edge_mer.engine.threads import available_threads
from edge_mer.errors import DataError, MissingError, UsageError


@dataclass(frozen=True, eq=False)
class Making:
    """Makes workers; each leaves a file in a folder."""

    folder: Path
    is_broken: bool = False

    def __call__(self) -> Squaring:
        if self.is_broken:
            raise MissingError("no engine here", hint="install it")
        (self.folder / f"made-{os.getpid()}-{len(list(self.folder.iterdir()))}").touch()
        return Squaring(self.folder)


class Squaring:
    """Squares numbers; some are not to its liking."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def do(self, job: int) -> np.ndarray:
        if job == 13:
            raise DataError("thirteen brings bad luck", found="13")
        if job == 14:
            raise ZeroDivisionError("a bug")
        if job == 99:
            os.kill(os.getpid(), signal.SIGKILL)
        if job == 50 and not (self._folder / "killed").exists():
            (self._folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([job * job, available_threads()])


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Crew]:
    pytest.importorskip("ray")
    from edge_mer.corpus.ray_crew import RayCrew

    with RayCrew("local", 2) as crew:
        yield crew


@pytest.fixture(params=["alone", "ray"])
def crew(request: pytest.FixtureRequest) -> Crew:
    found: Crew = Alone() if request.param == "alone" else request.getfixturevalue("two_workers")
    return found


def test_every_job_is_done_once_and_a_failure_costs_only_its_own(crew: Crew, tmp_path: Path) -> None:
    jobs = [*range(20)]
    done = list(crew.each(Making(tmp_path), jobs))
    assert sorted(one.number for one in done) == jobs
    for one in done:
        if one.number == 13:
            assert (one.result, one.error) == (None, "thirteen brings bad luck. Found: 13.")
        elif one.number == 14:
            assert (one.result, one.error) == (None, "internal error: ZeroDivisionError: a bug")
        else:
            assert one.error == ""
            assert one.result is not None
            assert one.result[0] == one.number**2


def test_workers_are_made_once_for_all_they_do(crew: Crew, tmp_path: Path) -> None:
    make = Making(tmp_path)
    for jobs in ([1, 2, 3, 4, 5, 6], [7, 8, 9, 10], []):
        assert len(list(crew.each(make, jobs))) == len(jobs)
    assert 1 <= len(list(tmp_path.iterdir())) <= crew.n_workers


def test_a_worker_that_cannot_be_made_ends_it_all(crew: Crew, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no engine here"):
        list(crew.each(Making(tmp_path, is_broken=True), [1, 2, 3]))


def test_a_dead_worker_is_replaced_and_its_job_done_again(two_workers: Crew, tmp_path: Path) -> None:
    before = two_workers.n_replaced
    done = {one.number: one for one in two_workers.each(Making(tmp_path), [1, 50, 2, 3, 4])}
    assert (tmp_path / "killed").exists()
    assert two_workers.n_replaced == before + 1
    assert [done[number].result[0] for number in range(5)] == [1, 2500, 4, 9, 16]


def test_a_job_that_kills_worker_after_worker_is_given_up(two_workers: Crew, tmp_path: Path) -> None:
    done = {one.number: one for one in two_workers.each(Making(tmp_path), [99, 1, 2, 3])}
    assert done[0].error.startswith("the worker died 3 times on it")
    assert [done[number].result[0] for number in (1, 2, 3)] == [1, 4, 9]


def test_workers_have_a_thread_each(two_workers: Crew, tmp_path: Path) -> None:
    assert [one.result[1] for one in two_workers.each(Making(tmp_path), [1])] == [1]


def test_who_stops_listening_leaves_nobody_working(two_workers: Crew, tmp_path: Path) -> None:
    each = two_workers.each(Making(tmp_path), [1, 2, 3, 4])
    next(each)
    each.close()  # type: ignore[attr-defined]
    assert len(list(two_workers.each(Making(tmp_path), [5, 6]))) == 2


@pytest.mark.parametrize("n", [0, -1])
def test_a_crew_of_nobody_is_refused(n: int) -> None:
    pytest.importorskip("ray")
    from edge_mer.corpus.ray_crew import RayCrew

    with pytest.raises(UsageError, match="a crew needs a worker"):
        RayCrew("local", n)

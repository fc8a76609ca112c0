"""Who does many like jobs, and what becomes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from edge_mer.errors import EdgeMerError

Job = TypeVar("Job", contravariant=True)
Result = TypeVar("Result")
Given = TypeVar("Given")
Made = TypeVar("Made", covariant=True)


class Worker(Protocol[Job, Made]):
    """Does jobs, one after the other."""

    def do(self, job: Job) -> Made:
        """Do one.

        Raises:
            EdgeMerError: It cannot be done; others may.
        """


@dataclass(frozen=True)
class Done(Generic[Result]):
    """A job that ended.

    Attributes:
        number: Which of the jobs.
        result: What it came to; None where it failed.
        error: Why it failed; "" where it did not.
    """

    number: int
    result: Result | None
    error: str


class Crew(ABC):
    """One or more workers.

    Attributes:
        n_workers: How many there are.
        n_replaced: Workers that died and were replaced so far.
    """

    n_workers: int = 1
    n_replaced: int = 0

    @abstractmethod
    def each(
        self, make: Callable[[], Worker[Given, Result]], jobs: Sequence[Given]
    ) -> Iterator[Done[Result]]:
        """Do all jobs; gives each as it ends, in any order.

        Args:
            make: Makes a worker, once for each that there is.
            jobs: What is to be done. One that fails stops no other.

        Raises:
            EdgeMerError: No worker can be made.
        """

    def close(self) -> None:  # noqa: B027 -- who works alone holds nothing
        """Dismiss the workers."""

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Alone(Crew):
    """Does everything itself, in this process."""

    def __init__(self) -> None:
        self._made: tuple[Callable[[], Any], Any] | None = None

    def each(
        self, make: Callable[[], Worker[Given, Result]], jobs: Sequence[Given]
    ) -> Iterator[Done[Result]]:
        """One after the other, in their order."""
        for number, job in enumerate(jobs):
            yield attempt(self._worker(make), number, job)

    def _worker(self, make: Callable[[], Worker[Given, Result]]) -> Worker[Given, Result]:
        """Whoever was made in the same way goes on."""
        if self._made is None or self._made[0] is not make:
            self._made = make, make()
        made: Worker[Given, Result] = self._made[1]
        return made


def attempt(worker: Worker[Given, Result], number: int, job: Given) -> Done[Result]:
    """Do a job; what is wrong with its recording is told, not raised."""
    result: Any = None
    error = ""
    try:
        result = worker.do(job)
    except EdgeMerError as failure:
        error = str(failure)
    except Exception as failure:  # a fault in one recording's file must not cost the others
        error = f"internal error: {type(failure).__name__}: {failure}"
    return Done(number, result, error)

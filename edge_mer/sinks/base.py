"""What every sink does with predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from edge_mer.types.facts import ModelFacts
from edge_mer.types.predictions import Prediction


class Sink(Protocol):
    """A place where predictions go. Life: `open`, `write`, then `close` or `abandon`."""

    @property
    def target(self) -> Path | None:
        """The file that it writes, if it writes one."""
        ...

    def open(self) -> None:
        """Get ready to write.

        Raises:
            UsageError: The place cannot be written to.
            MissingError: What it needs is not there now; it may be opened again later.
        """
        ...

    def write(self, prediction: Prediction) -> None:
        """Take one prediction; may wait some seconds, and never for ever."""
        ...

    def close(self) -> None:
        """Everything was written; make it final."""
        ...

    def abandon(self) -> None:
        """The session failed; leave nothing half-written."""
        ...


@runtime_checkable
class Introduced(Protocol):
    """A sink that wants to know the model before it is opened."""

    def introduce(self, model: ModelFacts) -> None:
        """Learn of the model: before `open`, and between two writes when another one took its place."""
        ...


@runtime_checkable
class Remote(Protocol):
    """A sink whose other end may go away, and come back."""

    @property
    def name(self) -> str:
        """What to call it: its URI without anything secret."""
        ...

    @property
    def n_lost(self) -> int:
        """Predictions that it took and could not hand on; any thread may ask."""
        ...

    @property
    def away(self) -> str:
        """Why it cannot hand on anything just now; "" while it can. Any thread may ask."""
        ...


@runtime_checkable
class Checked(Protocol):
    """A sink that can say before it is opened whether it ever can be."""

    def check(self) -> None:
        """See to its settings and packages, and call nobody.

        Raises:
            UsageError: A file that a key names cannot be used.
            MissingError: A package is not installed.
        """
        ...


def introduce(sink: Sink, model: ModelFacts) -> None:
    """Tell a sink of the model, if it wants to know."""
    if isinstance(sink, Introduced):
        sink.introduce(model)

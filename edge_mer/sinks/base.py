"""What every sink does with predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

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
        """
        ...

    def write(self, prediction: Prediction) -> None:
        """Take one prediction."""
        ...

    def close(self) -> None:
        """Everything was written; make it final."""
        ...

    def abandon(self) -> None:
        """The session failed; leave nothing half-written."""
        ...

"""Those who hear predictions over the link, as a session sees them."""

from __future__ import annotations

from pathlib import Path

from edge_mer.types.predictions import Prediction


class Everybody:
    """A sink that takes all and writes nothing.

    A session ends once no sink takes anything any more. A daemon's has the link and alarms behind its
    callback, and goes on when the disk of all its files is full.
    """

    @property
    def target(self) -> Path | None:
        """None: it writes no file."""
        return None

    def open(self) -> None:
        """Nothing to get ready."""

    def write(self, prediction: Prediction) -> None:
        """Nothing: the session's callback tells them."""

    def close(self) -> None:
        """Nothing to make final."""

    abandon = close

"""What every source of chunks does: four verbs, and its streams described before it starts."""

from __future__ import annotations

from typing import Protocol

from edge_mer.types.signals import Chunk, StreamSpec


class Source(Protocol):
    """A camera, a microphone, a file, a simulated person: anything that delivers chunks.

    Life: `ensure_ready` (open, describe), `start`, `read` until `ended`, `ensure_stopped`.
    `ensure_stopped` may be called at any time, also twice.

    A source that reads a file names it as `path`, so that no sink takes the file's place. The others have no
    `path`, or None.
    """

    @property
    def uri(self) -> str:
        """The URI that opens this source again."""
        ...

    @property
    def is_live(self) -> bool:
        """True for a sensor that cannot wait; False for a file or a simulation."""
        ...

    @property
    def specs(self) -> tuple[StreamSpec, ...]:
        """One spec per stream; valid after `ensure_ready`."""
        ...

    @property
    def ended(self) -> bool:
        """True once nothing more will come."""
        ...

    def ensure_ready(self) -> None:
        """Open and describe the source.

        Raises:
            DataError: The file or device cannot be used; the message says why.
        """
        ...

    def start(self) -> None:
        """Begin to deliver."""
        ...

    def read(self, timeout_ms: int) -> Chunk | None:
        """The next chunk of any stream, or None when none came within `timeout_ms` or at the end.

        The chunks of one stream come in the order of their capture.
        """
        ...

    def ensure_stopped(self) -> None:
        """Release everything; harmless when nothing is held."""
        ...

"""What every source of chunks does: four verbs, and its streams described before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edge_mer.types.signals import Chunk, ClockOffset, StreamSpec


class Source(Protocol):
    """A camera, a microphone, a file, a simulated person: anything that delivers chunks.

    Life: `ensure_ready` (open, describe), `start`, `read` until `ended`, `ensure_stopped`.
    `ensure_stopped` may be called at any time, also twice.

    A source that reads a file names it as `path`, so that no sink takes the file's place. The others have no
    `path`, or None.

    A live source that was stopped can be made ready and started again: that is how one that broke is mended.
    It stamps data before it does anything with them, takes `latency_ms` off, the device's own fixed latency
    where its URI gives one, and never holds back more than a bounded number of chunks.
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

        Raises:
            LostError: The device is gone or broken.
        """
        ...

    def ensure_stopped(self) -> None:
        """Release everything; harmless when nothing is held."""
        ...


@runtime_checkable
class RemotelyClocked(Protocol):
    """A source with chunks that a remote clock stamps."""

    def clock_offsets(self) -> list[ClockOffset]:
        """Looks at the remote clock since this was last asked, oldest first; never waits."""
        ...


@runtime_checkable
class Replayed(Protocol):
    """A source that plays a session again."""

    @property
    def was_live(self) -> bool:
        """Whether the session's steps were given out by the clock; valid after `ensure_ready`."""
        ...


@dataclass(frozen=True)
class Attached:
    """Something that `edge-mer sources` lists.

    Attributes:
        uri: Opens it as a source.
        name: What it calls itself.
        note: What it offers, e.g. "640 x 480 at 30 Hz, MJPEG", or why it cannot be opened.
    """

    uri: str
    name: str
    note: str = ""

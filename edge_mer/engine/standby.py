"""A stage on a server while that is there, and on this device while it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from edge_mer.engine.base import Array, Engine, buffer_sizes
from edge_mer.errors import AwayError
from edge_mer.types.model import ModelSpec


class Origin(NamedTuple):
    """What ran in a server's place.

    Attributes:
        engine: Its name, e.g. "onnxruntime-cpu".
        precision: What it ran in.
    """

    engine: str
    precision: str


class StoodIn(dict[str, Array]):
    """Outputs that this device made in a server's place.

    Args:
        outputs: Name -> array.
        origin: What made them.
    """

    def __init__(self, outputs: Mapping[str, Array], origin: Origin) -> None:
        super().__init__(outputs)
        self.origin = origin


def origin_of(outputs: Mapping[str, Array]) -> Origin | None:
    """What made outputs in a server's place; None: what was to make them."""
    return outputs.origin if isinstance(outputs, StoodIn) else None


class Connection(Protocol):
    """Somebody who runs stages elsewhere, and was called.

    Attributes:
        engines: Stage -> engine; one raises `AwayError` where it gets no good answer in time.
        failure: The first of these; None: there was none.
    """

    @property
    def engines(self) -> Mapping[str, Engine]:
        """As above."""

    @property
    def failure(self) -> AwayError | None:
        """As above."""

    def close(self) -> None:
        """Hang up. Twice does no harm."""


class Server(Protocol):
    """Somebody who can be called.

    Attributes:
        name: For the records, e.g. "triton@gpu-box:8001".
        shown: The URI without its keys, for messages.
        precision: What it runs, as the user says.
        fallback: What stands in for it: "local", "none", or a precision.
    """

    @property
    def name(self) -> str:
        """As above."""

    @property
    def shown(self) -> str:
        """As above."""

    @property
    def precision(self) -> str:
        """As above."""

    @property
    def fallback(self) -> str:
        """As above."""

    def connect(self, model: ModelSpec) -> Connection:
        """Call it, and hold what it says of its models against what a bundle declares.

        Raises:
            AwayError: It does not answer, or not in time.
            MissingError: It has not what is needed.
        """


class Watch(Protocol):
    """Who knows whether a server is there."""

    @property
    def connection(self) -> Connection | None:
        """The server, if it is there and its numbers were found right."""

    def lost(self, connection: Connection, why: AwayError) -> None:
        """It gave no good answer."""

    def stood_in(self) -> None:
        """A stage was not run by the server."""


class StandbyEngine(Engine):
    """One stage of a session.

    Args:
        model: Declares the stages.
        stage: Which of them.
        name: Of the server.
        watch: Knows whether the server is there.
        own: Runs the stage while the server is away; None: nothing does, and a run raises `AwayError`.
        precision: Of `own`.
    """

    def __init__(
        self, model: ModelSpec, stage: str, name: str, watch: Watch, own: Engine | None, precision: str
    ) -> None:
        super().__init__(stage, *model.tensors[stage], buffer_sizes(model))
        self.name = name
        self._watch, self._own = watch, own
        self._origin = Origin(name if own is None else own.name, precision)
        if own is not None and own.exclusive is not None:
            self.exclusive = own.exclusive

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        connection = self._watch.connection
        if connection is not None:
            try:
                return connection.engines[self.stage].run(feed)
            except AwayError as why:
                self._watch.lost(connection, why)
        self._watch.stood_in()
        if self._own is None:
            raise AwayError(f"stage {self.stage}: {self.name} is away, and nothing stands in for it")
        return StoodIn(self._own.run(feed), self._origin)

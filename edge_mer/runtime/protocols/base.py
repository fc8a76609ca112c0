"""What every evaluation protocol is given, and what it does with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from edge_mer.clock import Clock
from edge_mer.errors import UsageError
from edge_mer.runtime.pipeline import Counters, PipelineSetup
from edge_mer.types.model import ModelSpec
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk, StreamSpec


@dataclass
class Recording:
    """A recording that is being played for a protocol.

    Attributes:
        setup: Model and engines.
        specs: Its streams.
        chunks: All that comes, in order of capture; can be read once.
        clock: Where the time comes from.
        counters: Filled on the way.
        notes: What the user must know of how it was read; filled on the way.
    """

    setup: PipelineSetup
    specs: tuple[StreamSpec, ...]
    chunks: Iterable[Chunk]
    clock: Clock
    counters: Counters = field(default_factory=Counters)
    notes: list[str] = field(default_factory=list)

    def demand_picture(self, protocol: str) -> StreamSpec:
        """The stream whose frames are counted.

        Raises:
            UsageError: There is none.
        """
        found = next((spec for spec in self.specs if spec.modality == "visual"), None)
        if found is None:
            raise UsageError(
                f"protocol {protocol} gives one prediction per frame, and no source has a picture",
                expected="a source with a video, e.g. file:clip.mp4",
                found=", ".join(spec.name for spec in self.specs) or "no stream",
            )
        return found


class EvaluationProtocol(Protocol):
    """From a whole recording to the predictions that the paper's code would give."""

    def check(self, model: ModelSpec) -> None:
        """Refuse a model that the protocol was not made for.

        Raises:
            UsageError: It does not fit; the message names what is needed.
        """
        ...

    def predict(self, recording: Recording) -> Iterator[Prediction]:
        """Play a recording to its end; its predictions in order of time.

        Raises:
            DataError: The recording cannot be used.
            UsageError: Its streams do not fit.
        """
        ...


@dataclass(frozen=True)
class Need:
    """One thing that a protocol asks of a model.

    Attributes:
        what: In a few words.
        found: What the model has instead.
        is_met: Whether it has it.
    """

    what: str
    found: str
    is_met: Callable[[], bool]


def demand(protocol: str, model: ModelSpec, needs: Iterable[Need]) -> None:
    """Refuse a model by the first thing that it lacks.

    Args:
        protocol: Name of the protocol.
        model: The model's declaration.
        needs: In an order in which each may rely on those before it.

    Raises:
        UsageError: Something is lacking.
    """
    for need in needs:
        if not need.is_met():
            raise UsageError(
                f"protocol {protocol} does not fit model {model.name}",
                expected=need.what,
                found=need.found,
                hint="leave out --protocol to run the model as a stream",
            )

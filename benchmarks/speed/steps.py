"""The same windows for all: step tensors of simulated people, one after the other in one stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.runtime.pipeline import StepTrace
from edge_mer.types.model import Encoder, ModelSpec, Words

Array = NDArray[Any]

N_PEOPLE = 12


@dataclass(frozen=True)
class Steps:
    """Step tensors of a stream of steps.

    A window may begin with one person and end with another: that is nothing to whoever multiplies.

    Attributes:
        tensors: Stage -> (pieces, …) of float32; a piece serves the encoder's `repeat` steps. Of words
            the vector of each step, which all rivals are given: an utterance is encoded once in all of them.
    """

    tensors: dict[str, Array]

    def pieces(self, encoder: Encoder, first: int, end: int) -> Array:
        """(n, …) of the steps from `first` until before `end`, both multiples of `repeat`."""
        return self.tensors[encoder.stage][first // encoder.repeat : end // encoder.repeat]

    def until(self, spec: ModelSpec, end: int) -> Steps:
        """Those before step `end` alone, in memory of their own."""
        return Steps({one.stage: self.pieces(one, 0, end).copy() for one in spec.encoders})

    def ends(self, spec: ModelSpec) -> list[int]:
        """Of each window the step before which it ends."""
        n_steps = min(len(self.tensors[encoder.stage]) * encoder.repeat for encoder in spec.encoders)
        return list(range(spec.fusion.n_steps, n_steps + 1, spec.fusion.hop))

    def save(self, file: Path) -> None:
        """Write them."""
        np.savez(file, **self.tensors)  # type: ignore[arg-type]

    @classmethod
    def load(cls, file: Path) -> Steps:
        """Read them again."""
        with np.load(file) as held:
            return cls({stage: held[stage] for stage in held.files})


def is_encoded(encoder: Encoder) -> bool:
    """Whether rivals encode its pieces; words come as vectors."""
    return not isinstance(encoder.preprocess, Words)


def n_steps_of(spec: ModelSpec, n_windows: int) -> int:
    """Steps of so many windows, each a hop after the one before."""
    return spec.fusion.n_steps + spec.fusion.hop * (n_windows - 1)


def joined(spec: ModelSpec, sessions: Sequence[Sequence[StepTrace]], n_steps: int) -> Steps:
    """So many steps, an equal share of each session, cut where a hop ends.

    Args:
        spec: The model's declaration.
        sessions: Whole steps of some people.
        n_steps: A multiple of the hop.
    """
    hop = spec.fusion.hop
    share = -(-n_steps // len(sessions) // hop) * hop
    chosen: list[StepTrace] = []
    for session in sessions:
        begin = next(i for i, trace in enumerate(session) if trace.index % hop == 0)
        chosen += session[begin : begin + share]
    chosen = chosen[:n_steps]
    if len(chosen) < n_steps:
        raise ValueError(f"{spec.name}: {len(chosen)} steps of {n_steps}")
    return Steps(
        {
            encoder.stage: np.concatenate(
                [trace.inputs[encoder.stage] for trace in chosen[encoder.repeat - 1 :: encoder.repeat]]
            )
            for encoder in spec.encoders
        }
    )


def share_of(spec: ModelSpec, n_steps: int, n_people: int = N_PEOPLE) -> int:
    """How many whole steps of each person `joined` may need."""
    return -(-n_steps // n_people) + 2 * spec.fusion.hop

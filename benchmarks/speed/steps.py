"""The same windows for all: of simulated people, each of whom fills windows alone."""

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

MAX_PEOPLE = 12
MIN_STEPS = 4
"""Of each person."""


@dataclass(frozen=True)
class Steps:
    """Step tensors of some people, and windows of them.

    Each window shows the next person, and after the last the first again, a hop later. It holds a few steps
    of theirs, over and over: encoders and fusion do as much with these as with others.

    Attributes:
        tensors: Stage -> (people, pieces, …) of float32; a piece serves the encoder's `repeat` steps. Of
            words the vector of each step, which all rivals are given: an utterance is encoded once in all.
    """

    tensors: dict[str, Array]

    @property
    def n_people(self) -> int:
        """Of whom steps are held."""
        return len(next(iter(self.tensors.values())))

    def places(self, spec: ModelSpec, encoder: Encoder, window: int) -> tuple[int, Array]:
        """The person whom a window shows, and the numbers of its pieces, (L / repeat,), in their order."""
        turn, person = divmod(window, self.n_people)
        numbers = np.arange(spec.fusion.n_steps // encoder.repeat) + turn * spec.fusion.hop // encoder.repeat
        return person, numbers % self.tensors[encoder.stage].shape[1]

    def pieces(self, spec: ModelSpec, encoder: Encoder, window: int) -> Array:
        """All pieces of a window, (L / repeat, …)."""
        person, numbers = self.places(spec, encoder, window)
        return self.tensors[encoder.stage][person][numbers]

    def of_one(self) -> Steps:
        """Those of the first person alone, in memory of their own."""
        return Steps({stage: one[:1].copy() for stage, one in self.tensors.items()})

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


def n_people_of(n_windows: int) -> int:
    """So many people are shown in so many windows."""
    return min(MAX_PEOPLE, n_windows)


def share_of(spec: ModelSpec, n_windows: int) -> int:
    """Steps of each person, so that no two of so many windows are the same."""
    hop, n_turns = spec.fusion.hop, -(-n_windows // n_people_of(n_windows))
    return hop * max(n_turns, -(-MIN_STEPS // hop))


def steps_of(spec: ModelSpec, sessions: Sequence[Sequence[StepTrace]], share: int) -> Steps:
    """So many steps of each session, from where a hop begins.

    Args:
        spec: The model's declaration.
        sessions: Whole steps of some people.
        share: A multiple of the hop.
    """
    chosen = [_from_a_hop(spec, session)[:share] for session in sessions]
    if min(map(len, chosen)) < share:
        raise ValueError(f"{spec.name}: {min(map(len, chosen))} steps of {share}")
    return Steps(
        {encoder.stage: np.stack([_pieces(encoder, one) for one in chosen]) for encoder in spec.encoders}
    )


def _from_a_hop(spec: ModelSpec, session: Sequence[StepTrace]) -> Sequence[StepTrace]:
    return session[next(i for i, trace in enumerate(session) if trace.index % spec.fusion.hop == 0) :]


def _pieces(encoder: Encoder, session: Sequence[StepTrace]) -> Array:
    """Each as it was at the last of the steps that it serves."""
    return np.concatenate(
        [trace.inputs[encoder.stage] for trace in session[encoder.repeat - 1 :: encoder.repeat]]
    )

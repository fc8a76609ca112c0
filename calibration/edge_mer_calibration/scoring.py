"""Every measure of a model's estimates against people's labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_mer.runtime.labelled import Labels
from edge_mer.types.model import AffectOutput, EmotionOutput, ModelSpec, Output, PainOutput
from edge_mer_calibration.metrics import Classes, Doubles, Estimate, Numbers, Scores, draws, estimate

MEAN = "mean"

PerDraw = dict[str, Scores]
"""Output -> measure -> one value per draw."""
Scored = dict[str, dict[str, Estimate]]
"""Output -> measure -> value."""
Found = dict[str, Doubles]
"""Output -> a session's estimates, NaN where withheld: (steps,); of classes (steps, class)."""


class Session(Protocol):
    """What is known of a session that is judged."""

    @property
    def person(self) -> str:
        """Who it is."""

    @property
    def steps(self) -> NDArray[np.int64]:
        """(steps,), which they are."""

    @property
    def labels(self) -> Labels:
        """Of each step."""


@dataclass(frozen=True)
class People:
    """Who is judged on.

    Attributes:
        names: Of the people.
        sessions: Theirs.
        weights: How often each person counts in each draw, (draws, people).
    """

    names: tuple[str, ...]
    sessions: tuple[Session, ...]
    weights: Doubles

    @classmethod
    def of(cls, sessions: Sequence[Session]) -> People:
        """Everyone in some sessions."""
        names = tuple(sorted({session.person for session in sessions}))
        return cls(names, tuple(sessions), draws(len(names)))

    @property
    def n(self) -> int:
        """How many."""
        return len(self.names)

    def gathered(self, per_session: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Each person's rows, over all of their sessions."""
        pairs = list(zip(self.sessions, per_session, strict=True))
        return [np.concatenate([rows for one, rows in pairs if one.person == name]) for name in self.names]

    def labels(self, output: str) -> list[NDArray[Any]]:
        """Each person's labels."""
        return self.gathered([session.labels[output] for session in self.sessions])


def score(model: ModelSpec, people: People, found: Sequence[Found]) -> tuple[PerDraw, int]:
    """Every measure of every output, and over how many steps."""
    scores: PerDraw = {}
    n_steps = 0
    for output in model.outputs:
        estimates = people.gathered([one[output.name] for one in found])
        labels = people.labels(output.name)
        scores[output.name] = {}
        if not isinstance(output, EmotionOutput):
            numbers = Numbers.of([level(output, one) for one in estimates], labels)
            scores[output.name] |= numbers.scores(people.weights)
            n_steps = numbers.n
        if not isinstance(output, AffectOutput):
            classes = Classes.of(estimates, labels)
            scores[output.name] |= classes.scores(people.weights)
            n_steps = classes.n
        if isinstance(output, PainOutput):
            del scores[output.name]["kappa"]  # it does not know that levels have an order
    with_order = [one["CCC"] for one in scores.values() if "CCC" in one]
    if len(with_order) > 1:
        scores[MEAN] = {"CCC": np.mean(with_order, axis=0)}
    return scores, n_steps


def level(output: Output, estimates: NDArray[Any]) -> NDArray[Any]:
    """Of levels their mean, (steps,); affect is one number already."""
    return estimates @ np.arange(len(output.levels)) if isinstance(output, PainOutput) else estimates


def estimated(per_draw: PerDraw) -> Scored:
    """With intervals in the place of the draws."""
    return {
        name: {measure: estimate(values) for measure, values in scores.items()}
        for name, scores in per_draw.items()
    }

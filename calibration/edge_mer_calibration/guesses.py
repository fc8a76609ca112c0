"""What can be guessed of people without any sensor: the worth of an agreement is what it adds to that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.types.model import AffectOutput, ModelSpec, Output
from edge_mer_calibration.metrics import Doubles
from edge_mer_calibration.scoring import Found, People, Scored, Session, estimated, score

NEAR_S = 30.0
"""How near in time to a step another person's label lies, for the guess that knows nothing but the time."""


def guesses(model: ModelSpec, people: People, found: Sequence[Found]) -> dict[str, Scored]:
    """What can be guessed without any sensor, on the steps that the model answered."""
    constant: list[Found] = []
    by_time: list[Found] = []
    for session, answered in zip(people.sessions, found, strict=True):
        others = [one for one in people.sessions if one.person != session.person]
        one: Found = {}
        other: Found = {}
        for output in model.outputs:
            labels = [_shares(output, rest.labels[output.name]) for rest in others]
            times_s = [_times_s(model, rest) for rest in others]
            known = np.concatenate(labels)
            overall = np.nanmean(known, axis=0) if np.isfinite(known).any() else known[:1].sum(axis=0)
            near = _near(_times_s(model, session), np.concatenate(times_s), known, overall)
            is_withheld = ~np.isfinite(answered[output.name])
            one[output.name] = np.where(is_withheld, np.nan, np.broadcast_to(overall, near.shape))
            other[output.name] = np.where(is_withheld, np.nan, near)
        constant.append(one)
        by_time.append(other)
    return {
        what: estimated(score(model, people, guesses)[0])
        for what, guesses in (("constant", constant), ("time", by_time))
    }


def _times_s(model: ModelSpec, session: Session) -> Doubles:
    """When the steps end: (steps,)."""
    return np.array([model.step_end_ns(step) / NS_PER_S for step in session.steps.tolist()])


def _shares(output: Output, labels: NDArray[Any]) -> Doubles:
    """Labels as estimates that are sure of them: (steps,), of classes (steps, class); NaN = no label."""
    if isinstance(output, AffectOutput):
        return labels.astype(np.float64)
    rows = np.full((len(labels), output.value_shape[0]), np.nan)
    there = np.isfinite(labels)
    rows[there] = np.rint(labels[there])[:, np.newaxis] == np.arange(output.value_shape[0])
    return rows


def _near(times_s: Doubles, others_s: Doubles, labels: Doubles, otherwise: Doubles) -> Doubles:
    """Mean of the labels within `NEAR_S` of each time: (steps, …)."""
    order = np.argsort(others_s, kind="stable")
    order = order[np.isfinite(labels[order].reshape(len(labels), -1).sum(axis=1))]
    sums = np.concatenate([np.zeros_like(labels[:1]), np.cumsum(labels[order], axis=0)])
    first = np.searchsorted(others_s[order], times_s - NEAR_S, "left")
    stop = np.searchsorted(others_s[order], times_s + NEAR_S, "right")
    n = (stop - first).reshape(-1, *(1,) * (labels.ndim - 1))
    means: Doubles = np.where(n > 0, (sums[stop] - sums[first]) / np.maximum(n, 1), otherwise)
    return means

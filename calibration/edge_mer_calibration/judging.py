"""One precision of a model on labelled sessions: all modalities, and what is left without some of them.

A model with a `present` input masks what is missing. For any other something must stand in: a zero feature,
or what the encoder makes of a blank input, whichever does better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edge_mer.types.evaluation import Findings, Interval, Sharpness, SubsetFindings
from edge_mer.types.model import AffectOutput, MissingPolicy, ModelSpec
from edge_mer.types.signals import Modality
from edge_mer_calibration.certainty import error_at, inside, interval, sharpness
from edge_mer_calibration.estimating import Attempt, attempts
from edge_mer_calibration.metrics import Estimate, estimate, gain, leading
from edge_mer_calibration.scoring import Found, People, PerDraw, Scored, estimated, score


@dataclass(frozen=True)
class Row:
    """How well a subset of the modalities does in one precision.

    Attributes:
        precision: Of the stages.
        modalities: What was there.
        n_steps: Steps with an estimate and a label.
        scores: Output -> measure -> value. Affect has CCC, RMSE and MAE, and where it is of several
            dimensions "mean" has their mean CCC; emotion has kappa, accuracy, UAR, F1 and AUC; levels of
            pain have all of them but kappa.
        stand_in: What stood in for the others; None where nothing was missing.
        interval: Output of affect -> its 90 % interval.
        sharpness: Output of classes or levels -> its temperature, slope and shift.
        held: Output -> what the bundle's own certainty came to on these people: of affect the share of
            labels inside its interval, of classes and levels the calibration error by those.
    """

    precision: str
    modalities: tuple[Modality, ...]
    n_steps: int
    scores: Scored
    stand_in: MissingPolicy | None = None
    interval: dict[str, Interval] = field(default_factory=dict)
    sharpness: dict[str, Sharpness] = field(default_factory=dict)
    held: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CorruptedRow:
    """How well one precision does with all modalities, one of them corrupted.

    Attributes:
        precision: Of the stages.
        corruption: What was done.
        n_steps: Steps with an estimate and a label.
        scores: Output -> measure -> value.
        change: Output -> its first measure minus that without the corruption, on the same people.
    """

    precision: str
    corruption: str
    n_steps: int
    scores: Scored
    change: dict[str, Estimate]


@dataclass(frozen=True)
class Judged:
    """One precision.

    Attributes:
        rows: Per subset, all modalities first.
        whole: Every measure with all modalities, per draw.
        gain: Output -> first measure of all modalities minus that of the best single one.
        found: Each session's estimates with all modalities.
    """

    rows: list[Row]
    whole: PerDraw
    gain: dict[str, Estimate]
    found: list[Found]


def judge(
    model: ModelSpec,
    precision: str,
    people: People,
    said: Sequence[Mapping[Attempt, Found]],
    findings: Findings | None = None,
) -> Judged:
    """Judge one precision on people whose sessions were played.

    Args:
        model: The model's declaration.
        precision: Its name, for the rows.
        people: Whom to judge on.
        said: Of each session, what it came to in every attempt.
        findings: What the bundle says of this precision, which is held against these people.
    """
    rows: list[Row] = []
    per_draw: dict[tuple[Modality, ...], PerDraw] = {}
    whole: list[Found] = []
    tried: dict[tuple[Modality, ...], list[_Tried]] = {}
    for attempt in attempts(model):
        tried.setdefault(attempt[0], []).append(
            _Tried.of(model, people, attempt, [one[attempt] for one in said])
        )
    for subset, policies in tried.items():
        best = max(policies, key=lambda one: _leading(one.per_draw))
        whole = whole or best.found
        per_draw[subset] = best.per_draw
        claimed = None if findings is None else findings.of(subset)
        rows.append(replace(best.row(precision, subset), held=best.held(model, people, claimed)))
    return Judged(rows, per_draw[model.modalities], _gains(model, per_draw), whole)


def judge_corrupted(
    model: ModelSpec, clean: Judged, corruption: str, people: People, said: Sequence[Mapping[Attempt, Found]]
) -> CorruptedRow:
    """The same precision on the same people, with something that went wrong.

    Args:
        model: The model's declaration.
        clean: What the precision came to without it.
        corruption: What was done to the sessions.
        people: Whom to judge on, with what was done.
        said: Of each session, what it came to with all modalities.
    """
    whole: Attempt = (model.modalities, None)
    found = _Tried.of(model, people, whole, [one[whole] for one in said])
    change = {
        name: estimate(scores[leading(scores)] - clean.whole[name][leading(scores)])
        for name, scores in found.per_draw.items()
    }
    precision = clean.rows[0].precision
    return CorruptedRow(precision, corruption, found.n_steps, estimated(found.per_draw), change)


def _gains(model: ModelSpec, per_draw: dict[tuple[Modality, ...], PerDraw]) -> dict[str, Estimate]:
    if len(model.modalities) == 1:
        return {}
    single = {subset[0]: one for subset, one in per_draw.items() if len(subset) == 1}
    return {
        name: gain(scores[measure], {modality: one[name][measure] for modality, one in single.items()})
        for name, scores in per_draw[model.modalities].items()
        for measure in [leading(scores)]
    }


def _leading(per_draw: PerDraw) -> float:
    """Mean over the outputs of the measure that each is judged by first."""
    return float(np.mean([scores[leading(scores)][0] for scores in per_draw.values()]))


@dataclass(frozen=True)
class _Tried:
    """What a subset came to with one policy."""

    policy: MissingPolicy | None
    found: list[Found]
    per_draw: PerDraw
    n_steps: int
    interval: dict[str, Interval]
    sharpness: dict[str, Sharpness]

    @classmethod
    def of(cls, model: ModelSpec, people: People, attempt: Attempt, found: list[Found]) -> _Tried:
        per_draw, n_steps = score(model, people, found)
        widths: dict[str, Interval] = {}
        temperatures: dict[str, Sharpness] = {}
        for output in model.outputs:
            estimates = people.gathered([one[output.name] for one in found])
            labels = people.labels(output.name)
            if isinstance(output, AffectOutput):
                if (width := interval(estimates, labels)) is not None:
                    widths[output.name] = width
            elif (temperature := sharpness(estimates, labels)) is not None:
                temperatures[output.name] = temperature
        return cls(attempt[1], found, per_draw, n_steps, widths, temperatures)

    def row(self, precision: str, subset: tuple[Modality, ...]) -> Row:
        scores = estimated(self.per_draw)
        return Row(precision, subset, self.n_steps, scores, self.policy, self.interval, self.sharpness)

    def held(self, model: ModelSpec, people: People, claimed: SubsetFindings | None) -> dict[str, float]:
        """What a bundle's own certainty comes to here, by output; empty where another stand-in was chosen."""
        if claimed is None or claimed.stand_in != self.policy:
            return {}
        made: dict[str, float | None] = {}
        for output in model.outputs:
            estimates = people.gathered([one[output.name] for one in self.found])
            labels = people.labels(output.name)
            if output.name in claimed.interval:
                made[output.name] = inside(estimates, labels, claimed.interval[output.name].half_width)
            elif output.name in claimed.sharpness:
                made[output.name] = error_at(estimates, labels, claimed.sharpness[output.name])
        return {name: value for name, value in made.items() if value is not None}

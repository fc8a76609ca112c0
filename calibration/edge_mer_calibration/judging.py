"""One precision of a model on labelled sessions: all modalities, and what is left without some of them.

A model with a `present` input masks what is missing. For any other something must stand in: a zero feature,
or what the encoder makes of a blank input, whichever does better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from edge_mer.engine.base import Engine
from edge_mer.postprocess.decode import answers
from edge_mer.runtime.blank import blank_feature
from edge_mer.runtime.offline import (
    Features,
    Presence,
    RunFusion,
    encode,
    engine_fusion,
    offline_outputs,
    played_features,
    presence,
)
from edge_mer.types.evaluation import Findings, Interval, Sharpness, SubsetFindings
from edge_mer.types.model import AffectOutput, MissingPolicy, ModelSpec
from edge_mer.types.signals import Modality
from edge_mer_calibration.certainty import error_at, inside, interval, sharpness
from edge_mer_calibration.metrics import Estimate, estimate, gain, leading
from edge_mer_calibration.scoring import Found, People, PerDraw, Scored, estimated, score

STAND_INS: tuple[MissingPolicy, ...] = ("zero_feature", "blank_input")


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
    engines: Mapping[str, Engine],
    precision: str,
    people: People,
    *,
    played: bool = False,
    findings: Findings | None = None,
) -> Judged:
    """Judge the engines of one precision on people whose sessions were played.

    Args:
        model: The model's declaration.
        engines: Stage -> engine.
        precision: Their name, for the rows.
        people: Whom to judge on.
        played: Their sessions were played with these very engines.
        findings: What the bundle says of this precision, which is held against these people.
    """
    on_trial = _OnTrial.of(model, engines, people, played=played)
    rows: list[Row] = []
    per_draw: dict[tuple[Modality, ...], PerDraw] = {}
    whole: list[Found] = []
    for subset in _subsets(model):
        tried = [on_trial.without(subset, policy) for policy in _policies(model, subset)]
        best = max(tried, key=lambda one: _leading(one.per_draw))
        whole = whole or best.found
        per_draw[subset] = best.per_draw
        claimed = None if findings is None else findings.of(subset)
        rows.append(replace(best.row(precision, subset), held=on_trial.held(best, claimed)))
    return Judged(rows, per_draw[model.modalities], _gains(model, per_draw), whole)


def judge_corrupted(
    model: ModelSpec,
    engines: Mapping[str, Engine],
    clean: Judged,
    corruption: str,
    people: People,
    *,
    played: bool = False,
) -> CorruptedRow:
    """The same precision on the same people, with something that went wrong.

    Args:
        model: The model's declaration.
        engines: Stage -> engine.
        clean: What the precision came to without it.
        corruption: What was done to the sessions.
        people: Whom to judge on, with what was done.
        played: Their sessions were played with these very engines.
    """
    found = _OnTrial.of(model, engines, people, played=played).without(model.modalities, None)
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


def _subsets(model: ModelSpec) -> Iterator[tuple[Modality, ...]]:
    """All modalities, then ever fewer."""
    for size in range(len(model.modalities), 0, -1):
        yield from combinations(model.modalities, size)


def _policies(model: ModelSpec, subset: tuple[Modality, ...]) -> tuple[MissingPolicy | None, ...]:
    """What could stand in for the others."""
    if subset == model.modalities:
        return (None,)
    return ("mask",) if model.fusion.has_present_input else STAND_INS


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

    def row(self, precision: str, subset: tuple[Modality, ...]) -> Row:
        scores = estimated(self.per_draw)
        return Row(precision, subset, self.n_steps, scores, self.policy, self.interval, self.sharpness)


@dataclass(frozen=True)
class _OnTrial:
    """A precision with everybody's features.

    Attributes:
        model: The model's declaration.
        people: Whom to judge on.
        fusion: The window fusion.
        blanks: What each encoder makes of nothing.
        features: Of each session.
        present: Of each session.
    """

    model: ModelSpec
    people: People
    fusion: RunFusion
    blanks: Features
    features: list[Features]
    present: list[Presence]

    @classmethod
    def of(
        cls, model: ModelSpec, engines: Mapping[str, Engine], people: People, *, played: bool = False
    ) -> _OnTrial:
        all_traces = [one.traces for one in people.sessions]
        return cls(
            model,
            people,
            engine_fusion(model, engines[model.fusion.stage]),
            {e.stage: blank_feature(e, engines[e.stage]) for e in model.encoders},
            [
                played_features(model, traces) if played else encode(model, engines, traces)
                for traces in all_traces
            ],
            [presence(model, traces) for traces in all_traces],
        )

    def without(self, subset: tuple[Modality, ...], policy: MissingPolicy | None) -> _Tried:
        """What is left with only a subset of the modalities there."""
        sessions = zip(self.features, self.present, strict=True)
        found = [self._estimates(features, present, subset, policy) for features, present in sessions]
        per_draw, n_steps = score(self.model, self.people, found)
        widths: dict[str, Interval] = {}
        temperatures: dict[str, Sharpness] = {}
        for output in self.model.outputs:
            estimates = self.people.gathered([one[output.name] for one in found])
            labels = self.people.labels(output.name)
            if isinstance(output, AffectOutput):
                if (width := interval(estimates, labels)) is not None:
                    widths[output.name] = width
            elif (temperature := sharpness(estimates, labels)) is not None:
                temperatures[output.name] = temperature
        return _Tried(policy, found, per_draw, n_steps, widths, temperatures)

    def held(self, tried: _Tried, claimed: SubsetFindings | None) -> dict[str, float]:
        """What a bundle's own certainty comes to here, by output; empty where another stand-in was chosen."""
        if claimed is None or claimed.stand_in != tried.policy:
            return {}
        made: dict[str, float | None] = {}
        for output in self.model.outputs:
            estimates = self.people.gathered([one[output.name] for one in tried.found])
            labels = self.people.labels(output.name)
            if output.name in claimed.interval:
                made[output.name] = inside(estimates, labels, claimed.interval[output.name].half_width)
            elif output.name in claimed.sharpness:
                made[output.name] = error_at(estimates, labels, claimed.sharpness[output.name])
        return {name: value for name, value in made.items() if value is not None}

    def _estimates(
        self,
        features: Features,
        present: Presence,
        subset: tuple[Modality, ...],
        policy: MissingPolicy | None,
    ) -> Found:
        kept_features: Features = {}
        kept_present: Presence = {}
        for encoder in self.model.encoders:
            stage = encoder.stage
            rows, there = features[stage], present[stage]
            if encoder.modality not in subset:
                blank = self.blanks[stage] if policy == "blank_input" else np.zeros_like(rows[0])
                rows, there = np.broadcast_to(blank, rows.shape), np.full_like(there, policy in STAND_INS)
            kept_features[stage], kept_present[stage] = rows * there[:, np.newaxis], there
        padding = self.blanks if self.model.fusion.warm_up == "pad" else None
        raw = offline_outputs(self.model, kept_features, kept_present, self.fusion, padding)
        return {output.name: answers(output, raw[output.name]) for output in self.model.outputs}

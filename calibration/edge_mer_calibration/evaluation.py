"""How right a bundle is about people with known labels: per precision, and per subset of modalities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.bundle.read import Bundle
from edge_mer.clock import NS_PER_S
from edge_mer.engine.base import Engine
from edge_mer.errors import UsageError
from edge_mer.labels.manifest import Recording
from edge_mer.postprocess.decode import answers
from edge_mer.preprocess.face import FaceDetector
from edge_mer.runtime.labelled import LabelledSession, collect_labelled
from edge_mer.runtime.offline import (
    Features,
    Presence,
    blank_features,
    encode,
    engine_fusion,
    offline_outputs,
    presence,
)
from edge_mer.runtime.setup import CPU_PRECISIONS, open_setup
from edge_mer.runtime.simulated import n_lead_in, simulated
from edge_mer.types.model import AffectOutput, EmotionOutput, ModelSpec, Output, PainOutput
from edge_mer_calibration.metrics import (
    Classes,
    Doubles,
    Estimate,
    Numbers,
    Scores,
    draws,
    estimate,
    gain,
)

FIRST_PERSON = 50_000
"""Simulated people from here on are for judging only: no recipe learns from them."""

MEAN = "mean"
NEAR_S = 30.0
"""How near in time to a step another person's label lies, for the guess that knows nothing but the time."""

PerDraw = dict[str, Scores]
"""Output -> measure -> one value per draw."""
Scored = dict[str, dict[str, Estimate]]
"""Output -> measure -> value."""
Say = Callable[[str], None]


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
    """

    precision: str
    modalities: tuple[str, ...]
    n_steps: int
    scores: Scored


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Attributes:
        model: Its name.
        bundle_id: Of the bundle.
        n_people: People.
        rows: Per precision and subset of modalities, all of them first.
        baselines: What one can guess without any sensor -> output -> measure -> value: "constant" is the mean
            label, or the frequency of each class, of the other people; "time" that of theirs within 30 s
            of the same time since the start.
        gain: Precision -> output -> first measure of all modalities minus that of the best single one.
    """

    model: str
    bundle_id: str
    n_people: int
    rows: tuple[Row, ...]
    baselines: dict[str, Scored]
    gain: dict[str, dict[str, Estimate]]

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, ready for JSON."""
        return asdict(self)


def simulated_people(model: ModelSpec, n_people: int, n_steps: int) -> list[Recording]:
    """Sessions of simulated people that no shipped recipe learns from."""
    steps = n_steps + n_lead_in(model)
    return [
        Recording(
            name=f"person-{person}",
            person=str(person),
            sources=(simulated(model, seed=99, person=person, n_steps=steps),),
            labels=None,
            label_rate_hz=None,
            split=None,
        )
        for person in range(FIRST_PERSON, FIRST_PERSON + n_people)
    ]


def evaluate_bundle(
    bundle: Bundle,
    detector: FaceDetector | None,
    recordings: Sequence[Recording],
    precisions: Sequence[str],
    say: Say,
) -> Evaluation:
    """Play labelled recordings once, and judge every precision and subset on them.

    Args:
        bundle: The bundle.
        detector: Finds faces, if the model looks at them.
        recordings: With labels.
        precisions: Which candidates; empty = all that run on a CPU.
        say: Told what is being done.

    Raises:
        DataError: A recording cannot be used.
        UsageError: No such precision.
    """
    model = bundle.manifest.model
    names = _precisions(bundle, precisions)
    setup = open_setup(bundle, "fp32", detector)
    sessions: list[LabelledSession] = []
    for number, recording in enumerate(recordings, 1):
        say(f"playing {recording.name}, {number} of {len(recordings)}")
        sessions.append(collect_labelled(setup, recording))
    people = _People.of(sessions)
    rows: list[Row] = []
    gains: dict[str, dict[str, Estimate]] = {}
    baselines: dict[str, Scored] = {}
    for name in names:
        say(f"judging {name}")
        judged = _judge(model, open_setup(bundle, name, detector).engines, name, people)
        rows += judged.rows
        gains[name] = judged.gain
        baselines = baselines or _baselines(model, people, judged.found)
    return Evaluation(model.name, bundle.manifest.bundle_id, people.n, tuple(rows), baselines, gains)


def _precisions(bundle: Bundle, asked: Sequence[str]) -> list[str]:
    able = [name for name in bundle.manifest.candidates if name in CPU_PRECISIONS]
    for name in asked:
        if name not in able:
            raise UsageError(f"{name} cannot be evaluated here", expected=" or ".join(able))
    return list(asked) or [str(name) for name in able]


Found = dict[str, Doubles]
"""Output -> a session's estimates, NaN where withheld: (steps,); of classes (steps, class)."""


@dataclass(frozen=True)
class _People:
    """Who is judged on.

    Attributes:
        names: Of the people.
        sessions: Theirs.
        weights: How often each person counts in each draw, (draws, people).
    """

    names: tuple[str, ...]
    sessions: tuple[LabelledSession, ...]
    weights: Doubles

    @classmethod
    def of(cls, sessions: Sequence[LabelledSession]) -> _People:
        names = tuple(sorted({session.person for session in sessions}))
        return cls(names, tuple(sessions), draws(len(names)))

    @property
    def n(self) -> int:
        return len(self.names)

    def gathered(self, per_session: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Each person's rows, over all of their sessions."""
        pairs = list(zip(self.sessions, per_session, strict=True))
        return [np.concatenate([rows for one, rows in pairs if one.person == name]) for name in self.names]

    def labels(self, output: str) -> list[NDArray[Any]]:
        """Each person's labels."""
        return self.gathered([session.labels[output] for session in self.sessions])


@dataclass(frozen=True)
class _Judged:
    """One precision.

    Attributes:
        rows: Per subset.
        gain: Output -> all modalities minus the best single one.
        found: Each session's estimates with all modalities.
    """

    rows: list[Row]
    gain: dict[str, Estimate]
    found: list[Found]


def _judge(model: ModelSpec, engines: Any, precision: str, people: _People) -> _Judged:
    encoded = [
        _Encoded(encode(model, engines, one.traces), presence(model, one.traces)) for one in people.sessions
    ]
    blanks = blank_features(model, engines)
    rows: list[Row] = []
    per_draw: dict[tuple[str, ...], PerDraw] = {}
    whole: list[Found] = []
    for subset in _subsets(model):
        found = [_estimates(model, engines, one, subset, blanks) for one in encoded]
        whole = whole or found
        per_draw[subset], n_steps = _scores(model, people, found)
        rows.append(Row(precision, subset, n_steps, _estimated(per_draw[subset])))
    single = {subset[0]: one for subset, one in per_draw.items() if len(subset) == 1}
    if len(model.modalities) == 1 or not single:
        return _Judged(rows, {}, whole)
    leading = {name: next(iter(scores)) for name, scores in per_draw[model.modalities].items()}
    gains = {
        name: gain(
            per_draw[model.modalities][name][measure], {m: one[name][measure] for m, one in single.items()}
        )
        for name, measure in leading.items()
    }
    return _Judged(rows, gains, whole)


def _subsets(model: ModelSpec) -> Iterator[tuple[str, ...]]:
    """All modalities, then ever fewer, where the model can do without."""
    smallest = 1 if model.fusion.has_present_input else len(model.modalities)
    for size in range(len(model.modalities), smallest - 1, -1):
        yield from combinations(model.modalities, size)


@dataclass(frozen=True)
class _Encoded:
    """A session's features and what was there."""

    features: Features
    present: Presence


def _estimates(
    model: ModelSpec,
    engines: dict[str, Engine],
    one: _Encoded,
    subset: tuple[str, ...],
    blanks: Features | None,
) -> Found:
    """A session's estimates with only a subset of the modalities there."""
    kept = {e.stage: np.bool_(e.modality in subset) for e in model.encoders}
    present = {stage: there & kept[stage] for stage, there in one.present.items()}
    features = {stage: rows * present[stage][:, np.newaxis] for stage, rows in one.features.items()}
    run_fusion = engine_fusion(model, engines[model.fusion.stage])
    raw = offline_outputs(model, features, present, run_fusion, blanks)
    return {output.name: answers(output, raw[output.name]) for output in model.outputs}


def _scores(model: ModelSpec, people: _People, found: Sequence[Found]) -> tuple[PerDraw, int]:
    """Every measure of every output, and over how many steps."""
    scores: PerDraw = {}
    n_steps = 0
    for output in model.outputs:
        estimates = people.gathered([one[output.name] for one in found])
        labels = people.labels(output.name)
        scores[output.name] = {}
        if not isinstance(output, EmotionOutput):
            numbers = Numbers.of([_level(output, one) for one in estimates], labels)
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


def _level(output: Output, estimates: NDArray[Any]) -> NDArray[Any]:
    """Of levels their mean, (steps,); affect is one number already."""
    return estimates @ np.arange(len(output.levels)) if isinstance(output, PainOutput) else estimates


def _estimated(per_draw: PerDraw) -> Scored:
    return {
        name: {measure: estimate(values) for measure, values in scores.items()}
        for name, scores in per_draw.items()
    }


def _baselines(model: ModelSpec, people: _People, found: Sequence[Found]) -> dict[str, Scored]:
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
        what: _estimated(_scores(model, people, guesses)[0])
        for what, guesses in (("constant", constant), ("time", by_time))
    }


def _times_s(model: ModelSpec, session: LabelledSession) -> Doubles:
    """When the steps end: (steps,)."""
    return np.array([model.step_end_ns(trace.index) / NS_PER_S for trace in session.traces])


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

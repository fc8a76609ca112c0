"""How right a bundle is about people with known labels: per precision, and per subset of modalities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.bundle.read import Bundle
from edge_mer.engine.base import Engine
from edge_mer.errors import UsageError
from edge_mer.labels.manifest import Recording
from edge_mer.postprocess.decode import expected
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
from edge_mer.types.model import EmotionOutput, ModelSpec, Output
from edge_mer_calibration.metrics import Confusion, Estimate, Floats, Moments, draws, estimate, gain

FIRST_PERSON = 50_000
"""Simulated people from here on are for judging only: no recipe learns from them."""

MEAN = "mean"
Agreement = dict[str, NDArray[np.float64]]
"""Output -> one value per draw."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """How well a subset of the modalities does in one precision.

    Attributes:
        precision: Of the stages.
        modalities: What was there.
        ccc: Output with an order -> concordance with the labels; of several also their "mean".
        n_steps: Steps with an estimate and a label.
        kappa: Output of classes -> Cohen's kappa with the labels.
    """

    precision: str
    modalities: tuple[str, ...]
    ccc: dict[str, Estimate]
    n_steps: int
    kappa: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Attributes:
        model: Its name.
        bundle_id: Of the bundle.
        n_people: People.
        rows: Per precision and subset of modalities, all of them first.
        gain: Precision -> output -> agreement of all modalities minus that of the best single one.
    """

    model: str
    bundle_id: str
    n_people: int
    rows: tuple[Row, ...]
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
    rows: list[Row] = []
    gains: dict[str, dict[str, Estimate]] = {}
    for name in names:
        say(f"judging {name}")
        judged = _judge(model, open_setup(bundle, name, detector).engines, name, sessions)
        rows += judged[0]
        gains[name] = judged[1]
    n_people = len({session.person for session in sessions})
    return Evaluation(model.name, bundle.manifest.bundle_id, n_people, tuple(rows), gains)


def _precisions(bundle: Bundle, asked: Sequence[str]) -> list[str]:
    able = [name for name in bundle.manifest.candidates if name in CPU_PRECISIONS]
    for name in asked:
        if name not in able:
            raise UsageError(f"{name} cannot be evaluated here", expected=" or ".join(able))
    return list(asked) or [str(name) for name in able]


def _judge(
    model: ModelSpec, engines: Any, precision: str, sessions: list[LabelledSession]
) -> tuple[list[Row], dict[str, Estimate]]:
    encoded = [_Encoded(encode(model, engines, one.traces), presence(model, one.traces)) for one in sessions]
    blanks = blank_features(model, engines)
    people = sorted({session.person for session in sessions})
    weights = draws(len(people))
    rows: list[Row] = []
    per_draw: dict[tuple[str, ...], Agreement] = {}
    for subset in _subsets(model):
        found = [_estimates(model, engines, one, subset, blanks) for one in encoded]
        ccc: Agreement = {}
        kappas: Agreement = {}
        n_steps = 0
        for output in model.outputs:
            values, n_steps = _agreement(output, _by_person(output.name, people, sessions, found), weights)
            (kappas if isinstance(output, EmotionOutput) else ccc)[output.name] = values
        if len(ccc) > 1:
            ccc[MEAN] = np.mean(list(ccc.values()), axis=0)
        per_draw[subset] = {**ccc, **kappas}
        rows.append(Row(precision, subset, _estimated(ccc), n_steps, _estimated(kappas)))
    single = {subset[0]: one for subset, one in per_draw.items() if len(subset) == 1}
    together = per_draw[model.modalities]
    if len(model.modalities) == 1 or not single:
        return rows, {}
    return rows, {
        name: gain(values, {m: one[name] for m, one in single.items()}) for name, values in together.items()
    }


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
) -> dict[str, NDArray[np.float64]]:
    """Output -> estimates with only a subset of the modalities there; NaN where withheld.

    (steps,) each, of classes (steps, class) probabilities.
    """
    kept = {e.stage: np.bool_(e.modality in subset) for e in model.encoders}
    present = {stage: there & kept[stage] for stage, there in one.present.items()}
    features = {stage: rows * present[stage][:, np.newaxis] for stage, rows in one.features.items()}
    run_fusion = engine_fusion(model, engines[model.fusion.stage])
    raw = offline_outputs(model, features, present, run_fusion, blanks)
    return {output.name: expected(output, raw[output.name]) for output in model.outputs}


def _agreement(
    output: Output, pairs: tuple[list[Floats], list[Floats]], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], int]:
    """CCC, or kappa of classes, per draw; and over how many steps."""
    if isinstance(output, EmotionOutput):
        classes = Confusion.of(*pairs)
        return classes.kappa(weights), classes.n
    moments = Moments.of(*pairs)
    return moments.concordance(weights), moments.n


def _estimated(per_draw: Agreement) -> dict[str, Estimate]:
    return {name: estimate(values) for name, values in per_draw.items()}


def _by_person(
    name: str,
    people: Sequence[str],
    sessions: Sequence[LabelledSession],
    found: Sequence[dict[str, NDArray[np.float64]]],
) -> tuple[list[Floats], list[Floats]]:
    """Each person's estimates and labels, over all of their sessions."""
    pairs = [
        [
            (one[name], session.labels[name])
            for session, one in zip(sessions, found, strict=True)
            if session.person == person
        ]
        for person in people
    ]
    return (
        [np.concatenate([a for a, _ in one]) for one in pairs],
        [np.concatenate([b for _, b in one]) for one in pairs],
    )

"""How right a bundle is about people with known labels: per precision, and per subset of modalities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
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
from edge_mer.types.model import ModelSpec
from edge_mer_calibration.metrics import Estimate, Moments, draws, estimate, gain

FIRST_PERSON = 50_000
"""Simulated people from here on are for judging only: no recipe learns from them."""

MEAN = "mean"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """How well a subset of the modalities does in one precision.

    Attributes:
        precision: Of the stages.
        modalities: What was there.
        ccc: Output -> concordance with the labels; of several outputs also their "mean".
        n_steps: Steps with an estimate and a label.
    """

    precision: str
    modalities: tuple[str, ...]
    ccc: dict[str, Estimate]
    n_steps: int


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Attributes:
        model: Its name.
        bundle_id: Of the bundle.
        n_people: People.
        rows: Per precision and subset of modalities, all of them first.
        gain: Precision -> output -> concordance of all modalities minus that of the best single one.
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
    per_draw: dict[tuple[str, ...], dict[str, NDArray[np.float64]]] = {}
    for subset in _subsets(model):
        found = [_estimates(model, engines, one, subset, blanks) for one in encoded]
        ccc: dict[str, NDArray[np.float64]] = {}
        n_steps = 0
        for output in model.outputs:
            moments = _moments(output.name, people, sessions, found)
            ccc[output.name] = moments.concordance(weights)
            n_steps = moments.n
        if len(ccc) > 1:
            ccc[MEAN] = np.mean(list(ccc.values()), axis=0)
        per_draw[subset] = ccc
        rows.append(Row(precision, subset, {name: estimate(one) for name, one in ccc.items()}, n_steps))
    single = {subset[0]: ccc for subset, ccc in per_draw.items() if len(subset) == 1}
    together = per_draw[model.modalities]
    if len(model.modalities) == 1 or not single:
        return rows, {}
    return rows, {
        name: gain(values, {m: ccc[name] for m, ccc in single.items()}) for name, values in together.items()
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
    """Output -> (steps,) estimates with only a subset of the modalities there; NaN where withheld."""
    kept = {e.stage: np.bool_(e.modality in subset) for e in model.encoders}
    present = {stage: there & kept[stage] for stage, there in one.present.items()}
    features = {stage: rows * present[stage][:, np.newaxis] for stage, rows in one.features.items()}
    run_fusion = engine_fusion(model, engines[model.fusion.stage])
    raw = offline_outputs(model, features, present, run_fusion, blanks)
    return {output.name: expected(output, raw[output.name]) for output in model.outputs}


def _moments(
    name: str,
    people: Sequence[str],
    sessions: Sequence[LabelledSession],
    found: Sequence[dict[str, NDArray[np.float64]]],
) -> Moments:
    """Each person's estimates and labels, over all of their sessions."""
    pairs = [
        [
            (one[name], session.labels[name])
            for session, one in zip(sessions, found, strict=True)
            if session.person == person
        ]
        for person in people
    ]
    return Moments.of(
        [np.concatenate([a for a, _ in one]) for one in pairs],
        [np.concatenate([b for _, b in one]) for one in pairs],
    )

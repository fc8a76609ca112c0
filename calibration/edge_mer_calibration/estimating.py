"""What each precision's engines say of recordings, with all modalities and with some of them missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.bundle.read import Bundle
from edge_mer.corpus.cut import Cutter, Piece
from edge_mer.engine.base import Engine
from edge_mer.labels.manifest import Recording
from edge_mer.labels.problems import Problem, demand
from edge_mer.postprocess.decode import answers
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.blank import blank_feature
from edge_mer.runtime.labelled import Labels, check, play_labelled, ranges_of
from edge_mer.runtime.offline import (
    Features,
    Presence,
    encode,
    engine_fusion,
    offline_outputs,
    played_features,
    presence,
)
from edge_mer.runtime.pipeline import PipelineSetup, StepTrace
from edge_mer.runtime.setup import looks_at_faces, open_setup
from edge_mer.sources.base import Source
from edge_mer.sources.registry import open_source
from edge_mer.types.model import MissingPolicy, ModelSpec, Words
from edge_mer.types.signals import Modality
from edge_mer_calibration.corruption import Corruption
from edge_mer_calibration.scoring import Found

PLAYED = "fp32"
"""Sessions are played once, in this precision."""

STAND_INS: tuple[MissingPolicy, ...] = ("zero_feature", "blank_input")

Attempt = tuple[tuple[Modality, ...], MissingPolicy | None]
"""What was there, and what stood in for the rest."""

_BLOCK_STEPS = 64
"""So many steps' tensors are held at once: an hour of faces is gigabytes."""


def attempts(model: ModelSpec) -> Iterator[Attempt]:
    """All modalities, then ever fewer, with each stand-in that is possible."""
    for size in range(len(model.modalities), 0, -1):
        for subset in combinations(model.modalities, size):
            for policy in _policies(model, subset):
                yield subset, policy


def _policies(model: ModelSpec, subset: tuple[Modality, ...]) -> tuple[MissingPolicy | None, ...]:
    if subset == model.modalities:
        return (None,)
    return ("mask",) if model.fusion.has_present_input else STAND_INS


@dataclass(frozen=True)
class Estimated:
    """A recording, or a piece of one, as the engines see it.

    Attributes:
        person: Who it is.
        steps: (steps,) int64, which they are.
        labels: Of each step.
        found: Precision -> attempt -> estimates of each step.
    """

    person: str
    steps: NDArray[np.int64]
    labels: Labels
    found: dict[str, dict[Attempt, Found]]

    @classmethod
    def joined(cls, parts: Sequence[Estimated]) -> Estimated:
        """The pieces of a recording, in order, as one."""
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        return cls(
            first.person,
            np.concatenate([one.steps for one in parts]),
            {name: np.concatenate([one.labels[name] for one in parts]) for name in first.labels},
            {
                precision: {
                    attempt: {
                        name: np.concatenate([one.found[precision][attempt][name] for one in parts])
                        for name in found
                    }
                    for attempt, found in tried.items()
                }
                for precision, tried in first.found.items()
            },
        )


@dataclass(frozen=True)
class Take:
    """A piece that is to be played.

    Attributes:
        piece: It.
        corruption: What is done to it.
    """

    piece: Piece
    corruption: Corruption | None = None


@dataclass(frozen=True)
class Looked:
    """A recording before it is played.

    Attributes:
        pieces: What it is cut into.
        problems: What is wrong with it, and does not forbid to use it.
    """

    pieces: list[Piece]
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Estimating:
    """How recordings are played to be judged; called, it makes a worker.

    Attributes:
        bundle: Its files are where they are here.
        precisions: Candidates.
        face_detector: YuNet's ONNX file; None: OpenCV's cascades.
    """

    bundle: Bundle
    precisions: tuple[str, ...]
    face_detector: Path | None = None

    def __call__(self) -> Estimator:
        """A worker, with all engines loaded.

        Raises:
            EdgeMerError: The bundle or the face detector cannot be used here.
        """
        detector = (
            open_face_detector(self.face_detector) if looks_at_faces(self.bundle.manifest.model) else None
        )
        setup = open_setup(self.bundle, PLAYED, detector)
        others = {
            name: setup if name == PLAYED else open_setup(self.bundle, name, detector)
            for name in self.precisions
        }
        return Estimator(setup, {name: one.engines for name, one in others.items()})


class Estimator:
    """Looks at recordings, and plays pieces of them.

    Args:
        setup: Plays them.
        engines: Precision -> stage -> engine.
    """

    def __init__(self, setup: PipelineSetup, engines: Mapping[str, Mapping[str, Engine]]) -> None:
        self._setup, self._engines, self._model = setup, engines, setup.model
        self._cutter = Cutter(setup.model, setup.hop_steps)
        self._said = {name: Said(setup.model, own) for name, own in engines.items()}

    def do(self, job: Recording | Take) -> Looked | Estimated:
        """Look at a recording, or play a piece.

        Raises:
            DataError: The recording or its labels cannot be used.
        """
        return self._look(job) if isinstance(job, Recording) else self._play(job)

    def _look(self, recording: Recording) -> Looked:
        problems = check([recording], ranges_of(self._model))
        demand(problems, f"recording {recording.name}")
        return Looked(self._cutter.do(recording), problems)

    def _play(self, take: Take) -> Estimated:
        def opened(uri: str) -> Source:
            source = open_source(uri)
            return source if take.corruption is None else take.corruption.applied(source)

        piece = take.piece
        kept = Kept(self._model, self._engines)
        steps, labels = play_labelled(
            self._setup,
            piece.recording,
            kept.take,
            opened,
            piece.first_step,
            piece.from_ns,
            piece.end_step,
        )
        features, present = kept.finish()
        own = steps >= piece.begin_step
        wanted = [(self._model.modalities, None)] if take.corruption else list(attempts(self._model))
        found = {
            name: {
                attempt: _only(own, self._said[name].estimates(features[name], present, attempt))
                for attempt in wanted
            }
            for name in self._engines
        }
        return Estimated(piece.recording.person, steps[own], _only(own, labels), found)


def _only(rows: NDArray[np.bool_], arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: array[rows] for name, array in arrays.items()}


class Kept:
    """Keeps of each step what the encoders of every precision make of it, and not its tensors.

    Args:
        model: Its declaration.
        engines: Precision -> stage -> engine; those of `PLAYED` have seen the steps already.
    """

    def __init__(self, model: ModelSpec, engines: Mapping[str, Mapping[str, Engine]]) -> None:
        self._model, self._engines = model, engines
        self._words = [e.stage for e in model.encoders if isinstance(e.preprocess, Words)]
        self._block: list[StepTrace] = []
        self._traces: list[StepTrace] = []
        self._features: dict[str, list[Features]] = {name: [] for name in engines}

    def take(self, trace: StepTrace) -> None:
        """A step, in order."""
        self._block.append(trace)
        if len(self._block) == _BLOCK_STEPS:
            self._encode()

    def finish(self) -> tuple[dict[str, Features], Presence]:
        """Precision -> stage -> (steps, feature), zeros where absent; and which steps were there."""
        self._encode()
        found = {name: self._joined(name, blocks) for name, blocks in self._features.items()}
        return found, presence(self._model, self._traces)

    def _encode(self) -> None:
        if not self._block:
            return
        for name, engines in self._engines.items():
            if name == PLAYED:
                made = played_features(self._model, self._block)
            else:
                sensed = {stage: one for stage, one in engines.items() if stage not in self._words}
                made = encode(self._model, sensed, self._block)
            self._features[name].append(made)
        nothing = np.zeros(0, np.float32)
        self._traces += [
            replace(one, inputs=dict.fromkeys(one.inputs, nothing), features={}) for one in self._block
        ]
        self._block = []

    def _joined(self, name: str, blocks: Sequence[Features]) -> Features:
        spoken: Features = {}
        if name != PLAYED and self._words:  # what is said goes on from block to block
            engines = {stage: self._engines[name][stage] for stage in self._words}
            spoken = encode(self._model, engines, self._traces)
        return {
            e.stage: spoken[e.stage]
            if e.stage in spoken
            else np.concatenate([one[e.stage] for one in blocks])
            for e in self._model.encoders
        }


class Said:
    """What one precision's fusion says.

    Args:
        model: Its declaration.
        engines: Stage -> engine.
    """

    def __init__(self, model: ModelSpec, engines: Mapping[str, Engine]) -> None:
        self._model = model
        self._fusion = engine_fusion(model, engines[model.fusion.stage])
        self._blanks = {e.stage: blank_feature(e, engines[e.stage]) for e in model.encoders}

    def estimates(self, features: Features, present: Presence, attempt: Attempt) -> Found:
        """Of each step, with only some modalities there."""
        subset, policy = attempt
        kept_features: Features = {}
        kept_present: Presence = {}
        for encoder in self._model.encoders:
            stage = encoder.stage
            rows, there = features[stage], present[stage]
            if encoder.modality not in subset:
                blank = self._blanks[stage] if policy == "blank_input" else np.zeros_like(rows[0])
                rows, there = np.broadcast_to(blank, rows.shape), np.full_like(there, policy in STAND_INS)
            kept_features[stage], kept_present[stage] = rows * there[:, np.newaxis], there
        padding = self._blanks if self._model.fusion.warm_up == "pad" else None
        raw = offline_outputs(self._model, kept_features, kept_present, self._fusion, padding)
        return {output.name: answers(output, raw[output.name]) for output in self._model.outputs}

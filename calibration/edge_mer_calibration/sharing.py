"""What a crew does of a calibration: play its sessions, and judge blocks that are alone in few bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_mer.bundle.manifest import StageQuantization
from edge_mer.bundle.read import Bundle
from edge_mer.corpus.crew import Crew
from edge_mer.errors import DataError
from edge_mer.labels.manifest import Recording
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.labelled import LabelledSession
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.setup import looks_at_faces, open_setup
from edge_mer_calibration.fidelity import Fidelity
from edge_mer_calibration.forms import FORMS, Form
from edge_mer_calibration.methods import Stage
from edge_mer_calibration.sessions import play

Numbers = dict[str, float | None]


@dataclass(frozen=True)
class Alone:
    """A block that is to be judged alone in few bits.

    Attributes:
        stage: The stage that it is of.
        how: How that comes into few bits.
        nodes: The block's.
    """

    stage: str
    how: StageQuantization
    nodes: tuple[str, ...]


def cost_alone(
    form: Form, ranking: Fidelity, stage: Stage, how: StageQuantization, nodes: Sequence[str]
) -> Numbers:
    """What a block costs when it alone is in few bits: concordance that is lost, and points."""
    cost = ranking.of({stage.name: form.engine(stage, form.part(stage, how, nodes))})
    return {"drop": cost.drop, "points": cost.points}


@dataclass(frozen=True, eq=False)
class PlayingSessions:
    """How sessions are played; called, it makes a worker.

    Attributes:
        bundle: Its files are where they are here.
        face_detector: YuNet's ONNX file; None: OpenCV's cascades.
    """

    bundle: Bundle
    face_detector: Path | None = None

    def __call__(self) -> SessionPlayer:
        """A worker, with the bundle's FP32 stages."""
        faces = looks_at_faces(self.bundle.manifest.model)
        detector = open_face_detector(self.face_detector) if faces else None
        return SessionPlayer(open_setup(self.bundle, "fp32", detector))


class SessionPlayer:
    """Plays recordings.

    Args:
        setup: In FP32.
    """

    def __init__(self, setup: PipelineSetup) -> None:
        self._setup = setup

    def do(self, job: Recording) -> LabelledSession:
        """A recording, played."""
        return play(self._setup, job)


@dataclass(frozen=True, eq=False)
class JudgingBlocks:
    """What blocks are judged on; called, it makes a worker.

    Attributes:
        bundle: Its files are where they are here.
        kind: Of numbers.
        stages: Stage -> as it is in FP32, with its ranges.
        sessions: As FP32 played them.
    """

    bundle: Bundle
    kind: str
    stages: Mapping[str, Stage]
    sessions: Sequence[LabelledSession]

    def __call__(self) -> BlockJudge:
        """A worker, that has FP32's answers."""
        engines = open_setup(self.bundle, "fp32", None).engines
        return BlockJudge(self, Fidelity(self.bundle.manifest.model, engines, self.sessions))


class BlockJudge:
    """Judges blocks.

    Args:
        given: The stages.
        ranking: The sessions.
    """

    def __init__(self, given: JudgingBlocks, ranking: Fidelity) -> None:
        self._given, self._ranking = given, ranking

    def do(self, job: Alone) -> Numbers:
        """What a block costs."""
        stage = self._given.stages[job.stage]
        return cost_alone(FORMS[self._given.kind], self._ranking, stage, job.how, job.nodes)


@dataclass(frozen=True)
class Shared:
    """A crew, and what its workers need to judge blocks.

    Attributes:
        crew: Who works.
        bundle: What is calibrated.
        sessions: That blocks are judged on.
    """

    crew: Crew
    bundle: Bundle
    sessions: Sequence[LabelledSession]

    def costs(
        self, kind: str, stages: Mapping[str, Stage], jobs: Sequence[Alone]
    ) -> Iterator[tuple[int, Numbers]]:
        """Number of the job -> what its block costs, as each is known.

        Raises:
            DataError: One could not be judged.
        """
        own = {name: _without_files(stage) for name, stage in stages.items()}
        yield from results(self.crew, JudgingBlocks(self.bundle, kind, own, self.sessions), jobs)


def _without_files(stage: Stage) -> Stage:
    """The same without the folder of finished parts, which is this machine's."""
    variants = {name: replace(one, kept=None, variants={}) for name, one in stage.variants.items()}
    return replace(stage, kept=None, variants=variants)


def results(crew: Crew, make: Any, jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Number of the job -> what it came to; the first that fails ends it.

    Raises:
        DataError: One failed.
    """
    for done in crew.each(make, jobs):
        if done.error:
            raise DataError(done.error)
        yield done.number, done.result

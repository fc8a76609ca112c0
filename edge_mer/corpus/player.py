"""A worker that plays pieces of recordings, and gives their predictions as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_mer.bundle.read import Bundle
from edge_mer.clock import ManualClock
from edge_mer.corpus.cut import Cutter, Piece
from edge_mer.corpus.table import table_of
from edge_mer.labels.manifest import Recording
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.opening import open_chosen
from edge_mer.runtime.pipeline_setup import PipelineSetup, check_people
from edge_mer.runtime.session import SessionHooks, SessionReport, run_session
from edge_mer.runtime.setup import check_policies, looks_at_faces
from edge_mer.sources.registry import open_source
from edge_mer.types.model import MissingPolicy
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Modality


@dataclass(frozen=True)
class Playing:
    """How a corpus is played; called, it makes a worker.

    Attributes:
        bundle: What runs; its files are where they are here.
        precision: Instead of the one that `build-engine` chose.
        missing: Policies that replace the declared ones.
        face_detector: YuNet's ONNX file; None: OpenCV's cascades.
        hop: Steps between two predictions; None: as declared.
        people: How many are followed at once; None: one, without a name.
    """

    bundle: Bundle
    precision: str | None = None
    missing: Mapping[Modality, MissingPolicy] = field(default_factory=dict)
    face_detector: Path | None = None
    hop: int | None = None
    people: int | None = None

    def __call__(self) -> Player:
        """A worker, with its engines loaded.

        Raises:
            EdgeMerError: The bundle or an engine cannot be used here.
        """
        return Player(self.opened())

    def opened(self) -> PipelineSetup:
        """What its pipelines run on."""
        model = self.bundle.manifest.model
        check_policies(model, self.missing)
        check_people(model, self.people)
        setup, _, _ = open_chosen(self.bundle, self.precision)
        detector = open_face_detector(self.face_detector) if looks_at_faces(model) else None
        return replace(setup, detector=detector, missing=self.missing, hop=self.hop, people=self.people)


class Player:
    """Plays pieces, and cuts recordings into them.

    Args:
        setup: Model and engines.
    """

    def __init__(self, setup: PipelineSetup) -> None:
        self._setup = setup
        # Names of people, such as p1, are of a whole recording.
        self._cutter = Cutter(setup.model, setup.hop_steps, cuts=setup.people is None)

    def do(self, job: Recording | Piece) -> Any:
        """The pieces of a recording, or the predictions of a piece as a PyArrow table.

        Raises:
            EdgeMerError: It cannot be used.
        """
        if isinstance(job, Recording):
            return self._cutter.do(job)
        recording = job.recording
        return table_of(play(self._setup, job), self._setup.model, recording.name, recording.person)


def play(setup: PipelineSetup, piece: Piece) -> list[Prediction]:
    """The predictions of a piece.

    Args:
        setup: Model and engines.
        piece: What is played.

    Raises:
        DataError: A source cannot be used, or there was not even one step in it.
        UsageError: The streams do not fit the model.
    """
    found: list[Prediction] = []
    is_over = False

    def take(prediction: Prediction) -> None:
        nonlocal is_over
        step = prediction.window_index * setup.hop_steps
        is_over = piece.end_step is not None and step >= piece.end_step
        if step >= piece.begin_step and not is_over:
            found.append(prediction)

    hooks = SessionHooks(on_prediction=take, should_stop=lambda: is_over)
    sources = [open_source(uri) for uri in piece.recording.sources]
    run_session(
        setup,
        sources,
        [],
        ManualClock(),
        SessionReport(),
        fast=True,
        hooks=hooks,
        first_step=piece.first_step,
        from_ns=piece.from_ns,
    )
    return found

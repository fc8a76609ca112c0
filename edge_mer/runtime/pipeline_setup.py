"""What a pipeline runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from edge_mer.engine.base import Engine
from edge_mer.errors import UsageError
from edge_mer.preprocess.face import FaceDetector
from edge_mer.preprocess.people import MAX_PEOPLE
from edge_mer.runtime.front import CpuFrontEnd, FrontEnd
from edge_mer.types.evaluation import Findings
from edge_mer.types.health import ServerHealth
from edge_mer.types.model import FaceClip, MissingPolicy, ModelSpec, SceneClip
from edge_mer.types.signals import Modality


class Watched(Protocol):
    """A server that runs the stages."""

    def health(self) -> ServerHealth:
        """How it is; any thread may ask."""


class Closeable(Protocol):
    """What holds memory or a device."""

    def close(self) -> None:
        """Give it back."""


def check_people(model: ModelSpec, people: int | None) -> None:
    """Whether so many people can be followed.

    Args:
        model: Declares what is looked at.
        people: How many at most; None: one, as ever.

    Raises:
        UsageError: They cannot; says why.
    """
    if people is None:
        return
    if not 1 <= people <= MAX_PEOPLE:
        raise UsageError(
            f"{people} people cannot be followed at once", expected=f"1 to {MAX_PEOPLE}", found=str(people)
        )
    looked_at = [encoder.preprocess for encoder in model.encoders]
    if any(isinstance(spec, FaceClip) for spec in looked_at):
        return
    whole = any(isinstance(spec, SceneClip) for spec in looked_at)
    raise UsageError(
        f"model {model.name} cannot follow people",
        expected="a model that looks at faces",
        found="one that looks at the whole picture: a prediction is about all who are in it"
        if whole
        else f"one of {' and '.join(model.modalities)}, which show no faces",
        hint="leave out people (--people)",
    )


@dataclass(frozen=True)
class PipelineSetup:
    """What a pipeline runs on.

    Attributes:
        model: The model's declaration.
        engines: Stage -> engine.
        detector: Finds faces; needed by models that look at them.
        engine_name: For the records.
        precision: For the records.
        bundle_id: For the records.
        missing: Policies that replace the declared ones.
        assets: Path in the bundle -> content of files that preprocessing reads.
        hop: Steps between two predictions; None takes the declared hop.
        findings: How sure estimates are; None if that was never measured.
        resources: What the engines run on, closed after them.
        front_end: Writes step tensors into the engines.
        gates: What is too bad to be read counts as missing; papers' protocols take everything.
        people: How many are followed at once at most, each with predictions of their own; None: one person,
            without a name.
        server: What runs the stages, where this device does not.
    """

    model: ModelSpec
    engines: Mapping[str, Engine]
    detector: FaceDetector | None
    engine_name: str = "onnxruntime-cpu"
    precision: str = "fp32"
    bundle_id: str = ""
    missing: Mapping[Modality, MissingPolicy] = field(default_factory=dict)
    assets: Mapping[str, bytes] = field(default_factory=dict)
    hop: int | None = None
    findings: Findings | None = None
    resources: tuple[Closeable, ...] = ()
    front_end: FrontEnd = field(default_factory=CpuFrontEnd)
    gates: bool = True
    people: int | None = None
    server: Watched | None = None

    def close(self) -> None:
        """Free what the engines hold; nothing can run afterwards. Twice does no harm."""
        for one in (*self.engines.values(), *self.resources):
            one.close()

    def __post_init__(self) -> None:
        check_people(self.model, self.people)
        for encoder in self.model.encoders:
            if self.hop is not None and (self.hop < 1 or self.hop % encoder.repeat):
                raise UsageError(
                    f"model {self.model.name} cannot predict every {self.hop} steps",
                    expected=f"a multiple of {encoder.repeat}: so many share a feature of {encoder.modality}",
                )

    @property
    def hop_steps(self) -> int:
        """Steps between two predictions."""
        return self.hop or self.model.fusion.hop

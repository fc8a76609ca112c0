"""What a bundle can be built for: each target knows its ways to run a bundle, and how to open one of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_mer.bundle.read import Bundle
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.engine.openvino import OvOptions
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.types.model import ModelSpec

Say = Callable[[str, int, int], None]
"""What is being done, how many of its parts are done, and of how many."""

CpuOptions = OrtOptions | OvOptions
"""How one of the processor's engines runs a stage; the type says which engine."""


@dataclass(frozen=True)
class Choice:
    """How this device runs a bundle.

    Attributes:
        precision: The candidate, or "bf16".
        stages: Stage and how the processor runs it; none of TensorRT.
        target: "cpu" or "tensorrt".
    """

    precision: str
    stages: tuple[tuple[str, CpuOptions], ...] = ()
    target: str = "cpu"

    @classmethod
    def alike(cls, model: ModelSpec, precision: str, options: CpuOptions) -> Choice:
        """All stages in the same way."""
        return cls(precision, tuple((stage, options) for stage in model.stages))

    def __str__(self) -> str:
        if self.target != "cpu":
            return f"{self.precision}, TensorRT"
        ways = Counter(options for _, options in self.stages).most_common()
        usual = ways[0][0] if ways else OrtOptions()
        others = [f"{stage}: {_told(options)}" for stage, options in self.stages if options != usual]
        return "; ".join([f"{self.precision}, {_told(usual)}", *others])


def _told(options: CpuOptions) -> str:
    threads = f"{options.threads} {'thread' if options.threads == 1 else 'threads'}"
    if isinstance(options, OvOptions):
        return f"OpenVINO, {threads}"
    return f"ONNX Runtime, {threads}, graph {options.graph}"


@dataclass(frozen=True)
class Prepared:
    """A choice made ready to be opened.

    Attributes:
        files: Name -> content of what was built for it.
        facts: What is to be known about that, for `build.json`.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Target(ABC):
    """Where engines run.

    Attributes:
        name: As users write it.
        is_bound_to_device: What is built runs only where it was built; to go on without it would be another,
            slower thing than was asked for.
        max_batch: The largest batch in which sessions may share an engine; 1: none.
    """

    name: str
    is_bound_to_device: bool = False
    max_batch: int = 1

    @abstractmethod
    def environment(self) -> dict[str, Any]:
        """What engines depend on here: versions, processor, GPU.

        Raises:
            MissingError: The target is not here.
        """

    def settings(self) -> dict[str, Any]:
        """What a user said about how to build."""
        return {"max_batch": self.max_batch}

    @abstractmethod
    def choices(self, bundle: Bundle) -> list[Choice]:
        """All ways to run a bundle here."""

    def mixed(self, timed: Sequence[tuple[Choice, Mapping[str, float]]]) -> list[Choice]:
        """Further choices, once the first ones are timed.

        Args:
            timed: Each choice, and what its stages took in milliseconds.
        """
        return []

    @abstractmethod
    def prepare(self, bundle: Bundle, choice: Choice, say: Say) -> Prepared:
        """Build what a choice needs.

        Raises:
            EdgeMerError: It cannot be built, or is not what was asked for.
        """

    @abstractmethod
    def open(self, bundle: Bundle, choice: Choice, files: Mapping[str, bytes]) -> PipelineSetup:
        """Engines of a choice, without detector and policies."""

    @abstractmethod
    def choice_of(self, record: Mapping[str, Any]) -> Choice:
        """What a build record chose."""

    def describe(self, choice: Choice) -> dict[str, Any]:
        """A choice, for a build record."""
        return {"precision": choice.precision}

"""What a user may say about a repository."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from edge_mer.errors import UsageError

Platform = Literal["onnx", "tensorrt"]
Processor = Literal["cpu", "gpu"]

_WRITTEN = re.compile(r"(cpu|gpu)(?::([1-9][0-9]{0,2}))?")

_MAX_NAME = 100


@dataclass(frozen=True)
class Instances:
    """How many of each model run beside each other.

    Attributes:
        processor: On what.
        count: How many; of "gpu", on each GPU.
    """

    processor: Processor
    count: int = 1


@dataclass(frozen=True)
class Options:
    """How a repository is to be.

    Attributes:
        platform: What runs the stages.
        precision: The candidate; None: fp32, or of TensorRT the one that was built.
        name: Begins every model's name; None: the model's own.
        max_batch: Most requests that are worked on at once; None: 8, or of TensorRT what it was built for.
        max_queue_delay_us: How long a request may wait for others to be worked on with, in microseconds.
        max_sequence_idle_s: A sequence that is silent for longer is forgotten, in seconds.
        max_sequences: Sequences that each instance of the streaming model carries along at once.
        instances: On what, and how many; none: one on the processor, or of TensorRT one on each GPU.
    """

    platform: Platform = "onnx"
    precision: str | None = None
    name: str | None = None
    max_batch: int | None = None
    max_queue_delay_us: int = 2_000
    max_sequence_idle_s: float = 10.0
    max_sequences: int = 64
    instances: tuple[Instances, ...] = ()

    @property
    def processors(self) -> tuple[Instances, ...]:
        """The instances, those that nobody named too."""
        return self.instances or (Instances("gpu" if self.platform == "tensorrt" else "cpu"),)


def parse_platform(name: str) -> Platform:
    """The platform of that name.

    Raises:
        UsageError: There is none.
    """
    known: dict[str, Platform] = {one: one for one in get_args(Platform)}
    if name not in known:
        raise UsageError(f"unknown platform {name!r}", expected=" or ".join(known))
    return known[name]


def check_name(name: str | None) -> str | None:
    """A name that models can begin with, or none.

    Raises:
        UsageError: Empty, or too long for a file's name.
    """
    if name is not None and not 1 <= len(name) <= _MAX_NAME:
        raise UsageError(
            "models cannot be called so",
            expected=f"1 to {_MAX_NAME} characters",
            found=f"{len(name)} characters",
        )
    return name


def parse_instances(values: Sequence[str]) -> tuple[Instances, ...]:
    """Instances such as "cpu:2" or "gpu:1".

    Raises:
        UsageError: Not of that form, or a processor named twice.
    """
    found: dict[str, Instances] = {}
    for value in values:
        parts = _WRITTEN.fullmatch(value)
        if parts is None:
            raise UsageError(f"no such instances: {value!r}", expected="cpu:COUNT or gpu:COUNT, e.g. cpu:2")
        processor: Processor = "cpu" if parts[1] == "cpu" else "gpu"
        if processor in found:
            raise UsageError(f"instances on {processor} are named twice", hint="give one count for it")
        found[processor] = Instances(processor, int(parts[2] or 1))
    return tuple(found.values())

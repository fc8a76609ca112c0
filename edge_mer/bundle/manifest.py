"""What a bundle says about itself: `manifest.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field

from edge_mer.types.evaluation import Findings
from edge_mer.types.model import Declared, ModelSpec

SCHEMA_VERSION = 1

KINDS = ("fp32", "fp16", "int8-cpu", "int8-trt")
"""Kinds of numbers."""

RUN_OF = {"bf16": "fp32"}
"""What is no candidate of its own, but another way to compute one, on processors that can."""

PrecisionName = Annotated[str, Field(pattern=rf"^({'|'.join(KINDS)})(\+[a-z0-9-]{{1,24}})?$")]
"""A kind of numbers, and where there are several candidates of it, which: "int8-cpu+mixed"."""


def kind_of(precision: str) -> str:
    """The kind of numbers: "int8-cpu" of "int8-cpu+mixed"."""
    return precision.partition("+")[0]


def candidate_of(precision: str) -> str:
    """Whose files run: "fp32" of "bf16"; any candidate's are its own."""
    return RUN_OF.get(precision, precision)


def in_order(precisions: Iterable[str]) -> list[str]:
    """For people: from the most bits to the fewest."""
    return sorted(precisions, key=lambda name: (KINDS.index(kind_of(name)), name))


def pretty(raw: dict[str, Any]) -> bytes:
    """JSON as `manifest.json` is written: any other byte in the file was not written by edge-mer."""
    return (json.dumps(raw, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


class FileEntry(Declared):
    """One file of the bundle."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    n_bytes: int = Field(ge=0)


class OutputError(Declared):
    """How far an output is from PyTorch's, in units of the output's own standard deviation.

    Attributes:
        max: Largest error.
        rms: Root of the mean square error.
        ccc: Concordance with PyTorch's output (fidelity; no label is involved); None where the
            output does not vary.
    """

    max: float = Field(ge=0)
    rms: float = Field(ge=0)
    ccc: float | None = None


class BlockFinding(Declared):
    """What 8 bits cost in one block of a stage.

    Attributes:
        n_nodes: Convolutions and products in it.
        drop: Concordance with FP32 that the worst output of the model loses when it alone is in 8 bits.
        points: Points of a hundred that the worst output then loses against labels; None without labels.
        is_float: It stays in float.
    """

    n_nodes: int
    drop: float
    points: float | None = None
    is_float: bool


class StageQuantization(Declared):
    """How the values of a stage became 8 or 16 bits.

    Attributes:
        method: Which part of each tensor's values the levels hold, and what was done to the stage before:
            "mse", "balanced bias-corrected mse"; in 16 bits "half".
        tried: Method -> root mean square error of the stage's outputs on windows that no range was taken
            from, in standard deviations of each output.
        blocks: Module path -> what was found about it; empty where all of the stage was good enough.
        alone: Concordance with FP32 that the model loses when this stage alone is in few bits, all of it;
            None where only all stages together were tried, or nothing in it can be.
        in_float: Why -> products of the stage that are in float in any case, and in 16 bits all nodes that
            stay in 32, by their names.
    """

    method: str
    tried: dict[str, float]
    blocks: dict[str, BlockFinding] = Field(default_factory=dict)
    alone: float | None = None
    in_float: dict[str, tuple[str, ...]] | None = None


class Candidate(Declared):
    """The stages in one precision, with their evidence.

    Attributes:
        stages: Stage -> path of its ONNX.
        n_bytes: Of all its stages.
        golden: Output -> error on the golden sessions, measured on the workbench.
        fidelity: Output -> error on other sessions; None for the reference itself.
        points: Points of a hundred that the worst output loses against the labels of those sessions: of CCC,
            or of accuracy; None without labels, and for the reference itself.
        quantization: Stage -> how it was quantized; empty for the reference itself.
        note: What a reader should know.
        findings: What `evaluate` found about it on people with labels; None before.
    """

    stages: dict[str, str]
    n_bytes: int = Field(gt=0)
    golden: dict[str, OutputError]
    fidelity: dict[str, OutputError] | None = None
    points: float | None = None
    quantization: dict[str, StageQuantization] = Field(default_factory=dict)
    note: str | None = None
    findings: Findings | None = None


class Golden(Declared):
    """Simulated sessions with PyTorch's outputs.

    Attributes:
        sessions: Paths of the recordings, of different people.
        n_steps: Steps in each.
        deviation: Output (or "feature.<stage>") -> its standard deviation over the sessions, from step to
            step: the root of the mean variance of its columns.
    """

    sessions: tuple[str, ...] = Field(min_length=2)
    n_steps: int = Field(gt=0)
    deviation: dict[str, float]


class Budget(Declared):
    """What a candidate may cost.

    Attributes:
        ccc: Concordance with FP32 that its worst output may lose.
        points: Points of a hundred that its worst output may lose against labels; None = any.
        latency_ms: What one prediction may take on the workbench's processor; None = any.
    """

    ccc: float
    points: float | None = None
    latency_ms: float | None = None


class Calibration(Declared):
    """What the quantized candidates were calibrated on; only ranges and counts leave the set.

    Attributes:
        source: The sessions.
        n_windows: Whole windows.
        windows_sha256: Over all step tensors, in order.
        people: Windows of each person, the most first, without their names.
        cells: Windows in each range of the labels, or of FP32's outputs where nobody knows them.
        without: Modality -> windows in which it is missing.
        budget: What candidates were allowed to cost.
        ranges: Path of the file with every tensor's range and histogram.
    """

    source: tuple[str, ...]
    n_windows: int
    windows_sha256: str
    people: tuple[int, ...] | None = None
    cells: dict[str, int] | None = None
    without: dict[str, int] | None = None
    budget: Budget | None = None
    ranges: str | None = None


class Lineage(Declared):
    """Where the weights come from.

    Attributes:
        made_by: Program and version of each verb, in order.
        weights: "random, seed 0, …" or the checkpoint's file names.
        checkpoint_sha256: File name -> sha256.
        n_params: Parameters in the checkpoint.
        n_params_pruned: Of them, never reaching an output and left out.
        parent: bundle_id of the bundle this one was made from.
    """

    made_by: tuple[str, ...]
    weights: str
    checkpoint_sha256: dict[str, str] = Field(default_factory=dict)
    n_params: int
    n_params_pruned: int
    parent: str | None = None


class Manifest(Declared):
    """The whole of it but its own `bundle_id`, the sha256 of its canonical JSON."""

    schema_version: Literal[1] = 1
    model: ModelSpec
    candidates: dict[PrecisionName, Candidate] = Field(min_length=1)
    golden: Golden
    lineage: Lineage
    calibration: Calibration | None = None
    files: dict[str, FileEntry]

    def canonical(self) -> bytes:
        """JSON with sorted keys and no white space: the bytes that `bundle_id` hashes."""
        text = json.dumps(self._dumped(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return text.encode()

    def file_text(self) -> bytes:
        """What `manifest.json` holds: this and its `bundle_id`, with sorted keys, a line per entry."""
        return pretty({**self._dumped(), "bundle_id": self.bundle_id})

    def _dumped(self) -> dict[str, Any]:
        """Without what is None: a field that comes to be known later changes no older bundle."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def bundle_id(self) -> str:
        """The word sha256, a colon, and the hash of `canonical()`."""
        return "sha256:" + hashlib.sha256(self.canonical()).hexdigest()

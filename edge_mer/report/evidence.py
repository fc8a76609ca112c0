"""What a bundle knows about its candidates, as its page takes it; and how the file of ranges is read."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from edge_mer.errors import DataError
from edge_mer.types.evaluation import Findings

MAX_RANGES_BYTES = 32 << 20
MAX_TENSORS = 20_000
MAX_BINS = 1024

_HUGE = 1e39
"""More than a 32-bit float can be."""


@dataclass(frozen=True)
class Fidelity:
    """How near an output is to FP32's: error in standard deviations, and concordance where it varies."""

    rms: float
    ccc: float | None


@dataclass(frozen=True)
class Block:
    """What few bits cost in one block alone.

    Attributes:
        n_nodes: Products in it.
        drop: Concordance with FP32 that the worst output of the model loses.
        points: Points against labels that it loses; None without labels.
        is_float: It stays in float.
    """

    n_nodes: int
    drop: float
    points: float | None
    is_float: bool


@dataclass(frozen=True)
class StageHow:
    """How a stage came into few bits.

    Attributes:
        method: The one that was taken.
        tried: Method -> error of the stage's outputs in standard deviations.
        blocks: Module path -> what it costs alone; empty where none was tried.
        in_float: Why -> nodes that are in float in any case; None where older bundles do not say it.
        alone: Concordance that all of it costs while the other stages are in float; None where nobody tried.
    """

    method: str
    tried: dict[str, float]
    blocks: dict[str, Block]
    in_float: dict[str, tuple[str, ...]] | None
    alone: float | None = None


@dataclass(frozen=True)
class CandidateEvidence:
    """A candidate, with all that was ever measured of it.

    Attributes:
        name: Its precision.
        n_bytes: Of all its stages.
        fidelity: Output -> how near it is to FP32; None for FP32 itself.
        points: Points that the worst output loses against labels; None without labels.
        stages: Stage -> how it was made; empty for FP32.
        note: What its maker remarked.
        findings: Of an evaluation on people; None before one.
        is_for_cpu: A processor runs it.
        ms: Per prediction, on the machine that makes the page; None where it was not timed.
        refused: Why no device will choose it; None where nothing speaks against it.
    """

    name: str
    n_bytes: int
    fidelity: dict[str, Fidelity] | None
    points: float | None = None
    stages: dict[str, StageHow] = field(default_factory=dict)
    note: str | None = None
    findings: Findings | None = None
    is_for_cpu: bool = True
    ms: float | None = None
    refused: str | None = None

    @property
    def worst(self) -> tuple[str, float] | None:
        """The output that is farthest from FP32's and the concordance that it has lost."""
        if not self.fidelity:
            return None
        drops = {output: 1.0 - (one.ccc or 0.0) for output, one in self.fidelity.items()}
        return max(drops.items(), key=lambda item: item[1])


@dataclass(frozen=True)
class Limits:
    """What a candidate was allowed to cost; None = any."""

    ccc: float
    points: float | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class CalibrationSet:
    """What ranges were taken from; None where older bundles do not say it."""

    source: tuple[str, ...]
    n_windows: int
    people: tuple[int, ...] | None = None
    cells: dict[str, int] | None = None
    without: dict[str, int] | None = None
    limits: Limits | None = None


@dataclass(frozen=True)
class TensorRange:
    """What the values of a tensor were.

    Attributes:
        name: In the graph.
        low: Smallest value on the calibration windows.
        high: Largest.
        held_low: Smallest on windows that no range was taken from.
        held_high: Largest.
        counts: From `low` to `high`, in bins of equal width.
        levels: Candidate -> lowest and highest value that its levels hold.
        reads: Products that read it; None where the file does not say.
        writes: Products that write it.
    """

    name: str
    low: float
    high: float
    held_low: float
    held_high: float
    counts: tuple[float, ...]
    levels: dict[str, tuple[float, float]]
    reads: tuple[str, ...] | None = None
    writes: tuple[str, ...] = ()

    @property
    def is_read(self) -> bool:
        """A product reads it, as far as one knows."""
        return self.reads is None or bool(self.reads)

    @property
    def beyond(self) -> float:
        """How far the held windows went out of the range, in parts of it; infinite for a single value."""
        out = max(self.low - self.held_low, self.held_high - self.high, 0.0)
        if out == 0.0:
            return 0.0
        return out / (self.high - self.low) if self.high > self.low else math.inf


@dataclass(frozen=True)
class BundleEvidence:
    """All that the page of a bundle is made from.

    Attributes:
        model: Its name.
        title: Its name for people.
        bundle_id: Of the bundle.
        weights: Where they come from.
        made_by: Program and version of each verb.
        stages: In their order.
        outputs: In their order.
        candidates: FP32 first.
        calibration: None before one.
        ranges: Stage -> its tensors; None where the bundle has no such file.
        processor: What the times were measured on; None where none were.
    """

    model: str
    title: str
    bundle_id: str
    weights: str
    made_by: tuple[str, ...]
    stages: tuple[str, ...]
    outputs: tuple[str, ...]
    candidates: tuple[CandidateEvidence, ...]
    calibration: CalibrationSet | None = None
    ranges: dict[str, list[TensorRange]] | None = None
    processor: str | None = None

    @property
    def made(self) -> tuple[CandidateEvidence, ...]:
        """Candidates in few bits: all but FP32 itself."""
        return tuple(one for one in self.candidates if one.name != "fp32")


def read_ranges(data: bytes, name: str) -> dict[str, list[TensorRange]]:
    """Stage -> tensors, from the file that a calibration writes.

    Args:
        data: The file; nothing in it is trusted.
        name: Its name, for messages.

    Raises:
        DataError: It is no such file.
    """
    try:
        if len(data) > MAX_RANGES_BYTES:
            raise ValueError(f"{len(data)} bytes, more than {MAX_RANGES_BYTES}")
        raw = json.loads(data)
        json.dumps(raw, ensure_ascii=False).encode()  # Python reads halves of characters, too
        stages = _table(_table(raw)["stages"])
        if sum(len(_table(tensors)) for tensors in stages.values()) > MAX_TENSORS:
            raise ValueError(f"more than {MAX_TENSORS} tensors")
        return {
            stage: [_tensor(tensor, _table(one)) for tensor, one in tensors.items()]
            for stage, tensors in stages.items()
        }
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        what = f"nothing about {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{name} holds no ranges", found=what, hint="calibrate the bundle again, with edge-mer calibrate"
        ) from error


def _tensor(name: str, raw: dict[str, Any]) -> TensorRange:
    low, high, held_low, held_high = (
        _number(raw[key], name) for key in ("low", "high", "held_low", "held_high")
    )
    counts = tuple(_number(n, name) for n in _list(raw["counts"]))
    levels = {}
    for candidate, ends in _table(raw["levels"]).items():
        least, most = (_number(end, name) for end in _list(ends))
        levels[candidate] = (least, most)
    if low > high or held_low > held_high or any(least > most for least, most in levels.values()):
        raise ValueError(f"a range of {name} that ends before it begins")
    if not 1 <= len(counts) <= MAX_BINS or min(counts) < 0:
        raise ValueError(f"counts of {name} that cannot be")
    reads = _names(raw["reads"]) if "reads" in raw else None
    return TensorRange(
        name, low, high, held_low, held_high, counts, levels, reads, _names(raw.get("writes", []))
    )


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} where a table was expected")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{type(value).__name__} where a list was expected")
    return value


def _names(value: Any) -> tuple[str, ...]:
    names = _list(value)
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a node without a name")
    return tuple(names)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _HUGE:
        raise ValueError(f"no number for {name}")
    return float(value)

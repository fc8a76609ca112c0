"""What the values of each tensor were, as it travels in a bundle: ranges and histograms, never values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from edge_mer.bundle.manifest import kind_of, pretty
from edge_mer_calibration.methods import Stage, histograms_of
from edge_mer_calibration.preparation import evened, method_of
from edge_mer_calibration.quantize import OPERATORS, SCHEMES
from edge_mer_calibration.ranges import Histogram
from edge_mer_calibration.search import Found

RANGES_PATH = "calibration/ranges.json"
N_BINS = 32


def ranges_file(stages: Sequence[Stage], found: Mapping[str, Found]) -> bytes:
    """`calibration/ranges.json`: stage -> tensor -> what was seen of it.

    Of each tensor that a product reads or writes: `reads` and `writes`, the names of those products; `low`
    and `high` on the calibration windows, `held_low` and `held_high` on windows that no range was taken from,
    `counts` in 32 bins from low to high, and `levels`: candidate -> lowest and highest value that its 8 bits
    hold.
    """
    return pretty({"stages": {stage.name: _of_stage(stage, found) for stage in stages}})


def _of_stage(stage: Stage, found: Mapping[str, Found]) -> dict[str, Any]:
    held = histograms_of(stage.model, stage.held)
    reads, writes = _products(stage)
    levels = {name: _levels(stage, name, one) for name, one in found.items()}
    return {
        tensor: {
            "reads": reads.get(tensor, []),
            "writes": writes.get(tensor, []),
            "low": one.low,
            "high": one.high,
            "held_low": held[tensor].low,
            "held_high": held[tensor].high,
            "counts": _coarse(one),
            "levels": {name: list(all_of[tensor]) for name, all_of in levels.items() if tensor in all_of},
        }
        for tensor, one in stage.histograms.items()
        if tensor in held
    }


def _products(stage: Stage) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Tensor -> the products that read it, and those that write it."""
    reads: dict[str, list[str]] = defaultdict(list)
    writes: dict[str, list[str]] = defaultdict(list)
    for node in onnx.load_model_from_string(stage.model).graph.node:
        if node.op_type in OPERATORS:
            for tensor in node.input:
                reads[tensor].append(node.name)
            for tensor in node.output:
                writes[tensor].append(node.name)
    return reads, writes


def _levels(stage: Stage, name: str, found: Found) -> Mapping[str, Sequence[float]]:
    if (scheme := SCHEMES.get(kind_of(name))) is None:
        return {}  # 16 bits have no levels to place
    how = found.how[stage.name].method
    return evened(stage, how).ranges(method_of(how), symmetric=scheme.symmetric)


def _coarse(one: Histogram) -> list[int]:
    """In few bins between the smallest and the largest value."""
    middles = (one.edges[1:] + one.edges[:-1]) / 2
    edges = np.linspace(one.low, max(one.high, np.nextafter(one.low, np.inf)), N_BINS + 1)
    counts, _ = np.histogram(np.clip(middles, one.low, one.high), edges, weights=one.counts)
    return [int(n) for n in np.rint(counts)]

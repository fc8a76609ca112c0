"""Numbers and names as the page and its chart write them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from benchmarks.speed.kept import Found
from benchmarks.speed.rivals.registry import RIVALS

MIN_CCC = 0.99
"""Outputs that agree less with PyTorch's are marked."""

SHORT = {
    "torch-naive": "PyTorch, sliding window",
    "torch-once": "PyTorch, each clip once",
    "whole-ort": "ONNX Runtime, FP32",
    "whole-ort-static": "ONNX Runtime, quantize_static",
    "whole-ort-dynamic": "ONNX Runtime, quantize_dynamic",
    "whole-ov": "OpenVINO, FP32",
    "whole-ov-bf16": "OpenVINO, bf16",
    "whole-ov-static": "OpenVINO, quantize_static's file",
    "ort": "ONNX Runtime, FP32",
    "ort-int8": "ONNX Runtime, INT8",
    "ov": "OpenVINO, FP32",
    "ov-bf16": "OpenVINO, bf16",
    "ov-int8": "OpenVINO, INT8",
    "chosen": "what build-engine chose",
}


def name_of(key: str) -> str:
    """A rival with whose way it is."""
    family = {"pytorch": "", "whole": "whole ONNX, ", "edge-mer": "edge-mer, "}[RIVALS[key].family]
    return f"{family}{SHORT[key]}"


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


MAX_OFF = (2 * (1 - MIN_CCC)) ** 0.5
"""Error in deviations that costs as much concordance: half its square."""


def agreement(row: Found) -> str:
    """The lowest concordance of any output, or of too few windows the largest error."""
    ccc = [value for value in row["ccc"].values() if value is not None]
    if len(ccc) == len(row["ccc"]):
        return f"{min(ccc):.4f}"
    return f"off by {number(max(row['off'].values()))} deviations, windows: {row['n_windows']}"


def is_right(row: Found) -> bool:
    """Whether its outputs are the reference's."""
    ccc = row["ccc"]
    return all((row["off"][name] <= MAX_OFF) if ccc[name] is None else ccc[name] >= MIN_CCC for name in ccc)


def times(ratio: Mapping[str, float]) -> str:
    """A ratio with its spread."""
    middle, low, high = (number(ratio[key]) for key in ("median", "low", "high"))
    return f"{middle} ({low} to {high})"


def table(titles: list[str], rows: Iterable[list[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), *rows)]


def listed(words: Iterable[str]) -> str:
    """Words with commas, and "and" before the last."""
    *most, last = list(words) or ["nothing"]
    return f"{', '.join(most)} and {last}" if most else last

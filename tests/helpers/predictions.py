"""Records as `edge-mer run` writes them, made by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

STEP_NS = 250_000_000
BUNDLE = "sha256:" + "0123456789abcdef" * 4


def record(index: int, valence: float = 0.0, arousal: float = 0.0, **changes: Any) -> dict[str, Any]:
    """An `ok` prediction for the end of step `index`, with fields of your own instead."""
    t_ns = (index + 1) * STEP_NS
    made: dict[str, Any] = {
        "window_index": index,
        "t_start_ns": max(0, t_ns - 8 * STEP_NS),
        "t_end_ns": t_ns,
        "utc": "2026-11-21T08:00:00.250000+00:00",
        "utc_synchronised": False,
        "status": "ok",
        "reasons": [],
        "affect": {"valence": valence, "arousal": arousal, "interval": None},
        "modalities": {
            "visual": {"present": True, "coverage": 1.0, "age_ms": 3.0},
            "audio": {"present": True, "coverage": 1.0, "age_ms": 0.0},
        },
        "sync": {"skew_ms": 2.0, "uncertainty_ms": 0.0},
        "latency_ms": {
            "capture": None,
            "wait": None,
            "preprocess": 10.0,
            "infer": 20.0,
            "postprocess": 0.5,
            "end_to_end": 30.5,
        },
        "engine": "onnxruntime-cpu",
        "precision": "fp32",
        "bundle_id": BUNDLE,
        "pain": None,
        "emotion": None,
        "confidence": None,
    }
    return {**made, **changes}


def withheld(index: int, *reasons: str) -> dict[str, Any]:
    """A prediction without an estimate."""
    return record(index, status="withheld", reasons=list(reasons), affect=None)


def degraded(index: int, *reasons: str, valence: float = 0.0) -> dict[str, Any]:
    """A weak estimate."""
    return record(index, valence, status="degraded", reasons=list(reasons))


def pain(*probabilities: float) -> dict[str, Any]:
    """An estimate of pain on the scale "sim-0-4", its levels named "l0", "l1" and so on."""
    expected = sum(level * p for level, p in enumerate(probabilities))
    levels = {f"l{i}": p for i, p in enumerate(probabilities)}
    return {"scale": "sim-0-4", "level_probs": levels, "expected": expected}


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """As JSON lines."""
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path

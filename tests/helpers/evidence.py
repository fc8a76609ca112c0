"""What a calibrated bundle knows, made by hand: as evidence for its page, and as a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_mer.bundle.manifest import (
    BlockFinding,
    Budget,
    Calibration,
    Candidate,
    FileEntry,
    Manifest,
    OutputError,
    StageQuantization,
)
from edge_mer.bundle.write import write_bundle
from edge_mer.report.evidence import (
    Block,
    BundleEvidence,
    CalibrationSet,
    CandidateEvidence,
    Fidelity,
    Limits,
    StageHow,
    TensorRange,
)
from edge_mer.types.evaluation import Findings, Interval, Measured, Sharpness, SubsetFindings
from tests.helpers.tiny_bundle import tiny_files, tiny_manifest

OUTPUTS = ("valence", "arousal")
RANGES = "calibration/ranges.json"


def tensor(name: str = "conv", **changes: Any) -> TensorRange:
    """From -1 to 1, with held windows inside."""
    made: dict[str, Any] = {
        "low": -1.0,
        "high": 1.0,
        "held_low": -0.5,
        "held_high": 0.5,
        "counts": (1.0, 4.0, 9.0, 0.0),
        "levels": {"int8-cpu": (-0.5, 0.5)},
    }
    return TensorRange(name=name, **(made | changes))


def how(**changes: Any) -> StageHow:
    """A stage that was good enough as a whole."""
    made: dict[str, Any] = {
        "method": "mse",
        "tried": {"min-max": 0.4, "mse": 0.1},
        "blocks": {},
        "in_float": {},
    }
    return StageHow(**(made | changes))


def block(drop: float, *, is_float: bool = False, points: float | None = None) -> Block:
    """Two products."""
    return Block(2, drop, points, is_float)


def candidate(
    name: str = "int8-cpu", valence: float = 0.999, arousal: float = 0.998, **changes: Any
) -> CandidateEvidence:
    """A quarter of FP32's size; the two numbers are its outputs' concordances."""
    made: dict[str, Any] = {
        "n_bytes": 1_000_000,
        "fidelity": {"valence": Fidelity(0.01, valence), "arousal": Fidelity(0.02, arousal)},
        "stages": {"visual": how(), "fusion": how()},
        "is_for_cpu": not name.startswith(("int8-trt", "fp16")),
    }
    return CandidateEvidence(name=name, **(made | changes))


def fp32(**changes: Any) -> CandidateEvidence:
    """The reference."""
    return CandidateEvidence(**({"name": "fp32", "n_bytes": 4_000_000, "fidelity": None} | changes))


def calibration(**changes: Any) -> CalibrationSet:
    """Eight windows of two people in a recording."""
    made: dict[str, Any] = {
        "source": ("file:one.mp4",),
        "n_windows": 8,
        "people": (4, 4),
        "cells": {"valence low": 3, "valence high": 5},
        "without": {"audio": 2},
        "limits": Limits(0.005),
    }
    return CalibrationSet(**(made | changes))


def evidence(*made: CandidateEvidence, **changes: Any) -> BundleEvidence:
    """A bundle with FP32 and these candidates."""
    is_calibrated = bool(made) or "candidates" in changes
    said: dict[str, Any] = {
        "model": "tiny",
        "title": "a tiny model",
        "bundle_id": "sha256:" + "0123456789abcdef" * 4,
        "weights": "none",
        "made_by": ("tests",),
        "stages": ("visual", "fusion"),
        "outputs": OUTPUTS,
        "candidates": (fp32(), *made),
        "calibration": calibration() if is_calibrated else None,
        "ranges": {"visual": [tensor()], "fusion": [tensor("linear")]} if is_calibrated else None,
    }
    return BundleEvidence(**(said | changes))


def findings(ccc: float = 0.7) -> Findings:
    """Of two people: with everything there, and with the face alone."""
    return Findings(
        people="the split test",
        n_people=2,
        n_steps=1200,
        subsets=(_subset(("visual", "audio"), ccc), _subset(("visual",), ccc - 0.2)),
    )


def _subset(modalities: Any, ccc: float) -> SubsetFindings:
    measures = {
        "MAE": Measured(value=0.2, low=0.1, high=0.3),
        "CCC": Measured(value=ccc, low=ccc - 0.05, high=ccc + 0.05),
    }
    return SubsetFindings(
        modalities=modalities,
        stand_in=None if len(modalities) == 2 else "zero_feature",
        scores=dict.fromkeys(OUTPUTS, measures),
        interval={"valence": Interval(half_width=0.41, coverage=0.91)},
        sharpness={"arousal": Sharpness(temperature=1.25, ece=0.034)},
    )


def ranges_json(**changes: Any) -> dict[str, Any]:
    """One tensor of a stage as the file has it."""
    made = {
        "low": -1.0,
        "high": 1.0,
        "held_low": -2.0,
        "held_high": 0.5,
        "counts": [1, 4, 9],
        "levels": {"int8-cpu": [-0.5, 0.5]},
        "reads": ["net.conv/Conv_3"],
        "writes": [],
    }
    return {**made, **changes}


def write_calibrated(path: Path, *, text: str = "conv", ranges: bytes | None = None) -> Manifest:
    """A bundle with two candidates beside FP32, whose stages are ONNX by their outside only.

    Args:
        path: Its folder.
        text: A name that goes wherever a name of one's own can.
        ranges: The file of ranges; None = one that is right.
    """
    own = json.dumps({"stages": {"visual": {text: ranges_json()}}}).encode()
    files = tiny_files() | {RANGES: own if ranges is None else ranges}

    def made(table: Mapping[str, FileEntry]) -> Manifest:
        plain = tiny_manifest(table)
        stages = plain.candidates["fp32"].stages
        whole = StageQuantization(
            method="mse", tried={"mse": 0.1, text: 0.2}, in_float={text: (f"{text}/MatMul_1",)}
        )
        blocks = {
            text: BlockFinding(n_nodes=2, drop=0.002, points=0.5, is_float=True),
            "rest": BlockFinding(n_nodes=1, drop=0.001, is_float=False),
        }
        mixed = whole.model_copy(update={"blocks": blocks})
        error = OutputError(max=0.1, rms=0.02, ccc=0.998)
        errors = dict.fromkeys(OUTPUTS, error)

        def quantized(stage: StageQuantization) -> Candidate:
            return Candidate(
                stages=stages,
                n_bytes=100,
                golden=errors,
                fidelity=errors,
                quantization=dict.fromkeys(stages, stage),
                note=text,
                findings=findings(),
            )

        return plain.model_copy(
            update={
                "candidates": {
                    **plain.candidates,
                    "int8-cpu+mixed": quantized(mixed),
                    "int8-trt": quantized(whole),
                },
                "calibration": Calibration(
                    source=(text,),
                    n_windows=4,
                    windows_sha256="0" * 64,
                    people=(2, 2),
                    cells={text: 4},
                    without={"audio": 1},
                    budget=Budget(ccc=0.005, points=1.0),
                    ranges=RANGES,
                ),
                "lineage": plain.lineage.model_copy(update={"weights": text}),
            }
        )

    return write_bundle(path, files, made, replace=True)

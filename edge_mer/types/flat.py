"""Predictions as rows of plain columns, for tables; what depends on how fast they were made is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from edge_mer.types.model import AffectOutput, EmotionOutput, Output, PainOutput
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Modality

Kind = Literal["int", "float", "bool", "text", "texts"]

_ALWAYS: dict[str, Kind] = {
    "window_index": "int",
    "t_start_ns": "int",
    "t_end_ns": "int",
    "status": "text",
    "reasons": "texts",
    "person": "text",
}
_AFFECT: tuple[Literal["valence", "arousal"], ...] = ("valence", "arousal")
_LAST: dict[str, Kind] = {
    "skew_ms": "float",
    "uncertainty_ms": "float",
    "clock_warming_up": "bool",
    "engine": "text",
    "precision": "text",
    "bundle_id": "text",
}
_OF_MODALITY: dict[str, Kind] = {
    "present": "bool",
    "coverage": "float",
    "age_ms": "float",
    "source": "text",
    "quality": "text",
}
_NO_LATENCY = dict.fromkeys(("capture", "wait", "preprocess", "infer", "postprocess", "end_to_end"))


def columns(outputs: Sequence[Output], modalities: Sequence[Modality]) -> dict[str, Kind]:
    """Names and kinds of the columns of a model's predictions, in their order.

    Args:
        outputs: What the model estimates.
        modalities: What it looks at.
    """
    found = dict(_ALWAYS)
    for output in outputs:
        if isinstance(output, AffectOutput):
            found |= {output.name: "float", f"{output.name}_low": "float", f"{output.name}_high": "float"}
        elif isinstance(output, PainOutput):
            found |= {"pain": "float", "pain_scale": "text"}
            found |= {f"pain:{level}": "float" for level in output.levels}
        elif isinstance(output, EmotionOutput):
            found |= {f"emotion:{label}": "float" for label in output.labels}
    found["confidence"] = "float"
    for modality in modalities:
        found |= {f"{modality}_{name}": kind for name, kind in _OF_MODALITY.items()}
    return found | _LAST


def flat(prediction: Prediction) -> dict[str, Any]:
    """A prediction's row; columns of what it does not hold are not in it."""
    row: dict[str, Any] = {name: getattr(prediction, name) for name in _ALWAYS}
    row["reasons"] = list(prediction.reasons)
    if (affect := prediction.affect) is not None:
        row |= {name: getattr(affect, name) for name in _AFFECT}
        for name, (low, high) in (affect.interval or {}).items():
            row |= {f"{name}_low": low, f"{name}_high": high}
    if (pain := prediction.pain) is not None:
        row |= {"pain": pain.expected, "pain_scale": pain.scale}
        row |= {f"pain:{level}": share for level, share in pain.level_probs.items()}
    row |= {f"emotion:{label}": share for label, share in (prediction.emotion or {}).items()}
    row["confidence"] = prediction.confidence
    for modality, one in prediction.modalities.items():
        row |= {f"{modality}_{name}": getattr(one, name) for name in _OF_MODALITY}
    sync = prediction.sync
    row |= {
        "skew_ms": sync.skew_ms,
        "uncertainty_ms": sync.uncertainty_ms,
        "clock_warming_up": sync.warming_up,
        "engine": prediction.engine,
        "precision": prediction.precision,
        "bundle_id": prediction.bundle_id,
    }
    return row


def record(row: Mapping[str, Any]) -> dict[str, Any]:
    """From a row what `Prediction.to_dict` gives, without times of work and without a wall time."""
    made: dict[str, Any] = {name: row[name] for name in (*_ALWAYS, "engine", "precision", "bundle_id")}
    made |= {"utc": "", "utc_synchronised": False, "latency_ms": dict(_NO_LATENCY)}
    made |= {"affect": _affect(row), "pain": _pain(row), "emotion": _emotion(row)}
    made["confidence"] = row["confidence"]
    made["modalities"] = {
        modality: {name: row[f"{modality}_{name}"] for name in _OF_MODALITY}
        for modality in (name.removesuffix("_present") for name in row if name.endswith("_present"))
    }
    made["sync"] = {
        "skew_ms": row["skew_ms"],
        "uncertainty_ms": row["uncertainty_ms"],
        "warming_up": row["clock_warming_up"],
    }
    if made["person"] is None:
        del made["person"]
    return made


def _affect(row: Mapping[str, Any]) -> dict[str, Any] | None:
    values: dict[str, Any] = {name: row.get(name) for name in _AFFECT}
    if all(value is None for value in values.values()):
        return None
    known = [name for name in _AFFECT if row.get(f"{name}_low") is not None]
    interval = {name: [row[f"{name}_low"], row[f"{name}_high"]] for name in known}
    return values | {"interval": interval or None}


def _pain(row: Mapping[str, Any]) -> dict[str, Any] | None:
    if row.get("pain") is None:
        return None
    return {"scale": row["pain_scale"], "level_probs": _under("pain:", row), "expected": row["pain"]}


def _emotion(row: Mapping[str, Any]) -> dict[str, Any] | None:
    emotion = _under("emotion:", row)
    return None if not emotion or None in emotion.values() else emotion


def _under(prefix: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}

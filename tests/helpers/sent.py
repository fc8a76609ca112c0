"""Predictions and facts as sinks get them, made by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from edge_mer.types.facts import ModelFacts
from edge_mer.types.predictions import Affect, Latency, ModalityStatus, Pain, Prediction, SyncQuality

STEP_NS = 250_000_000
BUNDLE_ID = "sha256:" + "0123456789abcdef" * 4
START = datetime(2026, 11, 21, 8, 0, tzinfo=timezone.utc)

AFFECT = ModelFacts("jmt-tiny", BUNDLE_ID, "fp32", "onnxruntime-cpu", ("valence", "arousal"), 0.25)
PAIN = replace(AFFECT, name="pain-tiny", outputs=("pain",), labels={"pain": ("none", "some", "much")})
VOICES = replace(AFFECT, name="voices", outputs=("emotion",), labels={"emotion": ("anger", "neutral")})


def ok(index: int, valence: float = 0.0, arousal: float = 0.0, **changes: Any) -> Prediction:
    """The prediction of the step `index`, with fields of your own instead."""
    t_end_ns = (index + 1) * STEP_NS
    made = Prediction(
        window_index=index,
        t_start_ns=max(0, t_end_ns - 8 * STEP_NS),
        t_end_ns=t_end_ns,
        utc=(START + timedelta(microseconds=t_end_ns // 1000)).isoformat(),
        utc_synchronised=True,
        status="ok",
        reasons=(),
        affect=Affect(valence, arousal),
        modalities={"visual": ModalityStatus(True, 1.0, 33.3), "audio": ModalityStatus(True, 1.0, 0.0)},
        sync=SyncQuality(1.5, 0.0),
        latency_ms=Latency(None, None, 10.0, 20.0, 0.5, 30.5),
        engine="onnxruntime-cpu",
        precision="fp32",
        bundle_id=BUNDLE_ID,
    )
    return replace(made, **changes)


def withheld(index: int, *reasons: str, **changes: Any) -> Prediction:
    """A prediction without an estimate."""
    return ok(index, status="withheld", reasons=reasons, affect=None, **changes)


def pain_of(index: int, *probabilities: float, **changes: Any) -> Prediction:
    """A prediction of `PAIN`."""
    expected = sum(level * p for level, p in enumerate(probabilities))
    levels = dict(zip(PAIN.labels["pain"], probabilities, strict=True))
    return ok(index, affect=None, pain=Pain("sim-0-2", levels, expected), **changes)


def emotion_of(index: int, anger: float, **changes: Any) -> Prediction:
    """A prediction of `VOICES`."""
    return ok(index, affect=None, emotion={"anger": anger, "neutral": 1 - anger}, **changes)

"""What a prediction is as ROS 2 messages. Nothing of ROS is needed to make them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from edge_mer.types.facts import ModelFacts, scalars_of
from edge_mer.types.predictions import Prediction

HEADER = "std_msgs/msg/Header"
TIME = "builtin_interfaces/msg/Time"
DIAGNOSTIC_ARRAY = "diagnostic_msgs/msg/DiagnosticArray"
DIAGNOSTIC_STATUS = "diagnostic_msgs/msg/DiagnosticStatus"
KEY_VALUE = "diagnostic_msgs/msg/KeyValue"
FLOATS = "std_msgs/msg/Float32MultiArray"
LAYOUT = "std_msgs/msg/MultiArrayLayout"
DIMENSION = "std_msgs/msg/MultiArrayDimension"
EXPRESSION = "hri_msgs/msg/Expression"

DIAGNOSTICS = "/diagnostics"
"""The topic on which ROS 2's own tools look for them."""

LEVELS = {"ok": 0, "degraded": 1, "withheld": 2}
"""Status -> level of a DiagnosticStatus: OK, WARN, ERROR."""

EXPRESSIONS = {
    "neutral": "neutral",
    "calm": "neutral",
    "anger": "angry",
    "angry": "angry",
    "sadness": "sad",
    "sad": "sad",
    "happiness": "happy",
    "happy": "happy",
    "joy": "happy",
    "surprise": "surprised",
    "surprised": "surprised",
    "disgust": "disgusted",
    "disgusted": "disgusted",
    "fear": "scared",
    "scared": "scared",
    "boredom": "bored",
    "bored": "bored",
}
"""A model's label -> a name that ros4hri lists; others have none there."""


@dataclass(frozen=True)
class RosMessage:
    """A message of any type.

    Attributes:
        type: E.g. "std_msgs/msg/Header".
        fields: Name -> a number, a text, another `RosMessage`, or a list of one of these.
    """

    type: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Names:
    """What messages are called by.

    Attributes:
        namespace: Of the topics, e.g. "/edge_mer".
        frame_id: Of the headers; "" where none is known.
        node: The node's name.
    """

    namespace: str
    frame_id: str
    node: str


def messages_of(prediction: Prediction, model: ModelFacts, names: Names) -> dict[str, RosMessage]:
    """Topic -> message.

    Where there is no estimate, numbers are NaN, an expression has no name, and its confidence is 0.

    Args:
        prediction: Any.
        model: Says which numbers there are, in which order.
        names: For topics and headers.
    """
    below = names.namespace.rstrip("/")
    if prediction.person is not None:
        below += f"/{prediction.person}"
    header = RosMessage(HEADER, {"stamp": _time_of(prediction), "frame_id": names.frame_id})
    messages = {
        DIAGNOSTICS: _diagnostics(prediction, model, names, header),
        f"{below}/values": _values(prediction, model),
    }
    if {"valence", "arousal", "emotion"} & set(model.outputs):
        messages[f"{below}/expression"] = _expression(prediction, header)
    return messages


def _time_of(prediction: Prediction) -> RosMessage:
    since_1970 = datetime.fromisoformat(prediction.utc) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    seconds = since_1970.days * 86_400 + since_1970.seconds
    return RosMessage(TIME, {"sec": seconds, "nanosec": since_1970.microseconds * 1000})


def _diagnostics(prediction: Prediction, model: ModelFacts, names: Names, header: RosMessage) -> RosMessage:
    who = "" if prediction.person is None else f" of {prediction.person}"
    told: dict[str, str] = {
        "window_index": str(prediction.window_index),
        "reasons": " ".join(prediction.reasons),
        "utc_synchronised": str(prediction.utc_synchronised).lower(),
        "model": model.name,
        "bundle_id": prediction.bundle_id,
        "precision": prediction.precision,
        "engine": prediction.engine,
        "latency_ms": f"{prediction.latency_ms.end_to_end:.1f}",
    }
    for modality, there in prediction.modalities.items():
        told[f"{modality}.present"] = str(there.present).lower()
        told[f"{modality}.coverage"] = f"{there.coverage:.3f}"
    status = RosMessage(
        DIAGNOSTIC_STATUS,
        {
            "level": LEVELS[prediction.status],
            "name": f"{names.node}: prediction{who}",
            "message": ": ".join(filter(None, (prediction.status, ", ".join(prediction.reasons)))),
            "hardware_id": "",
            "values": [RosMessage(KEY_VALUE, {"key": k, "value": v}) for k, v in told.items()],
        },
    )
    return RosMessage(DIAGNOSTIC_ARRAY, {"header": header, "status": [status]})


def _values(prediction: Prediction, model: ModelFacts) -> RosMessage:
    found = scalars_of(prediction)
    labels = ",".join(".".join(path) for path in model.scalars)
    n = len(model.scalars)
    dimension = RosMessage(DIMENSION, {"label": labels, "size": n, "stride": n})
    layout = RosMessage(LAYOUT, {"dim": [dimension], "data_offset": 0})
    return RosMessage(
        FLOATS, {"layout": layout, "data": [float(found.get(path, math.nan)) for path in model.scalars]}
    )


def _expression(prediction: Prediction, header: RosMessage) -> RosMessage:
    is_withheld = prediction.status == "withheld"
    found = scalars_of(prediction)
    emotion = {} if is_withheld else prediction.emotion or {}
    likeliest = max(emotion, key=lambda label: emotion[label], default="")
    confidence = math.nan if prediction.confidence is None else prediction.confidence
    return RosMessage(
        EXPRESSION,
        {
            "header": header,
            "expression": EXPRESSIONS.get(likeliest.lower(), ""),
            "valence": found.get(("valence",), math.nan),
            "arousal": found.get(("arousal",), math.nan),
            "confidence": 0.0 if is_withheld else confidence,
        },
    )

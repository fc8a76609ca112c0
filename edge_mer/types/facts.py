"""What a place that predictions go to may want to know of the model that makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_mer.types.predictions import Prediction

ScalarPath = tuple[str, ...]
"""Where a number stands in a record, e.g. ("valence",), ("pain", "expected") or ("emotion", "joy")."""


@dataclass(frozen=True)
class ModelFacts:
    """What is known of the model before its first prediction.

    Attributes:
        name: E.g. "jmt-tiny".
        bundle_id: "sha256:…" of its bundle.
        precision: Of the candidate that runs.
        engine: What runs it.
        outputs: Some of "valence", "arousal", "pain" and "emotion".
        interval_s: Between two predictions.
        labels: "pain" -> its levels in rising order, "emotion" -> its classes.
    """

    name: str
    bundle_id: str
    precision: str
    engine: str
    outputs: tuple[str, ...]
    interval_s: float
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def from_hello(cls, hello: Mapping[str, Any]) -> ModelFacts:
        """What the process that infers says of its model on the local link.

        Args:
            hello: A message of kind "hello".

        Raises:
            KeyError: It says too little.
        """
        model = hello["model"]
        outputs = model["outputs"]
        return cls(
            name=model["name"],
            bundle_id=model["bundle_id"],
            precision=model["precision"],
            engine=model["engine"],
            outputs=tuple(one.get("name", one["kind"]) for one in outputs),
            interval_s=hello["interval_s"],
            labels={one["kind"]: tuple(one["labels"]) for one in outputs if "labels" in one},
        )

    @property
    def scalars(self) -> tuple[ScalarPath, ...]:
        """Every number that a prediction of it can hold, always in this order."""
        found: list[ScalarPath] = []
        for output in self.outputs:
            labels = self.labels.get(output, ())
            if output == "pain":
                found += [("pain", "expected"), *(("pain", "level_probs", label) for label in labels)]
            elif output == "emotion":
                found += [("emotion", label) for label in labels]
            else:
                found.append((output,))
        return tuple(found)


def scalars_of(prediction: Prediction) -> dict[ScalarPath, float]:
    """The numbers that a prediction holds; none when it is withheld."""
    found: dict[ScalarPath, float] = {}
    if prediction.status == "withheld":
        return found
    if prediction.affect is not None:
        for name in ("valence", "arousal"):
            value = getattr(prediction.affect, name)
            if value is not None:
                found[(name,)] = value
    if prediction.pain is not None:
        found["pain", "expected"] = prediction.pain.expected
        found.update({("pain", "level_probs", k): p for k, p in prediction.pain.level_probs.items()})
    found.update({("emotion", k): p for k, p in (prediction.emotion or {}).items()})
    return found

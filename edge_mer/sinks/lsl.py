"""`lsl:` sends predictions as streams of the Lab Streaming Layer.

lsl:name=edge-mer
lsl:name=Bed%205&source_id=bed5
"""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import Any

from edge_mer.errors import MissingError
from edge_mer.sinks.people import Departures
from edge_mer.types import uri_keys
from edge_mer.types.facts import ModelFacts, ScalarPath, scalars_of
from edge_mer.types.predictions import Prediction

EXAMPLE = "lsl:name=edge-mer"
STATUS_CODES = {"ok": 0, "degraded": 1, "withheld": 2}

TYPE = "Affect"
"""Of the stream of numbers, by which others find it."""

_KEYS = {"name": uri_keys.text(), "source_id": uri_keys.text()}
_MAX_BUFFERED_S = 10
_MS_PER_S = 1e3
_NS_PER_S = 1e9


class LslSink:
    """Two streams of irregular rate: numbers, and why they are what they are.

    The stream NAME of type "Affect" has one float32 channel per number that the model estimates, NaN where it
    gives none, then `status` (0 ok, 1 degraded, 2 withheld) and `person` (2 of "p2"; NaN where none is told
    apart). The stream "NAME reasons" of type "Markers" has one string per prediction: its status, and its
    reasons. Both are stamped, on LSL's clock, with the end of the step.

    Args:
        rest: The URI after `lsl:`: `name`, and `source_id`, by which readers find it again.

    Raises:
        UsageError: A wrong key.
    """

    def __init__(self, rest: str) -> None:
        values = uri_keys.read_query(f"lsl:{rest}", rest, _KEYS, EXAMPLE)
        self._name: str = values.get("name", "edge-mer")
        self._source_id: str = values.get("source_id", f"edge-mer {self._name} on {platform.node()}")
        self._model: ModelFacts | None = None
        self._pylsl: Any = None
        self._numbers: Any = None
        self._reasons: Any = None
        self._clock = _StepClock()
        self._departures = Departures()

    @property
    def target(self) -> Path | None:
        """None: it writes no file."""
        return None

    def introduce(self, model: ModelFacts) -> None:
        """Learn which channels there are; other ones make other streams."""
        is_new = model != self._model
        self._model = model
        self._clock = _StepClock()
        if is_new and self._pylsl is not None:
            self._make_outlets(model)

    def check(self) -> None:
        """Find its package.

        Raises:
            MissingError: pylsl or liblsl is not installed.
        """
        _pylsl()

    def open(self) -> None:
        """Offer the streams.

        Raises:
            MissingError: pylsl or liblsl is not installed.
        """
        self._pylsl = _pylsl()
        if self._model is None:
            raise RuntimeError("the sink was not introduced")
        self._make_outlets(self._model)

    def write(self, prediction: Prediction) -> None:
        """Send it to whoever listens; never waits."""
        if self._pylsl is None or self._model is None:
            raise RuntimeError("the sink is not open")
        for one in self._departures.before(prediction):
            self._push(one, self._pylsl, self._model)

    def close(self) -> None:
        """Take the streams away."""
        self._pylsl = self._numbers = self._reasons = None

    def abandon(self) -> None:
        """The same."""
        self.close()

    def _push(self, prediction: Prediction, lsl: Any, model: ModelFacts) -> None:
        found = scalars_of(prediction)
        stamp_s = self._clock.stamp_s(prediction, lsl.local_clock())
        sample = [found.get(path, math.nan) for path in model.scalars]
        sample += [STATUS_CODES[prediction.status], _number_of(prediction.person)]
        self._numbers.push_sample(sample, stamp_s)
        self._reasons.push_sample([" ".join((prediction.status, *prediction.reasons))], stamp_s)

    def _make_outlets(self, model: ModelFacts) -> None:
        lsl = self._pylsl
        self._numbers = self._reasons = None  # a source_id is offered once
        labels = [(".".join(path), _unit(path)) for path in model.scalars]
        labels += [("status", "0 ok, 1 degraded, 2 withheld"), ("person", "number")]
        info = lsl.StreamInfo(
            self._name, TYPE, len(labels), lsl.IRREGULAR_RATE, lsl.cf_float32, self._source_id
        )
        channels = info.desc().append_child("channels")
        for label, unit in labels:
            channel = channels.append_child("channel")
            channel.append_child_value("label", label)
            channel.append_child_value("unit", unit)
        _describe(info, model)
        self._numbers = lsl.StreamOutlet(info, max_buffered=_MAX_BUFFERED_S)
        reasons = lsl.StreamInfo(
            f"{self._name} reasons",
            "Markers",
            1,
            lsl.IRREGULAR_RATE,
            lsl.cf_string,
            f"{self._source_id} reasons",
        )
        _describe(reasons, model)
        self._reasons = lsl.StreamOutlet(reasons, max_buffered=_MAX_BUFFERED_S)


class _StepClock:
    """When steps ended by LSL's clock.

    A prediction says how long after its step it was made. What came soonest after that says when the session
    began; how long others waited on their way here does not move their stamps.
    """

    def __init__(self) -> None:
        self._zero_s = math.inf
        self._last_ns = 0

    def stamp_s(self, prediction: Prediction, now_s: float) -> float:
        """The end of its step.

        Args:
            prediction: Just now taken.
            now_s: What LSL's clock shows.
        """
        if prediction.t_end_ns < self._last_ns:  # another session
            self._zero_s = math.inf
        self._last_ns = prediction.t_end_ns
        t_end_s = prediction.t_end_ns / _NS_PER_S
        ended_s = now_s - prediction.latency_ms.end_to_end / _MS_PER_S
        self._zero_s = min(self._zero_s, ended_s - t_end_s)
        return self._zero_s + t_end_s


def _describe(info: Any, model: ModelFacts) -> None:
    desc = info.desc()
    desc.append_child_value("manufacturer", "edge-mer")
    desc.append_child_value("model", model.name)
    desc.append_child_value("bundle_id", model.bundle_id)
    desc.append_child_value("precision", model.precision)
    desc.append_child_value("engine", model.engine)
    desc.append_child_value("interval_s", f"{model.interval_s:g}")


def _unit(path: ScalarPath) -> str:
    if path == ("pain", "expected"):
        return "level"
    return "probability" if path[0] in ("pain", "emotion") else "-1 to 1"


def _number_of(person: str | None) -> float:
    digits = (person or "").removeprefix("p")
    return float(digits) if digits.isdecimal() else math.nan


def _pylsl() -> Any:
    try:
        import pylsl
    except (ImportError, RuntimeError) as error:  # the latter where liblsl is missing
        raise MissingError(
            "streams of the Lab Streaming Layer need pylsl",
            found=str(error).strip().splitlines()[0],
            hint="install it with: pip install 'edge-mer[daemon]'; on aarch64 liblsl itself too, see "
            "docs/how-to-sensors.md",
        ) from error
    return pylsl

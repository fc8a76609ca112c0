"""Sinks on networks, run by the gateway."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from edge_mer.errors import UsageError
from edge_mer.gateway.outlets import Outlets
from edge_mer.sinks import registry
from edge_mer.types.facts import ModelFacts
from edge_mer.types.predictions import Prediction
from tests.helpers.gateway import until
from tests.helpers.inference import HELLO
from tests.helpers.predictions import pain, record, withheld

RECORDS = [
    record(0, 0.25, -0.5),
    withheld(1, "warming_up"),
    record(2, affect={"valence": 0.1, "arousal": None, "interval": {"valence": [-0.1, 0.3]}}, person="p1"),
    record(3, affect=None, pain=pain(0.75, 0.25), emotion={"joy": 0.5, "fear": 0.5}, confidence=0.5),
]


class Heard:
    """A sink that keeps what it is given, and fails when it is told to."""

    predictions: list[Prediction] = []  # noqa: RUF012
    models: list[ModelFacts] = []  # noqa: RUF012
    is_closed = False

    def __init__(self, rest: str) -> None:
        if rest == "refused":
            raise UsageError("sink heard: refused")
        self._rest = rest

    @property
    def target(self) -> Path | None:
        return None

    def introduce(self, model: ModelFacts) -> None:
        Heard.models.append(model)

    def open(self) -> None:
        Heard.predictions, Heard.is_closed = [], False

    def write(self, prediction: Prediction) -> None:
        if self._rest == "broken":
            raise ZeroDivisionError
        Heard.predictions.append(prediction)

    def close(self) -> None:
        Heard.is_closed = True

    abandon = close


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("heard_sink")
    module.Heard = Heard  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "heard_sink", module)
    Heard.models = []
    monkeypatch.setitem(registry.SINKS, "heard", "heard_sink:Heard")


def test_every_record_comes_out_as_it_went_in() -> None:
    with Outlets(["heard:user:secret@host"]) as outlets:
        outlets.introduce(HELLO)
        for one in RECORDS:
            outlets.write(one)
        assert [sink["target"] for sink in outlets.health()] == ["heard:"]
    assert Heard.is_closed
    told = [prediction.to_dict() for prediction in Heard.predictions]
    assert [{key: one.get(key) for key in mine} for one, mine in zip(told, RECORDS, strict=True)] == [
        _with_keys_of(one, mine) for one, mine in zip(told, RECORDS, strict=True)
    ]


def _with_keys_of(told: dict[str, object], mine: dict[str, object]) -> dict[str, object]:
    """A record with what its maker left out and `to_dict` says."""
    modalities = {name: {"source": None, "quality": None, **one} for name, one in mine["modalities"].items()}  # type: ignore[attr-defined]
    filled = {**mine, "modalities": modalities, "sync": {"warming_up": False, **mine["sync"]}}  # type: ignore[dict-item]
    if affect := filled["affect"]:
        interval = affect["interval"]  # type: ignore[index]
        bounds = {name: tuple(pair) for name, pair in interval.items()} if interval else None
        filled["affect"] = {**affect, "interval": bounds}  # type: ignore[dict-item]
    return filled


def test_a_bug_of_one_sink_is_told_and_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    with Outlets(["heard:broken", "heard:fine"]) as outlets:
        outlets.introduce(HELLO)
        for one in RECORDS * 50:
            outlets.write(one)
            if outlets.health()[0]["trouble"]:
                break
        until(lambda: outlets.write(RECORDS[0]) or "ZeroDivisionError" in outlets.health()[0]["trouble"])
        assert outlets.health()[1]["trouble"] == ""
    assert Heard.predictions
    assert caplog.records


def test_a_sink_that_refuses_its_settings_is_told_at_once() -> None:
    with pytest.raises(UsageError, match="refused"):
        Outlets(["heard:fine", "heard:refused"])


def test_what_comes_before_the_model_is_known_is_counted_and_lost() -> None:
    with Outlets(["heard:fine"]) as outlets:
        outlets.write(RECORDS[0])
        until(lambda: outlets.health()[0]["n_dropped"] == 1)
        assert outlets.health()[0]["trouble"] == "no model is known yet"
        outlets.introduce(HELLO)
        outlets.write(RECORDS[1])
        outlets.introduce(HELLO)  # after a reconnection
        outlets.write(RECORDS[2])
        until(lambda: outlets.health()[0]["trouble"] == "")
    assert [prediction.window_index for prediction in Heard.predictions] == [1, 2]
    assert Heard.models == [ModelFacts.from_hello(HELLO)]

"""What the daemon says of its model is what sinks learn of it."""

from __future__ import annotations

from pathlib import Path

from edge_mer.daemon.health import told_of_model
from edge_mer.runtime.opening import facts_of, open_all
from edge_mer.types.facts import ModelFacts
from tests.helpers.sent import PAIN, VOICES


def test_sinks_behind_the_link_learn_what_those_before_it_learn(shared_bundle: Path) -> None:
    opened = open_all(shared_bundle, ["sim:duration_s=1"])
    setup = opened.setup
    try:
        facts = facts_of(setup)
        model = told_of_model(opened.bundle, setup.precision, setup.engine_name, setup.hop_steps)
    finally:
        setup.close()
    assert ModelFacts.from_hello({"kind": "hello", "model": model, "interval_s": model["hop_s"]}) == facts
    assert facts.outputs == ("valence", "arousal")


def test_levels_and_classes_come_along() -> None:
    for facts, output in (
        (PAIN, {"kind": "pain", "scale": "sim-0-2", "labels": ["none", "some", "much"]}),
        (VOICES, {"kind": "emotion", "labels": ["anger", "neutral"]}),
    ):
        model = {key: getattr(facts, key) for key in ("name", "bundle_id", "precision", "engine")}
        hello = {"kind": "hello", "model": {**model, "outputs": [output]}, "interval_s": 0.25}
        assert ModelFacts.from_hello(hello) == facts

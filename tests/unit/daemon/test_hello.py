"""What the daemon says of its model is what sinks learn of it."""

from __future__ import annotations

from pathlib import Path

from edge_mer.clock import NS_PER_S
from edge_mer.daemon.health import MAX_REPORTED, Reported, told_of_model
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


def test_what_the_gateway_reports_is_bounded_and_believed_for_a_while() -> None:
    long = {"target": "mqtt://" + "x" * 9999, "n_dropped": "many", "trouble": None, "secret": 1}
    told = Reported.of({"sinks": [long, "no sink", *[{}] * 99]}, now_ns=0).sinks(NS_PER_S)
    assert len(told) == MAX_REPORTED
    assert (len(told[0]["target"]), told[0]["n_dropped"], "secret" in told[0]) == (500, 0, False)
    assert Reported.of({"sinks": [{"target": "lsl:"}]}, now_ns=0).sinks(60 * NS_PER_S) == []
    assert Reported.of({"sinks": 3}, now_ns=0).sinks(0) == []


def test_levels_and_classes_come_along() -> None:
    for facts, output in (
        (PAIN, {"kind": "pain", "scale": "sim-0-2", "labels": ["none", "some", "much"]}),
        (VOICES, {"kind": "emotion", "labels": ["anger", "neutral"]}),
    ):
        model = {key: getattr(facts, key) for key in ("name", "bundle_id", "precision", "engine")}
        hello = {"kind": "hello", "model": {**model, "outputs": [output]}, "interval_s": 0.25}
        assert ModelFacts.from_hello(hello) == facts

"""A monitor at a bed: predictions for a hospital's systems, and alarms that stay until acknowledged.

python examples/bedside.py demo/bundle
python examples/bedside.py demo/bundle --acknowledge ward-3

edge-mer is no medical device: such alarms may call somebody to look, and nothing may rely on their coming.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import edge_mer

SIMULATED = "sim:seed=3&person=3&duration_s=4"
"""Somebody who is excited all the time."""

ALARMS = Path("alarms.json")

CANNOT_SEE = edge_mer.AlarmRule(name="cannot-see", no_estimate_for_s=10)


def rules_for(bundle: edge_mer.Bundle) -> list[edge_mer.AlarmRule]:
    """Pain where the model estimates it, else excitement; and an alarm that says when nobody could tell."""
    if "pain" in bundle.outputs:
        high = edge_mer.AlarmRule(
            name="high-pain", output="pain.expected", above=0.7, clear_below=0.5, for_s=5, quiet_s=60
        )
    else:
        high = edge_mer.AlarmRule(
            name="high-arousal", output="affect.arousal", above=0.5, clear_below=0.3, for_s=1, quiet_s=60
        )
    return [high, CANNOT_SEE]


def tell(event: edge_mer.AlarmEvent) -> None:
    """Where your pager would ring."""
    print(f"{event.kind}: {event.alarm.text}", flush=True)


def main() -> None:
    """Watch until the sources end; what stands is known again at the next start."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--source", action="append")
    parser.add_argument("--fhir", default="fhir:observations.ndjson", help="where Observations go")
    parser.add_argument("--acknowledge", metavar="WHO", help="acknowledge every alarm that still stands")
    asked = parser.parse_args()

    bundle = edge_mer.load_bundle(asked.bundle)
    board = edge_mer.AlarmBoard.load(ALARMS, rules_for(bundle), model=bundle.manifest.model)
    for alarm in board.active():
        print(f"still standing: {alarm.text}")
        if asked.acknowledge and alarm.acknowledged_by is None:
            tell(board.acknowledge(alarm.id, asked.acknowledge))
    board.save(ALARMS)

    def watch(prediction: edge_mer.Prediction) -> None:
        events = board.update(prediction)
        if any(not event.is_of_sight for event in events):
            board.save(ALARMS)  # before anybody is told
        for event in events:
            tell(event)

    sources = asked.source or [SIMULATED]
    with edge_mer.open_session(bundle, sources=sources, sinks=[asked.fhir], on_prediction=watch) as session:
        session.wait()


if __name__ == "__main__":
    try:
        main()
    except edge_mer.EdgeMerError as error:
        raise SystemExit(str(error)) from None

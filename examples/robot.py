"""A robot that slows down when the person before it gets excited, and is careful where nobody can tell.

python examples/robot.py demo/bundle
python examples/robot.py demo/bundle --source camera:0 --source mic:default
"""

from __future__ import annotations

import argparse
import time

import edge_mer

SIMULATED = "sim:streams=visual&seed=6&person=6&occlusion=0.6&duration_s=3"
"""Somebody before a camera who gets excited, and whose hands are before the face now and then."""

FULL_SPEED_M_S, SAFE_SPEED_M_S = 1.0, 0.2
VALID_MS = 1000
TICK_S = 0.05


def speed_m_s(prediction: edge_mer.Prediction | None) -> float:
    """Full speed beside calm people, less beside excited ones, and what is safe where nobody knows."""
    if prediction is None or prediction.affect is None or prediction.affect.arousal is None:
        return SAFE_SPEED_M_S  # too old, withheld, or not estimated
    calm = (1 - prediction.affect.arousal) / 2
    return SAFE_SPEED_M_S + calm * (FULL_SPEED_M_S - SAFE_SPEED_M_S)


def why(prediction: edge_mer.Prediction | None) -> str:
    """What the speed comes from, for a log."""
    if prediction is None:
        return "nothing valid"
    arousal = prediction.affect and prediction.affect.arousal
    return ", ".join(prediction.reasons) if arousal is None else f"arousal {arousal:+.2f}"


def drive(speed: float, because: str) -> None:
    """Where your robot's wheels would be told."""
    print(f"{speed:.2f} m/s  {because}", flush=True)


def main() -> None:
    """Steer by the newest prediction, until the sources end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--source", action="append")
    asked = parser.parse_args()
    last = None
    with edge_mer.open_session(asked.bundle, sources=asked.source or [SIMULATED]) as session:
        while session.is_running:
            newest = session.latest(max_age_ms=VALID_MS)
            if newest != last:
                drive(speed_m_s(newest), why(newest))
                last = newest
            time.sleep(TICK_S)
    drive(0.0, "the sources have ended")


if __name__ == "__main__":
    try:
        main()
    except edge_mer.EdgeMerError as error:
        raise SystemExit(str(error)) from None

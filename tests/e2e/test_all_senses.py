"""Every kind of live sensor in one run, each a real component, three of which are killed and come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import edge_mer
from edge_mer.clock import NS_PER_S
from edge_mer.types.predictions import Prediction
from tests.helpers.senses_world import SensesWorld
from tests.helpers.system_packages import needs, needs_rtsp

pytestmark = pytest.mark.live

DURATION_S = 60
OUTAGES_S = {"audio": (12, 14), "visual": (26, 28), "eda": (40, 42)}
"""Modality -> when its sensor is killed, and when it is started again."""

BACK_S = 5


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SensesWorld]:
    for package in ("pyaudio", "brainflow", "pylsl", "serial"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'edge-mer[mic,bio]'")
    found = SensesWorld(tmp_path)
    for name, value in found.sound.environment.items():
        monkeypatch.setenv(name, value)
    try:
        found.start()
        yield found
    finally:
        found.end()


@needs("pulseaudio")
@needs("socat")
@needs_rtsp()
def test_all_together_with_predictions_throughout(world: SensesWorld, shared_bundle: Path) -> None:
    predictions: list[Prediction] = []
    with edge_mer.open_session(
        shared_bundle, sources=world.sources, on_prediction=predictions.append
    ) as session:
        begin_s, start_s = time.monotonic(), (session.report.start_ns or 0) / NS_PER_S
        plan = sorted((at, act, name) for name, times in OUTAGES_S.items() for act, at in enumerate(times))
        for at_s, is_back, name in [*plan, (DURATION_S, 0, "")]:
            threading.Event().wait(max(0.0, begin_s + at_s - time.monotonic()))
            if name:
                (world.turn_on if is_back else world.turn_off)(name)
        health = {source.uri.partition(":")[0]: source for source in session.report.sources()}

    hop_s = (predictions[-1].t_end_ns - predictions[0].t_end_ns) / NS_PER_S / (len(predictions) - 1)
    steps = [p.window_index for p in predictions]
    assert steps == sorted(set(steps))
    assert len(steps) > 0.97 * (steps[-1] + 1)  # a busy machine may leave some out
    assert predictions[-1].t_end_ns / NS_PER_S > DURATION_S - 3 * max(hop_s, 1)

    for modality in ("visual", "audio"):
        gone_s, on_s = (at_s + (begin_s - start_s) for at_s in OUTAGES_S[modality])
        seen = {p.t_end_ns / NS_PER_S: p.modalities[modality] for p in predictions}
        out = [one for t, one in seen.items() if gone_s + 2 * hop_s < t < on_s]
        assert out
        assert not any(one.present for one in out)  # told in the hop in which it went, left out in the next
        assert {one.source for one in out} <= {"stalled", "restarting"}
        well = [one for t, one in seen.items() if 5 < t < gone_s - hop_s or t > on_s + BACK_S + hop_s]
        n_ill = sum(not one.present or one.source != "ok" for one in well)
        assert n_ill < 0.03 * len(well)  # but for what a busy machine left out
    ok = [p for p in predictions if p.status == "ok"]
    assert len(ok) > 0.6 * len(predictions)
    assert all(source.states and set(source.states.values()) == {"ok"} for source in health.values())
    restarts = {name: source.n_restarts for name, source in health.items()}
    assert restarts["brainflow"] == restarts["lsl"] == 0
    assert min(restarts[name] for name in ("rtsp", "mic", "serial")) >= 1

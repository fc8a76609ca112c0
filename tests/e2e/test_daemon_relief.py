"""A device that becomes too hot: the daemon spares it step by step, says so, and takes all of it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_mer.bundle.read import open_bundle
from tests.helpers.daemon import are_whole, running, write_config

pytestmark = pytest.mark.live

RELIEF = '[relief]\nhottest_c = 80\nafter_s = 1\ncalm_s = 1\nthermal_dir = "thermal"\n'


def heat(folder: Path, celsius: float) -> None:
    """What the kernel would show."""
    zone = folder / "thermal" / "thermal_zone0"
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "type").write_text("cpu-thermal\n")
    fresh = zone / "fresh"
    fresh.write_text(f"{round(1000 * celsius)}\n")
    fresh.replace(zone / "temp")


def test_heat_takes_all_steps_and_cool_takes_them_back(shared_bundle: Path, tmp_path: Path) -> None:
    heat(tmp_path, 50)
    bundle = open_bundle(shared_bundle)
    with running(write_config(tmp_path, shared_bundle, RELIEF)) as (daemon, listener):
        listener.wait_for(lambda: listener.records and listener.records[-1]["status"] == "ok")

        heat(tmp_path, 85)
        listener.wait_for(lambda: listener.healths[-1]["relief"]["level"] == 3)
        relief = listener.healths[-1]["relief"]
        assert relief["why"] == "85 degrees Celsius, at most 80 are wanted"
        assert listener.healths[-1]["temperature_c"] == {"cpu-thermal": 85.0}
        spared = {"hop_lengthened", "cheaper_candidate", "visual_spared", "visual_missing"}
        listener.wait_for(lambda: set(listener.records[-1]["reasons"]) == spared)
        assert listener.records[-1]["status"] == "degraded"
        assert not listener.records[-1]["modalities"]["visual"]["present"]
        begin = len(listener.records)
        listener.wait_for_more(4)
        assert are_whole(listener.records[begin:], 2 * bundle.hop_s)
        assert listener.hellos[-1]["model"]["precision"] == "int8-cpu"

        heat(tmp_path, 60)
        listener.wait_for(lambda: listener.healths[-1]["relief"]["level"] == 0)
        listener.wait_for(lambda: listener.hellos[-1]["model"]["precision"] == "fp32")
        listener.wait_for(lambda: listener.records[-1]["reasons"] == [])
        begin = len(listener.records)
        listener.wait_for_more(4)
        assert are_whole(listener.records[begin:], bundle.hop_s)
        assert {one["status"] for one in listener.records[begin:]} == {"ok"}
        assert listener.healths[-1]["n_dropped_steps"] == 0
        assert daemon.stop() < 2

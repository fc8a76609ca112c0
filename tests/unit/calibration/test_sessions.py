"""Whose labels are known: a simulated person feels some things, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mer.labels.manifest import Recording
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer_calibration.sessions import play
from edge_mer_export.engines import zero_engines
from edge_mer_export.models.zoo import build

pytestmark = pytest.mark.workbench

BODY = "sim:seed=1&person=1&duration_s=32&streams=eda+ppg+skt&eda_hz=4&ppg_hz=64&skt_hz=4"


def test_a_model_of_what_nobody_simulates_is_played_without_labels() -> None:
    spec = build("stress-e4").spec
    recording = Recording(name="one", person="one", sources=(BODY,), labels=None)
    played = play(PipelineSetup(spec, zero_engines(spec), None), recording)
    assert len(played.traces) == 3
    assert np.isnan(played.labels["emotion"]).all()

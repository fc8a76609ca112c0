"""What every sink must do, run over all registered ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_mer.sinks.registry import SINKS, open_sink
from edge_mer.types.predictions import Affect, Latency, ModalityStatus, Prediction, SyncQuality

PREDICTION = Prediction(
    window_index=3,
    t_start_ns=0,
    t_end_ns=1,
    utc="2026-01-01T00:00:00+00:00",
    utc_synchronised=True,
    status="ok",
    reasons=(),
    affect=Affect(0.1, -0.2),
    modalities={"visual": ModalityStatus(True, 1.0, 33.3)},
    sync=SyncQuality(0.0, 0.0),
    latency_ms=Latency(None, None, 1.0, 2.0, 0.1, 3.1),
    engine="onnxruntime-cpu",
    precision="fp32",
    bundle_id="sha256:0",
)


@pytest.fixture(params=sorted(SINKS))
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for each sink."""
    places = {"jsonl": f"jsonl:{tmp_path / 'out.jsonl'}"}
    return places[request.param]


def test_it_opens_writes_and_closes(uri: str) -> None:
    sink = open_sink(uri)
    sink.open()
    sink.write(PREDICTION)
    sink.close()
    sink.close()


def test_abandoning_leaves_nothing(uri: str, tmp_path: Path) -> None:
    sink = open_sink(uri)
    sink.open()
    sink.write(PREDICTION)
    sink.abandon()
    sink.abandon()
    assert list(tmp_path.iterdir()) == []

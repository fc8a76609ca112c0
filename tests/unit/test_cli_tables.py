"""Tables of the command line keep their figures, however narrow the terminal is."""

from __future__ import annotations

import pytest
from rich.console import Console

from edge_mer.cli import common

LONG = "fp32, OpenVINO, 2 threads; audio: ONNX Runtime, 1 thread, graph all; fusion: ONNX Runtime, 1 thread"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_long_name_leaves_room_for_figures(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(common, "out", Console(width=width))
    console = Console(width=width, record=True)
    console.print(common.table(["candidate", "ms per prediction", "verdict"], [[LONG, "0.7134", "passed"]]))
    text = console.export_text()
    assert "0.7134" in text
    assert "passed" in text


def test_a_short_name_stays_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "out", Console(width=60))
    console = Console(width=60, record=True)
    console.print(common.table(["part", *"abcdefgh"], [["face detector", *(["123.4567"] * 8)]]))
    assert "face detector" in console.export_text()

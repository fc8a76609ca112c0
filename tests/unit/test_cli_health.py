"""What the terminal is told of live sources."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge_mer.cli.health import tell_unwritten, with_health_told
from edge_mer.runtime.arrival_watch import StreamState
from edge_mer.runtime.session import SessionHooks, SessionReport
from edge_mer.runtime.supervisor import SourceHealth
from edge_mer.sinks.sink_thread import SinkHealth
from edge_mer.types.health import ServerHealth
from tests.helpers.live_faults import Scene


def test_each_change_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    states: list[tuple[StreamState, str]] = [
        ("starting", ""),
        ("ok", ""),
        ("stalled", ""),
        ("restarting", "cam: the connection is gone."),
        ("restarting", "cam: the connection is gone."),
        ("ok", "cam: the connection is gone."),
        ("ok", "cam: the connection is gone."),
    ]
    report, counted = SessionReport(), []
    hooks = with_health_told(SessionHooks(on_prediction=counted.append), report)
    prediction = Scene(n_hops=1).play().predictions[0]
    for state, trouble in states:
        health = SourceHealth("rtsp://cam", {"cam/visual": state}, 0, 0, trouble)
        report.sources = lambda health=health: [health]  # type: ignore[misc]
        hooks.on_prediction(prediction)
    assert capsys.readouterr().err.splitlines() == [
        "cam/visual gives nothing any more.",
        "cam/visual is being opened again (cam: the connection is gone).",
        "cam/visual is back.",
    ]
    assert counted == [prediction] * len(states)


def test_an_inference_server_that_goes_and_comes_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    ok = ServerHealth("triton://box/jmt", "ok", fallback="onnxruntime-cpu in fp32")
    away = replace(ok, state="away", why="box did not answer within 100 ms.")
    refused = replace(ok, state="refused", why="other numbers.", fallback="")
    report = SessionReport()
    hooks = with_health_told(SessionHooks(), report)
    prediction = Scene(n_hops=1).play().predictions[0]
    for state in (ok, away, away, refused, ok, ok):
        report.server = lambda state=state: state  # type: ignore[misc]
        hooks.on_prediction(prediction)
    assert capsys.readouterr().err.splitlines() == [
        "triton://box/jmt is away, so onnxruntime-cpu in fp32 runs in its place: "
        "box did not answer within 100 ms.",
        "triton://box/jmt is refused, so predictions are withheld: other numbers.",
        "triton://box/jmt runs the stages again.",
    ]


def test_a_sink_that_lacks_predictions_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    states = [(0, ""), (2, ""), (5, ""), (6, "cannot go on writing. Found: No space left on device.")]
    report = SessionReport()
    hooks = with_health_told(SessionHooks(), report)
    prediction = Scene(n_hops=1).play().predictions[0]
    for n_dropped, trouble in states:
        health = [SinkHealth(Path("out.jsonl"), n_dropped, trouble), SinkHealth(None, 0, "")]
        report.sinks = lambda health=health: health  # type: ignore[misc]
        hooks.on_prediction(prediction)
        hooks.on_prediction(prediction)
    tell_unwritten(report)
    assert capsys.readouterr().err.splitlines() == [
        "out.jsonl is too slow: predictions are left out.",
        "out.jsonl gets nothing more: cannot go on writing. Found: No space left on device.",
        "out.jsonl lacks 6 predictions.",
    ]


def test_another_end_that_goes_away_and_comes_back_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    report = SessionReport()
    hooks = with_health_told(SessionHooks(), report)
    prediction = Scene(n_hops=1).play().predictions[0]
    for n_lost, away in [(0, ""), (1, "it hung up"), (4, "it hung up"), (4, ""), (4, "")]:
        health = SinkHealth(None, n_lost, "", "mqtt://broker/bed5", away)
        report.sinks = lambda health=health: [health]  # type: ignore[misc]
        hooks.on_prediction(prediction)
    tell_unwritten(report)
    assert capsys.readouterr().err.splitlines() == [
        "mqtt://broker/bed5 cannot be reached: it hung up. Predictions are left out.",
        "mqtt://broker/bed5 is reached again.",
        "mqtt://broker/bed5 lacks 4 predictions.",
    ]

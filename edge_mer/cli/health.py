"""Says on the terminal what changes in how live sources and sinks are."""

from __future__ import annotations

from dataclasses import replace

from edge_mer.cli.common import err
from edge_mer.runtime.session import SessionHooks, SessionReport
from edge_mer.sinks.sink_thread import SinkHealth
from edge_mer.types.health import ServerHealth
from edge_mer.types.predictions import Prediction

_WORDS = {
    "ok": "is back",
    "stalled": "gives nothing any more",
    "wrong_rate": "gives another rate than it said",
    "restarting": "is being opened again",
}


_AWAY = "cannot be reached"


def with_health_told(hooks: SessionHooks, report: SessionReport) -> SessionHooks:
    """The same hooks; with each prediction it is told what changed in how sources and sinks are."""
    told: dict[str, str] = {}

    def on_prediction(prediction: Prediction) -> None:
        if (server := report.server()) is not None:
            state = _state_of_server(server)
            if state != told.get("server", ""):
                err.print(f"{server.name} {state or 'runs the stages again.'}", markup=False)
            told["server"] = state
        for sink in report.sinks():
            name = name_of(sink)
            state = _state_of(sink)
            was_away = told.get(name, "").startswith(_AWAY)
            if state == "" and was_away and not sink.away:
                state = "is reached again."
            if state and state != told.get(name):
                err.print(f"{name} {state}", markup=False)
                told[name] = state
        for source in report.sources():
            for stream, state in source.states.items():
                if state in _WORDS and state != told.get(stream, "ok"):
                    why = f" ({source.trouble.rstrip('.')})" if source.trouble and state != "ok" else ""
                    err.print(f"{stream} {_WORDS[state]}{why}.", markup=False)
                    told[stream] = state
        hooks.on_prediction(prediction)

    return replace(hooks, on_prediction=on_prediction)


def name_of(sink: SinkHealth) -> str:
    """What a sink is called."""
    return sink.name or ("standard output" if sink.target is None else str(sink.target))


def _state_of(sink: SinkHealth) -> str:
    """What is wrong with it; "" if nothing is."""
    if sink.trouble:
        return f"gets nothing more: {sink.trouble}"
    if sink.name:
        return f"{_AWAY}: {sink.away}. Predictions are left out." if sink.away else ""
    return "is too slow: predictions are left out." if sink.n_dropped else ""


def _state_of_server(server: ServerHealth) -> str:
    """Why it is not used, and what is done about it; "" while it is."""
    if server.state == "ok":
        return ""
    place = f"{server.fallback} runs in its place" if server.fallback else "predictions are withheld"
    return f"is {server.state}, so {place}: {server.why}"


def tell_unwritten(report: SessionReport) -> None:
    """One line per sink that lacks predictions."""
    for sink in report.sinks():
        if sink.n_dropped:
            err.print(f"{name_of(sink)} lacks {sink.n_dropped} predictions.", markup=False)

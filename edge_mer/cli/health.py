"""Says on the terminal what changes in how live sources are."""

from __future__ import annotations

from dataclasses import replace

from edge_mer.cli.common import err
from edge_mer.runtime.session import SessionHooks, SessionReport
from edge_mer.types.predictions import Prediction

_WORDS = {
    "ok": "is back",
    "stalled": "gives nothing any more",
    "wrong_rate": "gives another rate than it said",
    "restarting": "is being opened again",
}


def with_health_told(hooks: SessionHooks, report: SessionReport) -> SessionHooks:
    """The same hooks; with each prediction it is looked at how live sources are, and told what changed."""
    told: dict[str, str] = {}

    def on_prediction(prediction: Prediction) -> None:
        for source in report.sources():
            for stream, state in source.states.items():
                if state in _WORDS and state != told.get(stream, "ok"):
                    why = f" ({source.trouble.rstrip('.')})" if source.trouble and state != "ok" else ""
                    err.print(f"{stream} {_WORDS[state]}{why}.", markup=False)
                    told[stream] = state
        hooks.on_prediction(prediction)

    return replace(hooks, on_prediction=on_prediction)

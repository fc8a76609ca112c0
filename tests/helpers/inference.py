"""What stands at the other end of the link: a real server of the link that says what a test has it say."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_mer.config import LINK_NAME
from edge_mer.errors import BundleError
from edge_mer.link.messages import Ask, Message
from edge_mer.link.server import LinkServer
from tests.helpers.predictions import BUNDLE, record

INTERVAL_S = 0.25

HELLO: Message = {
    "kind": "hello",
    "protocol": 1,
    "edge_mer": "0.1.0",
    "pid": 1,
    "instance": "5eed",
    "model": {
        "name": "jmt-tiny",
        "bundle_id": BUNDLE,
        "precision": "fp32",
        "engine": "onnxruntime-cpu",
        "modalities": ["visual", "audio"],
        "outputs": [
            {"kind": "affect", "name": "valence", "low": -1.0, "high": 1.0},
            {"kind": "affect", "name": "arousal", "low": -1.0, "high": 1.0},
        ],
        "hop_s": 0.25,
        "step_s": 0.25,
        "window_s": 2.0,
        "latency_s": 0.0,
    },
    "interval_s": INTERVAL_S,
}

ALARM: dict[str, Any] = {
    "id": "high-pain-1",
    "name": "high-pain",
    "state": "active",
    "since_utc": "2026-11-21T08:00:00+00:00",
    "value": 0.8,
    "threshold": 0.7,
    "person": None,
    "text": "pain above 0.7 for 5 s",
}


SERVER = {
    "name": "triton://gpu-box:8001/jmt",
    "state": "away",
    "why": "gpu-box:8001 did not answer within 100 ms.",
    "fallback": "onnxruntime-cpu in fp32",
    "n_lost": 2,
    "n_stood_in": 31,
}


def health(**changes: Any) -> dict[str, Any]:
    """As the daemon says it once a second."""
    return {
        "state": "serving",
        "uptime_s": 12.5,
        "n_predictions": 10,
        "n_by_status": {"ok": 7, "degraded": 2, "withheld": 1},
        "n_by_reason": {"warming_up": 1, "audio_missing": 2},
        "latency_ms": {"end_to_end": {"p50": 20.0, "p95": 35.0}, "infer": {"p50": 6.0, "p95": 8.0}},
        "n_dropped_steps": 3,
        "n_late": 1,
        "n_gaps": 2,
        "sources": [
            {
                "uri": "rtsp://user:secret@camera/1",
                "streams": {
                    "camera/visual": {
                        "modality": "visual",
                        "state": "ok",
                        "measured_hz": 29.9,
                        "nominal_hz": 30.0,
                    }
                },
                "n_restarts": 4,
                "trouble": "",
            }
        ],
        "sinks": [{"target": "out.jsonl", "n_dropped": 0, "trouble": ""}],
        "temperature_c": {"cpu-thermal": 51.0},
        "power_w": None,
        "rss_bytes": 123_456,
        "recording": None,
        "raw_media": False,
        "swap": {"state": "none", "bundle_id": None, "why": ""},
        "bundle_id": BUNDLE,
        "can_go_back": False,
        "relief": {"level": 0, "why": ""},
        "server": None,
        **changes,
    }


class Inference:
    """The daemon's other process, as the gateway sees it.

    Args:
        run_dir: Where its socket is.

    Attributes:
        asks: What it was asked for, in order, with what came along.
    """

    def __init__(self, run_dir: Path) -> None:
        self.asks: list[tuple[Ask, bytes | None]] = []
        self._server = LinkServer(run_dir / LINK_NAME, self._carry_out)
        self._server.start()
        self.n_records = 0
        self._is_over = False
        self._server.publish(HELLO)
        self._server.publish({"kind": "health", "health": health()})
        self.alarm(ALARM)

    def predict(self, n: int = 1, **changes: Any) -> None:
        """Give the next records."""
        for _ in range(n):
            made = record(self.n_records, 0.5, 0.25, **changes)
            self._server.publish({"kind": "prediction", "record": made})
            self.n_records += 1

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Give records at the model's pace meanwhile."""
        is_over = threading.Event()

        def go_on() -> None:
            while not is_over.wait(INTERVAL_S):
                self.predict()

        thread = threading.Thread(target=go_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def alarm(self, *alarms: dict[str, Any]) -> None:
        """These are all that there are now."""
        self._server.publish({"kind": "alarms", "alarms": list(alarms)})

    def tell(self, told: dict[str, Any]) -> None:
        """Say how it is."""
        self._server.publish({"kind": "health", "health": told})

    def stop(self) -> None:
        """Hang up; harmless when it did already."""
        if not self._is_over:
            self._is_over = True
            self._server.close()

    def _carry_out(self, ask: Ask, fd: int | None) -> Message:
        brought = None
        if fd is not None:
            with os.fdopen(fd, "rb") as file:
                brought = file.read()
        self.asks.append((ask, brought))
        does: dict[str, Callable[[], Message]] = {
            "swap": lambda: _checked(brought or b""),
            "rollback": lambda: {"bundle_id": BUNDLE},
            "acknowledge": lambda: {**ALARM, "state": "acknowledged"},
            "audit": dict,
        }
        return does[ask.what]()


def _checked(bundle: bytes) -> Message:
    if b"manifest.json" not in bundle[:512]:
        raise BundleError("this is no bundle", expected="a .tar with a manifest.json", found="something else")
    return {"state": "checking", "bundle_id": None}

"""edge-mer: fusion models of emotion and pain on small devices, with numbers that keep their meaning.

    with edge_mer.open_session("bundle", sources=["file:clip.mp4"]) as session:
        for prediction in session:
            print(prediction.status, prediction.affect)

What is listed here is the public Python API; it is loaded when it is first asked for.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_mer.alarms.board import AlarmBoard
    from edge_mer.api import load_bundle, open_model, open_session, open_session_async
    from edge_mer.bundle.manifest import Manifest
    from edge_mer.bundle.read import Bundle
    from edge_mer.clock import Clock, ManualClock, MonotonicClock
    from edge_mer.errors import (
        AwayError,
        BundleError,
        DataError,
        EdgeMerError,
        LostError,
        MissingError,
        ParityError,
        SpecMismatchError,
        UsageError,
    )
    from edge_mer.runtime.async_session import AsyncSession
    from edge_mer.runtime.live_session import Session
    from edge_mer.runtime.pipeline import Counters
    from edge_mer.runtime.session import SessionReport
    from edge_mer.runtime.shared_model import SharedModel
    from edge_mer.sinks.base import Sink
    from edge_mer.sources.base import Source
    from edge_mer.types.alarms import Alarm, AlarmEvent, AlarmRule
    from edge_mer.types.predictions import Affect, Latency, ModalityStatus, Pain, Prediction, SyncQuality
    from edge_mer.types.signals import Chunk, StreamSpec

# Told before it is loaded: else ONNX Runtime keeps events about this process and sends them to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Affect",
    "Alarm",
    "AlarmBoard",
    "AlarmEvent",
    "AlarmRule",
    "AsyncSession",
    "AwayError",
    "Bundle",
    "BundleError",
    "Chunk",
    "Clock",
    "Counters",
    "DataError",
    "EdgeMerError",
    "Latency",
    "LostError",
    "Manifest",
    "ManualClock",
    "MissingError",
    "ModalityStatus",
    "MonotonicClock",
    "Pain",
    "ParityError",
    "Prediction",
    "Session",
    "SessionReport",
    "SharedModel",
    "Sink",
    "Source",
    "SpecMismatchError",
    "StreamSpec",
    "SyncQuality",
    "UsageError",
    "__version__",
    "load_bundle",
    "open_model",
    "open_session",
    "open_session_async",
]

__version__ = "0.1.0"

_HOMES = {
    "alarms.board": ("AlarmBoard",),
    "api": ("load_bundle", "open_model", "open_session", "open_session_async"),
    "bundle.manifest": ("Manifest",),
    "bundle.read": ("Bundle",),
    "clock": ("Clock", "ManualClock", "MonotonicClock"),
    "errors": (
        "AwayError",
        "BundleError",
        "DataError",
        "EdgeMerError",
        "LostError",
        "MissingError",
        "ParityError",
        "SpecMismatchError",
        "UsageError",
    ),
    "runtime.async_session": ("AsyncSession",),
    "runtime.live_session": ("Session",),
    "runtime.pipeline": ("Counters",),
    "runtime.session": ("SessionReport",),
    "runtime.shared_model": ("SharedModel",),
    "sinks.base": ("Sink",),
    "sources.base": ("Source",),
    "types.alarms": ("Alarm", "AlarmEvent", "AlarmRule"),
    "types.predictions": ("Affect", "Latency", "ModalityStatus", "Pain", "Prediction", "SyncQuality"),
    "types.signals": ("Chunk", "StreamSpec"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    # `import edge_mer` must not load NumPy, OpenCV or an engine: `edge-mer --help` answers in a blink.
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'edge_mer' has no attribute {name!r}")
    found = getattr(import_module(f"edge_mer.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

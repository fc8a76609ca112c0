"""How the daemon is, as it tells everybody once a second."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import quantiles
from typing import Any

from edge_mer.bundle.read import Bundle
from edge_mer.clock import NS_PER_S
from edge_mer.runtime.live_session import Session
from edge_mer.runtime.pipeline_setup import PipelineSetup
from edge_mer.types.model import AffectOutput, EmotionOutput, ModelSpec, PainOutput
from edge_mer.types.predictions import Latency, Prediction

N_LATENCIES = 256
MAX_REPORTED, _MAX_TEXT = 64, 500
REPORTED_NS = 10 * NS_PER_S
_HWMON = Path("/sys/class/hwmon")


class Latencies:
    """Where the time of the last predictions went."""

    def __init__(self) -> None:
        self._last: deque[Latency] = deque(maxlen=N_LATENCIES)

    def take(self, prediction: Prediction) -> None:
        """Note one."""
        self._last.append(prediction.latency_ms)

    def summary(self) -> dict[str, dict[str, float]]:
        """Stage -> median and 95th percentile in milliseconds, of stages that took any time."""
        last = tuple(self._last)
        stages = {field.name: [getattr(one, field.name) for one in last] for field in fields(Latency)}
        return {name: _p50_and_p95(found) for name, all_ms in stages.items() if (found := _known(all_ms))}


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _p50_and_p95(values: list[float]) -> dict[str, float]:
    cuts = quantiles(values, n=20, method="inclusive") if len(values) > 1 else values * 19
    return {"p50": round(cuts[9], 3), "p95": round(cuts[18], 3)}


@dataclass(frozen=True)
class Reported:
    """What the gateway said of its sinks; it is believed for some seconds.

    Attributes:
        told: Of each sink its target, how many predictions it lost, and what is wrong.
        heard_ns: When it said so.
    """

    told: tuple[dict[str, Any], ...] = ()
    heard_ns: int = 0

    @classmethod
    def of(cls, arguments: Mapping[str, Any], now_ns: int) -> Reported:
        """What the arguments of a report say; whoever took over the gateway may have written them."""
        given = arguments.get("sinks")
        sinks = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
        return cls(tuple(_sink_in(one) for one in sinks[:MAX_REPORTED]), now_ns)

    def sinks(self, now_ns: int) -> list[dict[str, Any]]:
        """The same, or nothing if that was too long ago."""
        return list(self.told) if now_ns - self.heard_ns < REPORTED_NS else []


def _sink_in(one: Mapping[str, Any]) -> dict[str, Any]:
    n_dropped = one.get("n_dropped")
    return {
        "target": str(one.get("target", ""))[:_MAX_TEXT],
        "n_dropped": n_dropped if isinstance(n_dropped, int) else 0,
        "trouble": str(one.get("trouble", ""))[:_MAX_TEXT],
    }


def told_of_session(session: Session) -> dict[str, Any]:
    """What a session counted, and how its sources and sinks are."""
    report, streams = session.report, {one.stream: one for one in session.report.streams()}
    sources = []
    for source in report.sources():
        told: dict[str, Any] = {}
        for name, state in source.states.items():
            stream = streams.get(name)
            told[name] = {
                "state": state,
                "modality": None if stream is None else stream.modality,
                "measured_hz": None if stream is None else stream.measured_hz,
                "nominal_hz": None if stream is None else stream.nominal_hz,
            }
        about = {"uri": source.uri, "n_restarts": source.n_restarts, "trouble": source.trouble}
        sources.append(about | {"streams": told})
    files = [sink for sink in report.sinks() if sink.target is not None]
    sinks = [asdict(sink) | {"target": str(sink.target)} for sink in files]
    counted = {
        f"n_{name}": getattr(report.counters, f"n_{name}") for name in ("dropped_steps", "late", "gaps")
    }
    return {
        "n_predictions": report.n_predictions,
        "n_by_status": dict(report.n_by_status),
        "n_by_reason": dict(report.n_by_reason),
        "sources": sources,
        "sinks": sinks,
        **counted,
    }


def told_of_server(setup: PipelineSetup | None) -> dict[str, Any] | None:
    """How the inference server is that runs the stages; None where this device does."""
    return None if setup is None or setup.server is None else asdict(setup.server.health())


def told_of_model(bundle: Bundle, precision: str, engine: str, hop_steps: int) -> dict[str, Any]:
    """What runs, for those who show or translate its predictions."""
    model = bundle.manifest.model
    return {
        "name": model.name,
        "bundle_id": bundle.bundle_id,
        "precision": precision,
        "engine": engine,
        "modalities": list(model.modalities),
        "outputs": _outputs(model),
        "hop_s": float(model.step * hop_steps),
        "step_s": float(model.step),
        "window_s": bundle.window_s,
        "latency_s": bundle.latency_s,
    }


def _outputs(model: ModelSpec) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    for output in model.outputs:
        if isinstance(output, AffectOutput):
            told.append({"kind": "affect", "name": output.name, "low": output.low, "high": output.high})
        elif isinstance(output, PainOutput):
            told.append({"kind": "pain", "scale": output.scale, "labels": list(output.levels)})
        elif isinstance(output, EmotionOutput):
            told.append({"kind": "emotion", "labels": list(output.labels)})
    return told


def told_of_machine(thermal_dir: Path) -> dict[str, Any]:
    """Memory of this process, temperatures in degrees Celsius, and power in watts where it is measured."""
    return {"rss_bytes": _rss_bytes(), "temperature_c": temperatures_c(thermal_dir), "power_w": power_w()}


def _rss_bytes() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return None


def temperatures_c(folder: Path) -> dict[str, float]:
    """Thermal zone -> degrees Celsius, of those that can be read."""
    found = {}
    for zone in sorted(folder.glob("thermal_zone*")):
        with contextlib.suppress(OSError, ValueError):
            name = (zone / "type").read_text().strip()
            found[name] = int((zone / "temp").read_text()) / 1000
    return found


def power_w(folder: Path = _HWMON) -> float | None:
    """What the whole board draws, from a Jetson's INA3221; None where nothing measures it."""
    for chip in sorted(folder.glob("hwmon*")):
        with contextlib.suppress(OSError, ValueError):
            if (chip / "name").read_text().strip() != "ina3221":
                continue
            for label in sorted(chip.glob("in*_label")):
                if label.read_text().strip() == "VDD_IN":
                    number = label.name[2:-6]
                    millivolts = int((chip / f"in{number}_input").read_text())
                    milliamperes = int((chip / f"curr{number}_input").read_text())
                    return millivolts * milliamperes / 1e6
    return None

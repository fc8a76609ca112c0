"""Counts and states for Prometheus.

Nothing that was estimated of a person is among them: metrics are kept for long, and read by many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from edge_mer.gateway.feed import Feed

CONTENT_TYPE = CONTENT_TYPE_LATEST

_MS_PER_S = 1000.0
_QUANTILES = {"p50": "0.5", "p90": "0.9", "p95": "0.95", "p99": "0.99"}


class Metrics:
    """What `/metrics` gives.

    Args:
        feed: What is known of the process that infers.
        own: The gateway's own health, as `GatewayShape` has it.
    """

    def __init__(self, feed: Feed, own: Callable[[], Mapping[str, Any]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(feed, own))

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


class _Collector(Collector):
    def __init__(self, feed: Feed, own: Callable[[], Mapping[str, Any]]) -> None:
        self._feed, self._own = feed, own

    def describe(self) -> Iterable[Metric]:
        """None in advance: what there is depends on the newest health."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Everything, made anew from the newest health."""
        yield from _gateway(self._feed, self._own())
        health = self._feed.health
        if health is not None:
            yield from _inference(health)
            yield from _machine(health)
            yield from _sources(health.get("sources", ()))


def _gateway(feed: Feed, own: Mapping[str, Any]) -> Iterator[Metric]:
    yield _gauge("ready", "1 while predictions come", feed.is_ready)
    yield _gauge("inference_lost", "1 while no prediction comes", feed.is_lost)
    yield _gauge("silence_seconds", "Since the last prediction", feed.silent_s)
    yield _counter("inference_losses", "How often predictions stayed out", feed.n_losses)
    if feed.model is not None:
        about = {
            key: str(feed.model[key]) for key in ("name", "bundle_id", "precision", "engine", "edge_mer")
        }
        family = GaugeMetricFamily("edge_mer_model_info", "What is running; always 1", labels=tuple(about))
        family.add_metric(tuple(about.values()), 1.0)
        yield family
    yield _gauge("gateway_clients", "Clients that listen", own["n_clients"])
    yield _gauge("gateway_connections", "Open connections", own["n_connections"])
    yield _counter("gateway_connections_refused", "One too many", own["n_connections_refused"])
    yield _counter("gateway_connections_cut", "Cut off for keeping us waiting", own["n_connections_cut"])
    yield _counter("gateway_events_dropped", "That clients were too slow for", own["n_events_dropped"])
    yield from _sinks(own["sinks"], "gateway")


def _inference(health: Mapping[str, Any]) -> Iterator[Metric]:
    states = ("starting", "serving", "stopping")
    yield _gauges("state", "1 for the state it is in", "state", {s: s == health.get("state") for s in states})
    yield _gauge("uptime_seconds", "Since the inference process began", health.get("uptime_s"))
    yield _counters("predictions", "Predictions by status", "status", health.get("n_by_status", {}))
    yield _counters(
        "reasons", "Predictions by reason; one has several", "reason", health.get("n_by_reason", {})
    )
    yield _latencies(health.get("latency_ms", {}))
    yield _counter("dropped_steps", "Steps that the machine was too slow for", health.get("n_dropped_steps"))
    yield _counter("late_data", "Data that came after their step", health.get("n_late"))
    yield _counter("gaps", "Breaks in streams", health.get("n_gaps"))
    yield _gauge("recording", "1 while a recording is written", health.get("recording") is not None)
    yield _gauge("raw_media", "1 while raw media are kept in it", health.get("raw_media"))
    yield _gauge(
        "relief_level", "How much work is left out to cool or catch up", _of(health, "relief", "level")
    )
    if server := health.get("server"):
        yield _gauge("server_ok", "1 while the inference server runs the stages", server.get("state") == "ok")
        yield _counter("server_losses", "How often the inference server was lost", server.get("n_lost"))
        yield _counter("server_stand_ins", "Runs of stages that it did not make", server.get("n_stood_in"))
    yield from _sinks(health.get("sinks", ()), "inference")


def _machine(health: Mapping[str, Any]) -> Iterator[Metric]:
    temperatures = health.get("temperature_c") or {}
    yield _gauges("temperature_celsius", "Of the machine's zones", "zone", temperatures)
    yield _gauge("power_watts", "That the machine takes", health.get("power_w"))
    yield _gauge("resident_memory_bytes", "Of the inference process", health.get("rss_bytes"))


def _sources(sources: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    ok = GaugeMetricFamily("edge_mer_stream_ok", "1 while a stream gives what it should", labels=("stream",))
    measured = GaugeMetricFamily("edge_mer_stream_rate_hertz", "Measured", labels=("stream",))
    restarts = CounterMetricFamily("edge_mer_source_restarts", "Sources opened again", labels=("source",))
    for number, source in enumerate(sources):
        # an address may hold a password: sources are told apart by scheme and number
        name = f"{str(source.get('uri', '')).partition(':')[0]}-{number}"
        restarts.add_metric((name,), float(source.get("n_restarts", 0)))
        for stream, told in source.get("streams", {}).items():
            ok.add_metric((stream,), float(told.get("state") == "ok"))
            if told.get("measured_hz") is not None:
                measured.add_metric((stream,), float(told["measured_hz"]))
    yield from (ok, measured, restarts)


def _sinks(sinks: Iterable[Mapping[str, Any]], process: str) -> Iterator[Metric]:
    dropped = CounterMetricFamily(
        f"edge_mer_{process}_sink_dropped", "Predictions that a sink did not get", labels=("sink",)
    )
    trouble = GaugeMetricFamily(
        f"edge_mer_{process}_sink_trouble", "1 while it cannot go on", labels=("sink",)
    )
    for number, sink in enumerate(sinks):
        target = str(sink.get("name") or sink.get("target") or "")
        name = f"{'file' if target.startswith('/') else target.partition(':')[0]}-{number}"
        dropped.add_metric((name,), float(sink.get("n_dropped", 0)))
        trouble.add_metric((name,), float(bool(sink.get("trouble") or sink.get("away"))))
    yield from (dropped, trouble)


def _latencies(latency_ms: Mapping[str, Mapping[str, float | None]]) -> Metric:
    family = GaugeMetricFamily(
        "edge_mer_latency_seconds", "Of recent predictions, by stage", labels=("stage", "quantile")
    )
    for stage, quantiles in latency_ms.items():
        for name, value in (quantiles or {}).items():
            if value is not None:
                family.add_metric((stage, _QUANTILES.get(name, name)), value / _MS_PER_S)
    return family


def _of(health: Mapping[str, Any], part: str, key: str) -> Any:
    return (health.get(part) or {}).get(key)


def _gauge(name: str, help_text: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(f"edge_mer_{name}", help_text, labels=())
    if value is not None:
        family.add_metric((), float(value))
    return family


def _gauges(name: str, help_text: str, label: str, values: Mapping[str, float | None]) -> Metric:
    family = GaugeMetricFamily(f"edge_mer_{name}", help_text, labels=(label,))
    for key, value in values.items():
        if value is not None:
            family.add_metric((key,), float(value))
    return family


def _counter(name: str, help_text: str, value: float | None) -> Metric:
    family = CounterMetricFamily(f"edge_mer_{name}", help_text, labels=())
    if value is not None:
        family.add_metric((), float(value))
    return family


def _counters(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"edge_mer_{name}", help_text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), float(value))
    return family

"""Sinks by the scheme of their URI. A new sink costs one file and one line here."""

from __future__ import annotations

from edge_mer.sinks.base import Sink
from edge_mer.types.registry import open_uri

SINKS = {
    "fhir": "edge_mer.sinks.fhir:FhirFileSink",
    "fhir+http": "edge_mer.sinks.fhir:open_loopback",
    "fhir+https": "edge_mer.sinks.fhir:FhirServerSink",
    "jsonl": "edge_mer.sinks.jsonl:JsonlSink",
    "log": "edge_mer.sinks.log:LogSink",
    "lsl": "edge_mer.sinks.lsl:LslSink",
    "mqtt": "edge_mer.sinks.mqtt:MqttSink",
    "mqtts": "edge_mer.sinks.mqtt:open_secure",
    "ros2": "edge_mer.sinks.ros2:Ros2Sink",
}


def open_sink(uri: str) -> Sink:
    """The sink that `uri` names, not yet opened.

    Args:
        uri: E.g. "jsonl:out.jsonl".

    Raises:
        UsageError: Unknown scheme, or a rest that the sink cannot read.
    """
    sink: Sink = open_uri("sink", uri, SINKS, "jsonl:out.jsonl")
    return sink

"""Sources by the scheme of their URI. A new source costs one file and one line here."""

from __future__ import annotations

from edge_mer.sources.base import Source
from edge_mer.types.registry import open_uri

SOURCES = {
    "brainflow": "edge_mer.sources.brainflow:BrainFlowSource",
    "file": "edge_mer.sources.file:FileSource",
    "lsl": "edge_mer.sources.lsl:LslSource",
    "mic": "edge_mer.sources.microphone:MicrophoneSource",
    "serial": "edge_mer.sources.serial:SerialSource",
    "signal": "edge_mer.sources.signal:SignalSource",
    "sim": "edge_mer.sources.sim:SimSource",
    "transcript": "edge_mer.sources.transcript:TranscriptSource",
}

LISTERS = {
    "brainflow": "edge_mer.sources.brainflow:attached",
    "lsl": "edge_mer.sources.lsl:attached",
    "mic": "edge_mer.sources.microphone:attached",
    "serial": "edge_mer.sources.serial:attached",
}
"""What lists the devices of a scheme."""


def open_source(uri: str) -> Source:
    """The source that `uri` names, not yet opened.

    Args:
        uri: E.g. "file:clip.mp4" or "sim:seed=3&duration_s=20".

    Raises:
        UsageError: Unknown scheme, or a rest that the source cannot read.
    """
    source: Source = open_uri("source", uri, SOURCES, "file:clip.mp4")
    return source

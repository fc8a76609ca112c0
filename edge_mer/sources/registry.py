"""Sources by the scheme of their URI. A new source costs one file and one or two lines here."""

from __future__ import annotations

from edge_mer.sources.base import Source
from edge_mer.types.registry import open_uri

SOURCES = {
    "brainflow": "edge_mer.sources.brainflow:BrainFlowSource",
    "camera": "edge_mer.sources.camera:CameraSource",
    "csi": "edge_mer.sources.camera_csi:CsiSource",
    "file": "edge_mer.sources.file:FileSource",
    "http": "edge_mer.sources.camera_network:HttpCamera",
    "https": "edge_mer.sources.camera_network:HttpsCamera",
    "lsl": "edge_mer.sources.lsl:LslSource",
    "mcap": "edge_mer.sources.replay:ReplaySource",
    "mic": "edge_mer.sources.microphone:MicrophoneSource",
    "rtsp": "edge_mer.sources.camera_network:RtspCamera",
    "serial": "edge_mer.sources.serial:SerialSource",
    "signal": "edge_mer.sources.signal:SignalSource",
    "sim": "edge_mer.sources.sim:SimSource",
    "sim-live": "edge_mer.sources.sim_live:LiveSimSource",
    "tcp": "edge_mer.sources.camera_network:TcpCamera",
    "transcript": "edge_mer.sources.transcript:TranscriptSource",
}

LISTERS = {
    "brainflow": "edge_mer.sources.brainflow:attached",
    "camera": "edge_mer.sources.camera_attached:cameras",
    "csi": "edge_mer.sources.camera_attached:csi_sensors",
    "lsl": "edge_mer.sources.lsl:attached",
    "mic": "edge_mer.sources.microphone:attached",
    "serial": "edge_mer.sources.serial:attached",
}
"""Scheme -> what finds the devices that it opens, quickly and without opening one."""


def open_source(uri: str) -> Source:
    """The source that `uri` names, not yet opened.

    Args:
        uri: E.g. "file:clip.mp4" or "sim:seed=3&duration_s=20".

    Raises:
        UsageError: Unknown scheme, or a rest that the source cannot read.
    """
    source: Source = open_uri("source", uri, SOURCES, "file:clip.mp4")
    return source

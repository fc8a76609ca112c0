"""System packages that some tests need, and the one line that brings those that are missing."""

from __future__ import annotations

import shutil
import subprocess

import pytest

PACKAGES = {
    "faketime": "faketime",
    "ffmpeg": "ffmpeg",
    "gst-launch-1.0": "gstreamer1.0-tools",
    "mosquitto_passwd": "mosquitto",
    "openssl": "openssl",
    "paplay": "pulseaudio-utils",
    "pulseaudio": "pulseaudio",
    "socat": "socat",
    "systemd-analyze": "systemd",
}
"""Command -> Debian package."""

RTSP_PACKAGES = (
    "python3-gi",
    "gir1.2-gst-rtsp-server-1.0",
    "gstreamer1.0-plugins-base",
    "gstreamer1.0-plugins-good",
    "gstreamer1.0-plugins-ugly",
)
"""What `rtsp_sender.py` runs on, in the system's own Python."""

_RTSP_PROBE = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
for name in ("appsrc", "videotestsrc", "videoconvert", "x264enc", "rtph264pay"):
    assert Gst.ElementFactory.find(name), name
"""


def is_there(command: str) -> bool:
    """Whether a command of `PACKAGES` can be run."""
    return shutil.which(command) is not None


def needs(command: str) -> pytest.MarkDecorator:
    """Skip a test, naming the package, where `command` is absent."""
    return pytest.mark.skipif(not is_there(command), reason=f"needs the system package {PACKAGES[command]}")


def needs_rtsp() -> pytest.MarkDecorator:
    """Skip a test, naming the packages, where no RTSP server can run."""
    return pytest.mark.skipif(not _has_rtsp(), reason=f"needs the system packages {', '.join(RTSP_PACKAGES)}")


def _has_rtsp() -> bool:
    """GStreamer's bindings are those of the system's Python, whichever one runs the tests."""
    probe = ["/usr/bin/python3", "-W", "ignore", "-c", _RTSP_PROBE]
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def missing() -> list[str]:
    """Packages whose commands are absent."""
    absent = [package for command, package in PACKAGES.items() if shutil.which(command) is None]
    return absent if _has_rtsp() else [*absent, *RTSP_PACKAGES]


if __name__ == "__main__":
    if packages := missing():
        names = " ".join(packages)
        print(f"Tests were skipped for want of {names}. This brings them:")  # noqa: T201
        print(f"  sudo apt-get install --no-install-recommends {names}")  # noqa: T201

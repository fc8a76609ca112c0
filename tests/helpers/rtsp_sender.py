"""A real RTSP server, rtsp://127.0.0.1:PORT/cam, whose pictures come from a file of raw RGB.

Runs in the system's Python, which has GStreamer's bindings and little else:
python3 rtsp_sender.py PORT FILE WIDTH HEIGHT FPS

It prints one line per picture that it hands to the encoder: its number in the file, and the host's monotonic
nanoseconds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

LAUNCH = (
    "( appsrc name=pictures is-live=true do-timestamp=true format=time"
    " caps=video/x-raw,format=RGB,width={width},height={height},framerate={fps}/1"
    " ! videoconvert ! video/x-raw,format=I420"
    " ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=5 quantizer=12 pass=quant"
    " ! rtph264pay name=pay0 pt=96 config-interval=-1 )"
)


class Pictures(GstRtspServer.RTSPMediaFactory):  # type: ignore[misc]
    """Feeds every media that a client asks for with pictures at their own pace."""

    def __init__(self, raw: bytes, n_bytes: int, fps: int) -> None:
        super().__init__()
        self._raw, self._n_bytes, self._fps = raw, n_bytes, fps
        self._number = 0

    def do_media_configure(self, media: Any) -> None:
        """Begin to feed the encoder of a new media."""
        source = media.get_element().get_by_name("pictures")
        GLib.timeout_add(1000 // self._fps, self._push, source)

    def _push(self, source: Any) -> bool:
        number = self._number % (len(self._raw) // self._n_bytes)
        picture = self._raw[number * self._n_bytes : (number + 1) * self._n_bytes]
        sys.stdout.write(f"{number} {time.monotonic_ns()}\n")
        sys.stdout.flush()
        self._number += 1
        return bool(source.emit("push-buffer", Gst.Buffer.new_wrapped(picture)) == Gst.FlowReturn.OK)


def main(port: str, path: str, width: str, height: str, fps: str) -> None:
    """Serve until killed."""
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = Pictures(Path(path).read_bytes(), int(width) * int(height) * 3, int(fps))
    factory.set_launch(LAUNCH.format(width=width, height=height, fps=fps))
    factory.set_shared(True)
    server.get_mount_points().add_factory("/cam", factory)
    server.attach(None)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])

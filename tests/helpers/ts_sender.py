"""Counted pictures as H.264 in MPEG-TS at tcp://127.0.0.1:PORT, at known times.

python -m tests.helpers.ts_sender PORT FPS

One line on standard output per picture says "NUMBER T_NS": the host's monotonic nanoseconds just before it
was given to the encoder, whose bytes go out at once. `senders.Sender` runs it and collects the times.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import socket
import sys
from fractions import Fraction
from typing import Any

import av

from edge_mer.clock import NS_PER_S, MonotonicClock
from tests.helpers.media import add_video
from tests.helpers.senders import HEIGHT_PX, WIDTH_PX, counted_pictures


class _AtOnce(io.RawIOBase):
    """What is written goes to the client without waiting for more."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._client.sendall(data)
        return len(data)


def main(port: str, fps: str) -> None:
    """Serve one client after the other until killed."""
    with socket.create_server(("127.0.0.1", int(port))) as server:
        while True:
            client, _ = server.accept()
            with client, contextlib.suppress(OSError):
                _serve(client, int(fps))


def _serve(client: socket.socket, fps: int) -> None:
    clock = MonotonicClock()
    with av.open(_AtOnce(client), "w", format="mpegts") as container:
        stream = add_video(container, (WIDTH_PX, HEIGHT_PX), Fraction(fps), codec="libx264")
        stream.codec_context.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "5"}
        pictures = itertools.cycle(enumerate(counted_pictures()))
        begin_ns = clock.now_ns()
        for index, (number, picture) in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            clock.sleep_until_ns(begin_ns + index * NS_PER_S // fps)
            t_ns = clock.now_ns()
            container.mux(stream.encode(frame))
            sys.stdout.write(f"{number} {t_ns}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

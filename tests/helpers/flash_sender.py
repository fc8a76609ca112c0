"""A camera whose picture flashes white at known times: MJPEG over HTTP at http://127.0.0.1:PORT/.

python -m tests.helpers.flash_sender PORT [FPS] [EVERY]

Pictures are counted ones (`senders.counted_pictures`), and every EVERY-th is white. One line on standard
output per picture says "NUMBER T_NS" or "flash T_NS": the host's monotonic nanoseconds just before its first
byte was written. `senders.Sender` runs it and collects the times.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S, MonotonicClock
from tests.helpers.senders import FPS, HEIGHT_PX, N_FRAMES, WIDTH_PX, counted_pictures

BOUNDARY = b"frame"


def main(port: str, fps: str = str(FPS), every: str = str(FPS)) -> None:
    """Serve one client after the other until killed."""
    white = _jpeg(np.full((HEIGHT_PX, WIDTH_PX, 3), 255, np.uint8))
    counted = [_jpeg(picture) for picture in counted_pictures()]
    with socket.create_server(("127.0.0.1", int(port))) as server:
        while True:
            client, _ = server.accept()
            with client, contextlib.suppress(ConnectionError):
                _serve(client, counted, white, int(fps), int(every))


def _serve(client: socket.socket, counted: list[bytes], white: bytes, fps: int, every: int) -> None:
    """Send pictures at their own pace until the client leaves."""
    clock = MonotonicClock()
    client.recv(65536)  # the request
    kind = b"multipart/x-mixed-replace; boundary=" + BOUNDARY
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\n\r\n")
    begin_ns = clock.now_ns()
    for index in itertools.count():
        clock.sleep_until_ns(begin_ns + index * NS_PER_S // fps)
        number = index % N_FRAMES
        name, jpeg = ("flash", white) if index % every == every - 1 else (str(number), counted[number])
        head = b"--%s\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (BOUNDARY, len(jpeg))
        t_ns = clock.now_ns()
        client.sendall(head + jpeg + b"\r\n")
        sys.stdout.write(f"{name} {t_ns}\n")
        sys.stdout.flush()


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


if __name__ == "__main__":
    main(*sys.argv[1:])

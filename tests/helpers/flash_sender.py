"""A camera whose picture flashes white at known times: MJPEG over HTTP at http://127.0.0.1:PORT/.

python -m tests.helpers.flash_sender PORT [FPS] [EVERY]

Pictures are counted ones (`senders.counted_pictures`), and every EVERY-th is white. One line on standard output
per picture says "NUMBER T_NS" or "flash T_NS": the host's monotonic nanoseconds just before its first byte was
written. `Flashes` runs it and collects the times.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S, MonotonicClock
from tests.helpers.senders import FPS, HEIGHT_PX, N_FRAMES, WIDTH_PX, Sender, counted_pictures, free_port

BOUNDARY = b"frame"
WHITE = 230
"""The mean of a picture that is brighter is a flash; counted pictures are far below."""


def is_flash(picture: NDArray[np.uint8]) -> bool:
    """Whether a picture (height, width, 3) is the white one."""
    return bool(picture.mean() > WHITE)


class Flashes:
    """A running flash sender, and when it wrote what.

    Attributes:
        url: Where its pictures are.
        flashes_ns: When each flash was written, host monotonic nanoseconds.
        written_ns: When each counted picture was written last, by its number.
    """

    def __init__(self, fps: int = FPS, every: int = FPS) -> None:
        self.flashes_ns: list[int] = []
        self.written_ns: dict[int, int] = {}
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/"
        command = [sys.executable, "-m", "tests.helpers.flash_sender", str(port), str(fps), str(every)]
        self.sender = Sender(command, port, stdout=subprocess.PIPE)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self.sender.output:
            what, t_ns = line.split()
            if what == b"flash":
                self.flashes_ns.append(int(t_ns))
            else:
                self.written_ns[int(what)] = int(t_ns)

    def kill(self) -> None:
        """End it at once."""
        self.sender.kill()
        self._listener.join()
        self.sender.output.close()


@contextlib.contextmanager
def flashing(fps: int = FPS, every: int = FPS) -> Iterator[Flashes]:
    """A flash sender that is ended in any case."""
    flashes = Flashes(fps, every)
    try:
        yield flashes
    finally:
        flashes.kill()


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


def _serve(client: socket.socket, fps: int, every: int) -> None:
    """Send pictures at their own pace until the client leaves."""
    white = _jpeg(np.full((HEIGHT_PX, WIDTH_PX, 3), 255, np.uint8))
    counted = [_jpeg(picture) for picture in counted_pictures()]
    clock = MonotonicClock()
    client.recv(65536)
    kind = b"multipart/x-mixed-replace; boundary=" + BOUNDARY
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\n\r\n")
    begin_ns = clock.now_ns()
    for index in itertools.count():
        clock.sleep_until_ns(begin_ns + index * NS_PER_S // fps)
        is_white = index % every == every - 1
        name, jpeg = ("flash", white) if is_white else (str(index % N_FRAMES), counted[index % N_FRAMES])
        head = b"--%s\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (BOUNDARY, len(jpeg))
        t_ns = clock.now_ns()
        client.sendall(head + jpeg + b"\r\n")
        sys.stdout.write(f"{name} {t_ns}\n")
        sys.stdout.flush()


def main(port: str, fps: str = str(FPS), every: str = str(FPS)) -> None:
    """Serve one client after the other until killed."""
    with socket.create_server(("127.0.0.1", int(port))) as server:
        while True:
            client, _ = server.accept()
            with client, contextlib.suppress(ConnectionError):
                _serve(client, int(fps), int(every))


if __name__ == "__main__":
    main(*sys.argv[1:])

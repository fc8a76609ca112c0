"""Programs that send pictures over the loopback, each a real one in a process of its own."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from tests.helpers.media import counter_frames, read_counter, write_media

_ROOT = Path(__file__).resolve().parents[2]

FPS = 25
N_FRAMES = 256
"""Counted in eight bits; then the clip begins again."""

HEIGHT_PX, WIDTH_PX = 96, 128
PATCHES = ((200, 30, 40), (40, 190, 60), (30, 60, 210), (128, 128, 128))
"""RGB of the patches in the lower half of every picture, from left to right."""


def counted_pictures(n_frames: int = N_FRAMES) -> Iterator[NDArray[np.uint8]]:
    """Pictures whose upper half counts them, and whose lower half has known colours."""
    width = WIDTH_PX // len(PATCHES)
    row = np.repeat(np.array(PATCHES, np.uint8), width, axis=0)
    for picture in counter_frames(n_frames, HEIGHT_PX, WIDTH_PX):
        picture[HEIGHT_PX // 2 :] = row
        yield picture


def write_counted_clip(path: Path) -> Path:
    """A clip of counted pictures, in H.264."""
    return write_media(path, frames=counted_pictures(), fps=Fraction(FPS))


def number_of(picture: NDArray[np.uint8]) -> int:
    """The number that a counted picture shows."""
    return read_counter(picture[: picture.shape[0] // 2])


def patch_colours(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean RGB (4, 3) of the middle of each patch."""
    height, width = picture.shape[0], picture.shape[1] // len(PATCHES)
    lower = picture[height * 5 // 8 : height * 7 // 8]
    middles = [lower[:, i * width + width // 4 : (i + 1) * width - width // 4] for i in range(len(PATCHES))]
    return np.array([middle.mean(axis=(0, 1)) for middle in middles])


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Sender:
    """A running program that sends pictures.

    Args:
        command: The program and its arguments.
        port: The TCP port that it listens on once it is ready.
        stdout: Where its output goes, as `subprocess.Popen` has it.
    """

    def __init__(self, command: list[str], port: int, stdout: int = subprocess.DEVNULL) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, cwd=_ROOT)
        self._wait_for(port)

    @property
    def output(self) -> IO[bytes]:
        """Its standard output, where that is a pipe."""
        assert self._process.stdout is not None
        return self._process.stdout

    def _wait_for(self, port: int, timeout_s: float = 10.0) -> None:
        until = time.monotonic() + timeout_s
        while not _is_listening(port):
            assert self._process.poll() is None, "the sender has ended"
            assert time.monotonic() < until, "the sender does not listen"
            threading.Event().wait(0.01)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait()


def _is_listening(port: int) -> bool:
    """Asks the kernel: connecting would take the only place that some senders have."""
    listening = "0A"
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        address, state = line.split()[1], line.split()[3]
        if state == listening and int(address.rpartition(":")[2], 16) == port:
            return True
    return False


@contextlib.contextmanager
def sending(command: list[str], port: int) -> Iterator[Sender]:
    """A sender that is ended in any case."""
    sender = Sender(command, port)
    try:
        yield sender
    finally:
        sender.kill()


def ffmpeg_http(clip: Path, port: int) -> list[str]:
    """A server of MJPEG over HTTP, for one client."""
    output = ["-c:v", "mjpeg", "-q:v", "2", "-f", "mpjpeg", "-listen", "1", f"http://127.0.0.1:{port}"]
    return [*_ffmpeg(clip), *output]


def ffmpeg_tcp(clip: Path, port: int) -> list[str]:
    """A server of H.264 in MPEG-TS over TCP, for one client."""
    codec = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "5", "-crf", "12"]
    return [*_ffmpeg(clip), *codec, "-f", "mpegts", f"tcp://127.0.0.1:{port}?listen=1"]


def _ffmpeg(clip: Path) -> list[str]:
    program = shutil.which("ffmpeg") or "ffmpeg"
    quiet = ["-hide_banner", "-loglevel", "fatal", "-threads", "1"]
    return [program, *quiet, "-re", "-stream_loop", "-1", "-i", str(clip), "-threads", "1"]

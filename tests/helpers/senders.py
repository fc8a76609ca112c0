"""Programs that send pictures over the loopback, each a real one in a process of its own."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from tests.helpers.media import counter_frames, read_counter, write_media

FPS = 25
N_FRAMES = 256
"""Counted in eight bits; then the clip begins again."""

HEIGHT_PX, WIDTH_PX = 96, 128
PATCHES = ((200, 30, 40), (40, 190, 60), (30, 60, 210), (128, 128, 128))
"""RGB of the patches in the lower half of every picture, from left to right."""

WHITE = 230
"""The mean of a picture that is brighter is a flash; counted pictures are far below."""

SYSTEM_PYTHON = "/usr/bin/python3"
_ROOT = Path(__file__).resolve().parents[2]


def counted_pictures(n_frames: int = N_FRAMES) -> Iterator[NDArray[np.uint8]]:
    """Pictures whose upper half counts them, and whose lower half has known colours."""
    row = np.repeat(np.array(PATCHES, np.uint8), WIDTH_PX // len(PATCHES), axis=0)
    for picture in counter_frames(n_frames, HEIGHT_PX, WIDTH_PX):
        picture[HEIGHT_PX // 2 :] = row
        yield picture


def write_counted_clip(path: Path) -> Path:
    """A clip of counted pictures, in H.264."""
    return write_media(path, frames=counted_pictures(), fps=Fraction(FPS))


def write_counted_raw(path: Path) -> Path:
    """The same as bare bytes of RGB."""
    path.write_bytes(b"".join(picture.tobytes() for picture in counted_pictures()))
    return path


def number_of(picture: NDArray[np.uint8]) -> int:
    """The number that a counted picture shows."""
    return read_counter(picture[: picture.shape[0] // 2])


def patch_colours(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean RGB (4, 3) of the middle of each patch."""
    height, width = picture.shape[0], picture.shape[1] // len(PATCHES)
    lower = picture[height * 5 // 8 : height * 7 // 8]
    middles = [lower[:, i * width + width // 4 : (i + 1) * width - width // 4] for i in range(len(PATCHES))]
    return np.array([middle.mean(axis=(0, 1)) for middle in middles])


def is_flash(picture: NDArray[np.uint8]) -> bool:
    """Whether a picture (height, width, 3) is a white one."""
    return bool(picture.mean() > WHITE)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Sender:
    """A running program that sends pictures, ended when its block is left.

    Lines "NUMBER T_NS" and "flash T_NS" on its output say when it sent what.

    Args:
        command: The program and its arguments.
        port: The TCP port that it listens on once it is ready.

    Attributes:
        written_ns: When each counted picture was sent last, host monotonic nanoseconds.
        flashes_ns: When each flash was sent.
    """

    def __init__(self, command: list[str], port: int) -> None:
        self.written_ns: dict[int, int] = {}
        self.flashes_ns: list[int] = []
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=_ROOT, text=True
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._wait_for(port)

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def pause(self) -> None:
        """Stop it where it is."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as a crash would; all that it said is known afterwards."""
        self._process.kill()
        self._process.wait()
        self._listener.join()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                what, t_ns = line.split()
                if what == "flash":
                    self.flashes_ns.append(int(t_ns))
                else:
                    self.written_ns[int(what)] = int(t_ns)

    def _wait_for(self, port: int, timeout_s: float = 20.0) -> None:
        until = time.monotonic() + timeout_s
        try:
            while not _is_listening(port):
                assert self._process.poll() is None, "the sender has ended"
                assert time.monotonic() < until, "the sender does not listen"
                threading.Event().wait(0.01)
        except AssertionError:
            self.kill()
            raise


def _is_listening(port: int) -> bool:
    """Asks the kernel: connecting would take the only place that some senders have."""
    listening = "0A"
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        address, state = line.split()[1], line.split()[3]
        if state == listening and int(address.rpartition(":")[2], 16) == port:
            return True
    return False


def ffmpeg_http(clip: Path, port: int) -> list[str]:
    """Serves a clip over and over as MJPEG at http://127.0.0.1:PORT, to one client."""
    output = ["-c:v", "mjpeg", "-q:v", "2", "-f", "mpjpeg", "-listen", "1", f"http://127.0.0.1:{port}"]
    return [*_ffmpeg(clip), *output]


def ffmpeg_tcp(clip: Path, port: int) -> list[str]:
    """Serves a clip over and over as H.264 in MPEG-TS at tcp://127.0.0.1:PORT, to one client."""
    codec = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "5", "-crf", "12"]
    return [*_ffmpeg(clip), *codec, "-f", "mpegts", f"tcp://127.0.0.1:{port}?listen=1"]


def rtsp(raw: Path, port: int) -> list[str]:
    """Serves bare bytes over and over as H.264 at rtsp://127.0.0.1:PORT/cam, and says when it sent what."""
    script = str(_ROOT / "tests" / "helpers" / "rtsp_sender.py")
    return [SYSTEM_PYTHON, script, str(port), str(raw), str(WIDTH_PX), str(HEIGHT_PX), str(FPS)]


def flashes(port: int, every: int = FPS) -> list[str]:
    """Serves MJPEG at http://127.0.0.1:PORT/, every so many pictures a white one: `flash_sender`."""
    return [sys.executable, "-m", "tests.helpers.flash_sender", str(port), str(FPS), str(every)]


def mpeg_ts(port: int) -> list[str]:
    """Serves H.264 in MPEG-TS at tcp://127.0.0.1:PORT, and says when it sent what (`ts_sender`)."""
    return [sys.executable, "-m", "tests.helpers.ts_sender", str(port), str(FPS)]


def _ffmpeg(clip: Path) -> list[str]:
    program = shutil.which("ffmpeg") or "ffmpeg"
    quiet = ["-hide_banner", "-loglevel", "fatal", "-threads", "1"]
    return [program, *quiet, "-re", "-stream_loop", "-1", "-i", str(clip), "-threads", "1"]

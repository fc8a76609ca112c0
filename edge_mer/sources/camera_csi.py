"""Sensors on a Jetson's camera port, through NVIDIA's GStreamer elements in a process of their own.

    csi:0
    csi:0?width=1280&height=720&fps=30&flip=2&latency_ms=60

No OpenCV that pip installs has GStreamer. So `gst-launch-1.0` captures and writes raw pictures into a pipe.
What else it says is kept for messages. It is ended by SIGINT, as by its own Ctrl-C, and ends in order by
itself when nobody reads the pipe any more: a camera service that was left hanging needs a restart.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import select
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from edge_mer.clock import Clock, MonotonicClock
from edge_mer.errors import LostError, MissingError, UsageError
from edge_mer.sources.camera_attached import GST_LAUNCH
from edge_mer.sources.camera_live import LiveCamera, Picture, See
from edge_mer.sources.camera_settings import FPS, LATENCY, MAX_SIDE_PX, read_keys, refuse_half_size, whole
from edge_mer.sources.camera_times import FrameTimes
from edge_mer.sources.file_frames import to_rgb

_EXAMPLE = "csi:0?width=1280&height=720&fps=30"
_WAIT_MS = 200
_END_TIMEOUTS_S = ((signal.SIGINT, 2.0), (signal.SIGTERM, 0.5), (signal.SIGKILL, 0.5))
_MAX_SAID_LINES = 40

_KEYS = {
    key.name: key
    for key in (
        whole("width", 16, MAX_SIDE_PX, multiple_of=8),
        whole("height", 16, MAX_SIDE_PX, multiple_of=2),
        FPS,
        whole("flip", 0, 7),
        LATENCY,
    )
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CsiSettings:
    """What a `csi:` URI asks for.

    Attributes:
        sensor: Number of the sensor, from 0.
        width: Of the pictures, in pixels; the camera's service scales.
        height: Of the pictures, in pixels.
        fps: Pictures per second.
        flip: 0 = as it is, 2 = upside down; the numbers of `nvvidconv`.
        latency_ms: Fixed latency of sensor and image processor.
    """

    sensor: int
    width: int = 1280
    height: int = 720
    fps: Fraction = Fraction(30)
    flip: int = 0
    latency_ms: Fraction = Fraction(0)

    @classmethod
    def parse(cls, rest: str) -> CsiSettings:
        """Read the part of a URI after `csi:`.

        Raises:
            UsageError: No number, an unknown or repeated key, or a value that is not allowed.
        """
        target, _, query = rest.partition("?")
        if not re.fullmatch(r"[0-9]{1,2}", target):
            raise UsageError(f"csi:{rest}: {target!r} is no number of a sensor", expected=_EXAMPLE)
        values = read_keys(f"csi:{rest}", query, _KEYS, _EXAMPLE)
        refuse_half_size(f"csi:{rest}", values)
        return cls(int(target), **values)

    @property
    def frame_bytes(self) -> int:
        """Of one picture in planes of Y, U and V."""
        return self.width * self.height * 3 // 2


Command = Callable[[CsiSettings], Sequence[str]]
"""Makes the elements of a pipeline, joined by "!", that end in pictures of I420."""


def argus_elements(settings: CsiSettings) -> list[str]:
    """The pipeline of a Jetson: the camera's service captures, the image processor scales and turns."""
    size = f"width={settings.width},height={settings.height}"
    rate = f"framerate={settings.fps.numerator}/{settings.fps.denominator}"
    return [
        *("nvarguscamerasrc", f"sensor-id={settings.sensor}"),
        *("!", f"video/x-raw(memory:NVMM),{size},{rate}"),
        *("!", "nvvidconv", f"flip-method={settings.flip}"),
        *("!", f"video/x-raw,format=I420,{size}"),
    ]


class CsiSource(LiveCamera):
    """A sensor on a Jetson's camera port: stream "NAME/visual", RGB pictures (height, width, 3) uint8.

    A picture is stamped when its first byte comes out of the pipe; `latency_ms` is what sensor and image
    processor took before that.

    Args:
        rest: The URI after `csi:`, the sensor's number with keys of `CsiSettings`.
        clock: Stamps what comes.
        elements: The pipeline; the Jetson's own unless a test gives another one.
        program: What runs it.

    Raises:
        UsageError: As `CsiSettings.parse`.
    """

    def __init__(
        self,
        rest: str,
        clock: Clock | None = None,
        elements: Command = argus_elements,
        program: str = GST_LAUNCH,
    ) -> None:
        self._settings = CsiSettings.parse(rest)
        self._elements, self._program = elements, program
        name = f"csi:{self._settings.sensor}"
        super().__init__(f"csi:{rest}", name, self._settings.latency_ms, clock or MonotonicClock())

    @property
    def settings(self) -> CsiSettings:
        """What the URI asks for."""
        return self._settings

    def _capture(self, see: See, stop: threading.Event) -> None:
        settings = self._settings
        self._rate_hz = float(settings.fps)
        times, counts = FrameTimes(), self._counts
        with self._running() as (pipe, said):
            while not stop.is_set():
                came = _read_picture(pipe, settings.frame_bytes, self._clock, stop)
                if came is None:
                    break
                planes, arrived_ns = came
                t_ns = times.place(arrived_ns)
                counts.n_stale += t_ns is None
                if t_ns is not None:
                    see(Picture(_rgb(planes, settings), t_ns, arrived_ns))
        if not stop.is_set():
            raise self._ended(said, is_lost=counts.n_seen > 0)

    @contextlib.contextmanager
    def _running(self) -> Iterator[tuple[int, deque[str]]]:
        """The pipeline's pipe, and the last lines that it said; it has ended when this does."""
        ours, theirs = os.pipe()
        queue = ["queue", "leaky=downstream", "max-size-buffers=2"]
        sink = ["fdsink", f"fd={theirs}", "sync=false"]
        command = [self._program, "-q", *self._elements(self._settings), "!", *queue, "!", *sink]
        try:
            process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,  # NVIDIA's elements talk on it: pictures need a pipe of their own
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
                start_new_session=True,  # a Ctrl-C in the terminal is for us; we end it in order
                restore_signals=False,  # with SIGPIPE left ignored, it ends in order when we were killed
            )
        except OSError as error:
            os.close(ours)
            raise MissingError(
                f"{self._name}: cannot run {self._program}",
                found=str(error.strerror),
                hint="sudo apt-get install gstreamer1.0-tools",
            ) from error
        finally:
            os.close(theirs)
        said: deque[str] = deque(maxlen=_MAX_SAID_LINES)
        listener = threading.Thread(target=_listen, args=(process, said), daemon=True)
        listener.start()
        try:
            yield ours, said
        finally:
            _end(process, ours, self._name)
            listener.join(1.0)

    def _ended(self, said: Sequence[str], *, is_lost: bool) -> MissingError:
        kind = LostError if is_lost else MissingError
        what = "stopped" if is_lost else "could not be opened"
        text = " / ".join(line for line in said if line)[-600:]
        return kind(
            f"{self._name} {what}",
            found=text or f"{self._program} ended without a word",
            hint="check cable and number; if it was in use: sudo systemctl restart nvargus-daemon",
        )

    def _mode_of(self, height_px: int, width_px: int) -> str:
        return f"{width_px} x {height_px} at {self._rate_hz:g} Hz"


def _read_picture(
    pipe: int, n_bytes: int, clock: Clock, stop: threading.Event
) -> tuple[NDArray[np.uint8], int] | None:
    """One whole picture and when its first byte came; None at the end of the pipe, or once asked to stop."""
    planes = np.empty(n_bytes, np.uint8)
    view = planes.data
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    n_read, arrived_ns = 0, 0
    while n_read < n_bytes:
        if stop.is_set():
            return None
        if not poll.poll(_WAIT_MS):
            continue
        n_new = os.readv(pipe, [view[n_read:]])
        if n_new == 0:
            return None
        if n_read == 0:
            arrived_ns = clock.now_ns()
        n_read += n_new
    return planes, arrived_ns


def _rgb(planes: NDArray[np.uint8], settings: CsiSettings) -> NDArray[np.uint8]:
    frame = VideoFrame.from_ndarray(planes.reshape(-1, settings.width), format="yuv420p")
    return to_rgb(frame, Fraction(1), (None, None, 3))


def _listen(process: subprocess.Popen[bytes], said: deque[str]) -> None:
    with process.stdout or io.BytesIO() as output:
        for line in output:
            said.append(line[:500].decode(errors="replace").strip())


def _end(process: subprocess.Popen[bytes], pipe: int, name: str) -> None:
    """End the pipeline in order, and by force only where it does not listen."""
    for number, timeout_s in _END_TIMEOUTS_S:
        if process.poll() is None:
            process.send_signal(number)
        if pipe >= 0:
            os.close(pipe)  # after the first signal: what is blocked in writing goes on
            pipe = -1
        try:
            process.wait(timeout_s)
            return
        except subprocess.TimeoutExpired:
            _log.warning("%s: the pipeline did not end by %s", name, number.name)

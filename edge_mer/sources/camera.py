"""Cameras that Linux shows as /dev/video*, mostly on USB, through OpenCV.

    camera:0
    camera:/dev/video2?width=1280&height=720&fps=30&format=mjpeg&latency_ms=20

OpenCV hands over what the camera sent, without converting it: that is decoded by FFmpeg, in the same way and
with the same colours as files. Its time stamps are the driver's, if they are by the host's monotonic clock.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import av
import cv2
import numpy as np
from av.codec.context import CodecContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S, Clock, MonotonicClock
from edge_mer.errors import LostError, MissingError, UsageError
from edge_mer.sources.camera_attached import linux_cameras
from edge_mer.sources.camera_live import MAX_AGE_NS, LiveCamera, Picture, See
from edge_mer.sources.camera_settings import (
    FPS,
    LATENCY,
    MAX_SIDE_PX,
    one_of,
    read_keys,
    refuse_half_size,
    whole,
)
from edge_mer.sources.camera_times import FrameTimes
from edge_mer.sources.file_frames import to_rgb
from edge_mer.types.signals import TimeBasis

FORMATS = {
    "yuyv": ("YUYV", "yuyv422"),
    "uyvy": ("UYVY", "uyvy422"),
    "nv12": ("NV12", "nv12"),
    "i420": ("YU12", "yuv420p"),
    "rgb": ("RGB3", "rgb24"),
    "bgr": ("BGR3", "bgr24"),
    "grey": ("GREY", "gray"),
    "mjpeg": ("MJPG", ""),
}
"""What a camera may send: Linux's name, and FFmpeg's of pixels that are not compressed."""

MAX_RAW_PX = 640 * 480
"""Larger pictures are asked for as MJPEG: uncompressed ones are too much for USB at a useful rate."""

_EXAMPLE = "camera:0?width=640&height=480&fps=30"
_DEFAULT_SIZE_PX = (640, 480)
_MAX_STAMP_AGE_NS = 10 * NS_PER_S
_VIDIOC_QUERYCAP = 0x80685600
_CAP_VIDEO_CAPTURE = 0x1
_CAP_DEVICE_CAPS = 0x80000000

_KEYS = {
    key.name: key
    for key in (
        whole("width", 16, MAX_SIDE_PX, multiple_of=2),
        whole("height", 16, MAX_SIDE_PX, multiple_of=2),
        FPS,
        one_of("format", *FORMATS),
        LATENCY,
    )
}

_log = logging.getLogger(__name__)


class VideoCapture(Protocol):
    """What is used of OpenCV's class of that name."""

    def isOpened(self) -> bool:  # noqa: N802, D102
        ...

    def set(self, propId: int, value: float) -> bool:  # noqa: D102
        ...

    def get(self, propId: int) -> float:  # noqa: D102
        ...

    def grab(self) -> bool:  # noqa: D102
        ...

    def retrieve(self) -> tuple[bool, Any]:  # noqa: D102
        ...

    def release(self) -> None:  # noqa: D102
        ...


@dataclass(frozen=True)
class CameraSettings:
    """What a `camera:` URI asks for; None leaves it to the camera.

    Attributes:
        device: Path of the device node.
        width: Of the pictures, in pixels.
        height: Of the pictures, in pixels.
        fps: Pictures per second.
        format: A key of `FORMATS`.
        latency_ms: The camera's own fixed latency.
    """

    device: str
    width: int | None = None
    height: int | None = None
    fps: Fraction | None = None
    format: str | None = None
    latency_ms: Fraction = Fraction(0)

    @classmethod
    def parse(cls, rest: str) -> CameraSettings:
        """Read the part of a URI after `camera:`.

        Raises:
            UsageError: Neither number nor path, an unknown or repeated key, or a value that is not allowed.
        """
        target, _, query = rest.partition("?")
        if re.fullmatch(r"[0-9]{1,3}", target):
            device = f"/dev/video{int(target)}"
        elif target.startswith("/"):
            device = target
        else:
            raise UsageError(
                f"camera:{rest}: {target!r} is no camera",
                expected="a number such as camera:0, or a path such as camera:/dev/video0",
                hint="edge-mer sources lists the cameras that are attached",
            )
        values = read_keys(f"camera:{rest}", query, _KEYS, _EXAMPLE)
        refuse_half_size(f"camera:{rest}", values)
        return cls(device, **values)

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) to ask for."""
        return (self.width, self.height) if self.width and self.height else _DEFAULT_SIZE_PX

    @property
    def formats(self) -> list[str]:
        """Formats to try, the best one first."""
        if self.format is not None:
            return [self.format]
        raw = [name for name in FORMATS if name != "mjpeg"]
        width_px, height_px = self.size_px
        return [*raw, "mjpeg"] if width_px * height_px <= MAX_RAW_PX else ["mjpeg", *raw]


def open_video_capture(device: str) -> VideoCapture:
    """The device through OpenCV's V4L2, and nothing else that OpenCV might find behind that name."""
    return cv2.VideoCapture(device, cv2.CAP_V4L2)


class CameraSource(LiveCamera):
    """A camera of Linux: stream "NAME/visual", RGB pictures (height, width, 3) uint8.

    What the camera does not offer is not insisted on: `mode` says what it delivers, and a warning of the
    logger `edge_mer.sources.camera` what else it was asked for.

    A picture carries the driver's time stamp where that is by the host's monotonic clock, else the time at
    which it came.

    Args:
        rest: The URI after `camera:`, a number or a path, with keys of `CameraSettings`.
        clock: Stamps what comes.
        open_capture: Opens a device node; OpenCV's `VideoCapture` unless a test gives another one.

    Raises:
        UsageError: As `CameraSettings.parse`.
    """

    def __init__(
        self,
        rest: str,
        clock: Clock | None = None,
        open_capture: Callable[[str], VideoCapture] = open_video_capture,
    ) -> None:
        self._settings = CameraSettings.parse(rest)
        self._open_capture = open_capture
        self._format = ""
        name = f"camera:{self._settings.device.removeprefix('/dev/video')}"
        super().__init__(f"camera:{rest}", name, self._settings.latency_ms, clock or MonotonicClock())

    @property
    def settings(self) -> CameraSettings:
        """What the URI asks for."""
        return self._settings

    def _capture(self, see: See, stop: threading.Event) -> None:
        refuse_no_camera(self._settings.device)
        capture = self._open_capture(self._settings.device)
        try:
            if not capture.isOpened():
                raise self._in_use()
            self._negotiate(capture)
            self._watch(capture, see, stop)
        finally:
            capture.release()

    def _in_use(self) -> MissingError:
        return MissingError(
            f"{self._name} cannot be opened",
            found="OpenCV cannot start it",
            hint=f"end the program that uses it (fuser -v {self._settings.device}), or plug it in again",
        )

    def _negotiate(self, capture: VideoCapture) -> None:
        """Ask for a mode, and note which one it became."""
        asked = self._settings
        width_px, height_px = asked.size_px
        for name in asked.formats:
            capture.set(cv2.CAP_PROP_FOURCC, _fourcc(FORMATS[name][0]))
            if _format_of(capture) == name:
                break
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, width_px)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height_px)
        if asked.fps is not None:
            capture.set(cv2.CAP_PROP_FPS, float(asked.fps))
        self._format = _format_of(capture)
        if self._format not in FORMATS:
            raise MissingError(
                f"{self._name} sends pictures in a format that is not read",
                expected=", ".join(FORMATS),
                found=self._format,
                hint="a sensor on a Jetson's camera port is opened as csi:0",
            )
        capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        rate_hz = capture.get(cv2.CAP_PROP_FPS)
        self._rate_hz = rate_hz if rate_hz > 0 else None
        self._warn_of_another_mode(capture)

    def _warn_of_another_mode(self, capture: VideoCapture) -> None:
        asked = self._settings
        sizes = {
            "width": (asked.width, round(capture.get(cv2.CAP_PROP_FRAME_WIDTH))),
            "height": (asked.height, round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))),
            "fps": (asked.fps and round(float(asked.fps), 2), self._rate_hz and round(self._rate_hz, 2)),
            "format": (asked.format, self._format),
        }
        other = [
            f"{name} {found} instead of {wanted}"
            for name, (wanted, found) in sizes.items()
            if wanted not in (None, found)
        ]
        if other:
            _log.warning("%s does not offer what it was asked for: %s", self._name, ", ".join(other))

    def _watch(self, capture: VideoCapture, see: See, stop: threading.Event) -> None:
        width_px = round(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        height_px = round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        decoder = _decoder(self._format, width_px, height_px)
        times, counts = FrameTimes(), self._counts
        while not stop.is_set():
            if not capture.grab():
                raise LostError(f"{self._name} is gone", hint="check its cable, and plug it in again")
            arrived_ns = self._clock.now_ns()
            t_ns, basis = _stamp(capture, times, arrived_ns)
            counts.n_stale += t_ns is None
            if t_ns is None:
                continue
            pixels = self._pixels(decoder, capture)
            counts.n_corrupt += pixels is None
            if pixels is not None:
                see(Picture(pixels, t_ns, arrived_ns, basis))

    def _pixels(self, decoder: VideoCodecContext, capture: VideoCapture) -> NDArray[np.uint8] | None:
        is_there, raw = capture.retrieve()
        if not is_there:
            return None
        try:
            frames = decoder.decode(Packet(np.ascontiguousarray(raw).tobytes()))
            return to_rgb(frames[0], Fraction(1), (None, None, 3)) if frames else None
        except av.FFmpegError:  # cut off on the cable
            return None

    def _mode_of(self, height_px: int, width_px: int) -> str:
        rate = f" at {self._rate_hz:g} Hz" if self._rate_hz else ""
        return f"{width_px} x {height_px}{rate}, {self._format.upper()}"


def _stamp(capture: VideoCapture, times: FrameTimes, arrived_ns: int) -> tuple[int | None, TimeBasis]:
    """When the picture that was just grabbed was taken; None for one that is old."""
    driver_ns = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
    age_ns = arrived_ns - driver_ns
    if driver_ns > 0 and 0 <= age_ns < _MAX_STAMP_AGE_NS:
        return (driver_ns if age_ns <= MAX_AGE_NS else None), "driver"
    return times.place(arrived_ns), "arrival"


def _decoder(name: str, width_px: int, height_px: int) -> VideoCodecContext:
    pixel_format = FORMATS[name][1]
    decoder = CodecContext.create("rawvideo" if pixel_format else "mjpeg", "r")
    if pixel_format:
        decoder.width, decoder.height, decoder.pix_fmt = width_px, height_px, pixel_format
    decoder.thread_count = 1
    return decoder


def _fourcc(name: str) -> int:
    return int.from_bytes(name.encode("ascii"), "little")


def _format_of(capture: VideoCapture) -> str:
    """A key of `FORMATS`, or Linux's name of another format."""
    code = round(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
    letters = code.to_bytes(4, "little").decode("ascii", "replace").strip("\0 ")
    return next((name for name, (linux, _) in FORMATS.items() if linux == letters), letters or "none")


# --- device nodes -----------------------------------------------------------------------------------


def refuse_no_camera(device: str) -> None:
    """Say clearly why a device node is no camera that can be opened.

    Raises:
        MissingError: It is not there, may not be opened, or gives no pictures.
    """
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        raise _cannot_open(device, error) from error
    try:
        answer = fcntl.ioctl(descriptor, _VIDIOC_QUERYCAP, bytes(104))
    except OSError as error:
        raise MissingError(
            f"{device} is no camera",
            found=str(error.strerror),
            hint="a recording is opened as file:PATH; edge-mer sources lists the cameras that are attached",
        ) from error
    finally:
        os.close(descriptor)
    capabilities, of_node = struct.unpack_from("<II", answer, 84)
    if not (of_node if capabilities & _CAP_DEVICE_CAPS else capabilities) & _CAP_VIDEO_CAPTURE:
        raise MissingError(
            f"{device} gives no pictures",
            found="a node for the settings of a camera, or for something else",
            hint="edge-mer sources lists the nodes that do",
        )


def _cannot_open(device: str, error: OSError) -> MissingError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return MissingError(
            f"{device} may not be opened by this user",
            found=str(error.strerror),
            hint="sudo usermod -aG video $USER, then log out and in again",
        )
    there = ", ".join(linux_cameras()) or "none"
    return MissingError(
        f"camera {device} cannot be opened",
        found=f"{error.strerror}; cameras that are there: {there}",
        hint="plug it in; in a container, start that with --device",
    )

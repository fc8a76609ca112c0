"""CameraSource: what is no camera is refused for real; modes, stamps and colours with a stand-in.

Containers and most build machines have no /dev/video*, and no way to make one. So what OpenCV would hand over
is played by `FakeCapture`; all that comes after it is real. A real driver remains to be tried.
"""

from __future__ import annotations

import ctypes
import logging
import os
import pty
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S, ManualClock, MonotonicClock
from edge_mer.errors import MissingError, UsageError
from edge_mer.runtime.arrivals import check_chunk
from edge_mer.sources import camera
from edge_mer.sources.camera import FORMATS, CameraSource, open_video_capture
from edge_mer.sources.camera_attached import cameras, csi_sensors, linux_cameras
from tests.helpers.live_sources import lost_within_s
from tests.helpers.senders import PATCHES, counted_pictures, number_of, patch_colours, write_counted_clip

FakeMode = dict[str, Any]


def as_sent(picture: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """A picture in the layout in which OpenCV hands over what a camera sent."""
    bgr = np.ascontiguousarray(picture[..., ::-1])
    height, width = picture.shape[:2]
    if name == "mjpeg":
        return np.asarray(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]).reshape(1, -1)
    if name in ("rgb", "bgr"):
        return picture if name == "rgb" else bgr
    if name == "grey":
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)  # type: ignore[return-value]
    i420 = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420))
    if name == "i420":
        return i420
    y, chroma = i420[:height], i420[height:].reshape(2, height // 2, width // 2)
    if name == "nv12":
        return np.vstack([y, np.moveaxis(chroma, 0, -1).reshape(height // 2, width)])
    u, v = (np.repeat(plane, 2, axis=0) for plane in chroma)
    pairs = np.stack([y[:, 0::2], u, y[:, 1::2], v], axis=-1)
    pairs = pairs if name == "yuyv" else pairs[..., [1, 0, 3, 2]]
    return pairs.reshape(height, width, 2)


class FakeCapture:
    """Plays OpenCV's `VideoCapture` of a camera: counted pictures, one per call of `grab`.

    Args:
        clock: The driver's clock.
        formats: What the camera offers.
        age_ns: How old a picture is when it is handed over.
        stamp_ns: Makes a driver's stamp of the time of capture.
        n_pictures: After these it is pulled out.
    """

    def __init__(
        self,
        clock: Any,
        formats: tuple[str, ...] = ("yuyv", "mjpeg"),
        age_ns: int = 8_000_000,
        stamp_ns: Callable[[int], int] = lambda t_ns: t_ns,
        n_pictures: int = 1_000_000,
    ) -> None:
        self._clock, self._formats, self._stamp = clock, formats, stamp_ns
        self.age_ns, self._n_left = age_ns, n_pictures
        self._pictures = list(counted_pictures(16))
        self._n, self._stamp_ns = -1, 0
        self._last_ns = clock.now_ns()
        code = cv2.VideoWriter.fourcc(*FORMATS[formats[0]][0])
        self.mode = {cv2.CAP_PROP_FRAME_WIDTH: 128.0, cv2.CAP_PROP_FRAME_HEIGHT: 96.0, cv2.CAP_PROP_FPS: 30.0}
        self.mode[cv2.CAP_PROP_FOURCC] = code
        self.asked: dict[int, float] = {}
        self.is_released = False

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def set(self, propId: int, value: float) -> bool:
        self.asked[propId] = value
        offered = [cv2.VideoWriter.fourcc(*FORMATS[name][0]) for name in self._formats]
        if propId == cv2.CAP_PROP_FOURCC and value in offered:
            self.mode[propId] = value
        return True

    def get(self, propId: int) -> float:
        return self._stamp_ns / 1e6 if propId == cv2.CAP_PROP_POS_MSEC else self.mode[propId]

    def grab(self) -> bool:
        self._last_ns += NS_PER_S // 100
        self._clock.sleep_until_ns(self._last_ns)
        self._n += 1
        self._stamp_ns = self._stamp(self._clock.now_ns() - self.age_ns)
        return self._n < self._n_left

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]:
        assert self.asked[cv2.CAP_PROP_CONVERT_RGB] == 0
        code = int(self.mode[cv2.CAP_PROP_FOURCC])
        name = next(key for key, (linux, _) in FORMATS.items() if cv2.VideoWriter.fourcc(*linux) == code)
        return True, as_sent(self._pictures[self._n % 16], name)

    def release(self) -> None:
        self.is_released = True


@pytest.fixture
def plugged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a camera, as far as the look at the device node goes."""
    monkeypatch.setattr(camera, "refuse_no_camera", lambda device: None)


def played(uri: str, capture: FakeCapture, n: int = 6) -> tuple[CameraSource, list[Any]]:
    source = CameraSource(uri, MonotonicClock(), lambda device: capture)
    source.start()
    chunks = [source.read(2_000) for _ in range(n)]
    source.ensure_stopped()
    return source, chunks


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "grey"])
@pytest.mark.usefixtures("plugged_in")
def test_every_format_gives_the_same_picture(name: str) -> None:
    source, chunks = played(f"0?format={name}", FakeCapture(MonotonicClock(), (name,)))
    (spec,) = source.specs
    for seq, chunk in enumerate(chunks):
        check_chunk(chunk, {spec.name: spec})
        assert chunk.seq == seq
        assert np.abs(patch_colours(chunk.data) - PATCHES).max() < 5
    numbers = [number_of(chunk.data) for chunk in chunks]
    assert np.diff(np.unwrap(numbers, period=16)).tolist() == [1] * 5
    assert source.mode == f"128 x 96 at 30 Hz, {name.upper()}"


@pytest.mark.usefixtures("plugged_in")
def test_grey_is_grey() -> None:
    _, chunks = played("0?format=grey", FakeCapture(MonotonicClock(), ("grey",)))
    assert np.ptp(chunks[0].data, axis=2).max() == 0
    assert number_of(chunks[1].data) == (number_of(chunks[0].data) + 1) % 16


@pytest.mark.usefixtures("plugged_in")
def test_the_drivers_stamp_is_taken_where_it_is_by_this_clock() -> None:
    source, chunks = played("0?latency_ms=10", FakeCapture(MonotonicClock()))
    for chunk in chunks:
        assert chunk.time_basis == "driver"
        assert 18e6 <= chunk.arrived_ns - chunk.t_ns < 50e6
    assert source.counts.n_stale == 0


@pytest.mark.parametrize(
    "stamp_ns", [lambda _: 0, lambda t: t + 1_700_000_000 * NS_PER_S, lambda t: t - 60 * NS_PER_S]
)
@pytest.mark.usefixtures("plugged_in")
def test_a_stamp_by_another_clock_is_not_taken(stamp_ns: Callable[[int], int]) -> None:
    _, chunks = played("0", FakeCapture(MonotonicClock(), stamp_ns=stamp_ns))
    for chunk in chunks:
        assert (chunk.time_basis, chunk.t_ns) == ("arrival", chunk.arrived_ns)


@pytest.mark.usefixtures("plugged_in")
def test_pictures_that_waited_in_the_driver_are_left_out() -> None:
    capture = FakeCapture(MonotonicClock())
    source = CameraSource("0", MonotonicClock(), lambda device: capture)
    source.start()
    assert source.read(2_000) is not None
    capture.age_ns = 800_000_000
    while source.counts.n_stale < 5:
        threading.Event().wait(0.005)
    while source.read(0) is not None:  # what was captured before
        pass
    assert source.read(50) is None
    capture.age_ns = 8_000_000
    chunk = source.read(2_000)
    source.ensure_stopped()
    assert chunk is not None
    assert chunk.arrived_ns is not None
    assert chunk.arrived_ns - chunk.t_ns < 50e6


@pytest.mark.usefixtures("plugged_in")
def test_another_mode_than_asked_for_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        source, _ = played("0?width=1280&height=720&fps=60&format=nv12", FakeCapture(MonotonicClock()))
    assert "width 128 instead of 1280" in caplog.text
    assert "fps 30.0 instead of 60.0" in caplog.text
    assert "format yuyv instead of nv12" in caplog.text
    assert source.mode == "128 x 96 at 30 Hz, YUYV"
    assert source.specs[0].rate_hz == 30


@pytest.mark.usefixtures("plugged_in")
def test_what_is_asked_for_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    capture = FakeCapture(MonotonicClock())
    with caplog.at_level(logging.WARNING):
        played("0?width=128&height=96&fps=30&format=mjpeg", capture)
        played("0", FakeCapture(MonotonicClock()))
    assert caplog.text == ""
    assert capture.asked[cv2.CAP_PROP_FRAME_WIDTH] == 128
    assert capture.asked[cv2.CAP_PROP_FPS] == 30
    assert capture.asked[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*"MJPG")


@pytest.mark.parametrize(("size", "first"), [("", "YUYV"), ("?width=1280&height=720", "MJPG")])
@pytest.mark.usefixtures("plugged_in")
def test_large_pictures_are_asked_for_as_mjpeg(size: str, first: str) -> None:
    capture = FakeCapture(MonotonicClock())
    played(f"0{size}", capture)
    assert capture.mode[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*first)


@pytest.mark.usefixtures("plugged_in")
def test_raw_sensors_are_refused() -> None:
    capture = FakeCapture(MonotonicClock())
    capture.mode[cv2.CAP_PROP_FOURCC] = cv2.VideoWriter.fourcc(*"RG10")
    capture._formats = ()
    source = CameraSource("0", MonotonicClock(), lambda device: capture)
    with pytest.raises(MissingError, match=r"RG10.*csi:0"):
        source.ensure_ready()
    assert capture.is_released


@pytest.mark.usefixtures("plugged_in")
def test_a_camera_that_is_pulled_out_is_lost_and_comes_back() -> None:
    captures = [FakeCapture(MonotonicClock(), n_pictures=5), FakeCapture(MonotonicClock())]
    left = list(captures)
    source = CameraSource("0", MonotonicClock(), lambda device: left.pop(0))
    source.start()
    assert lost_within_s(source, "gone") < 1
    assert captures[0].is_released
    source.ensure_stopped()
    source.start()
    chunk = source.read(2_000)
    assert chunk is not None
    assert chunk.seq == 0
    source.ensure_stopped()
    assert captures[1].is_released
    assert not [thread for thread in threading.enumerate() if thread.name == "camera:0"]


@pytest.mark.usefixtures("plugged_in")
def test_a_broken_jpeg_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = FakeCapture(MonotonicClock(), ("mjpeg",))
    good = capture.retrieve
    broken = np.frombuffer(b"no jpeg" * 9, np.uint8).reshape(1, -1)
    monkeypatch.setattr(capture, "retrieve", lambda: good() if capture._n % 2 else (True, broken))
    source, chunks = played("0", capture)
    assert all(number_of(chunk.data) % 2 for chunk in chunks)
    assert source.counts.n_corrupt >= 5


def test_times_come_from_the_clock_that_is_given(plugged_in: None) -> None:
    clock = ManualClock(5 * NS_PER_S)
    source = CameraSource("0", clock, lambda device: FakeCapture(clock, n_pictures=3))
    source.ensure_ready()
    source.ensure_stopped()
    assert clock.now_ns() >= 5 * NS_PER_S + 2 * NS_PER_S // 100


# --- the real thing refuses what is no camera -------------------------------------------------------


def test_there_is_no_such_camera() -> None:
    with pytest.raises(MissingError, match=r"/dev/video987 cannot be opened.*No such file") as failed:
        CameraSource("987").ensure_ready()
    assert failed.value.exit_code == 5


def test_a_recording_is_no_camera(tmp_path: Path) -> None:
    clip = write_counted_clip(tmp_path / "clip.mp4")
    with pytest.raises(MissingError, match=r"is no camera.*file:PATH"):
        CameraSource(str(clip)).ensure_ready()
    assert not open_video_capture(str(clip)).isOpened()  # nor would OpenCV take it for one


def test_other_devices_are_no_cameras() -> None:
    ours, theirs = pty.openpty()
    try:
        for path in ("/dev/null", os.ttyname(theirs)):
            with pytest.raises(MissingError, match="is no camera"):
                CameraSource(path).ensure_ready()
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_node_of_another_group_is_said_how_to_open(tmp_path: Path) -> None:
    node = tmp_path / "video0"
    node.touch(0o000)
    found: list[str] = []

    def look_as_nobody() -> None:  # for this thread only; root may open anything
        ctypes.CDLL(None).setfsuid(65534)
        try:
            camera.refuse_no_camera(str(node))
        except MissingError as error:
            found.append(str(error))

    thread = threading.Thread(target=look_as_nobody)
    thread.start()
    thread.join()
    assert "may not be opened by this user" in found[0]
    assert "usermod -aG video" in found[0]


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "-1",
        "video0",
        "clip.mp4",
        "0?width=640",
        "0?width=641&height=480",
        "0?format=h264",
        "0?wdith=3",
        "0?fps=0",
    ],
)
def test_wrong_uris_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError):
        CameraSource(wrong)


# --- what is attached -------------------------------------------------------------------------------


def linux(root: Path, *names: str) -> Path:
    """A file system with these cameras, each with a second node for its settings."""
    for number, name in enumerate(names):
        for index in (0, 1):
            node = root / "dev" / f"video{number * 2 + index}"
            folder = root / "sys" / "class" / "video4linux" / node.name
            folder.mkdir(parents=True)
            node.parent.mkdir(exist_ok=True)
            node.touch()
            (folder / "name").write_text(f"{name}\n")
            (folder / "index").write_text(f"{index}\n")
    return root


def test_cameras_are_listed_by_what_opens_them(tmp_path: Path) -> None:
    root = linux(tmp_path, "HD Webcam\x1b[2J", "vi-output, imx219 9-0010", "Other cam", "a", "b", "Sixth")
    assert [(one.uri, one.name) for one in cameras(root)] == [
        ("camera:0", "HD Webcam [2J"),
        ("camera:4", "Other cam"),
        ("camera:6", "a"),
        ("camera:8", "b"),
        ("camera:10", "Sixth"),
    ]
    (sensor,) = csi_sensors(root)
    assert (sensor.uri, sensor.name) == ("csi:0", "imx219 (CSI, raw pictures)")
    assert "nvidia-l4t-gstreamer" in sensor.note


def test_a_jetson_with_its_packages_lacks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = linux(tmp_path, "vi-output, imx219 9-0010", "vi-output, imx477 10-001a")
    plugin = root / "usr/lib/aarch64-linux-gnu/gstreamer-1.0/libgstnvarguscamerasrc.so"
    plugin.parent.mkdir(parents=True)
    plugin.touch()
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert [(one.uri, one.note) for one in csi_sensors(root)] == [("csi:0", ""), ("csi:1", "")]
    assert cameras(root) == []


def test_nothing_is_attached_to_an_empty_machine(tmp_path: Path) -> None:
    assert linux_cameras(tmp_path) == {}
    assert cameras(tmp_path) == csi_sensors(tmp_path) == []

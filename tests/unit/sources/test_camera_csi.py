"""CsiSource with a real gst-launch-1.0, whose test picture stands for a Jetson's camera service."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edge_mer.errors import MissingError, UsageError
from edge_mer.runtime.arrivals import check_chunk
from edge_mer.sources.camera_csi import CsiSettings, CsiSource, argus_elements
from tests.helpers.live_sources import lost_within_s
from tests.helpers.system_packages import needs

pytestmark = pytest.mark.live

ROOT = Path(__file__).resolve().parents[3]
URI = "0?width=160&height=120&fps=50"
SMPTE = ((191, 191, 191), (191, 191, 0), (0, 191, 191), (0, 191, 0), (191, 0, 191), (191, 0, 0), (0, 0, 191))
"""Bars of `videotestsrc pattern=smpte75`, RGB from left to right."""

gst = needs("gst-launch-1.0")


def test_picture(settings: CsiSettings, *more: str) -> list[str]:
    size = f"width={settings.width},height={settings.height}"
    rate = f"framerate={settings.fps.numerator}/{settings.fps.denominator}"
    source = ["videotestsrc", "is-live=true", "pattern=smpte75", *more]
    return [*source, "!", f"video/x-raw,format=I420,{size},{rate}"]


test_picture.__test__ = False  # type: ignore[attr-defined]
ELEMENTS = test_picture(CsiSettings.parse(URI))


def recorded_program(folder: Path) -> tuple[str, Path, Path]:
    """gst-launch-1.0 behind a script that writes down its process id, and how it ended."""
    script, pid, ended = folder / "gst", folder / "pid", folder / "ended"
    script.write_text(
        f'#!/bin/sh\ntrap "" INT TERM\n(trap - INT TERM; exec gst-launch-1.0 "$@") & echo $! > {pid}\n'
        f'trap "kill -INT $!" INT\ntrap "kill -TERM $!" TERM\n'
        f"while :; do wait $!; code=$?; kill -0 $! 2>/dev/null || break; done\necho $code > {ended}.new\n"
        f"mv {ended}.new {ended}\n"
    )
    script.chmod(0o755)
    return str(script), pid, ended


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(path: Path, timeout_s: float = 10.0) -> str:
    until = time.monotonic() + timeout_s
    while not path.exists() or not path.read_text():
        assert time.monotonic() < until, f"no {path.name}"
        threading.Event().wait(0.01)
    return path.read_text().strip()


@gst
def test_pictures_come_at_their_pace_with_their_colours() -> None:
    source = CsiSource(f"{URI}&latency_ms=50", elements=test_picture)
    source.start()
    chunks = [source.read(10_000) for _ in range(25)]
    (spec,) = source.specs
    source.ensure_stopped()
    times_ns = []
    for seq, chunk in enumerate(chunks):
        assert chunk is not None
        check_chunk(chunk, {spec.name: spec})
        assert (chunk.seq, chunk.data.shape, chunk.time_basis) == (seq, (120, 160, 3), "arrival")
        assert chunk.arrived_ns is not None
        assert chunk.arrived_ns - chunk.t_ns == 50_000_000
        bars = [
            chunk.data[20:60, x * 160 // 7 + 6 : (x + 1) * 160 // 7 - 6].mean(axis=(0, 1)) for x in range(7)
        ]
        assert np.abs(np.array(bars) - SMPTE).max() < 4
        times_ns.append(chunk.t_ns)
    assert 15e6 < np.median(np.diff(times_ns)) < 25e6
    assert (source.mode, spec.rate_hz) == ("160 x 120 at 50 Hz", 50)


@gst
def test_it_is_ended_in_order_and_can_be_opened_again(tmp_path: Path) -> None:
    program, pid, ended = recorded_program(tmp_path)
    source = CsiSource(URI, elements=test_picture, program=program)
    for _ in range(2):
        ended.unlink(missing_ok=True)
        source.start()
        assert source.read(10_000) is not None
        assert is_running(int(wait_for(pid)))
        begin = time.monotonic()
        source.ensure_stopped()
        source.ensure_stopped()
        assert time.monotonic() - begin < 2
        assert wait_for(ended) in (
            "0",
            "1",
        )  # it ended by itself, not by a signal, which would be 128 and more
        assert not is_running(int(pid.read_text()))
    assert not [thread for thread in threading.enumerate() if thread.name == "csi:0"]


@gst
def test_a_pipeline_that_was_killed_is_lost_and_comes_back(tmp_path: Path) -> None:
    program, pid, _ = recorded_program(tmp_path)
    source = CsiSource(URI, elements=test_picture, program=program)
    source.start()
    assert source.read(10_000) is not None
    os.kill(int(wait_for(pid)), signal.SIGKILL)
    assert lost_within_s(source, "csi:0 stopped") < 1
    source.ensure_stopped()
    source.start()
    assert source.read(10_000) is not None
    source.ensure_stopped()


@gst
def test_it_ends_in_order_when_we_are_killed(tmp_path: Path) -> None:
    program, pid, ended = recorded_program(tmp_path)
    code = f"""
        import sys
        from edge_mer.sources.camera_csi import CsiSource
        source = CsiSource({URI!r}, elements=lambda _: {ELEMENTS!r}, program={program!r})
        source.start()
        print("ready", flush=True)
        sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.kill()
        child.wait()
    assert wait_for(ended) == "1"  # it could not write, and said so: SIGPIPE would have given 141
    assert not is_running(int(pid.read_text()))


@gst
def test_it_ends_in_order_on_every_signal(tmp_path: Path) -> None:
    code = f"""
        import sys
        from edge_mer.cli import main
        from edge_mer.sources.camera_csi import CsiSource
        main._end_like_ctrl_c()
        source = CsiSource({URI!r}, elements=lambda _: {ELEMENTS!r}, program=sys.argv[1])
        try:
            source.start()
            print("ready", flush=True)
            while True:
                source.read(200)
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            source.ensure_stopped()
    """
    children = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        folder = tmp_path / number.name
        folder.mkdir()
        program, pid, ended = recorded_program(folder)
        command = [sys.executable, "-c", textwrap.dedent(code), program]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        children.append((number, child, pid, ended))
    for number, child, pid, ended in children:
        with child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            child.send_signal(number)
            assert child.wait(10) == 130
        assert wait_for(ended) in ("0", "1", "130")  # 130: interrupted before it was ready to be
        assert not is_running(int(pid.read_text()))


def test_a_pipeline_that_does_not_listen_is_ended_by_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_mer.sources import camera_csi

    quick = tuple((number, timeout_s / 10) for number, timeout_s in camera_csi._END_TIMEOUTS_S)
    monkeypatch.setattr(camera_csi, "_END_TIMEOUTS_S", quick)
    deaf, pid = tmp_path / "deaf", tmp_path / "pid"
    script = f"""\
        #!{sys.executable}
        import os, pathlib, signal, sys
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))
        pipe = int(next(word for word in sys.argv if word.startswith("fd="))[3:])
        for _ in range(3):
            os.write(pipe, bytes(160 * 120 * 3 // 2))
            signal.sigtimedwait([], 0.02)
        while True:
            signal.sigtimedwait([], 60)
    """
    deaf.write_text(textwrap.dedent(script))
    deaf.chmod(0o755)
    source = CsiSource(URI, elements=test_picture, program=str(deaf))
    with caplog.at_level(logging.WARNING):
        source.start()
        source.ensure_stopped()
    assert "did not end by SIGINT" in caplog.text
    assert not is_running(int(pid.read_text()))


@gst
def test_what_the_pipeline_says_is_in_the_message() -> None:
    source = CsiSource("3")  # no Jetson, no such element
    with pytest.raises(MissingError, match='no element "nvarguscamerasrc"') as failed:
        source.ensure_ready()
    assert failed.value.exit_code == 5


def test_a_missing_program_is_named() -> None:
    with pytest.raises(MissingError, match=r"apt-get install gstreamer1\.0-tools"):
        CsiSource("0", program="no-such-gst-launch").ensure_ready()


def test_the_jetsons_pipeline() -> None:
    settings = CsiSettings.parse("1?width=1920&height=1080&fps=30000/1001&flip=2")
    assert " ".join(argus_elements(settings)) == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=30000/1001"
        " ! nvvidconv flip-method=2 ! video/x-raw,format=I420,width=1920,height=1080"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "a",
        "-1",
        "/dev/video0",
        "0?width=640",
        "0?width=644&height=480",
        "0?fps=0",
        "0?flip=8",
        "0?sensor=1",
    ],
)
def test_wrong_uris_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError):
        CsiSource(wrong)

"""What units close to a process is really closed here, and what the process needs stays open."""

from __future__ import annotations

import ctypes
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edge_mer.daemon.systemd import GATEWAY_UNIT, INFERENCE_UNIT, Installation, units
from tests.helpers import syscall_filter
from tests.helpers.system_packages import needs

pytestmark = needs("systemd-analyze")

UNITS = units(Installation(Path("/etc/edge-mer/edge-mer.toml"), Path("/bin/true")))

ASK = """
import ctypes, json, os, resource, threading
libc = ctypes.CDLL(None, use_errno=True)
def asked(name, *arguments):
    ctypes.set_errno(0)
    return [getattr(libc, name)(*arguments), ctypes.get_errno()]
thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()
resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
print(json.dumps({
    "adjtimex": asked("adjtimex", ctypes.create_string_buffer(1024))[0],
    "mount": asked("mount", None, b"/nowhere", b"none", 0, None),
    "ptrace": asked("ptrace", 0, 0, 0, 0),
    "setpriority": asked("setpriority", 0, 0, 19),
}))
"""
EPERM = [-1, 1]


@pytest.fixture(autouse=True)
def _seccomp() -> None:
    try:
        ctypes.CDLL(syscall_filter.LIBRARY)
    except OSError:
        pytest.skip("needs the system package libseccomp2")


def behind(unit: str, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A Python with these arguments, behind a unit's filter."""
    path = tmp_path / "a.service"
    path.write_text(unit, encoding="utf-8")
    command = [sys.executable, syscall_filter.__file__, str(path), sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def answers(unit: str, tmp_path: Path) -> dict[str, object]:
    done = behind(unit, tmp_path, "-c", ASK)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", [INFERENCE_UNIT, GATEWAY_UNIT])
def test_the_kernel_says_whether_the_clock_is_synchronised(tmp_path: Path, name: str) -> None:
    here = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024))
    assert here >= 0
    assert answers(UNITS[name], tmp_path)["adjtimex"] == here


def test_behind_protect_clock_nobody_would_know(tmp_path: Path) -> None:
    """Why no unit has it: a closed group is really closed."""
    closed = UNITS[INFERENCE_UNIT].replace("SystemCallFilter=~", "SystemCallFilter=~@clock ")
    assert answers(closed, tmp_path)["adjtimex"] == -1


@pytest.mark.parametrize("name", [INFERENCE_UNIT, GATEWAY_UNIT])
def test_what_neither_needs_is_closed(tmp_path: Path, name: str) -> None:
    found = answers(UNITS[name], tmp_path)
    assert (found["mount"], found["ptrace"]) == (EPERM, EPERM)
    assert (found["setpriority"] == EPERM) == (name == GATEWAY_UNIT), "inference lets its builds give way"


def test_a_session_runs_behind_the_filter_of_inference(tmp_path: Path, shared_bundle: Path) -> None:
    words = ["run", str(shared_bundle), "--source", "sim:seed=4&person=2&duration_s=4", "--fast"]
    done = behind(UNITS[INFERENCE_UNIT], tmp_path, "-m", "edge_mer.cli.main", *words)
    assert done.returncode == 0, done.stderr
    assert "15 predictions" in done.stdout + done.stderr


def listens(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(place)) == 0


def test_the_gateway_serves_behind_its_filter(tmp_path: Path) -> None:
    """And where no memory can be both written and run."""
    httpx = pytest.importorskip("httpx", reason="needs pip install httpx")
    pytest.importorskip("fastapi", reason="needs pip install 'edge-mer[daemon]'")
    from tests.helpers.gateway import SOON_S, until

    place, unit, config = tmp_path / "http.sock", tmp_path / "a.service", tmp_path / "edge-mer.toml"
    unit.write_text(UNITS[GATEWAY_UNIT], encoding="utf-8")
    config.write_text(
        f'bundle = "bundle"\nsources = ["sim:"]\nrun_dir = "{tmp_path}"\nstate_dir = "{tmp_path}"\n'
        f'[http]\nlisten = ["unix:{place}"]\n',
        encoding="utf-8",
    )
    words = ["-m", "edge_mer.cli.main", "daemon", "--only", "gateway", "--config", str(config)]
    process = subprocess.Popen([sys.executable, syscall_filter.__file__, str(unit), sys.executable, *words])
    try:
        until(lambda: listens(place))
        transport = httpx.HTTPTransport(uds=str(place))
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=SOON_S) as client:
            for path in ("/healthz", "/metrics", "/"):
                assert client.get(path).status_code == 200, path
    finally:
        process.terminate()
        code = process.wait(timeout=SOON_S)
    assert code == 0

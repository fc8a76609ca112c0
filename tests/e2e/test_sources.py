"""`edge-mer sources`: a list that is quick and never fails, and what sources give that are opened."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edge_mer.cli.main import main
from edge_mer.cli.sources import listed
from edge_mer.sources import camera_attached
from edge_mer.sources.base import Attached
from edge_mer.sources.registry import LISTERS, SOURCES, open_source
from tests.helpers import senders
from tests.helpers.senders import Sender, free_port


def found() -> list[Attached]:
    return [Attached("camera:0", "HD Webcam"), Attached("camera:12", "Cam", "this user may not open it")]


@pytest.fixture
def two_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cameras are attached, and nothing else."""
    monkeypatch.setattr(camera_attached, "cameras", found)
    for scheme in set(LISTERS) - {"camera"}:
        monkeypatch.delitem(LISTERS, scheme)


def test_every_lister_belongs_to_a_source_and_answers() -> None:
    assert set(LISTERS) <= set(SOURCES)
    for lister in LISTERS.values():
        for one in listed(lister):
            open_source(one.uri)


@pytest.mark.usefixtures("two_cameras")
def test_one_line_each_with_the_uri_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sources"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "camera:0   HD Webcam",
        "camera:12  Cam        this user may not open it",
    ]


@pytest.mark.usefixtures("two_cameras")
def test_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sources", "--json"]) == 0
    assert [Attached(**entry) for entry in json.loads(capsys.readouterr().out)] == found()


def test_nothing_attached_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for scheme in list(LISTERS):
        monkeypatch.delitem(LISTERS, scheme)
    assert main(["sources"]) == 0
    assert "Nothing is attached" in capsys.readouterr().out


def test_a_broken_driver_hides_nothing(
    two_cameras: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(LISTERS, "broken", "edge_mer.no_such_module:attached")
    assert main(["sources"]) == 0
    printed = capsys.readouterr()
    assert "camera:0" in printed.out
    assert "edge_mer.no_such_module cannot look for devices" in printed.err
    assert "Traceback" not in printed.err


def test_a_source_is_opened_to_see_what_it_gives(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}/"
    with Sender(senders.flashes(port), port):
        assert main(["sources", "--json", "--open", address, "--open", "sim:seed=1&streams=visual+eda"]) == 0
    camera, sim = json.loads(capsys.readouterr().out)[-2:]
    assert (camera["uri"], camera["note"]) == (address, "128 x 96, mjpeg")
    assert (sim["name"], sim["note"]) == ("sim/visual, sim/eda", "visual at 30 Hz; eda at 32 Hz")


def test_a_source_that_is_not_there_ends_with_five(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sources", "--open", f"tcp://127.0.0.1:{free_port()}"]) == 5
    assert "Connection refused" in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from edge_mer.cli.main import main; code = main(['sources', '--help']);"
        "sys.exit(code or any(name in sys.modules for name in ('numpy', 'cv2', 'av', 'onnxruntime')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--open" in done.stdout

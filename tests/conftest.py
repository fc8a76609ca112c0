"""Fixtures that many tests share."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.helpers.sound_server import SoundServer

# A gate must not depend on luck or on how busy the machine is; `random` searches on.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))

# Started in the background by a shell, a process ignores Ctrl-C, and so would everything that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _keep_to_own_cores() -> None:
    """Each of several test processes on cores of its own: their threads would wait for each other's."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    part = f"{worker}/{os.environ.get('PYTEST_XDIST_WORKER_COUNT', '1')}"
    number, count = os.environ.get("EDGE_MER_TEST_PART", part).split("/")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= int(count):
        os.sched_setaffinity(0, cores[int(number) :: int(count)])


_keep_to_own_cores()

if importlib.util.find_spec("torch") is None:
    # The workbench's own tests cannot even be read here; `make device` is for the other half.
    collect_ignore_glob = [
        "docs/*",
        "tensorrt/*",
        "unit/export/*",
        "unit/calibration/*",
        "*_torch.py",
        "*_guard_onnx.py",
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Live tests get more chances; several Pythons share the files, but for those of the walls."""
    for item in items:
        if item.get_closest_marker("live"):
            item.add_marker(pytest.mark.flaky(reruns=2))
    share = os.environ.get("EDGE_MER_TEST_SHARE")
    if share is None:
        return
    number, count = (int(part) for part in share.split("/"))

    def is_ours(item: pytest.Item) -> bool:
        name = item.path.relative_to(config.rootpath).as_posix()
        return name.count("/") == 1 or zlib.crc32(name.encode()) % count == number

    config.hook.pytest_deselected(items=[item for item in items if not is_ours(item)])
    items[:] = [item for item in items if is_ours(item)]


@pytest.fixture(scope="session")
def shared_bundle() -> Path:
    """The calibrated jmt-tiny bundle; not to be changed."""
    if given := os.environ.get("EDGE_MER_TEST_BUNDLE"):
        return Path(given)
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch to make the bundle, or EDGE_MER_TEST_BUNDLE naming one")
    from tests.helpers.bundle import ensure_bundle

    return ensure_bundle()


@pytest.fixture
def tiny_bundle(shared_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the calibrated jmt-tiny bundle, free to be changed."""
    return Path(shutil.copytree(shared_bundle, tmp_path / "tiny-bundle"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines built in a test stay in that test."""
    monkeypatch.setenv("EDGE_MER_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def sound_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoundServer]:
    """A running sound server, which PortAudio finds."""
    pytest.importorskip("pyaudio", reason="needs portaudio19-dev and pip install 'edge-mer[mic]'")
    server = SoundServer(tmp_path / "sound")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.start()
    yield server
    server.kill()

"""Runs the tests of the device half on other Pythons, where there is no torch.

JetPack 6 has Python 3.10, JetPack 7 has 3.12. The bundle comes from this Python's workbench, on which all
tests run anyhow: each of the others runs half of the tests' files, with "--whole" all of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.helpers.bundle import ensure_bundle  # noqa: E402

VERSIONS = ("3.10", "3.12")

OF = 6
"""Each takes one of so many shares of the files; the Python of the workbench takes all of them anyway."""


def find(version: str) -> str | None:
    """An interpreter of that version that really starts."""
    candidates = [shutil.which(f"python{version}") or ""]
    candidates += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
    for candidate in filter(None, candidates):
        probe = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if probe.returncode == 0 and f" {version}." in probe.stdout:
            return candidate
    return None


def prepare(version: str, python: str) -> Path:
    """A virtual environment with core, daemon and pytest, made again when the project's needs change."""
    folder = ROOT / f".venv-device-{version}"
    stamp, wanted = folder / "stamp", (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    inside = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(inside), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run(
            [
                *pip,
                "-e",
                f"{ROOT}[daemon,ray,text]",
                "tritonclient[grpc,http]>=2.40",
                "pytest>=8",
                "pytest-rerunfailures>=14",
                "hypothesis>=6.100",
                "httpx>=0.27",
            ],
            check=True,
        )
        stamp.write_text(wanted, encoding="utf-8")
    return inside


def main() -> int:
    """Run them all; the first failure's exit code."""
    found = {version: python for version in VERSIONS if (python := find(version)) is not None}
    if not found:
        print("No Python 3.10 or 3.12 here: the device half was tested on this Python only.")  # noqa: T201
        return 0
    environment = {**os.environ, "EDGE_MER_TEST_BUNDLE": str(ensure_bundle())}
    with ThreadPoolExecutor(len(found)) as pool:
        shares = [f"{i}/{len(found)}" for i in range(len(found))]
        parts = [{**environment, "EDGE_MER_TEST_PART": share} for share in shares]
        if "--whole" not in sys.argv:
            parts = [part | {"EDGE_MER_TEST_SHARE": f"{i}/{OF}"} for i, part in enumerate(parts)]
        results = pool.map(run_tests, found, found.values(), parts)
    failed = 0
    for version, result in zip(found, results, strict=True):
        print(f"The device half on Python {version}:\n{result.stdout}", flush=True)  # noqa: T201
        failed = failed or result.returncode
    return failed


def run_tests(version: str, python: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """All tests that need no workbench; those that go by the clock only where nothing runs beside them."""
    which = "not workbench and not slow" + ("" if "--whole" in sys.argv else " and not live")
    command = [
        str(prepare(version, python)),
        "-m",
        "pytest",
        "-q",
        "-m",
        which,
        "tests",
    ]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=ROOT, env=environment, check=False, **pipe
    )


if __name__ == "__main__":
    sys.exit(main())

"""The published size: 53 million parameters, 16 steps of 32 frames. Minutes, so `make check-slow` runs it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.workbench, pytest.mark.slow]

MAX_MEMORY_BYTES = 4 << 30


def edge_mer(*arguments: str) -> str:
    """Run a verb in a process of its own, so that its memory can be told; returns what it printed."""
    command = [sys.executable, "-m", "edge_mer.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`jmt` with random weights made meaningful, and both INT8 kinds."""
    folder = tmp_path_factory.mktemp("paper")
    shown = edge_mer("export", "jmt", "--out", str(folder / "exported"))
    assert "control: ring shifted by one step" in shown
    edge_mer("calibrate", str(folder / "exported"), "--out", str(folder / "bundle"), "--windows", "16")
    return folder / "bundle"


def test_int8_takes_little_more_than_a_quarter(bundle: Path) -> None:
    candidates = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["candidates"]
    whole = candidates["fp32"]["n_bytes"]
    for name in ("int8-cpu", "int8-trt"):
        assert candidates[name]["n_bytes"] <= 0.28 * whole, name


def test_it_is_proven_again(bundle: Path) -> None:
    """Streaming equals offline, both controls fail, each encoder runs once per step."""
    shown = edge_mer("verify", str(bundle), "--precision", "fp32")
    checks = ("runs of encoder visual, minus steps present", "streaming against offline", "control: ring")
    for check in checks:
        line = next(line for line in shown.splitlines() if line.startswith(check))
        assert line.rstrip().endswith("pass"), line


def test_it_runs_on_fewer_steps_until_its_window_is_full(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    source = "sim:seed=1&person=1&duration_s=19.5"
    options = ["--sink", f"jsonl:{out}", "--fast", "--precision", "fp32"]
    edge_mer("run", str(bundle), "--source", source, *options)
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [record["status"] for record in found] == ["degraded"] * 15 + ["ok"] * 3
    assert all(record["affect"] is not None for record in found)


def test_no_verb_needed_much_memory(bundle: Path) -> None:
    """The largest of all processes started above."""
    assert bundle.is_dir()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < MAX_MEMORY_BYTES

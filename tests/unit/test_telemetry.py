"""What is computed here is told to nobody: libraries keep and send no events about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SESSION = """
import edge_mer
with edge_mer.open_session({bundle!r}, sources=["sim:duration_s=3"], fast=True) as session:
    print(sum(1 for _ in session))
"""


def test_a_session_leaves_nothing_behind(shared_bundle: Path, tmp_path: Path) -> None:
    """ONNX Runtime has a device's identity, and events to be sent, in the home of its user where it may."""
    hushed = ("ORT_DISABLE_TELEMETRY", "CI", "TF_BUILD", "GITHUB_ACTIONS", "XDG_CACHE_HOME")
    env = {name: value for name, value in os.environ.items() if name not in hushed}
    env |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    program = SESSION.format(bundle=str(shared_bundle))
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1
    assert [str(path) for path in tmp_path.rglob("*")] == []

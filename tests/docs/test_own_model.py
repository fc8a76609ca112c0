"""The page on models of one's own: its file and its commands, as a reader would copy them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_python_examples import python_blocks

pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
pytestmark = pytest.mark.workbench

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to-own-model.md"


def shell_lines(text: str) -> list[str]:
    """The lines of the page's blocks of commands."""
    blocks = text.split("```bash\n")[1:]
    return [line for block in blocks for line in block.split("```")[0].strip().splitlines()]


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        shlex.split(line),
        cwd=folder,
        env={**os.environ, "PATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_goes_the_whole_way(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (block,) = python_blocks(text)
    (tmp_path / "my_model.py").write_text(block.code, encoding="utf-8")
    for line in shell_lines(text):
        done = run(line, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [record["status"] for record in records].count("ok") >= 30
    manifest = json.loads((tmp_path / "my-int8" / "manifest.json").read_text())
    assert manifest["lineage"]["weights"] == "my_model.pt"

"""The device half works where there is no torch and no onnx."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BLOCK = """
import sys
BLOCKED = {'torch', 'onnx', 'onnxscript', 'safetensors', 'edge_mer_export', 'edge_mer_calibration'}
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in BLOCKED:
            raise ModuleNotFoundError(f'{name} is behind the wall', name=name)
sys.meta_path.insert(0, Wall())
"""

IMPORT_ALL = """
import importlib, pkgutil, edge_mer
names = [m.name for m in pkgutil.walk_packages(edge_mer.__path__, 'edge_mer.')]
for name in names:
    importlib.import_module(name)
print(len(names))
"""

RUN = """
from edge_mer.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def behind_wall(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", BLOCK + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_module_imports() -> None:
    done = behind_wall(IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


def test_run_works(shared_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    source = "sim:seed=4&person=2&duration_s=3"
    done = behind_wall(RUN, "run", str(shared_bundle), "--source", source, "--sink", f"jsonl:{out}", "--fast")
    assert done.returncode == 0, done.stderr
    assert len([json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]) == 11


def test_a_workbench_verb_says_what_to_install(tmp_path: Path) -> None:
    done = behind_wall(RUN, "export", "jmt-tiny", "--out", str(tmp_path / "bundle"))
    assert done.returncode == 5
    assert "pip install 'edge-mer[export]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_so_does_a_workbench_verb_of_bundle(shared_bundle: Path, tmp_path: Path) -> None:
    done = behind_wall(RUN, "bundle", "triton", str(shared_bundle), "--out", str(tmp_path / "models"))
    assert done.returncode == 5
    assert "pip install 'edge-mer[triton]'" in done.stderr
    assert "Traceback" not in done.stderr
    helped = behind_wall(RUN, "bundle", "--help")
    assert helped.returncode == 0
    assert "Write a model repository for Triton." in helped.stdout

"""Where nothing of CUDA is installed, importing costs nothing, and opening says what is missing."""

from __future__ import annotations

import subprocess
import sys

BLOCK = """
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {'pycuda', 'nvidia'}:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Wall())
from edge_mer import cuda, nvrtc
"""


def told(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", BLOCK + code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_without_pycuda_it_is_said_what_to_install() -> None:
    done = told("cuda.open_gpu()")
    assert "MissingError" in done.stderr
    assert "No module named 'pycuda'" in done.stderr
    assert "pip install 'edge-mer[tensorrt]'" in done.stderr


def test_importing_loads_no_cuda() -> None:
    done = told("print(sorted(m for m in sys.modules if 'pycuda' in m or 'nvidia' in m))")
    assert done.stdout.strip() == "[]", done.stderr

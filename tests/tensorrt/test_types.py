"""The types of every call to TensorRT are checked, so that what a version lacks is seen before it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.tensorrt_bindings import typings

WITH_A_FLAG = """
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorrt as trt


def ask_for_8_bits(config: trt.IBuilderConfig) -> None:
    import tensorrt as trt

    config.set_flag(trt.BuilderFlag.INT8)
"""


@pytest.mark.parametrize(("version", "is_known"), [("10.3.0", True), ("11.4.0", False)])
def test_a_flag_that_only_older_versions_know_is_found(version: str, is_known: bool, tmp_path: Path) -> None:
    module = tmp_path / "asking.py"
    module.write_text(WITH_A_FLAG, encoding="utf-8")
    config = Path(__file__).resolve().parents[2] / "pyproject.toml"
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir", str(tmp_path / "c")]
    found = subprocess.run(
        [*command, str(module)],
        env={**os.environ, "MYPYPATH": str(typings(version))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode == 0) == is_known, found.stdout + found.stderr
    assert is_known or '"type[BuilderFlag]" has no attribute "INT8"' in found.stdout

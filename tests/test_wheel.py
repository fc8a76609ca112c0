"""What a wheel installs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.data import ROOT

pytestmark = pytest.mark.workbench


def test_it_installs_three_packages_and_nothing_called_export(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    roots = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert roots == {"edge_mer", "edge_mer_export", "edge_mer_calibration"}
    assert {"edge_mer/py.typed", "edge_mer_export/py.typed", "edge_mer_calibration/py.typed"} <= set(names)
    assert {"edge_mer/preprocess/kernels/common.cu", "edge_mer/preprocess/kernels/crop.cu"} <= set(names)
    page = {f"edge_mer/gateway/page/{name}" for name in ("index.html", "page.js", "page.css", "icon.svg")}
    assert page <= set(names)

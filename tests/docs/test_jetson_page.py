"""The page on aarch64 is what the check found, and says what failed."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

from benchmarks.jetson.__main__ import MEASURED, PAGE
from benchmarks.jetson.compare import MAX_RUN
from benchmarks.jetson.machines import ONNXRUNTIME, PROCESSORS
from benchmarks.jetson.page import page

pytestmark = pytest.mark.workbench


@pytest.fixture
def found() -> dict[str, Any]:
    """What was measured and kept."""
    held: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    return held


def test_the_page_is_of_what_was_found(found: dict[str, Any]) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(found), "run make jetson-check"


def test_it_has_every_check_of_today(found: dict[str, Any]) -> None:
    assert list(found["checks"]) == [*PROCESSORS, "wheels"]
    whole, *others, wheels = found["checks"].values()
    assert [check["name"] for check in wheels] == ["wheels for Python 3.10", "wheels for Python 3.12"]
    names = [check["name"] for check in whole]
    assert names[0] == "verify"
    assert {"fp32, visual", "fp32, fusion", "int8-cpu, fusion", "faces and eyes"} <= set(names)
    assert [name for name in names if name.startswith("run, ")] == [
        f"run, {precision}, {source}"
        for source in ("a simulated person", "an MP4 file")
        for precision in ("fp32", "int8-cpu")
    ]
    for other in others:
        assert [check["name"] for check in other] == [n for n in names[1:] if not n.startswith("run, ")]
    assert any(f"{MAX_RUN:g};" in check["must_be"] for check in whole)
    assert found["about"]["machine"] == "aarch64"
    assert f"onnxruntime=={found['about']['packages']['onnxruntime']}" == ONNXRUNTIME


def test_both_pythons_have_wheels_of_the_core_and_of_words(found: dict[str, Any]) -> None:
    assert list(found["wheels"]) == ["3.10", "3.12"]
    for one in found["wheels"].values():
        assert {"numpy", "scipy", "onnxruntime", "opencv-python-headless", "av"} <= set(one["core"])
        assert "tokenizers" in set(one["text"]) - set(one["core"])
    # asked for by a condition that holds on 3.10 alone
    assert "tomli" in found["wheels"]["3.10"]["text"]
    assert "tomli" not in found["wheels"]["3.12"]["text"]


def test_a_failed_check_is_named_first(found: dict[str, Any]) -> None:
    for checks in found["checks"].values():
        for check in checks:
            check["passed"] = True
    n = sum(map(len, found["checks"].values()))
    assert f"**All {n} checks passed.**" in page(found)
    assert "FAIL" not in page(found)
    found["checks"]["max"][0]["passed"] = False
    text = page(found)
    assert f"**1 of {n} checks failed: max: {found['checks']['max'][0]['name']}.**" in text
    assert text.count("| FAIL |") == 1


def test_it_says_what_it_does_not_show(found: dict[str, Any]) -> None:
    text = " ".join(page(found).split())
    for said in ("No speed", "No GPU and no TensorRT", "Python is 3.11 here", "No board has computed"):
        assert said in text

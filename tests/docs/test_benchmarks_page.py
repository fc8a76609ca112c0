"""The page on speed is of what was measured, and hides nothing of it."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest

pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

from benchmarks.speed.chart import LEFT, RIGHT, chart
from benchmarks.speed.kept import SESSIONS, file_of, kept
from benchmarks.speed.page import BEGIN, CHART, PAGE, README, in_readme, page
from benchmarks.speed.phases import PLANS
from benchmarks.speed.rivals.registry import RIVALS

pytestmark = pytest.mark.workbench

MEASURED = {name: kept(name) for name in PLANS if file_of(name).exists()}


def test_page_and_chart_are_of_what_was_measured() -> None:
    sessions = SESSIONS.kept("sessions")
    assert PAGE.read_text(encoding="utf-8") == page(MEASURED, sessions), (
        "run python -m benchmarks.speed --page"
    )
    assert CHART.read_text(encoding="utf-8") == chart(MEASURED), "run python -m benchmarks.speed --page"


def test_the_readme_says_the_same() -> None:
    readme = README.read_text(encoding="utf-8")
    assert BEGIN in readme
    assert readme == in_readme(readme, MEASURED), "run python -m benchmarks.speed --page"


@pytest.fixture
def one() -> dict[str, Any]:
    """A system's figures, to be changed."""
    return copy.deepcopy(next(iter(MEASURED.values())))


def row(text: str, name: str) -> list[str]:
    """The cells of the first table's row of that name."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_every_rival_is_there_or_it_is_said_why(one: dict[str, Any]) -> None:
    assert set(one["turns"]["rivals"]) | set(one["model"]["refused"]) == set(RIVALS)


def test_a_row_that_does_not_agree_is_marked(one: dict[str, Any]) -> None:
    found = one["turns"]["rivals"]["ort-int8"]["ccc"]
    found.update(dict.fromkeys(found, 0.9901))
    assert row(page({"x": one}), "edge-mer, ONNX Runtime, INT8")[5] == "0.9901"
    hollow = chart({"x": one}).count('r="5" fill="#ffffff"')
    found[next(iter(found))] = 0.9899
    assert row(page({"x": one}), "edge-mer, ONNX Runtime, INT8")[5] == "**0.9899**"
    assert chart({"x": one}).count('r="5" fill="#ffffff"') == hollow + 1


def test_a_busy_machine_is_told(one: dict[str, Any]) -> None:
    one["others_share"] = 0.01
    assert "Not a quiet machine" not in page({"x": one})
    one["others_share"] = 0.3
    assert "**Not a quiet machine** for x" in page({"x": one})


def test_aims_are_held_against_this_processor(one: dict[str, Any]) -> None:
    for key, ratio in (("ov-int8", 59.0), ("ort-int8", 36.0)):
        one["turns"]["rivals"][key]["ratio"]["torch-naive"] = {"median": ratio, "low": 1.0, "high": 90.0}
    one["machine"]["has"] = ["VNNI"]
    text = page({"jmt": one})
    assert row(text, "OpenVINO INT8, VNNI at most")[2:] == ["59 (1 to 90)", "**not reached**"]
    assert row(text, "ONNX Runtime INT8")[2:] == ["36 (1 to 90)", "reached"]
    assert "with AMX, aim 150: not measured, this processor has no AMX" in text
    one["machine"]["has"] = ["AMX", "VNNI"]
    assert row(page({"jmt": one}), "OpenVINO INT8, with AMX")[1:] == [
        "150",
        "59 (1 to 90)",
        "**not reached**",
    ]


def test_the_chart_s_axis_is_logarithmic(one: dict[str, Any]) -> None:
    rivals = one["turns"]["rivals"]
    for key, ms in zip(rivals, (1.0, 10.0, 100.0, *[10.0] * 20), strict=False):
        rivals[key] |= {"ms": {"p50": ms, "p95": ms, "n": 1}, "rounds_ms": [ms]}
    drawn = chart({"x": one}).partition('class="head"')[2]
    places = [float(x) for x in re.findall(r'<circle cx="([0-9.]+)"', drawn)][:3]
    assert places == pytest.approx([LEFT, (LEFT + RIGHT) / 2, RIGHT], abs=0.1)
    assert math.log10(rivals["torch-naive"]["ms"]["p50"]) == 0

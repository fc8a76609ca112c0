"""docs/how-to-doctor.md names what doctor knows: purposes, topics, JetPacks, fields."""

from __future__ import annotations

import re
from pathlib import Path

from edge_mer.doctor.finding import Finding, Purpose
from edge_mer.doctor.jetpack import LINES
from edge_mer.doctor.probe import LIMIT_S
from edge_mer.doctor.registry import TOPICS

PAGE = (Path(__file__).resolve().parents[2] / "docs/how-to-doctor.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Cells of the table below a heading, without its head."""
    text = re.split(rf"^## {re.escape(heading)}$", PAGE, flags=re.MULTILINE)[1].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_purposes() -> None:
    found = [row[0].strip("`") for row in rows("Statuses, and what a machine is for")]
    assert found == [purpose.value for purpose in Purpose]


def test_topics() -> None:
    assert [row[0] for row in rows("What is looked at")] == list(TOPICS)


def test_jetpacks() -> None:
    found = {row[0]: row[1:] for row in rows("JetPacks")}
    assert list(found) == [f"{major}.{minor}" for major, minor in LINES]
    for line, (names, python, cuda, tensorrt) in zip(LINES.values(), found.values(), strict=True):
        assert names.split(", ") == list(dict.fromkeys(line.patches.values()))
        assert python == ".".join(map(str, line.python))
        assert cuda == line.cuda
        assert tensorrt.split(" or ") == [version.rstrip(".") for version in line.tensorrt]


def test_fields_and_the_time_limit() -> None:
    for field in Finding("a", "b").as_json():
        assert f"`{field}`" in PAGE
    assert LIMIT_S == 10
    assert "is given ten" in PAGE

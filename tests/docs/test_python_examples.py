"""The Python examples in the docs run, in the order in which a reader meets them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.clip import write_clip

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs" / name for name in ("how-to-python.md", "how-to-alarms.md", "tutorial.md")]

CAMERA_LINE = 'CAMERA = "camera:0"  # the first camera; "file:clip.mp4" plays a file instead\n'
"""In the tutorial; a test has no camera, and the clip in its place."""


@dataclass(frozen=True)
class Block:
    """A fenced block of Python, and the line of the page on which its code begins."""

    line: int
    code: str


def python_blocks(text: str) -> list[Block]:
    """The blocks of a page, in order."""
    blocks: list[Block] = []
    fence, first, held = "", 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            if fence == "python":
                blocks.append(Block(first, held))
            fence = "" if fence else line[3:].strip() or "text"
            first, held = number + 1, ""
        else:
            held += line + "\n"
    assert not fence, "a fenced block is never closed"
    return blocks


def execute(blocks: list[Block], page: str) -> None:
    """Run them in one namespace; a traceback names the page and its line."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        code = compile("\n" * (block.line - 1) + block.code, page, "exec")
        exec(code, namespace)  # noqa: S102


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(
    page: Path, shared_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shared_bundle, tmp_path / "demo" / "bundle")
    write_clip(tmp_path / "clip.mp4", duration_s=3)
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks(page.read_text(encoding="utf-8"))
    assert blocks, f"{page.name} has no example"
    if page.name == "tutorial.md":
        blocks = with_a_file_for_the_camera(blocks)
    execute(blocks, str(page))


def with_a_file_for_the_camera(blocks: list[Block]) -> list[Block]:
    """The same blocks, in which the made clip is played where a reader's camera would be."""
    assert sum(block.code.count(CAMERA_LINE) for block in blocks) == 1, f"no single line {CAMERA_LINE!r}"
    return [
        Block(block.line, block.code.replace(CAMERA_LINE, 'CAMERA = "file:clip.mp4"\n')) for block in blocks
    ]


def test_blocks_are_found_and_failures_name_their_line() -> None:
    text = "# x\n```sh\nmake\n```\n```python\na = 1\n```\nand\n```python\na = a\n1 / 0\n```\n"
    blocks = python_blocks(text)
    assert blocks == [Block(6, "a = 1\n"), Block(10, "a = a\n1 / 0\n")]
    with pytest.raises(ZeroDivisionError) as caught:
        execute(blocks, "x.md")
    assert (str(caught.traceback[-1].path).endswith("x.md"), caught.traceback[-1].lineno) == (True, 10)

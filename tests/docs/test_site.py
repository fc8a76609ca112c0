"""What the site's navigation and its reference are made of is complete; `make docs` builds the pages."""

from __future__ import annotations

import re
from pathlib import Path

import edge_mer

DOCS = Path(__file__).resolve().parents[2] / "docs"


def listed(page: Path) -> list[str]:
    """Paths of the pages in a page's lists, as `docs/conf.py` finds them."""
    return re.findall(
        r"^- \[[^\]]+\]\(([^)#\s]+\.md)\)", page.read_text(encoding="utf-8"), flags=re.MULTILINE
    )


def test_the_index_lists_every_page_once() -> None:
    found = listed(DOCS / "index.md")
    outside = ["../README.md", "../CONTRIBUTING.md", "../CHANGELOG.md", "decisions/README.md"]
    inside = [page.name for page in DOCS.glob("*.md") if page.name != "index.md"]
    assert sorted(found) == sorted([*outside, *inside])


def test_the_list_of_decisions_has_every_record_in_order() -> None:
    folder = DOCS / "decisions"
    records = sorted(folder.glob("0*.md"))
    assert listed(folder / "README.md") == [record.name for record in (*records[1:], records[0])]
    text = (folder / "README.md").read_text(encoding="utf-8")
    for record in records[1:]:
        title = record.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        assert f"[{title}]({record.name})" in text


def test_the_reference_has_every_public_name() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^\.\. auto\w+:: edge_mer\.(\w+)$", text, flags=re.MULTILINE)
    assert sorted([*named, "__version__"]) == sorted(edge_mer.__all__)
    assert "`edge_mer.__version__`" in text

"""docs/cli.md says what the commands say."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("torch", reason="the workbench's verbs need PyTorch: pip install 'edge-mer[export]'")

from edge_mer.cli.main import VERBS, load_verb
from tests.helpers.make_cli_reference import PAGE, help_of, reference, typer_version

pytestmark = pytest.mark.workbench

REMEDY = "run .venv/bin/python tests/helpers/make_cli_reference.py"


def sections(page: str) -> dict[str, str]:
    """Title -> text, with its white space evened out."""
    parts = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0]: " ".join(part.split()) for part in parts}


def test_page_is_what_the_commands_print() -> None:
    page = PAGE.read_text(encoding="utf-8")
    if f"with Typer {typer_version()};" in page:
        assert page == reference(), f"docs/cli.md is out of date: {REMEDY}"
    else:  # another Typer words types and defaults otherwise; what we wrote must be there all the same
        written, printed = sections(page), sections(reference())
        assert written.keys() == printed.keys(), REMEDY
        for title, text in printed.items():
            options = set(re.findall(r"(?<!\S)--[a-z-]+", text))
            assert options == set(re.findall(r"(?<!\S)--[a-z-]+", written[title])), f"{title}: {REMEDY}"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    text = " ".join(help_of([verb]).split())
    assert VERBS[verb].help in text
    assert (load_verb(verb).__doc__ or "").strip()
    assert f"\n## edge-mer {verb}\n" in PAGE.read_text(encoding="utf-8")


def test_help_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    narrow = help_of(["run"])
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert help_of(["run"]) == narrow
    assert "\x1b" not in narrow


def test_a_help_that_fails_is_noticed() -> None:
    with pytest.raises(RuntimeError, match="no-such-verb"):
        help_of(["no-such-verb"])

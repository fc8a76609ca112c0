"""docs/cli.md says what the commands say."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("torch", reason="the workbench's verbs need PyTorch: pip install 'edge-mer[export]'")

from edge_mer.cli.main import VERBS
from tests.helpers.make_cli_reference import PAGE, help_of, reference, typer_version, verbs

pytestmark = pytest.mark.workbench

REMEDY = "run .venv/bin/python tests/helpers/make_cli_reference.py"


def sections(page: str) -> dict[str, str]:
    """Title -> text."""
    parts = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0]: part for part in parts}


def squeezed(text: str) -> str:
    """Without white space: where lines break is Typer's business."""
    return "".join(text.split())


def test_page_is_what_the_commands_print() -> None:
    page = PAGE.read_text(encoding="utf-8")
    if f"with Typer {typer_version()};" in page:
        assert page == reference(), f"docs/cli.md is out of date: {REMEDY}"
    else:
        check_words(page)


def check_words(page: str) -> None:
    """Another Typer shows types and defaults otherwise; options and help texts are ours all the same."""
    written = sections(page)
    assert set(written) == {"edge-mer", *(" ".join(["edge-mer", *words]) for words in verbs())}, REMEDY
    for words, command in verbs().items():
        verb = " ".join(words)
        text = written[f"edge-mer {verb}"]
        parameters = command.params
        for parameter in parameters:
            help_text = squeezed(getattr(parameter, "help", None) or "")
            assert help_text in squeezed(text), f"edge-mer {verb}: {parameter.name}: {REMEDY}"
        known = {option for parameter in parameters for option in parameter.opts if option.startswith("--")}
        shown = set(re.findall(r"^ +(--[a-z-]+)", text, flags=re.MULTILINE))
        assert shown == known | {"--help"}, f"edge-mer {verb}: {REMEDY}"


def test_words_are_compared_too() -> None:
    page = PAGE.read_text(encoding="utf-8")
    check_words(page)
    for wrong in (page.replace("--fast ", "--quick "), page.replace("Windows to", "Doors to")):
        with pytest.raises(AssertionError, match="make_cli_reference"):
            check_words(wrong)


@pytest.mark.parametrize("words", verbs(), ids=" ".join)
def test_every_verb_has_help(words: tuple[str, ...]) -> None:
    told = verbs()[words].help.strip()
    assert told
    assert len(words) > 1 or told == VERBS[words[0]].help
    assert " ".join(told.split()) in " ".join(help_of([*words]).split())
    assert f"\n## edge-mer {' '.join(words)}\n" in PAGE.read_text(encoding="utf-8")


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

"""docs/configuration.md says what the declarations say."""

from __future__ import annotations

from tests.helpers.make_config_reference import PAGE, page


def test_page_is_what_the_declarations_say() -> None:
    remedy = "run .venv/bin/python tests/helpers/make_config_reference.py"
    assert PAGE.read_text(encoding="utf-8") == page(), f"docs/configuration.md is out of date: {remedy}"

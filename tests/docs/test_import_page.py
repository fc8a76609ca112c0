"""The page on published checkpoints names the parts and settings that there are."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

from tests.helpers.make_parts_reference import PAGE, page

pytestmark = pytest.mark.workbench


def test_the_tables_are_those_of_the_zoo() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text), "run .venv/bin/python tests/helpers/make_parts_reference.py"

"""Writes the tables of `docs/how-to-import.md`: the parts and settings of each published system.

.venv/bin/python tests/helpers/make_parts_reference.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from edge_mer_export.models.zoo import MODELS, System, system  # noqa: E402

PAGE = ROOT / "docs" / "how-to-import.md"
BEGIN = "<!-- parts: written by tests/helpers/make_parts_reference.py -->\n"
END = "<!-- /parts -->\n"


def tables() -> str:
    """A section for each system that has parts."""
    return "\n".join(_section(one) for one in map(system, sorted(MODELS)) if one.parts)


def _section(one: System) -> str:
    lines = [f"### {one.name}", "", "| part | published name | what it holds |", "|---|---|---|"]
    lines += [f"| `{part.name}=` | {_code(part.file)} | {part.about} |" for part in one.parts]
    if one.settings:
        lines += ["", "| setting | default | what it means | values |", "|---|---|---|---|"]
        lines += [
            f"| `--set {one_of.name}=` | {one_of.default or 'none'} | {one_of.about} | {one_of.expected} |"
            for one_of in one.settings
        ]
    return "\n".join([*lines, ""])


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def page(text: str) -> str:
    """A page's text with its tables written anew."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n{tables()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

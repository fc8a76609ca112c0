"""Writes `docs/cli.md` from the help of every verb, as the command itself prints it.

.venv/bin/python tests/helpers/make_cli_reference.py
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

from typer.main import get_command

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from edge_mer.cli.main import VERBS, main, verb_app  # noqa: E402
from edge_mer.sinks.registry import SINKS  # noqa: E402
from edge_mer.sources.registry import SOURCES  # noqa: E402
from edge_mer_export.models.zoo import MODELS  # noqa: E402

PAGE = ROOT / "docs" / "cli.md"
_PLAIN = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}

_HEAD = """\
# Reference of the command line

<!-- Written by tests/helpers/make_cli_reference.py with Typer {typer}; do not edit. -->

What each command prints with `--help`. How they fit together is in the [README](../README.md), how to run
a bundle in [How to run](how-to-run.md).

- Models that `export` knows: {models}
- Sources that `run` and `calibrate` know: {sources}
- Sinks that `run` knows: {sinks}
- Exit codes: [How to run](how-to-run.md#exit-codes)
- `EDGE_MER_CACHE`: the folder in which `build-engine` keeps its choices
"""


def typer_version() -> str:
    """Typer decides what a help text looks like."""
    return version("typer")


def help_of(arguments: list[str]) -> str:
    """What `edge-mer ARGUMENTS --help` prints, in plain text of a fixed width.

    Raises:
        RuntimeError: It failed; its packages may be missing.
    """
    printed = io.StringIO()
    with mock.patch.dict(os.environ, _PLAIN), contextlib.redirect_stdout(printed):
        code = main([*arguments, "--help"])
    if code != 0:
        raise RuntimeError(f"edge-mer {' '.join(arguments)} --help ended with {code}")
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def reference() -> str:
    """The whole page."""
    head = _HEAD.format(
        typer=typer_version(),
        models=_listed(MODELS),
        sources=_listed(f"{scheme}:" for scheme in SOURCES),
        sinks=_listed(f"{scheme}:" for scheme in SINKS),
    )
    pages = {" ".join(["edge-mer", *words]): help_of([*words]) for words in [(), *verbs()]}
    return head + "".join(f"\n## {title}\n\n```text\n{text}\n```\n" for title, text in pages.items())


def verbs() -> dict[tuple[str, ...], Any]:
    """The words of every verb, and of those that a verb has of its own, with Typer's command for each."""
    found: dict[tuple[str, ...], Any] = {}
    for verb in VERBS:
        command: Any = get_command(verb_app(verb))
        found[(verb,)] = command
        for name in getattr(command, "commands", {}):
            # also of those that are loaded when they are asked for
            found[(verb, name)] = command.resolve_command(command.make_context(verb, [name]), [name])[1]
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")

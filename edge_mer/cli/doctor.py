"""`edge-mer doctor`: what this machine has, what it lacks, and the command that mends it.

Imports nothing of what it examines: it must speak where NumPy or OpenCV is broken.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from edge_mer.doctor.finding import Finding, Purpose
from edge_mer.doctor.registry import examine, purposes_of
from edge_mer.doctor.system import this_system
from edge_mer.engine.cache import cache_folder
from edge_mer.errors import MissingError

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}
_INDENT = 2
_STATUS_WIDTH = 9
_NAME_WIDTH = 15


def doctor(
    purposes: Annotated[
        list[Purpose],
        typer.Option(
            "--for",
            help="What the machine is to do; what that needs and is missing becomes a problem. May be given "
            "several times. Without it: cpu, and on a Jetson tensorrt.",
        ),
    ] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what this machine has and lacks, and the command that mends each finding. Changes nothing."""
    system = this_system(cache_folder())
    served = purposes_of(system, purposes)
    findings = examine(system, served)
    if as_json:
        typer.echo(json.dumps([finding.as_json() for finding in findings], indent=1))
    else:
        _show(findings, served)
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(MissingError.exit_code)


def _show(findings: Sequence[Finding], purposes: frozenset[Purpose]) -> None:
    out = Console(highlight=False, soft_wrap=True)
    for topic, group in groupby(findings, key=lambda finding: finding.topic):
        out.print(Text(topic, style="bold"))
        for finding in group:
            out.print(lines(finding, out.width))
        out.print()
    out.print(summary(findings, purposes), markup=False)


def lines(finding: Finding, width: int) -> Text:
    """A finding as lines of at most `width` columns; a fix stays whole, so that it can be copied."""
    column = _INDENT + _STATUS_WIDTH + _NAME_WIDTH
    texts = [finding.found, *([f"expected: {finding.expected}"] if finding.expected else [])]
    wrapped = [part for text in texts for part in _wrap(text, max(width - column, 20))]
    text = Text(" " * _INDENT)
    text.append(f"{finding.status:<{_STATUS_WIDTH}}", style=_STYLES[finding.status])
    text.append(f"{finding.name:<{_NAME_WIDTH - 1}} ")
    text.append(f"\n{' ' * column}".join(wrapped))
    if finding.fix:
        text.append(f"\n{' ' * (_INDENT + _STATUS_WIDTH)}fix: ")
        text.append(finding.fix, style="bold")
    return text


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def summary(findings: Sequence[Finding], purposes: frozenset[Purpose]) -> str:
    """One line: whether the machine is ready, and what stands in the way."""
    names = [finding.name for finding in findings if finding.status == "problem"]
    n_notes = sum(finding.status == "note" for finding in findings)
    wanted = ", ".join(purpose.value for purpose in Purpose if purpose in purposes)
    notes = f"{n_notes} note{'' if n_notes == 1 else 's'}"
    if not names:
        return f"No problem for {wanted}; {notes}."
    problems = f"{len(names)} problem{'' if len(names) == 1 else 's'} for {wanted}: {', '.join(names)}"
    return f"{problems}; {notes}."

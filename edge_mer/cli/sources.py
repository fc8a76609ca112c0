"""`edge-mer sources`: what is attached, each with the URI that opens it.

Imports what it needs when it is needed, so that its help is quick.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edge_mer.sources.base import Attached


def sources(
    opened: Annotated[
        list[str],
        typer.Option("--open", help="Open this source too, and say what it delivers; may be repeated."),
    ] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List what is attached, each with the URI that opens it. Opens nothing but what --open names."""
    from edge_mer.sources.registry import LISTERS

    found = [one for lister in LISTERS.values() for one in listed(lister)]
    found += [_tried(uri) for uri in opened]
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=1))
    else:
        _show(found)


def listed(lister: str) -> list[Attached]:
    """What "module:function" finds; one that fails has found nothing, and standard error says why."""
    module_name, _, attribute = lister.partition(":")
    try:
        found: list[Attached] = getattr(import_module(module_name), attribute)()
    except Exception as error:  # a driver or library that is broken must not hide the other devices
        typer.echo(f"edge-mer: {module_name} cannot look for devices: {error}", err=True)
        return []
    return found


def _tried(uri: str) -> Attached:
    from edge_mer.sources.base import Attached
    from edge_mer.sources.registry import open_source

    source = open_source(uri)
    try:
        source.ensure_ready()
        rates = (f"{s.modality} at {s.rate_hz:g} Hz" if s.rate_hz else s.modality for s in source.specs)
        names = ", ".join(spec.name for spec in source.specs)
        return Attached(uri, names, getattr(source, "mode", "; ".join(rates)))
    finally:
        source.ensure_stopped()


def _show(found: Sequence[Attached]) -> None:
    if not found:
        typer.echo("Nothing is attached that edge-mer can see. edge-mer doctor says what may be missing.")
        return
    uri_width = max(len(one.uri) for one in found)
    name_width = max(len(one.name) for one in found)
    for one in found:
        typer.echo(f"{one.uri:<{uri_width}}  {one.name:<{name_width}}  {one.note}".rstrip())

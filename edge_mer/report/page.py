"""Puts the page together and writes it in one piece."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

import jinja2
from markupsafe import Markup

import edge_mer
from edge_mer.errors import UsageError
from edge_mer.report import figures
from edge_mer.report.draw import WIDTH, Chart
from edge_mer.report.facts import collect
from edge_mer.report.figures import View
from edge_mer.report.read import Records
from edge_mer.report.reduce import into_columns
from edge_mer.report.truth import Truth

_HERE = Path(__file__).parent


def render(records: Records, truth: Truth | None = None, title: str | None = None) -> str:
    """The page as HTML.

    Args:
        records: What a run gave.
        truth: What was true at the records' moments; None = not known.
        title: Heading; None = the file's name.
    """
    columns = into_columns(records)
    view = View(records, columns, truth)
    affect, classes = figures.affect_charts(view), [*figures.pain_charts(view), *figures.emotion_charts(view)]
    timed = [figures.latency_over_time(view), figures.skew_chart(view)]
    presence = figures.presence_chart(view)
    script = (_HERE / "crosshair.js").read_text(encoding="utf-8")
    over_time = [*affect, *classes, presence, *(chart for chart in timed if chart)]
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            title=title or f"Report of {records.name}",
            facts=collect(records, columns, truth),
            affect=affect,
            plane=figures.plane_chart(view),
            classes=classes,
            presence=presence,
            latency=figures.latency_chart(records),
            latency_over_time=timed[0],
            skew=timed[1],
            truth=truth,
            # Files of our own: neither holds anything of the records.
            style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),  # noqa: S704
            script=Markup(script),  # noqa: S704
            script_hash=content_hash(script),
            data=_embedded(_crosshair_data(view, over_time)),
            version=edge_mer.__version__,
        )
    )


def write_page(html: str, path: Path, *, replace: bool) -> None:
    """Write a file that is there whole or not at all.

    Raises:
        UsageError: It exists and is not to be replaced, or it cannot be written.
    """
    check_free(path, replace=replace)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("x", encoding="utf-8") as file:
            file.write(html)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(
            f"cannot write {path}", found=error.strerror, hint="name a file in a folder that you may write to"
        ) from error


def check_free(path: Path, *, replace: bool) -> None:
    """Refuse a name that is taken.

    Raises:
        UsageError: It exists and is not to be replaced, or is no file.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"cannot write {path}", found="something else than a file", hint="name another file")
    if path.exists() and not replace:
        raise UsageError(f"{path} exists already", hint="name another file, or replace it with --replace")


def environment() -> jinja2.Environment:
    """Templates beside this file, with everything escaped that is not ours."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def content_hash(text: str) -> str:
    """What a page's policy names, so that no other script or style than ours is used."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _crosshair_data(view: View, charts: list[Chart]) -> dict[str, object]:
    notes, note_of = figures.column_notes(view)
    return {
        "t": [round(t_s, 3) for t_s in view.columns.t_s.tolist()],
        "x": [round(x / WIDTH, 4) for x in view.x.tolist()],
        "notes": notes,
        "note": note_of,
        "charts": {chart.name: [[s.name, s.values, s.unit] for s in chart.series] for chart in charts},
    }


def _embedded(data: dict[str, object]) -> Markup:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704

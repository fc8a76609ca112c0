"""Puts together the page of a bundle: whether its candidates are to be trusted, and why."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

import edge_mer
from edge_mer.report.bundle_facts import BEYOND, collect, heading
from edge_mer.report.bundle_figures import interval_charts, range_charts, scatters
from edge_mer.report.evidence import BundleEvidence
from edge_mer.report.page import content_hash, environment

_HERE = Path(__file__).parent


def render_bundle(found: BundleEvidence, title: str | None = None) -> str:
    """The page as HTML; it has no script.

    Args:
        found: What the bundle knows.
        title: Heading; None = the model's name.
    """
    style = "".join((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "bundle.css"))
    return (
        environment()
        .get_template("bundle.html.jinja")
        .render(
            title=title or heading(found),
            found=found,
            facts=collect(found),
            scatters=scatters(found),
            intervals=interval_charts(found),
            ranges=range_charts(found),
            beyond=f"{BEYOND * 100:.0f}\u00a0%",
            style=Markup(style),  # noqa: S704 - a file of our own
            style_hash=content_hash(style),
            version=edge_mer.__version__,
        )
    )

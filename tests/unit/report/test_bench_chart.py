"""Bars of what predictions cost: to scale, in colours for light and dark, with whatever names users have."""

from __future__ import annotations

import re

import pytest

from edge_mer.report.bench_chart import Bar, bars


def widths(drawing: str) -> list[float]:
    """Of the pieces of bars, in order."""
    return [
        float(w)
        for w in re.findall(r'<rect class="p\d" x="[\d.]+" y="\d+" width="([\d.]+)" height="22">', drawing)
    ]


def test_pieces_are_to_scale_and_end_where_the_next_begins() -> None:
    drawing = bars(
        [Bar("a", {"visual": 30.0, "runtime": 10.0}, 41.0), Bar("b", {"visual": 20.0}, 20.0)], "ms"
    )
    first, second, other = widths(drawing)
    assert first == pytest.approx(3 * second, abs=0.1)
    assert other == pytest.approx(2 * second, abs=0.1)
    starts = [float(x) for x in re.findall(r'x="([\d.]+)" y="\d+" width="[\d.]+" height="22"', drawing)]
    assert starts[1] == pytest.approx(starts[0] + first, abs=0.1)
    assert starts[2] == starts[0]
    assert "41.00 ms" in drawing
    assert max(start + width for start, width in zip(starts, widths(drawing), strict=True)) < 900


def test_every_part_has_a_colour_of_its_own_in_light_and_dark() -> None:
    parts = {f"part {number}": 1.0 for number in range(10)}
    drawing = bars([Bar("a", parts, 10.0)], "ms")
    light, dark = drawing.split("@media (prefers-color-scheme: dark)")
    for style in (light, dark):
        assert len(set(re.findall(r"\.p\d \{ fill: (#\w{6}) \}", style))) == 10
    legend = [(float(x), int(y)) for x, y in re.findall(r'<text x="(\d+)" y="(\d+)">part', drawing)]
    assert len(set(legend)) == 10
    assert max(x for x, _ in legend) < 900 - 60


def test_names_are_shown_as_they_are_and_long_ones_by_their_end() -> None:
    drawing = bars([Bar("<b> & co", {"visual": 1.0}, 1.0), Bar("x" * 200 + ": fp32", {}, 0.0)], "a & b")
    assert "&lt;b&gt; &amp; co</text>" in drawing
    assert "<title>a &amp; b</title>" in drawing
    (cut,) = re.findall(r">(…x+: fp32)<", drawing)
    assert len(cut) == 115
    assert "nan" not in bars([], "nothing")

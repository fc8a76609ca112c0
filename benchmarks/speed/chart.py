"""The chart of docs/benchmarks.md: what a prediction takes, on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape

from benchmarks.speed.kept import Found
from benchmarks.speed.rivals.registry import NAIVE, RIVALS
from benchmarks.speed.words import is_right, name_of, number

COLOURS = {"pytorch": "#b4501f", "whole": "#66727d", "edge-mer": "#1f6fb5"}
FAMILIES = {"pytorch": "PyTorch", "whole": "one ONNX of the whole model", "edge-mer": "edge-mer"}
WIDTH, LEFT, RIGHT = 960, 345, 805
TOP, HEAD, ROW, GAP = 58, 30, 21, 26


def chart(found: Mapping[str, Found]) -> str:
    """A panel for each system, as SVG.

    Args:
        found: System -> what was measured.
    """
    panels = {name: _times_ms(one) for name, one in found.items()}
    all_ms = [ms for rows in panels.values() for times in rows.values() for ms in times]
    low, high = math.floor(math.log10(min(all_ms))), math.ceil(math.log10(max(all_ms)))
    height = TOP + sum(HEAD + ROW * len(rows) + GAP for rows in panels.values())
    shapes, y = [*_legend()], TOP
    for name, rows in panels.items():
        shapes += _panel(name, found[name], rows, y, low, high)
        y += HEAD + ROW * len(rows) + GAP
    summary = "; ".join(_summary(name, one) for name, one in found.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-labelledby="title desc">\n'
        '<title id="title">Milliseconds per prediction</title>\n'
        f'<desc id="desc">{escape(summary)}</desc>\n'
        "<style>text{font:13px system-ui,-apple-system,'Segoe UI','DejaVu Sans',Arial,sans-serif;"
        "fill:#1b2733}"
        ".head{font-weight:700;font-size:15px}.axis{fill:#44535f;font-size:12px}.grid{stroke:#dbe1e6}"
        ".end{text-anchor:end}.mid{text-anchor:middle}</style>\n"
        "<!-- Its own light ground, so that it reads the same on a light and on a dark page. -->\n"
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#ffffff"/>\n'
        + "\n".join(shapes)
        + "\n</svg>\n"
    )


def _times_ms(one: Found) -> dict[str, list[float]]:
    """Rival -> its median in the middle of the medians of its rounds, the lowest and the highest."""
    rivals = one["turns"]["rivals"]
    return {
        key: [min(row["rounds_ms"]), row["ms"]["p50"], max(row["rounds_ms"])] for key, row in rivals.items()
    }


def _summary(name: str, one: Found) -> str:
    rivals = one["turns"]["rivals"]
    chosen, naive = rivals["chosen"]["ms"]["p50"], rivals[NAIVE]["ms"]["p50"]
    return f"{name}: {number(naive)} ms in PyTorch as a sliding window, {number(chosen)} ms in edge-mer"


def _legend() -> Iterator[str]:
    x = 20
    for family, text in FAMILIES.items():
        yield f'<circle cx="{x + 6}" cy="24" r="5.5" fill="{COLOURS[family]}"/>'
        yield f'<text x="{x + 18}" y="28.5">{text}</text>'
        x += 44 + 7 * len(text)
    yield f'<circle cx="{x + 6}" cy="24" r="5" fill="#ffffff" stroke="#44535f" stroke-width="2"/>'
    yield f'<text x="{x + 18}" y="28.5">agrees less than 0.99</text>'
    yield (f'<text class="end" x="{WIDTH - 20}" y="28.5">median; line: rounds, lowest to highest</text>')


def _panel(
    name: str, one: Found, rows: Mapping[str, list[float]], y: int, low: int, high: int
) -> Iterator[str]:
    bottom = y + HEAD + ROW * len(rows)
    yield f'<text class="head" x="20" y="{y + 17}">{escape(name)}</text>'
    yield (
        f'<text class="axis end" x="{WIDTH - 20}" y="{y + 17}">'
        "ms per prediction, and times as fast as the sliding window</text>"
    )
    for power in range(low, high + 1):
        x = _x(10.0**power, low, high)
        yield f'<path class="grid" d="M{x:.1f} {y + HEAD - 4}V{bottom}"/>'
        yield f'<text class="axis mid" x="{x:.1f}" y="{bottom + 14}">{10.0**power:g}</text>'
    for index, (key, times_ms) in enumerate(rows.items()):
        yield from _row(key, one["turns"]["rivals"][key], times_ms, y + HEAD + ROW * index, low, high)


def _row(key: str, row: Found, times_ms: list[float], y: int, low: int, high: int) -> Iterator[str]:
    entry = RIVALS[key]
    colour, middle = COLOURS[entry.family], y + ROW / 2
    left, at, right = (_x(ms, low, high) for ms in times_ms)
    fill = colour if is_right(row) else "#ffffff"
    ratio = row["ratio"][NAIVE]["median"]
    yield f'<text class="end" x="{LEFT - 12}" y="{middle + 4.5:g}">{escape(name_of(key))}</text>'
    yield (
        f'<path d="M{left:.1f} {middle:g}H{right:.1f}" stroke="{colour}" stroke-width="3" '
        'stroke-linecap="round" opacity="0.45"/>'
    )
    yield (
        f'<circle cx="{at:.1f}" cy="{middle:g}" r="5" fill="{fill}" stroke="{colour}" stroke-width="2">'
        f"<title>{escape(name_of(key))}: {number(times_ms[1])} ms</title></circle>"
    )
    yield f'<text class="end" x="{RIGHT + 74}" y="{middle + 4.5:g}">{number(times_ms[1])}</text>'
    yield f'<text class="end" x="{WIDTH - 20}" y="{middle + 4.5:g}">{number(ratio)}×</text>'


def _x(ms: float, low: int, high: int) -> float:
    return LEFT + (RIGHT - LEFT) * (math.log10(ms) - low) / (high - low)

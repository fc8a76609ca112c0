"""A chart of what predictions cost: one bar each, divided into parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#3b6fb6", "#5aa469", "#c98a2b", "#8c6bb1", "#b5523b", "#4d9aa6", "#8a8a8a")
_WIDTH, _LEFT, _BAR, _GAP, _TOP = 900, 260, 22, 14, 44


def bars(costs: Sequence[tuple[str, Mapping[str, float]]], unit: str = "ms per prediction") -> str:
    """A chart as SVG.

    Args:
        costs: Of each bar its name, and part -> milliseconds; all have the same parts.
        unit: What the numbers are.
    """
    parts = list(dict.fromkeys(part for _, one in costs for part in one))
    colour = {part: COLOURS[number % len(COLOURS)] for number, part in enumerate(parts)}
    most = max((sum(one.values()) for _, one in costs), default=0.0) or 1.0
    scale = (_WIDTH - _LEFT - 90) / most
    height = _TOP + len(costs) * (_BAR + _GAP) + 10
    shapes = [_legend(colour)]
    for number, (name, one) in enumerate(costs):
        shapes.append(_bar(name, one, _TOP + number * (_BAR + _GAP), scale, colour))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" role="img" font-family="system-ui, sans-serif" font-size="13">'
        f"<title>{escape(unit)}</title>"
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>{"".join(shapes)}</svg>\n'
    )


def _legend(colour: Mapping[str, str]) -> str:
    shapes, x = [], 10
    for part, fill in colour.items():
        shapes.append(f'<rect x="{x}" y="12" width="12" height="12" fill="{fill}"/>')
        shapes.append(f'<text x="{x + 17}" y="22" fill="#222222">{escape(part)}</text>')
        x += 30 + 8 * len(part)
    return "".join(shapes)


def _bar(name: str, parts: Mapping[str, float], y: int, scale: float, colour: Mapping[str, str]) -> str:
    text_y, x = y + _BAR - 6, float(_LEFT)
    shapes = [f'<text x="{_LEFT - 8}" y="{text_y}" text-anchor="end" fill="#222222">{escape(name)}</text>']
    for part, value in parts.items():
        width = value * scale
        told = f"<title>{escape(part)}: {value:.2f}</title>"
        shapes.append(
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour[part]}">{told}</rect>'
        )
        x += width
    shapes.append(f'<text x="{x + 6:.1f}" y="{text_y}" fill="#222222">{sum(parts.values()):.2f}</text>')
    return "".join(shapes)

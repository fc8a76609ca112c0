"""A chart of what predictions cost: one bar each, divided into parts. An SVG for light and dark pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _EDGE, _ROOM_FOR_NUMBER, _LETTER = 900, 16, 80, 7.4
_MAX_NAME = 115
"""Letters that fit; of a longer name the end is told, where ways to run differ."""

_BAR, _BAR_TOP, _PITCH, _LEGEND_LINE = 22, 20, 62, 22

_LIGHT = (
    "#0f6cbd",
    "#c2500a",
    "#2f7f79",
    "#8a3a94",
    "#d9a23a",
    "#6b7686",
    "#b9c0ca",
    "#2b5d94",
    "#7a5c33",
    "#b3382c",
)
_DARK = (
    "#62b0f2",
    "#f39a58",
    "#58b5ac",
    "#d590de",
    "#e6b655",
    "#8f99a8",
    "#566071",
    "#4879b3",
    "#b08d57",
    "#f0796b",
)


@dataclass(frozen=True)
class Bar:
    """What one prediction costs.

    Attributes:
        name: Whose.
        parts: Part -> milliseconds.
        whole: Milliseconds in all; medians of parts do not quite add up to it.
    """

    name: str
    parts: Mapping[str, float]
    whole: float


def bars(costs: Sequence[Bar], title: str) -> str:
    """A chart as SVG.

    Args:
        costs: From top to bottom.
        title: What the numbers are.
    """
    parts = list(dict.fromkeys(part for one in costs for part in one.parts))
    css = {part: f"p{number % len(_LIGHT)}" for number, part in enumerate(parts)}
    most = max((sum(one.parts.values()) for one in costs), default=0.0) or 1.0
    scale = (_WIDTH - 2 * _EDGE - _ROOM_FOR_NUMBER) / most
    legend, top = _legend(css)
    drawn = [
        shape for number, one in enumerate(costs) for shape in _bar(one, top + number * _PITCH, scale, css)
    ]
    height = top + len(costs) * _PITCH
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" role="img" font-family="system-ui, sans-serif" font-size="13">\n'
        f"<title>{escape(title)}</title>\n<style>{_style()}</style>\n"
        f'<rect class="paper" width="{_WIDTH}" height="{height}"/>\n'
        f'<text class="soft" x="{_EDGE}" y="26">{escape(title)}</text>\n'
        + "\n".join([*legend, *drawn])
        + "\n</svg>\n"
    )


def _style() -> str:
    return (
        _colours("#ffffff", "#1d2430", "#566071", _LIGHT)
        + "@media (prefers-color-scheme: dark) {"
        + _colours("#1a2029", "#e8ebf0", "#a5aebc", _DARK)
        + "}"
    )


def _colours(paper: str, ink: str, soft: str, parts: Sequence[str]) -> str:
    told = f".paper {{ fill: {paper} }} text {{ fill: {ink} }} text.soft {{ fill: {soft} }} "
    return told + " ".join(f".p{number} {{ fill: {colour} }}" for number, colour in enumerate(parts))


def _legend(css: Mapping[str, str]) -> tuple[list[str], int]:
    """Its shapes, and how far down it reaches."""
    shapes, x, y = [], float(_EDGE), 40
    for part, name in css.items():
        width = 34 + _LETTER * len(part)
        if x + width > _WIDTH - _EDGE:
            x, y = float(_EDGE), y + _LEGEND_LINE
        shapes.append(f'<rect class="{name}" x="{x:.0f}" y="{y}" width="12" height="12" rx="2"/>')
        shapes.append(f'<text x="{x + 18:.0f}" y="{y + 11}">{escape(part)}</text>')
        x += width
    return shapes, y + _LEGEND_LINE + 10


def _bar(one: Bar, top: int, scale: float, css: Mapping[str, str]) -> Iterator[str]:
    yield f'<text x="{_EDGE}" y="{top + _BAR_TOP - 6}">{escape(_fitted(one.name))}</text>'
    x, y = float(_EDGE), top + _BAR_TOP
    for part, value in one.parts.items():
        yield (
            f'<rect class="{css[part]}" x="{x:.1f}" y="{y}" width="{value * scale:.1f}" height="{_BAR}">'
            f"<title>{escape(part)}: {value:.2f} ms</title></rect>"
        )
        x += value * scale
    yield f'<text x="{x + 8:.1f}" y="{y + _BAR - 6}">{one.whole:.2f} ms</text>'


def _fitted(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"…{name[1 - _MAX_NAME :]}"

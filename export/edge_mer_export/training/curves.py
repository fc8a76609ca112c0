"""A picture of a run: agreement with the labels by epoch, a panel per phase."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from edge_mer.runtime.agreement import measure
from edge_mer_export.training.trainer import Epoch

_PANEL, _HEIGHT, _MARGIN = 300, 180, 40
_STROKES = ("#1f6fb2", "#c8641e", "#3c8c5a", "#8b5fb0")
_DASHES = ("none", "6 3", "2 3", "8 3 2 3")
_FONT = 'font-family="system-ui, sans-serif" font-size="12" fill="#444"'


def curves(history: Sequence[Epoch]) -> str:
    """An SVG with one panel per phase; names and numbers stand in it as text."""
    phases = [(name, list(epochs)) for name, epochs in groupby(history, key=lambda one: one.phase)]
    width = len(phases) * (_PANEL + _MARGIN) + _MARGIN
    height = _HEIGHT + 3 * _MARGIN
    panels = "".join(
        f'<g transform="translate({_MARGIN + i * (_PANEL + _MARGIN)} {_MARGIN})">{_panel(name, epochs)}</g>'
        for i, (name, epochs) in enumerate(phases)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="Agreement by epoch"><rect width="100%" height="100%" fill="white"/>{panels}</svg>\n'
    )


def _panel(name: str, epochs: list[Epoch]) -> str:
    measures = ", ".join(dict.fromkeys(measure(output) for output in epochs[0].scores))
    title = f"{name}: {measures} on people to choose by"
    parts = [f'<text x="0" y="-12" {_FONT} font-weight="bold">{title}</text>']
    for level in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(level)
        parts.append(f'<path d="M0 {y:.1f}H{_PANEL}" stroke="#ddd"/>')
        parts.append(f'<text x="-8" y="{y + 4:.1f}" text-anchor="end" {_FONT}>{level:g}</text>')
    for index, output in enumerate(epochs[0].scores):
        line = " ".join(f"{_x(e, epochs):.1f},{_y(e.scores[output]):.1f}" for e in epochs)
        stroke, dash = _STROKES[index % 4], _DASHES[index % 4]
        style = f'fill="none" stroke="{stroke}" stroke-width="2" stroke-dasharray="{dash}"'
        parts.append(f'<polyline points="{line}" {style}/>')
        y = _HEIGHT + 38 + 16 * index
        parts.append(f'<path d="M0 {y - 4}h24" {style}/><text x="30" y="{y}" {_FONT}>{output}</text>')
    best = max(epochs, key=lambda one: one.score)
    parts.append(f'<path d="M{_x(best, epochs):.1f} 0V{_HEIGHT}" stroke="#888" stroke-dasharray="3 3"/>')
    words = f"epoch 1 to {len(epochs)}, best {best.number} with {best.score:.3f}"
    parts.append(f'<text x="0" y="{_HEIGHT + 18}" {_FONT}>{words}</text>')
    return "".join(parts)


def _x(epoch: Epoch, epochs: list[Epoch]) -> float:
    return _PANEL * (epoch.number - 1) / max(1, len(epochs) - 1)


def _y(score: float) -> float:
    return _HEIGHT * (1 - min(1.0, max(0.0, score)))

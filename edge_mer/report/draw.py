"""The pieces that charts are made of: scales, ticks, paths. Plain data; the page's template marks it up.

A chart's SVG is stretched to whatever width the page has, its labels are HTML beside it. So lines keep
their thickness and letters their size from a phone to a wall.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_mer.report.read import Floats
from edge_mer.report.reduce import Columns, runs
from edge_mer.report.words import clock

WIDTH = 1000.0
HEIGHT = 200.0

_TICK_STEPS_S = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
    *(60 * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(3600 * hours for hours in (1, 2, 3, 6, 12, 24, 48, 96, 168, 336, 672)),
)


@dataclass(frozen=True)
class Shape:
    """An SVG path `d`, drawn as the class `css` says."""

    css: str
    d: str


@dataclass(frozen=True)
class Span:
    """A rectangle with a pattern, in percent of the chart; `title` says what it is."""

    css: str
    left: float
    width: float
    title: str = ""
    top: float = 0.0
    height: float = 100.0


@dataclass(frozen=True)
class Label:
    """A word beside an axis, at a percentage of its length; a minor one is left out on phones."""

    at: float
    text: str
    is_minor: bool = False


@dataclass(frozen=True)
class Key:
    """An entry of a legend: how it is drawn, and what it means."""

    css: str
    text: str


@dataclass(frozen=True)
class Series:
    """Numbers under the pointer: (n,) by column."""

    name: str
    values: list[float | None]
    unit: str = ""


@dataclass(frozen=True)
class Chart:
    """Everything the template needs to draw one chart.

    Attributes:
        name: Unique on the page; letters and hyphens.
        title: Its heading.
        summary: What it shows, in words for those who cannot see it.
        shapes: Drawn in this order.
        spans: Drawn behind the shapes.
        x_labels: Below.
        y_labels: To the left, from the top.
        legend: What is drawn how.
        corners: Words inside, at the top and at the bottom.
        series: For the crosshair; empty where the horizontal axis is not time.
        height: Of the SVG's own units; a row of a strip has 20.
        kind: "line", "strip", "plane" or "bars".
        x_name: Of the horizontal axis.
    """

    name: str
    title: str
    summary: str
    shapes: list[Shape]
    spans: list[Span] = field(default_factory=list)
    x_labels: list[Label] = field(default_factory=list)
    y_labels: list[Label] = field(default_factory=list)
    legend: list[Key] = field(default_factory=list)
    corners: tuple[str, str] = ("", "")
    series: list[Series] = field(default_factory=list)
    height: float = HEIGHT
    kind: str = "line"
    x_name: str = ""


@dataclass(frozen=True)
class Scale:
    """From values to the units of an SVG; reversed for vertical axes, which count from the top."""

    low: float
    high: float
    size: float
    is_reversed: bool = False

    def at(self, values: Floats | float) -> Floats:
        """Same shape; what lies outside is put on the edge."""
        part = (np.asarray(values, np.float64) - self.low) / (self.high - self.low)
        placed: Floats = (1.0 - part if self.is_reversed else part).clip(0.0, 1.0) * self.size
        return placed

    def percent(self, value: float) -> float:
        """Where it lies, in percent of the axis."""
        return round(float(self.at(value)) / self.size * 100.0, 3)


def time_scale(columns: Columns) -> Scale:
    """From the start of the first step to the end of the last."""
    return Scale(float(columns.left_s[0]), float(columns.right_s[-1]), WIDTH)


def time_labels(scale: Scale, n_most: int = 8) -> list[Label]:
    """Moments at round distances."""
    span_s = scale.high - scale.low
    step_s = next((s for s in _TICK_STEPS_S if span_s / s <= n_most), span_s)
    decimals = 1 if step_s < 1 else 0
    first = math.ceil(scale.low / step_s - 1e-9)
    moments = [
        i * step_s for i in range(first, first + n_most + 2) if i * step_s <= scale.high + 1e-9 * span_s
    ]
    return [
        Label(scale.percent(t_s), clock(t_s, decimals), is_minor=bool(i % 2)) for i, t_s in enumerate(moments)
    ]


def round_top(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, … that is not below a value."""
    if not value > 0.0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= value * (1.0 - 1e-9))


def number_labels(scale: Scale, n: int = 4) -> list[Label]:
    """Round numbers from one end of a scale to the other."""
    values = np.linspace(scale.low, scale.high, n + 1)
    return [
        Label(scale.percent(float(v)), f"{v:g}".replace("-", "−"), bool(i % 2)) for i, v in enumerate(values)
    ]


def text(values: Iterable[float]) -> str:
    """Coordinates with one decimal, as short as they can be."""
    return " ".join(f"{value:.1f}".removesuffix(".0") for value in values)


def grid(labels: Iterable[Label], height: float = HEIGHT, *, is_vertical: bool = False) -> Shape:
    """A line at every label."""
    if is_vertical:
        return Shape("grid", "".join(f"M{text([label.at * WIDTH / 100])} 0v{height:g}" for label in labels))
    return Shape("grid", "".join(f"M0 {text([label.at * height / 100])}h{WIDTH:g}" for label in labels))


def points(x: Floats, y: Floats) -> str:
    """A path through all points (n,) and (n,); SVG takes pairs after a move as lines."""
    return "M" + text(np.stack([x, y], axis=1).ravel().tolist())


def lines(x: Floats, y: Floats, edges: NDArray[np.bool_]) -> str:
    """A path that joins point i to i + 1 wherever `edges[i]` (n - 1,) says so, and nowhere else."""
    return "".join(points(x[i : j + 2], y[i : j + 2]) for i, j in runs(edges))


def dots(x: Floats, y: Floats, where: NDArray[np.bool_]) -> str:
    """A dot at each point that `where` (n,) names: lines without length, drawn with round ends."""
    return "".join(f"M{text([a, b])}h0" for a, b in zip(x[where].tolist(), y[where].tolist(), strict=True))


def line_shapes(
    columns: Columns, x: Floats, y: Floats, css: str, is_weak: NDArray[np.bool_] | None = None
) -> list[Shape]:
    """A line that never crosses what is not there; weak parts apart, so that they can be dashed.

    Args:
        columns: Say which points follow each other.
        x: (n,).
        y: (n,); NaN where there is nothing.
        css: Class; the weak part has "weak" too.
        is_weak: (n,); None = nothing is.
    """
    there = np.isfinite(y)
    edges = there[1:] & there[:-1] & columns.is_joined
    weak = np.zeros_like(there) if is_weak is None else is_weak
    weak_edges = edges & (weak[1:] | weak[:-1])
    alone = there & ~np.append(edges, False) & ~np.append(False, edges)
    shapes = [
        Shape(f"line {css}", lines(x, y, edges & ~weak_edges)),
        Shape(f"line weak {css}", lines(x, y, weak_edges)),
        Shape(f"dot {css}", dots(x, y, alone)),
    ]
    return [shape for shape in shapes if shape.d]


def band_shape(columns: Columns, x: Floats, low: Floats, high: Floats, css: str) -> Shape:
    """The area between two lines, in separate pieces where they are interrupted."""
    left, right = time_scale(columns).at(columns.left_s), time_scale(columns).at(columns.right_s)
    pieces = []
    for i, j in runs(np.isfinite(low) & np.isfinite(high), columns.is_joined):
        along = x[i : j + 1] if j > i else np.array([left[i], right[i]])
        n = len(along)
        under, over = np.broadcast_to(low[i : j + 1], n), np.broadcast_to(high[i : j + 1], n)
        pieces.append(points(np.append(along, along[::-1]), np.append(over, under[::-1])) + "Z")
    return Shape(css, "".join(pieces))


def step_area(columns: Columns, low: Floats, high: Floats, css: str) -> Shape:
    """The area between two lines that hold their value for a whole column, so that gaps are exact."""
    scale = time_scale(columns)
    left, right = scale.at(columns.left_s), scale.at(columns.right_s)
    pieces = []
    for i, j in runs(np.isfinite(low) & np.isfinite(high), columns.is_joined):
        edges = np.append(left[i : j + 1], right[j]).tolist()
        over, under = high[i : j + 1].tolist(), low[i : j + 1].tolist()
        there = "".join(f"V{text([y])}H{text([x])}" for x, y in zip(edges[1:], over, strict=True))
        back = "".join(f"V{text([y])}H{text([x])}" for x, y in zip(edges[-2::-1], under[::-1], strict=True))
        pieces.append(f"M{text([edges[0], over[0]])}{there}{back}Z")
    return Shape(css, "".join(pieces))


def rectangles(boxes: Iterable[tuple[float, float]], top: float, height: float, css: str) -> Shape:
    """Bars of one height, from left to right."""
    parts = (
        f"M{text([left, top])}h{text([right - left])}v{text([height])}H{text([left])}Z"
        for left, right in boxes
    )
    return Shape(css, "".join(parts))


def as_series(name: str, values: Floats, unit: str = "", digits: int = 3) -> Series:
    """Numbers for the crosshair."""
    return Series(name, [round(v, digits) if math.isfinite(v) else None for v in values.tolist()], unit)

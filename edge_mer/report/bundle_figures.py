"""The charts of a bundle's page: what is drawn where, as plain data.

Positions are percentages of a chart, which SVG takes as they are: shapes keep their size from a phone to a
wall, and the page needs no style of its own for any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from edge_mer.report.bundle_facts import (
    BEYOND,
    clipped,
    decimals,
    leading,
    listed,
    measured,
    natural,
    short,
    span,
)
from edge_mer.report.draw import Label
from edge_mer.report.evidence import BundleEvidence, CandidateEvidence, TensorRange
from edge_mer.report.words import number, plural, three_digits

MAX_HISTOGRAMS = 120
"""Of a stage; the ones that went farthest out of their range are among them."""
BAR_HEIGHT = 100.0

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_PLOT_PX, _PLOT_HIGH_PX = 250.0, 190.0
"""The smallest plot that names must find room in, on a phone."""
_LETTER_PX, _LINE_PX, _DOT_PX = 6.8, 15.0, 7.0


@dataclass(frozen=True)
class Point:
    """A candidate in a chart, in percent of it; its name lies (dx, dy) pixels from it; `css` is its kind."""

    name: str
    css: str
    x: float
    y: float
    title: str
    dx: float = 0.0
    dy: float = 0.0
    anchor: str = "start"


@dataclass(frozen=True)
class Scatter:
    """One point per candidate.

    Attributes:
        name: Unique on the page.
        limit: Height of the line of the budget; None where it is not in the chart.
        is_limit_left: Its name stands at its left end, since a candidate lies at the right one.
        note: Which candidates are not in it, and why.
    """

    name: str
    title: str
    summary: str
    x_name: str
    points: list[Point]
    x_labels: list[Label]
    y_labels: list[Label]
    limit: float | None = None
    is_limit_left: bool = False
    note: str = ""


@dataclass(frozen=True)
class IntervalRow:
    """A candidate's measure and its interval, in percent of the axis; a remark on what it costs."""

    name: str
    css: str
    at: float
    left: float
    right: float
    value: str
    remark: str


@dataclass(frozen=True)
class Intervals:
    """What labels say of an output: a row per candidate on one axis."""

    title: str
    rows: list[IntervalRow]
    labels: list[Label]


@dataclass(frozen=True)
class Reach:
    """From where to where something reaches on the axis of a histogram, in percent of it."""

    name: str
    css: str
    left: float
    width: float
    title: str


@dataclass(frozen=True)
class Histogram:
    """The values of a tensor: an area and what reaches how far below it."""

    tensor: str
    area: str
    ends: tuple[str, str]
    reaches: list[Reach]
    summary: str
    is_beyond: bool


@dataclass(frozen=True)
class StageHistograms:
    """The tensors of a stage."""

    stage: str
    title: str
    histograms: list[Histogram]
    n_left_out: int = 0


@dataclass
class _Room:
    """Rectangles in a plot of `_PLOT_PX` that are taken: left, top, right, bottom."""

    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def is_free(self, box: tuple[float, float, float, float]) -> bool:
        left, top, right, bottom = box
        inside = left >= -20 and right <= _PLOT_PX + 14 and top >= -10 and bottom <= _PLOT_HIGH_PX
        return inside and not any(
            left < other[2] and other[0] < right and top < other[3] and other[1] < bottom
            for other in self.taken
        )


def scatters(found: BundleEvidence) -> list[Scatter]:
    """Nearness to FP32 against time and against size."""
    if not found.made:
        return []
    charts = (_near_chart(found, axis) for axis in _AXES)
    return [chart for chart in charts if chart is not None]


_AXES: dict[str, tuple[str, str, Callable[[CandidateEvidence], float | None]]] = {
    "time": ("time", "ms per prediction", lambda one: one.ms),
    "size": ("size", "MB", lambda one: one.n_bytes / 1e6),
}


def _near_chart(found: BundleEvidence, axis: str) -> Scatter | None:
    """Concordance with FP32 of the worst output; FP32 itself has all of it."""
    drops = {one.name: one.worst[1] if one.worst else 0.0 for one in found.candidates if _is_near_known(one)}
    limits = found.calibration.limits if found.calibration else None
    most = max([*drops.values(), 1e-6, limits.ccc if limits else 0.0])
    ticks = _ticks(most)
    top, bottom = 1.0 + 0.1 * ticks[-1], 1.0 - 1.05 * ticks[-1]
    return _scatter(
        found,
        f"near-{axis}",
        axis,
        "Concordance with FP32",
        {
            name: (1.0 - drop, f"lost {decimals(drop)} of its concordance with FP32")
            for name, drop in drops.items()
        },
        (bottom, top),
        [(1.0 - tick, _unrounded(1.0 - tick, ticks[1])) for tick in ticks],
        limit=None if limits is None else 1.0 - limits.ccc,
    )


def _is_near_known(one: CandidateEvidence) -> bool:
    return one.name == "fp32" or one.worst is not None


def interval_charts(found: BundleEvidence) -> list[Intervals]:
    """The leading measure of each output against labels, with all modalities."""
    judged = {o for one in found.candidates if one.findings for o in one.findings.subsets[0].scores}
    ordered = [o for o in found.outputs if o in judged]
    return [chart for output in ordered if (chart := _intervals(found, output)) is not None]


def _intervals(found: BundleEvidence, output: str) -> Intervals | None:
    measure, values = "", {}
    for one in found.candidates:
        scores = one.findings.subsets[0].scores.get(output, {}) if one.findings else {}
        measure = measure or leading(scores)
        if measure in scores:
            values[one.name] = scores[measure]
    if not values:
        return None
    ends = [end for v in values.values() for end in (v.low, v.high, v.value)]
    low, high, marks = _between(min(ends), max(ends))
    rows = [
        IntervalRow(
            one.name,
            _css(one.name),
            _along(value.value, low, high),
            _along(value.low, low, high),
            _along(value.high, low, high),
            measured(value),
            _costs(one),
        )
        for one in found.candidates
        if (value := values.get(one.name)) is not None
    ]
    labels = [Label(_along(mark, low, high), short(mark), bool(i % 2)) for i, mark in enumerate(marks)]
    return Intervals(f"{clipped(measure, 40)} of {output} against labels", rows, labels)


def _costs(one: CandidateEvidence) -> str:
    time = "" if one.ms is None else f"{three_digits(one.ms)} ms, "
    return f"{time}{one.n_bytes / 1e6:,.2f} MB"


def _along(value: float, low: float, high: float) -> float:
    return round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 2)


def _scatter(
    found: BundleEvidence,
    name: str,
    axis: str,
    title: str,
    values: dict[str, tuple[float, str]],
    ends: tuple[float, float],
    y_labels: Sequence[tuple[float, str]],
    limit: float | None = None,
) -> Scatter | None:
    word, unit, where = _AXES[axis]
    placed = {one.name: where(one) for one in found.candidates if one.name in values}
    shown = {n: x for n, x in placed.items() if x is not None}
    if not shown:
        return None
    ticks = _ticks(max(shown.values()))
    right = ticks[-1] * 1.03
    points = []
    for one in found.candidates:
        if one.name in shown:
            value, what = values[one.name]
            x, y = 100 * shown[one.name] / right, _height(value, ends)
            points.append(
                Point(
                    one.name,
                    _css(one.name),
                    round(x, 2),
                    y,
                    f"{one.name}: {what}, {three_digits(shown[one.name])} {unit}",
                )
            )
    absent = [one.name for one in found.candidates if one.name not in shown]
    line = None if limit is None else _height(limit, ends)
    is_left = line is not None and any(point.x > 75 and line - 14 < point.y < line + 4 for point in points)
    return Scatter(
        name=name,
        title=f"{title}, by {word}",
        summary=f"{title} against {unit}. " + "; ".join(point.title for point in points) + ".",
        x_name=unit,
        points=_named(points, line, is_left=is_left),
        x_labels=[Label(round(100 * t / right, 2), short(t), bool(i % 2)) for i, t in enumerate(ticks)],
        y_labels=[Label(_height(v, ends), text) for v, text in y_labels],
        limit=line,
        is_limit_left=is_left,
        note=f"Not in it: {listed(absent)}." if absent else "",
    )


def _height(value: float, ends: tuple[float, float]) -> float:
    low, high = ends
    return round(100 * min(max((high - value) / (high - low), 0.0), 1.0), 2)


def _css(precision: str) -> str:
    """One of four that the page's style knows."""
    kind = precision.partition("+")[0]
    return kind if kind in ("fp32", "fp16", "int8-cpu", "int8-trt") else "fp16"


def _unrounded(value: float, step: float) -> str:
    """With as many digits as a step has."""
    digits = (d for d in range(12) if math.isclose(round(step, d), step, rel_tol=1e-6))
    return number(value, next(digits, 12))


def _ticks(most: float) -> list[float]:
    """Round numbers from 0 to the first that is not below a value, at most six."""
    step = _step(most, 5)
    return [i * step for i in range(max(1, math.ceil(most / step - 1e-9)) + 1)]


def _step(span_: float, n: int) -> float:
    span_ = span_ if span_ > 0 else 1.0
    power = 10.0 ** math.floor(math.log10(span_ / n))
    return next(s * power for s in (*_STEPS, 20.0) if s * power * n >= span_ * (1 - 1e-9))


def _between(low: float, high: float) -> tuple[float, float, list[float]]:
    """Ends of an axis that holds two values, and its marks."""
    step = _step(max(high - low, 1e-3), 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    marks = [round(i * step, 12) for i in range(first, last + 1)]
    air = 0.06 * (marks[-1] - marks[0])
    return marks[0] - air, marks[-1] + air, marks


def _named(points: list[Point], limit: float | None, *, is_left: bool) -> list[Point]:
    """The same with every name where it covers no other, no point and no line, as far as there is room."""
    room = _Room()
    if limit is not None:
        y = limit * _PLOT_HIGH_PX / 100
        left = 0.0 if is_left else _PLOT_PX - 7 * _LETTER_PX
        room.taken.append((0.0, y - 1, _PLOT_PX, y + 1))
        room.taken.append((left, y - _LINE_PX - 3, left + 7 * _LETTER_PX, y))
    for point in points:
        x, y = point.x * _PLOT_PX / 100, point.y * _PLOT_HIGH_PX / 100
        room.taken.append((x - _DOT_PX, y - _DOT_PX, x + _DOT_PX, y + _DOT_PX))
    return [_with_name(point, room) for point in points]


def _with_name(point: Point, room: _Room) -> Point:
    x, y = point.x * _PLOT_PX / 100, point.y * _PLOT_HIGH_PX / 100
    width = len(point.name) * _LETTER_PX
    lean = "end" if x > _PLOT_PX / 2 else "start"
    places = [(11.0, 4.0, "start"), (-11.0, 4.0, "end")]
    places += [(0.0, dy, anchor) for dy in (-11.0, 21.0, -26.0, 36.0) for anchor in ("middle", lean)]
    if lean == "end":
        places[0], places[1] = places[1], places[0]
    for dx, dy, anchor in places:
        left = x + dx - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        box = (left, y + dy - _LINE_PX + 3, left + width, y + dy + 3)
        if room.is_free(box):
            room.taken.append(box)
            return _moved(point, dx, dy, anchor)
    return _moved(point, *places[0])


def _moved(point: Point, dx: float, dy: float, anchor: str) -> Point:
    return replace(point, dx=dx, dy=dy, anchor=anchor)


# --- ranges --------------------------------------------------------------------------------------


def range_charts(found: BundleEvidence) -> list[StageHistograms]:
    """A small histogram per tensor that products read."""
    return [_of_stage(stage, tensors) for stage, tensors in _stages(found) if tensors]


def _stages(found: BundleEvidence) -> list[tuple[str, list[TensorRange]]]:
    """The model's, in its order, and others that the file may have."""
    ranges = found.ranges or {}
    names = [*(s for s in found.stages if s in ranges), *(s for s in ranges if s not in found.stages)]
    return [(name, ranges[name]) for name in names]


def _of_stage(stage: str, tensors: Sequence[TensorRange]) -> StageHistograms:
    read = [one for one in tensors if one.is_read]
    far = sorted(read, key=lambda one: -one.beyond)[:MAX_HISTOGRAMS]
    shown = sorted(far, key=_place)
    n_beyond = sum(one.beyond > BEYOND for one in read)
    title = plural(len(read), "tensor") + (f", {n_beyond} beyond the range" if n_beyond else "")
    return StageHistograms(clipped(stage), title, [_histogram(one) for one in shown], len(read) - len(shown))


def _place(one: TensorRange) -> tuple[int, list[tuple[int, int, str]]]:
    """By the number of the first product that reads it, where that is known; then by name."""
    numbers = [node.rpartition("_")[2] for node in one.reads or ()]
    known = [int(n) for n in numbers if n.isdecimal() and len(n) < 10]
    return min(known, default=1 << 30), natural(one.name)


def _histogram(one: TensorRange) -> Histogram:
    ends = [
        one.low,
        one.high,
        one.held_low,
        one.held_high,
        *(end for pair in one.levels.values() for end in pair),
    ]
    low, high = min(ends), max(ends)
    size = high - low if high > low else 1.0

    def reach(name: str, css: str, least: float, most: float) -> Reach:
        left = 100 * (least - low) / size
        width = max(100 * (most - least) / size, 0.5)
        return Reach(
            clipped(name, 40), css, round(min(left, 99.5), 2), round(width, 2), f"{name}: {span(least, most)}"
        )

    is_beyond = one.beyond > BEYOND
    reaches = [reach("held", "held-beyond" if is_beyond else "held", one.held_low, one.held_high)]
    reaches += [reach(name, _css(name), *pair) for name, pair in one.levels.items()]
    return Histogram(
        tensor=clipped(one.name),
        area=_area(one, low, size),
        ends=(short(low), short(high)),
        reaches=reaches,
        summary=f"Calibrated {span(one.low, one.high)}; " + "; ".join(r.title for r in reaches) + ".",
        is_beyond=is_beyond,
    )


def _area(one: TensorRange, low: float, size: float) -> str:
    """A path in a box of 100 by `BAR_HEIGHT`; the root of each count, so that thin ends are seen."""
    n, most = len(one.counts), max(max(one.counts), 1.0)
    left, width = 100 * (one.low - low) / size, 100 * (one.high - one.low) / size
    step = width / n if width > 0 else 1.0
    left = min(left, 99.0) if width == 0 else left
    path = f"M{left:.1f} {BAR_HEIGHT:g}"
    for i, count in enumerate(one.counts):
        path += f"V{BAR_HEIGHT * (1 - math.sqrt(count / most)):.0f}H{left + (i + 1) * step:.1f}"
        if width == 0:
            break
    return path + f"V{BAR_HEIGHT:g}Z"

"""The charts of a report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edge_mer.report import draw
from edge_mer.report.draw import HEIGHT, WIDTH, Chart, Key, Label, Scale, Series, Shape, Span
from edge_mer.report.read import STAGES, STATUSES, Floats, Records
from edge_mer.report.reduce import Columns, runs
from edge_mer.report.truth import Truth
from edge_mer.report.words import clock, milliseconds, number, reasons_in_words, share

N_TIME_COLOURS = 12
_ROW = 20.0
_N_CELLS = 40
"""Cells of the plane along each axis, when there are too many points to draw each."""

STAGE_WORDS = {
    "capture": "capture",
    "wait": "waiting",
    "preprocess": "preprocessing",
    "infer": "model",
    "postprocess": "postprocessing",
    "end_to_end": "end to end",
}


@dataclass(frozen=True)
class View:
    """A session as its charts see it."""

    records: Records
    columns: Columns
    truth: Truth | None

    @cached_property
    def scale(self) -> Scale:
        """The axis of time."""
        return draw.time_scale(self.columns)

    @cached_property
    def x(self) -> Floats:
        """(n,) where the points lie."""
        return self.scale.at(self.columns.t_s)

    @cached_property
    def x_labels(self) -> list[Label]:
        """Moments below a chart."""
        return draw.time_labels(self.scale)

    @cached_property
    def is_weak(self) -> NDArray[np.bool_]:
        """(n,) at least half of a column's estimates are degraded."""
        estimates = self.columns.shares["ok"] + self.columns.shares["degraded"]
        return (estimates > 0) & (self.columns.shares["degraded"] >= 0.5 * estimates)

    @cached_property
    def is_reduced(self) -> bool:
        """A column stands for several predictions."""
        return self.columns.width_s > 0.0

    @cached_property
    def gap_spans(self) -> list[Span]:
        """Withheld stretches, and time without any record."""
        columns = self.columns
        spans = [
            self._span(
                "withheld",
                float(columns.left_s[i]),
                float(columns.right_s[j]),
                "withheld: " + self._reasons(i, j),
            )
            for i, j in runs(~columns.is_estimated, columns.is_joined)
        ]
        empty = np.flatnonzero(~columns.is_joined)
        spans += [
            self._span("norecord", float(columns.right_s[i]), float(columns.left_s[i + 1]), "no records")
            for i in empty.tolist()
        ]
        return spans

    def _span(self, css: str, start_s: float, end_s: float, what: str) -> Span:
        left, right = self.scale.percent(start_s), self.scale.percent(end_s)
        return Span(css, left, round(right - left, 3), f"{clock(start_s, 1)} to {clock(end_s, 1)}, {what}")

    def _reasons(self, first: int, last: int) -> str:
        """Why the predictions of some columns were withheld."""
        ends = np.append(self.columns.first, len(self.records))
        piece = slice(int(ends[first]), int(ends[last + 1]))
        sets = np.unique(self.records.reason_set[piece][self.records.is_withheld[piece]])
        return "; ".join(reasons_in_words(self.records.reason_sets[i]) for i in sets[:3].tolist())

    def estimate(self, values: Floats) -> Floats:
        """(n,) mean by column, NaN in columns that count as withheld."""
        return np.where(self.columns.is_estimated, self.columns.mean(values), np.nan)

    def true(self, output: str) -> Floats | None:
        """(n,) mean of the truth by column."""
        values = self.truth.values.get(output) if self.truth else None
        return None if values is None else self.columns.mean(values)


def column_notes(view: View) -> tuple[list[str], list[int]]:
    """What the crosshair says of each column: the different sentences, and which one is whose."""
    sentences: dict[str, int] = {}
    which = []
    for i in range(len(view.columns)):
        parts = [(s, float(view.columns.shares[s][i])) for s in STATUSES if view.columns.shares[s][i] > 0]
        if len(parts) > 1:
            note = ", ".join(f"{share(part, 1.0)} {status}" for status, part in parts)
        else:
            reasons = view.records.reason_sets[int(view.records.reason_set[view.columns.first[i]])]
            single = parts[0][0]
            note = f"{single}: {reasons_in_words(reasons)}" if reasons and not view.is_reduced else single
        which.append(sentences.setdefault(note, len(sentences)))
    return list(sentences), which


# --- lines over time -----------------------------------------------------------------------------


def affect_charts(view: View) -> list[Chart]:
    """Valence and arousal over time, one chart each."""
    ends = {"valence": ("pleasant", "unpleasant"), "arousal": ("excited", "calm")}
    return [
        _affect_chart(view, output, corners)
        for output, corners in ends.items()
        if output in view.records.values
    ]


def _affect_chart(view: View, output: str, corners: tuple[str, str]) -> Chart:
    values = view.records.values[output]
    most = max(1.0, float(np.nanmax(np.abs(values))))
    scale = Scale(-most, most, HEIGHT, is_reversed=True)
    title = f"{output.capitalize()}, from {corners[1]} to {corners[0]}"
    return _line_chart(view, output, title, values, scale, corners=corners, output=output)


def _line_chart(
    view: View,
    name: str,
    title: str,
    values: Floats,
    scale: Scale,
    *,
    corners: tuple[str, str] = ("", ""),
    output: str = "",
    y_labels: list[Label] | None = None,
    unit: str = "",
    is_estimate: bool = True,
) -> Chart:
    mean = view.estimate(values) if is_estimate else view.columns.mean(values)
    labels = y_labels or draw.number_labels(scale)
    shapes = [draw.grid(labels)]
    legend: list[Key] = []
    series = [draw.as_series("mean" if view.is_reduced else name.replace("-", " "), mean, unit)]
    shown = np.isfinite(mean)
    if output in view.records.low:
        low, high = (view.columns.mean(side[output]) for side in (view.records.low, view.records.high))
        low, high = np.where(shown, low, np.nan), np.where(shown, high, np.nan)
        shapes.append(
            draw.band_shape(view.columns, view.x, scale.at(low), scale.at(high), f"band fill-{name}")
        )
        legend.append(Key(f"band fill-{name}", "90 % interval, mean" if view.is_reduced else "90 % interval"))
        series += [draw.as_series("interval from", low), draw.as_series("to", high)]
    if view.is_reduced:
        low, high = view.columns.low(values), view.columns.high(values)
        low, high = np.where(shown, low, np.nan), np.where(shown, high, np.nan)
        shapes.append(
            draw.band_shape(view.columns, view.x, scale.at(low), scale.at(high), f"envelope fill-{name}")
        )
        legend.append(Key(f"envelope fill-{name}", "lowest to highest"))
        series += [draw.as_series("lowest", low, unit), draw.as_series("highest", high, unit)]
    weak = view.is_weak if is_estimate else None
    drawn = draw.line_shapes(view.columns, view.x, scale.at(mean), f"stroke-{name}", weak)
    legend = [*_line_keys(name, drawn, view), *legend]
    true = view.true(output) if output else None
    if true is not None:
        shapes += draw.line_shapes(view.columns, view.x, scale.at(true), "stroke-truth")
        legend.append(Key("line stroke-truth", "truth"))
        series.append(draw.as_series("truth", true))
    return Chart(
        name=name,
        title=title,
        summary=_line_summary(title, values, unit),
        shapes=[*shapes, *drawn],
        spans=view.gap_spans if is_estimate else [],
        x_labels=view.x_labels,
        y_labels=labels,
        legend=[*legend, *(_gap_keys(view) if is_estimate else [])],
        corners=corners,
        series=series,
    )


def _line_keys(name: str, drawn: list[Shape], view: View) -> list[Key]:
    what = "mean" if view.is_reduced else "estimate" if name in view.records.values else "measured"
    keys = [Key(f"line stroke-{name}", what)]
    if any(" weak " in shape.css for shape in drawn):
        keys.append(Key(f"line weak stroke-{name}", "degraded"))
    return keys


def _gap_keys(view: View) -> list[Key]:
    words = {"withheld": "withheld", "norecord": "no records"}
    used = {span.css for span in view.gap_spans}
    return [Key(css, text) for css, text in words.items() if css in used]


def _line_summary(title: str, values: Floats, unit: str) -> str:
    known = values[np.isfinite(values)].astype(np.float64)
    if not known.size:
        return f"{title}: nothing to show."
    low, middle, high = (number(float(v)) + unit for v in (known.min(), np.median(known), known.max()))
    return f"{title} over time: lowest {low}, median {middle}, highest {high}."


def pain_charts(view: View) -> list[Chart]:
    """The expected level, and how probable each level is."""
    levels = view.records.pain_levels
    if not levels:
        return []
    top = max(len(levels) - 1, 1)
    scale = Scale(0.0, float(top), HEIGHT, is_reversed=True)
    labels = [Label(scale.percent(i), f"{i} {name}"[:14]) for i, name in enumerate(levels)]
    labels = labels[:: max(1, -(-len(labels) // 6))]
    title = f"Pain: expected level on the scale {view.records.pain_scale}"
    expected = _line_chart(
        view, "pain", title, view.records.values["pain"], scale, output="pain", y_labels=labels
    )
    stacked = _stack_chart(view, "pain-levels", "Pain: how probable each level is", levels, "level")
    return [expected, stacked]


def emotion_charts(view: View) -> list[Chart]:
    """How probable each emotion is."""
    if not view.records.emotion:
        return []
    return [_stack_chart(view, "emotion", "Emotion: how probable each is", view.records.emotion, "label")]


def _stack_chart(view: View, name: str, title: str, parts: dict[str, Floats], css: str) -> Chart:
    means = {label: view.estimate(values) for label, values in parts.items()}
    total = np.sum(list(means.values()), axis=0)
    scale = Scale(0.0, 1.0, HEIGHT, is_reversed=True)
    y_labels = [Label(scale.percent(i / 4), f"{25 * i} %", bool(i % 2)) for i in range(5)]
    shapes: list[Shape] = []
    legend: list[Key] = []
    below = np.zeros_like(total)
    for i, (label, mean) in enumerate(means.items()):
        above = below + mean / np.where(total > 0, total, np.nan)
        fill = f"area {css}-{_colour(i, len(means), css)}"
        shapes.append(draw.step_area(view.columns, scale.at(below), scale.at(above), fill))
        known = parts[label][np.isfinite(parts[label])]
        average = float(known.mean()) if known.size else 0.0
        legend.append(Key(fill, f"{label}, on average {share(average, 1.0)}"))
        below = above
    series = [draw.as_series(label, 100.0 * mean, " %", 1) for label, mean in means.items()]
    return Chart(
        name=name,
        title=title,
        summary=f"{title}. " + "; ".join(key.text for key in legend) + ".",
        shapes=[*shapes, draw.grid(y_labels)],
        spans=view.gap_spans,
        x_labels=view.x_labels,
        y_labels=y_labels,
        legend=[*legend[::-1], *_gap_keys(view)],  # in the order in which the areas lie
        series=series[::-1],
    )


def _colour(index: int, n: int, css: str) -> int:
    """Which of eight colours: levels spread over a ramp, labels take one after the other."""
    if css == "level":
        return round(index * 7 / max(n - 1, 1))
    return index % 8


# --- the plane -----------------------------------------------------------------------------------


def plane_chart(view: View) -> Chart | None:
    """Valence against arousal, coloured by time; None where there is no such pair."""
    values = view.records.values
    if not {"valence", "arousal"} <= set(values):
        return None
    most = max(1.0, *(float(np.nanmax(np.abs(values[o]))) for o in ("valence", "arousal")))
    across, up = Scale(-most, most, WIDTH), Scale(-most, most, WIDTH, is_reversed=True)
    x, y = across.at(view.estimate(values["valence"])), up.at(view.estimate(values["arousal"]))
    shapes = [
        draw.grid(draw.number_labels(up), WIDTH),
        draw.grid(draw.number_labels(across), WIDTH, is_vertical=True),
        Shape("axis", f"M0 {WIDTH / 2:g}h{WIDTH:g}M{WIDTH / 2:g} 0v{WIDTH:g}"),
    ]
    legend = [Key(f"ramp-{i}", "") for i in range(N_TIME_COLOURS)]
    if view.is_reduced:
        shapes += _occupancy(across.at(values["valence"]), up.at(values["arousal"]))
    if (true := (view.true("valence"), view.true("arousal"))) and true[0] is not None and true[1] is not None:
        shapes += draw.line_shapes(view.columns, across.at(true[0]), up.at(true[1]), "stroke-truth")
    shapes += _trajectory(view, x, y)
    return Chart(
        name="plane",
        title="Valence and arousal together",
        summary=_plane_summary(values["valence"], values["arousal"]),
        shapes=shapes,
        x_labels=draw.number_labels(across),
        y_labels=draw.number_labels(up),
        legend=legend,
        height=WIDTH,
        kind="plane",
        x_name="valence",
    )


def _trajectory(view: View, x: Floats, y: Floats) -> list[Shape]:
    """Thin lines between estimates that follow each other, and a dot for each, by time."""
    there = np.isfinite(x) & np.isfinite(y)
    edges = np.append(there[1:] & there[:-1] & view.columns.is_joined, False)
    colour = (view.x / WIDTH * N_TIME_COLOURS).astype(np.int64).clip(0, N_TIME_COLOURS - 1)
    shapes = []
    for i in range(N_TIME_COLOURS):
        mine = colour == i
        shapes.append(Shape(f"trail ramp-{i}", draw.lines(x, y, (edges & mine)[:-1])))
        shapes.append(Shape(f"dot ramp-{i}", draw.dots(x, y, there & mine)))
    ends = np.flatnonzero(there)
    if ends.size:
        first, last = ends[0], ends[-1]
        shapes.append(Shape("endpoint start", f"M{draw.text([x[first], y[first]])}h0"))
        shapes.append(Shape("endpoint hole", f"M{draw.text([x[first], y[first]])}h0"))
        shapes.append(Shape("endpoint end", f"M{draw.text([x[last], y[last]])}h0"))
    return [shape for shape in shapes if shape.d]


def _occupancy(x: Floats, y: Floats) -> list[Shape]:
    """Cells by how many predictions lie in them, in four steps of a tenth each."""
    known = np.isfinite(x) & np.isfinite(y)
    counts, _, _ = np.histogram2d(x[known], y[known], bins=_N_CELLS, range=((0, WIDTH), (0, WIDTH)))
    step = WIDTH / _N_CELLS
    shapes = []
    for level in range(1, 5):
        least, most = counts.max() * 10.0 ** (level - 5), counts.max() * 10.0 ** (level - 4)
        cells = np.argwhere((counts > (0 if level == 1 else least)) & (counts <= most)).tolist()
        d = "".join(f"M{draw.text([i * step, j * step])}h{step:g}v{step:g}h-{step:g}Z" for i, j in cells)
        shapes.append(Shape(f"cell-{level}", d))
    return [shape for shape in shapes if shape.d]


def _plane_summary(valence: Floats, arousal: Floats) -> str:
    known = np.isfinite(valence) & np.isfinite(arousal)
    pleasant = share(float((valence[known] > 0).sum()), float(known.sum()))
    excited = share(float((arousal[known] > 0).sum()), float(known.sum()))
    return f"Estimates lie on the pleasant side {pleasant} and on the excited side {excited} of the time."


# --- strips --------------------------------------------------------------------------------------


def presence_chart(view: View) -> Chart:
    """One row for the status and one per modality."""
    records, columns = view.records, view.columns
    names = ["status", *records.coverage]
    height = _ROW * len(names)
    shapes, spans = _status_row(view, height)
    series: list[Series] = []
    for row, modality in enumerate(records.coverage, 1):
        coverage, present = columns.mean(records.coverage[modality]), columns.mean(records.present[modality])
        is_absent = (present < 0.5) & np.isfinite(present)
        shapes += _coverage_shapes(view, np.where(is_absent, 0.0, coverage), row * _ROW)
        spans += [
            Span("absent", s.left, s.width, s.title, *_row_place(row, len(names)))
            for s in _stretches(view, is_absent, "absent", f"{modality} absent")
        ]
        series.append(draw.as_series(f"{modality} coverage", coverage, "", 2))
    places = [100.0 * (i + 0.5) / len(names) for i in range(len(names))]
    legend = [Key("cover cover-10", "all of it there"), Key("cover cover-5", "half"), Key("absent", "absent")]
    return Chart(
        name="presence",
        title="Step by step",
        summary="; ".join(_presence_words(records)) + ".",
        shapes=shapes,
        spans=spans,
        x_labels=view.x_labels,
        y_labels=[Label(place, name) for place, name in zip(places, names, strict=True)],
        legend=[
            Key("status-ok", "ok"),
            Key("status-degraded", "degraded"),
            Key("withheld", "withheld"),
            *legend,
        ],
        series=series,
        height=height,
        kind="strip",
    )


def _presence_words(records: Records) -> list[str]:
    return [
        f"{modality} present in {share(float(np.nansum(present)), float(np.isfinite(present).sum()))}"
        for modality, present in records.present.items()
    ]


def _row_place(row: int, n_rows: int) -> tuple[float, float]:
    """Top and height of a row in percent, with a little air around it."""
    return round(100.0 * (row + 0.1) / n_rows, 3), round(80.0 / n_rows, 3)


def _status_row(view: View, height: float) -> tuple[list[Shape], list[Span]]:
    """Shares stacked where a column stands for several predictions, else one pattern each."""
    n_rows = round(height / _ROW)
    if not view.is_reduced:
        spans = []
        for status, css in zip(STATUSES, ("status-ok", "status-degraded", "withheld"), strict=True):
            flags = view.columns.shares[status] > 0.5
            spans += [
                Span(css, s.left, s.width, s.title, *_row_place(0, n_rows))
                for s in _stretches(view, flags, css, status)
            ]
        return [], spans
    scale = Scale(0.0, 1.0, 0.8 * _ROW, is_reversed=True)
    below = np.zeros(len(view.columns))
    shapes = []
    for status in STATUSES:
        above = below + view.columns.shares[status]
        low, high = scale.at(below) + 0.1 * _ROW, scale.at(above) + 0.1 * _ROW
        shapes.append(draw.step_area(view.columns, low, high, f"fill-{status}"))
        below = above
    return shapes, []


def _stretches(view: View, flags: NDArray[np.bool_], css: str, what: str) -> list[Span]:
    columns = view.columns
    return [
        view._span(css, float(columns.left_s[i]), float(columns.right_s[j]), what)
        for i, j in runs(flags, columns.is_joined)
    ]


def _coverage_shapes(view: View, coverage: Floats, top: float) -> list[Shape]:
    """Bars in ten shades."""
    left, right = view.scale.at(view.columns.left_s), view.scale.at(view.columns.right_s)
    shade = np.ceil(np.nan_to_num(coverage.clip(0.0, 1.0)) * 10 - 1e-6).astype(np.int64)
    shapes = []
    for level in range(1, 11):
        boxes = [(left[i], right[j]) for i, j in runs(shade == level, view.columns.is_joined)]
        shapes.append(draw.rectangles(boxes, top + 0.1 * _ROW, 0.8 * _ROW, f"cover cover-{level}"))
    return [shape for shape in shapes if shape.d]


# --- time and synchrony --------------------------------------------------------------------------


def latency_chart(records: Records) -> Chart | None:
    """Per stage the middle nine tenths as a bar, with the median; None where nothing was measured."""
    stages = [s for s in STAGES if np.isfinite(records.latency_ms[s]).any()]
    if not stages:
        return None
    five = {s: np.nanpercentile(records.latency_ms[s], (5, 50, 95)).tolist() for s in stages}
    low = min(0.0, *(marks[0] for marks in five.values()))
    scale = Scale(low, draw.round_top(max(marks[2] for marks in five.values())), WIDTH)
    height = _ROW * len(stages)
    x_labels = draw.number_labels(scale)
    shapes = [draw.grid(x_labels, height, is_vertical=True)]
    for row, marks in enumerate(five.values()):
        left, middle, right = scale.at(np.asarray(marks)).tolist()
        top = row * _ROW
        shapes.append(draw.rectangles([(left, max(right, left + 1.0))], top + 5, 10, "bar"))
        shapes.append(Shape("median", f"M{draw.text([middle, top + 2])}v16"))
    words = [f"{STAGE_WORDS[s]} {milliseconds(five[s][1])}" for s in stages]
    return Chart(
        name="latency",
        title="Time per stage",
        summary="Medians: " + ", ".join(words) + ".",
        shapes=shapes,
        x_labels=[Label(x.at, f"{x.text} ms", x.is_minor) for x in x_labels],
        y_labels=[Label(100.0 * (i + 0.5) / len(stages), STAGE_WORDS[s]) for i, s in enumerate(stages)],
        legend=[Key("bar", "from the 5th to the 95th percentile"), Key("median", "median")],
        height=height,
        kind="bars",
    )


def latency_over_time(view: View) -> Chart | None:
    """End to end, prediction by prediction."""
    return _measured_chart(
        view, "end-to-end", "End to end over time, in ms", view.records.latency_ms["end_to_end"]
    )


def skew_chart(view: View) -> Chart | None:
    """How far apart the streams lay; None where they never did."""
    if not np.any(view.records.skew_ms):
        return None
    return _measured_chart(view, "skew", "Skew over time, in ms", view.records.skew_ms)


def _measured_chart(view: View, name: str, title: str, values: Floats) -> Chart | None:
    if not np.isfinite(values).any():
        return None
    low, top = float(np.nanmin(values)), draw.round_top(float(np.nanmax(values)))
    scale = Scale(-draw.round_top(-low) if low < 0 else 0.0, top, HEIGHT, is_reversed=True)
    return _line_chart(view, name, title, values, scale, unit=" ms", is_estimate=False)

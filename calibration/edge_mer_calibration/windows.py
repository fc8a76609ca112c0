"""Calibration windows: which ones are taken of sessions that the device's own preprocessing played.

Only ranges, histograms and counts leave them.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.errors import DataError
from edge_mer.postprocess.decode import answers
from edge_mer.runtime.labelled import LabelledSession
from edge_mer.runtime.pipeline import StepTrace
from edge_mer.types.model import AffectOutput, Encoder, ModelSpec, Output, PainOutput, Words
from edge_mer.types.signals import Modality

Feed = dict[str, NDArray[Any]]

THIRDS = ("low", "middle", "high")
"""Of a dimension's declared range."""

MISSING_SHARE = 8
"""For so many whole windows, one more in which each modality is missing."""


@dataclass(frozen=True)
class WindowSet:
    """Windows to calibrate on, in a fixed order.

    Attributes:
        feeds: Stage -> its inputs, one feed (batch = 1) per window.
        sha256: Over all of them, in order.
        n_windows: Whole windows.
        people: Person -> windows.
        cells: What the labels say, or where nobody knows them FP32's outputs, e.g. "valence low" ->
            windows.
        without: Modality -> windows in which it is missing; only the fusion sees them.
    """

    feeds: dict[str, list[Feed]]
    sha256: str
    n_windows: int
    people: dict[str, int]
    cells: dict[str, int]
    without: dict[Modality, int]


@dataclass(frozen=True)
class _Window:
    """A whole window, by its last step."""

    person: str
    cell: tuple[str, ...]
    trace: StepTrace


def choose_windows(model: ModelSpec, sessions: Sequence[LabelledSession], n_windows: int) -> WindowSet:
    """Take `n_windows` whole windows, as many of each person and of each range of the labels as there are.

    For every eight of them, one more per modality lets that modality be missing, in the whole of the window
    or in its older half.

    Raises:
        DataError: Too few whole windows, or one that holds something else than numbers.
    """
    whole = list(_whole_windows(model, sessions))
    if len(whole) < n_windows:
        n_incomplete = sum(not trace.is_real for session in sessions for trace in session.traces)
        raise DataError(
            "not enough calibration windows",
            expected=f"{n_windows} whole windows of {float(model.step) * model.fusion.n_steps:.1f} s",
            found=f"{len(whole)}, and {n_incomplete} steps in which a modality is missing",
            hint="give longer or more sessions with --data, or fewer --windows",
        )
    chosen = _spread(whole, n_windows)
    traces = [one.trace for one in chosen]
    feeds: dict[str, list[Feed]] = {
        encoder.stage: _encoder_feeds(encoder, traces, sessions, n_windows) for encoder in model.encoders
    }
    fusion_feeds = [_fusion_feed(model, trace) for trace in traces]
    missing = list(_without(model, fusion_feeds))
    feeds[model.fusion.stage] = [*fusion_feeds, *(feed for _, feed in missing)]
    return WindowSet(
        feeds={stage: _checked(stage, feeds[stage]) for stage in model.stages},
        sha256=_sha256(feeds),
        n_windows=n_windows,
        people=dict(Counter(one.person for one in chosen)),
        cells=dict(sorted(Counter(cell for one in chosen for cell in one.cell).items())),
        without=dict(Counter(modality for modality, _ in missing)),
    )


def held_windows(model: ModelSpec, sessions: Sequence[LabelledSession], n_most: int) -> WindowSet:
    """Up to `n_most` whole windows of other sessions.

    Raises:
        DataError: There is not even one.
    """
    n_whole = sum(1 for _ in _whole_windows(model, sessions))
    return choose_windows(model, sessions, max(1, min(n_most, n_whole)))


def _whole_windows(model: ModelSpec, sessions: Sequence[LabelledSession]) -> Iterable[_Window]:
    for session in sessions:
        for index, trace in enumerate(session.traces):
            if _is_whole(model, trace):
                labels = {name: float(values[index]) for name, values in session.labels.items()}
                yield _Window(session.person, _cell(model, labels, trace), trace)


def _is_whole(model: ModelSpec, trace: StepTrace) -> bool:
    """Whether it ends a full window as a device sees it: of encoded steps, at the end of a hop."""
    fusion = model.fusion
    ends_window = trace.index >= fusion.n_steps - 1 and (trace.index + 1) % fusion.hop == 0
    return ends_window and trace.is_real and bool(trace.present.all())


def _cell(model: ModelSpec, labels: dict[str, float], trace: StepTrace) -> tuple[str, ...]:
    """Which part of each output's range a step belongs to."""
    cells = []
    for output in model.outputs:
        label = labels.get(output.name, np.nan)
        cells.append(_part(output, label if np.isfinite(label) else _estimate(output, trace)))
    return tuple(cells)


def _estimate(output: Output, trace: StepTrace) -> float:
    """FP32's own estimate; of levels and classes, the likeliest."""
    found = answers(output, np.asarray(trace.raw[output.name]))
    return float(found) if isinstance(output, AffectOutput) else float(np.argmax(found))


def _part(output: Output, value: float) -> str:
    if isinstance(output, AffectOutput):
        share = (value - output.low) / (output.high - output.low)
        return f"{output.name} {THIRDS[int(np.clip(share * len(THIRDS), 0, len(THIRDS) - 1))]}"
    names = output.levels if isinstance(output, PainOutput) else output.labels
    return f"{output.name} {names[int(np.clip(round(value), 0, len(names) - 1))]}"


def _spread(windows: Sequence[_Window], n: int) -> list[_Window]:
    """`n` of them in their order: the person, then the cell, with the fewest so far gives the next."""
    groups: dict[tuple[str, tuple[str, ...]], list[int]] = defaultdict(list)
    for index, one in enumerate(windows):
        groups[one.person, one.cell].append(index)
    n_taken: Counter[object] = Counter()
    quota: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for _ in range(n):
        free = [key for key, indices in groups.items() if quota[key] < len(indices)]
        person, cell = min(free, key=lambda key: (n_taken[key[0]], n_taken[key[1]], key))
        quota[person, cell] += 1
        n_taken[person] += 1
        n_taken[cell] += 1
    chosen = [
        indices[int(i)]
        for key, indices in groups.items()
        for i in np.linspace(0, len(indices) - 1, quota[key]).round()
    ]
    return [windows[index] for index in sorted(chosen)]


def _encoder_feeds(
    encoder: Encoder, chosen: list[StepTrace], sessions: Sequence[LabelledSession], n_windows: int
) -> list[Feed]:
    """The step tensors of the chosen windows; of words, utterances from all of the sessions."""
    name, stage = encoder.input.name, encoder.stage
    if not isinstance(encoder.preprocess, Words):
        return [{name: trace.inputs[stage]} for trace in chosen]
    spoken = [one for session in sessions for trace in session.traces for one in trace.spoken.get(stage, ())]
    if not spoken:
        raise DataError(f"nothing is said in the calibration sessions, and {stage} reads words")
    picked = np.linspace(0, len(spoken) - 1, min(n_windows, len(spoken))).round()
    return [{name: spoken[int(i)].utterance.ids} for i in picked]


def _fusion_feed(model: ModelSpec, trace: StepTrace) -> Feed:
    feed: Feed = {
        spec.name: trace.features[encoder.stage]
        for encoder, spec in zip(model.encoders, model.fusion.inputs, strict=False)
    }
    if model.fusion.has_present_input:
        feed[model.fusion.inputs[-1].name] = trace.present[np.newaxis]
    return feed


def _without(model: ModelSpec, feeds: Sequence[Feed]) -> Iterable[tuple[Modality, Feed]]:
    """Some windows once more, with one modality missing."""
    if len(model.encoders) < 2:
        return
    for number, feed in enumerate(feeds[::MISSING_SHARE]):
        for row, (modality, spec) in enumerate(zip(model.modalities, model.fusion.inputs, strict=False)):
            n_steps = feed[spec.name].shape[1]
            absent = slice(0, n_steps if number % 2 == 0 else n_steps // 2)
            features = feed[spec.name].copy()
            features[:, absent] = 0
            made: Feed = {**feed, spec.name: features}
            if model.fusion.has_present_input:
                name = model.fusion.inputs[-1].name
                made[name] = feed[name].copy()
                made[name][:, row, absent] = False
            yield modality, made


def _checked(stage: str, feeds: list[Feed]) -> list[Feed]:
    for index, feed in enumerate(feeds):
        for name, array in feed.items():
            n_bad = int(array.size - np.isfinite(array).sum())
            if n_bad:
                raise DataError(
                    f"calibration window {index}: {stage}.{name} has {n_bad} values that are no numbers"
                )
    return feeds


def _sha256(feeds: dict[str, list[Feed]]) -> str:
    digest = hashlib.sha256()
    for stage in sorted(feeds):
        for feed in feeds[stage]:
            for name in sorted(feed):
                digest.update(np.ascontiguousarray(feed[name]).tobytes())
    return digest.hexdigest()

"""A session at once: every step through its encoders, every window through the fusion, without rings.

What streaming is held against, and how quantized stages and subsets of modalities are judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.engine.base import Engine
from edge_mer.engine.sharing import parts
from edge_mer.preprocess.words import write_words
from edge_mer.runtime.blank import blank_feature
from edge_mer.runtime.pipeline import StepTrace
from edge_mer.types.model import Encoder, ModelSpec, Words

_BATCH = 4
"""Half of what is proven: the tensors of a clip are large."""

Floats = NDArray[np.floating]
Features = dict[str, Floats]  # stage -> (steps, feature)
Presence = dict[str, NDArray[np.bool_]]  # stage -> (steps,)
RunFusion = Callable[[Features, NDArray[np.bool_], int], dict[str, Floats]]
"""One window's raw outputs at one of its steps, from its features, stage -> (n, feature), and its mask
(modality, n)."""


def window_sizes(model: ModelSpec, present: Presence) -> list[int]:
    """How many steps the fusion looks at, per step of a session; 0 = no prediction, or a withheld one.

    Args:
        model: Its declaration.
        present: Which steps were encoded; nothing stands in for the others.
    """
    full = model.fusion.n_steps
    mask = np.stack(list(present.values()), axis=1)  # (steps, modality)
    if model.fusion.warm_up == "mask":
        sizes = [full if there.any() else 0 for there in mask]
    else:
        sizes, n_whole = [], 0
        for there in mask:
            n_whole = min(n_whole + 1, full) if there.all() else 0
            sizes.append(n_whole if n_whole == full or model.fusion.warm_up in ("shorten", "pad") else 0)
    hop = model.fusion.hop
    return [size if (step + 1) % hop == 0 else 0 for step, size in enumerate(sizes)]


def all_present(features: Features) -> Presence:
    """Every step of a session in which nothing is missing."""
    return {stage: np.ones(len(values), np.bool_) for stage, values in features.items()}


def offline_outputs(
    model: ModelSpec,
    features: Features,
    present: Presence,
    run_fusion: RunFusion,
    blanks: Features | None = None,
) -> dict[str, Floats]:
    """Every window of a session at once, without rings: output -> (steps, *value_shape), NaN = withheld.

    Args:
        model: Its declaration.
        features: Stage -> (steps, feature), zero where absent.
        present: Which steps were encoded.
        run_fusion: The window fusion.
        blanks: Stage -> (feature,) of a blank input, for models that are padded with it.
    """
    n_steps = len(next(iter(features.values())))
    outputs: dict[str, Floats] = {o.name: np.full((n_steps, *o.value_shape), np.nan) for o in model.outputs}
    for step, size in enumerate(window_sizes(model, present)):
        if size == 0:
            continue
        window = {stage: last_rows(values, step, size) for stage, values in features.items()}
        mask = np.stack([last_rows(one, step, size) for one in present.values()])
        if blanks is not None:
            n = model.fusion.n_steps
            window = {stage: padded(rows, blanks[stage], n) for stage, rows in window.items()}
        for name, value in run_fusion(window, mask, size - 1).items():
            outputs[name][step] = value
    return outputs


def last_rows(values: NDArray[Any], step: int, size: int) -> NDArray[Any]:
    """The `size` rows of (steps, …) that end with row `step`, zeros before the start."""
    first = step + 1 - size
    padding = np.zeros((max(0, -first), *values.shape[1:]), values.dtype)
    return np.concatenate([padding, values[max(0, first) : step + 1]])


def padded(rows: Floats, blank: Floats, n_steps: int) -> Floats:
    """Rows (n, feature) with the feature of nothing behind them, (n_steps, feature)."""
    return np.concatenate([rows, np.broadcast_to(blank, (n_steps - len(rows), blank.size))])


def engine_fusion(model: ModelSpec, engine: Engine) -> RunFusion:
    """The fusion of a bundle as a function of one window."""

    def run(features: Features, present: NDArray[np.bool_], step: int) -> dict[str, Floats]:
        feed: dict[str, NDArray[Any]] = {
            spec.name: np.ascontiguousarray(values[np.newaxis], np.float32)
            for spec, values in zip(model.fusion.inputs, features.values(), strict=False)
        }
        if model.fusion.has_present_input:
            feed[model.fusion.inputs[-1].name] = present[np.newaxis]
        found = engine.run(feed)
        names = zip(model.outputs, model.fusion.outputs, strict=True)
        return {output.name: spec.step_of(found[spec.name][0], step) for output, spec in names}

    return run


def presence(model: ModelSpec, traces: Sequence[StepTrace]) -> Presence:
    """Which steps of a session were there, per stage."""
    return {e.stage: np.array([e.stage in t.inputs for t in traces], np.bool_) for e in model.encoders}


def encode(model: ModelSpec, engines: Mapping[str, Engine], traces: Sequence[StepTrace]) -> Features:
    """All steps of a session through each encoder with an engine, several at a time; zeros where absent."""
    features: Features = {}
    for encoder, there in zip(model.encoders, presence(model, traces).values(), strict=True):
        if encoder.stage not in engines:
            continue
        engine, rows = engines[encoder.stage], np.zeros((len(traces), encoder.feature), np.float32)
        where = np.flatnonzero(there)
        if isinstance(encoder.preprocess, Words):
            rows[where] = _said(model, encoder, encoder.preprocess, engine, traces)[where]
        else:
            for part in parts(len(where), _BATCH):
                steps = np.concatenate([traces[i].inputs[encoder.stage] for i in where[part]])
                rows[where[part]] = engine.run({encoder.input.name: steps})[encoder.output.name]
        features[encoder.stage] = rows
    return features


def played_features(model: ModelSpec, traces: Sequence[StepTrace]) -> Features:
    """What the engines that played a session made of its steps; zeros where a modality was absent."""
    features: Features = {}
    for encoder, there in zip(model.encoders, presence(model, traces).values(), strict=True):
        rows = np.stack([trace.features[encoder.stage][0, -1] for trace in traces])
        features[encoder.stage] = np.where(there[:, np.newaxis], rows, np.float32(0))
    return features


def _said(
    model: ModelSpec, encoder: Encoder, spec: Words, engine: Engine, traces: Sequence[StepTrace]
) -> NDArray[np.float32]:
    """What was being said at each step's start, of the words known by then: (steps, feature)."""
    rows = np.zeros((len(traces), encoder.feature), np.float32)
    known: list[tuple[int, int, NDArray[np.float32]]] = []
    for row, trace in zip(rows, traces, strict=True):
        for one in trace.spoken.get(encoder.stage, ()):
            tokens = engine.run({encoder.input.name: one.utterance.ids})[encoder.output.name][0]
            vectors = one.utterance.word_vectors(tokens)
            known += [(int(t[0]), int(t[1]), v) for t, v in zip(one.times_ns, vectors, strict=True)]
        now_ns = model.step_start_ns(trace.index)
        said = next((vector for start_ns, end_ns, vector in known if start_ns < now_ns <= end_ns), None)
        write_words(said, spec, row)
    return rows


def blank_features(model: ModelSpec, engines: Mapping[str, Engine]) -> Features | None:
    """What each encoder makes of nothing; None for models that are not padded with it."""
    if model.fusion.warm_up != "pad":
        return None
    return {encoder.stage: blank_feature(encoder, engines[encoder.stage]) for encoder in model.encoders}

"""The numbers that everything is held against: whole sessions at once, in PyTorch, without the runtime."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from edge_mer.errors import DataError
from edge_mer.preprocess.audio import log_mel
from edge_mer.preprocess.face import FaceDetector
from edge_mer.preprocess.image import write_clip
from edge_mer.preprocess.scene import clip_maker
from edge_mer.preprocess.vggish_audio import vggish_log_mel
from edge_mer.preprocess.words import WordTokenizer, write_words
from edge_mer.runtime.blank import as_clip, blank_tensor
from edge_mer.runtime.golden import Arrays
from edge_mer.runtime.offline import Features, Presence, RunFusion
from edge_mer.types.model import (
    Clip,
    Encoder,
    LogMel,
    SampledSpec,
    Signal,
    VggishLogMel,
    Words,
    to_ns,
)
from edge_mer_export.engines import as_tuple
from edge_mer_export.models.zoo import ZooModel
from edge_mer_export.reference_courses import whole_courses

_BATCH = 8
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class CutSession:
    """A recorded session in steps.

    Attributes:
        tensors: Stage -> (steps, …), zero where absent; of words already each step's feature.
        present: Stage -> (steps,), False where a piece reaches too far before the session's start.
    """

    tensors: dict[str, Floats]
    present: Presence


def cut_session(model: ZooModel, session: Arrays, n_steps: int, detector: FaceDetector) -> CutSession:
    """Cut a whole recorded session into step tensors, by plain slicing.

    Args:
        model: Its declaration; its text encoder turns words into features.
        session: `<modality>.t_ns`, `.data`, `.rate_hz` (see `edge_mer.runtime.golden`); sampled
            streams start at 0 at the rate that the model declares.
        n_steps: Steps to cut.
        detector: Finds faces.

    Raises:
        DataError: Something is missing after the session's start.
    """
    tensors: dict[str, Floats] = {}
    present: Presence = {}
    for encoder in model.spec.encoders:
        spec = encoder.preprocess
        there = np.zeros(n_steps, np.bool_)
        if isinstance(spec, Words):
            steps = _said(model, encoder, spec, session, n_steps)
            there[:] = True
        else:
            steps = np.zeros((n_steps, *encoder.input.concrete(batch=1)[1:]), np.float32)
            if isinstance(spec, Clip):
                _cut_clips(encoder, spec, session, detector, steps, there)
            elif isinstance(spec, Signal) and spec.courses is not None:
                _cut_courses(encoder, spec, session, steps, there)
            else:
                _cut_samples(encoder, spec, session, steps, there)
        tensors[encoder.stage], present[encoder.stage] = steps, there
    return CutSession(tensors, present)


def _cut_clips(
    encoder: Encoder,
    spec: Clip,
    session: Arrays,
    detector: FaceDetector,
    steps: Floats,
    there: NDArray[np.bool_],
) -> None:
    maker = clip_maker(spec, detector)
    for step, out in enumerate(steps):
        chosen = frame_indices(encoder, spec, session, step)
        write = partial(write_clip, spec=spec, out=as_clip(out, spec))
        report = maker.make([_frame(session, index) for index in chosen], write)
        n_before = sum(index is None for index in chosen)
        if report.coverage < 1 - n_before / len(chosen):
            raise DataError(
                f"step {step} of a reference session lacks a face", found=f"coverage {report.coverage:.2f}"
            )
        there[step] = report.coverage >= encoder.min_coverage
        out[...] *= there[step]


def _frame(session: Arrays, index: int | None) -> tuple[int, NDArray[np.uint8]] | None:
    if index is None:
        return None
    return int(session["visual.t_ns"][index]), np.asarray(session["visual.data"][index], np.uint8)


def frame_indices(encoder: Encoder, spec: Clip, session: Arrays, step: int) -> list[int | None]:
    """For each frame of a clip the recorded frame nearest in time (the earlier of two as near).

    None where the clip reaches before the session's start.
    """
    end = encoder.period * (step + 1) + encoder.offset - spec.last_frame_before_end
    nominal_ns = [to_ns(end - spec.frame_interval * i) for i in reversed(range(spec.n_frames))]
    times_ns = session["visual.t_ns"].astype(np.int64)
    nearest = [int(np.argmin(np.abs(times_ns - t_ns))) for t_ns in nominal_ns]
    tolerance_ns = to_ns(spec.frame_tolerance)
    return [
        index if abs(int(times_ns[index]) - t_ns) <= tolerance_ns else None
        for index, t_ns in zip(nearest, nominal_ns, strict=True)
    ]


def _cut_samples(
    encoder: Encoder, spec: SampledSpec, session: Arrays, steps: Floats, there: NDArray[np.bool_]
) -> None:
    data = session[f"{encoder.modality}.data"].astype(np.float32).mean(axis=1, dtype=np.float32)
    n = int(encoder.span * spec.rate_hz)
    for step, out in enumerate(steps):
        end = encoder.period * (step // encoder.repeat + 1) + encoder.offset
        stop = int(end * spec.rate_hz)
        if isinstance(spec, VggishLogMel):
            hops = (end - encoder.span) * spec.rate_hz / spec.hop_samples
            stop = round(hops) * spec.hop_samples + n
        if stop > data.size:
            raise DataError(f"step {step} of a reference session lacks {encoder.modality}")
        n_before = min(n, max(0, n - stop))
        there[step] = 1 - n_before / n >= encoder.min_coverage
        if not there[step]:
            continue
        piece = np.concatenate([np.zeros(n_before, np.float32), data[max(0, stop - n) : stop]])
        if isinstance(spec, LogMel):
            log_mel(piece, spec, out)
        elif isinstance(spec, VggishLogMel):
            vggish_log_mel(piece, spec, out)
        else:
            out[0] = (piece - np.float32(spec.mean)) / np.float32(spec.std)


def _cut_courses(
    encoder: Encoder, spec: Signal, session: Arrays, steps: Floats, there: NDArray[np.bool_]
) -> None:
    courses = whole_courses(session[f"{encoder.modality}.data"].astype(np.float32)[:, 0], spec)
    n = int(encoder.span * spec.piece_hz)
    for step, out in enumerate(steps):
        stop = int((encoder.period * (step // encoder.repeat + 1) + encoder.offset) * spec.piece_hz)
        if stop > len(courses):
            raise DataError(f"step {step} of a reference session lacks {encoder.modality}")
        before = np.full((max(0, n - stop), spec.n_channels), np.nan, np.float32)
        piece = np.concatenate([before, courses[max(0, stop - n) : stop]])
        is_known = np.isfinite(piece).all(axis=1)
        there[step] = is_known.mean() >= encoder.min_coverage
        if there[step]:
            shown = np.where(is_known[:, np.newaxis], piece, np.float32(0))
            out[...] = ((shown - np.float32(spec.mean)) / np.float32(spec.std)).T


def _said(model: ZooModel, encoder: Encoder, spec: Words, session: Arrays, n_steps: int) -> Floats:
    """Each step's word, whenever it became known; (steps, feature)."""
    tokenizer = WordTokenizer(spec, model.assets[spec.tokenizer])
    stops = np.cumsum(session["text.n_words"])[:-1]
    vectors: list[Floats] = []
    for rows in np.split(session["text.data"], stops):
        for utterance in tokenizer.utterances([str(word) for word in rows[:, 0]]):
            with torch.inference_mode():
                tokens = np.asarray(model.stages[encoder.stage](torch.from_numpy(utterance.ids))[0].numpy())
            vectors += list(utterance.word_vectors(tokens))
    starts_ns, ends_ns = session["text.data"][:, 1:3].astype(np.int64).T
    features = np.zeros((n_steps, encoder.feature), np.float32)
    for step, feature in enumerate(features):
        t_ns = model.spec.step_start_ns(step)
        said = np.flatnonzero((starts_ns < t_ns) & (t_ns <= ends_ns))
        write_words(vectors[said[0]] if said.size else None, spec, feature)
    return features


def encode(model: ZooModel, stage: str, cut: CutSession) -> Floats:
    """All steps of a session through one encoder in PyTorch: (steps, feature), zero where absent."""
    there = np.flatnonzero(cut.present[stage])
    return _scattered(encode_steps(model, stage, cut.tensors[stage][there]), there, len(cut.present[stage]))


def encode_steps(model: ZooModel, stage: str, steps: Floats) -> Floats:
    """(n, …) through one encoder in PyTorch -> (n, feature); words' features are that already."""
    encoder = next(encoder for encoder in model.spec.encoders if encoder.stage == stage)
    if isinstance(encoder.preprocess, Words):
        return steps
    with torch.inference_mode():
        parts = [
            model.stages[stage](torch.from_numpy(steps[i : i + _BATCH])) for i in range(0, len(steps), _BATCH)
        ]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def _scattered(rows: Floats, where: NDArray[np.intp], n: int) -> Floats:
    all_rows = np.zeros((n, *rows.shape[1:]), np.float32)
    all_rows[where] = rows
    return all_rows


def torch_fusion(model: ZooModel) -> RunFusion:
    """The window fusion in PyTorch as a function of one window."""
    fusion = model.stages[model.spec.fusion.stage]

    def run(features: Features, present: NDArray[np.bool_], step: int) -> dict[str, NDArray[np.floating]]:
        tensors = [torch.from_numpy(np.array(values[np.newaxis], np.float32)) for values in features.values()]
        if model.spec.fusion.has_present_input:
            tensors.append(torch.from_numpy(present[np.newaxis].copy()))
        with torch.inference_mode():
            found = as_tuple(fusion(*tensors))
        names = zip(model.spec.outputs, model.spec.fusion.outputs, found, strict=True)
        return {output.name: spec.step_of(one[0], step).numpy() for output, spec, one in names}

    return run


def torch_blanks(model: ZooModel) -> Features | None:
    """What each encoder makes of nothing in PyTorch; None for models that are not padded with it."""
    if model.spec.fusion.warm_up != "pad":
        return None
    return {encoder.stage: _blank(model, encoder) for encoder in model.spec.encoders}


def _blank(model: ZooModel, encoder: Encoder) -> Floats:
    if isinstance(encoder.preprocess, Words):
        feature = np.zeros(encoder.feature, np.float32)
        write_words(None, encoder.preprocess, feature)
        return feature
    return np.asarray(encode_steps(model, encoder.stage, blank_tensor(encoder))[0], np.float32)

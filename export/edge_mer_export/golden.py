"""Makes golden sessions: simulated people, PyTorch's numbers for them, and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edge_mer.bundle.manifest import Golden
from edge_mer.clock import NS_PER_S
from edge_mer.errors import DataError
from edge_mer.preprocess.audio import SoundConditioner
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.golden import Arrays, RecordingDetector, session_arrays
from edge_mer.runtime.offline import Features, offline_outputs
from edge_mer.runtime.proof import deviation_of
from edge_mer.runtime.session import merged
from edge_mer.runtime.simulated import n_lead_in, simulated
from edge_mer.sources.registry import open_source
from edge_mer.types.model import Clip, LogMel, ModelSpec, VggishLogMel, Words
from edge_mer_export.models.zoo import ZooModel
from edge_mer_export.reference import (
    CutSession,
    cut_session,
    encode,
    frame_indices,
    torch_blanks,
    torch_fusion,
)

EXTRA_HOPS = 4
_CHUNK_S = 0.1
"""Other streams come in chunks, and are up to so far ahead of the words."""
PEOPLE = (900, 901)


@dataclass(frozen=True)
class GoldenSession:
    """A session as it is stored, and cut into steps."""

    arrays: Arrays
    cut: CutSession


def make_sessions(model: ZooModel) -> list[GoldenSession]:
    """One session per simulated person, a few steps longer than the window and what leads into it.

    It ends with a hop: a proof looks at the prediction of the last step.
    """
    fusion = model.spec.fusion
    n_hops = -(-(fusion.n_steps + n_lead_in(model.spec)) // fusion.hop) + EXTRA_HOPS
    n_steps = n_hops * fusion.hop
    return [_make_session(model, person, n_steps) for person in PEOPLE]


def _make_session(model: ZooModel, person: int, n_steps: int) -> GoldenSession:
    spec = model.spec
    raw = _at_declared_rates(spec, _record(simulated(spec, seed=11, person=person, n_steps=n_steps)))
    _check_words_in_time(spec, raw)
    detector = RecordingDetector(open_face_detector())
    cut = cut_session(model, raw, n_steps, detector)
    features: Features = {e.stage: encode(model, e.stage, cut) for e in spec.encoders}
    outputs = offline_outputs(spec, features, cut.present, torch_fusion(model), torch_blanks(model))
    arrays = _only_used(spec, raw, n_steps) | detector.arrays()
    for stage, there in cut.present.items():
        arrays |= {f"present.{stage}": there, f"input.{stage}": cut.tensors[stage][there][[0, -1]]}
    arrays |= {f"feature.{stage}": np.asarray(values, np.float32) for stage, values in features.items()}
    arrays |= {f"output.{name}": values.astype(np.float32) for name, values in outputs.items()}
    return GoldenSession(arrays, cut)


def _record(uri: str) -> Arrays:
    source = open_source(uri)
    source.ensure_ready()
    source.start()
    try:
        return session_arrays(merged([source]), source.specs)
    finally:
        source.ensure_stopped()


def _check_words_in_time(spec: ModelSpec, raw: Arrays) -> None:
    """Refuse a model that does not wait for the ends of the sentences in which its words are said.

    An utterance comes when it is over; a step that was taken before saw less than a whole session shows.

    Raises:
        DataError: Names how long it would have to wait.
    """
    for encoder in spec.encoders:
        if not isinstance(encoder.preprocess, Words):
            continue
        came_ns = np.repeat(raw["text.t_ns"], raw["text.n_words"])
        starts_ns = raw["text.data"][:, 1].astype(np.int64)
        wait_s = float((came_ns - starts_ns).max(initial=0)) / NS_PER_S
        needed_s = math.ceil(wait_s + _CHUNK_S - float(spec.step))
        if encoder.offset + spec.step < wait_s + _CHUNK_S:
            raise DataError(
                f"model {spec.name}: {encoder.stage} cannot be proven: words come later than it waits",
                expected=f"an offset of {needed_s} s or more: so long are the sentences of simulated people",
                found=f"{float(encoder.offset):.3g} s",
                hint="where you speak in shorter ones, train for the longer wait all the same",
            )


def _at_declared_rates(spec: ModelSpec, raw: Arrays) -> Arrays:
    """Sound at the rate that the model declares, so that its steps can be cut by plain slicing."""
    for encoder in spec.encoders:
        sound, key = encoder.preprocess, f"{encoder.modality}.rate_hz"
        if not isinstance(sound, (LogMel, VggishLogMel)) or raw[key].item() == sound.rate_hz:
            continue
        conditioner = SoundConditioner(round(raw[key].item()), sound.rate_hz)
        samples = (conditioner.push(raw[f"{encoder.modality}.data"]), conditioner.flush())
        raw |= {
            key: np.array([sound.rate_hz], np.float64),
            f"{encoder.modality}.data": np.concatenate(samples)[:, np.newaxis],
        }
    return raw


def _only_used(spec: ModelSpec, raw: Arrays, n_steps: int) -> Arrays:
    """Without the frames that no step looks at, and without the sound after the last step."""
    kept: Arrays = {}
    for encoder in spec.encoders:
        modality, clip = encoder.modality, encoder.preprocess
        if isinstance(clip, Words):
            kept |= {key: value for key, value in raw.items() if key.startswith("text.")}
        elif isinstance(clip, Clip):
            chosen = (frame_indices(encoder, clip, raw, step) for step in range(n_steps))
            used = sorted({index for clip_of in chosen for index in clip_of if index is not None})
            kept |= {
                f"{modality}.t_ns": raw[f"{modality}.t_ns"][used],
                f"{modality}.data": raw[f"{modality}.data"][used],
            }
        else:
            n_pieces = -(-n_steps // encoder.repeat)
            end = (encoder.period * n_pieces + encoder.offset) * clip.rate_hz
            if isinstance(clip, VggishLogMel):  # a piece may begin later, at the nearest column
                end += clip.hop_samples
            kept |= {key: value for key, value in raw.items() if key.startswith(f"{modality}.")}
            kept[f"{modality}.data"] = raw[f"{modality}.data"][: int(end)]
    return kept


def describe(model: ZooModel, sessions: list[GoldenSession]) -> Golden:
    """The manifest's entry for the sessions."""
    names = [f"output.{o.name}" for o in model.spec.outputs] + [
        f"feature.{e.stage}" for e in model.spec.encoders
    ]
    deviation = {
        name.removeprefix("output."): deviation_of(np.concatenate([one.arrays[name] for one in sessions]))
        for name in names
    }
    n_steps = len(next(iter(sessions[0].cut.tensors.values())))
    return Golden(
        sessions=tuple(f"golden/session-{i}.npz" for i in range(len(sessions))),
        n_steps=n_steps,
        deviation=deviation,
    )

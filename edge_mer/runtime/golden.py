"""Golden sessions: raw chunks of simulated people, to be played through the runtime again.

A session's arrays, by name (n frames or samples, s steps):

    <modality>.t_ns        int64 (n,) capture times of frames, or (1,) of the first sample
    <modality>.data        uint8 (n, height, width, 3) or float32 (n, channels)
    <modality>.rate_hz     float64 (1,) of a sampled stream
    text.t_ns              int64 (n,) when each utterance had been said
    text.data              str (words, 3) of all of them: word, start and end in ns
    text.n_words           int64 (n,) words of each
    face.crc32             int64 (n,) of each frame's bytes
    face.box_px            float64 (n, 4); NaN where no face was found
    face.eyes_px           float64 (n, 2, 2); NaN where no eyes were found
    present.<stage>        bool (s,) whether the step's piece was there: a piece may reach before the start
    input.<stage>          float32 (2, …) step tensors of the first and the last step present
    feature.<stage>        float32 (s, feature) by PyTorch; zero where absent
    output.<name>          float32 (s, *value_shape) by PyTorch, raw, for the last step of each window;
                           NaN = withheld

What the detector found is part of the session, so that a proof does not depend on which version
of a detector a device has.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.preprocess.face import Detection, FaceDetector
from edge_mer.types.signals import UNITS, Chunk, Modality, StreamSpec

Arrays = dict[str, NDArray[Any]]

_CHUNKS_PER_S = 16
_NO_WORDS = np.zeros((0, 3), "<U1")

TEXT_STREAM = StreamSpec(
    name="golden/text",
    modality="text",
    axes=("word", "field"),
    shape=(None, 3),
    dtype="str",
    rate_hz=None,
    unit=UNITS["text"],
    channels=("word", "start_ns", "end_ns"),
)


class RecordingDetector:
    """Passes on the largest face that a detector finds, and remembers it."""

    def __init__(self, detector: FaceDetector) -> None:
        self.name = detector.name
        self._detector = detector
        self._found: dict[int, list[Detection]] = {}

    def detect(self, frame: NDArray[np.uint8]) -> list[Detection]:
        """The largest face, or none; `frame` (height, width, 3) uint8 RGB."""
        found = sorted(self._detector.detect(frame), key=lambda d: d.box_px[2] * d.box_px[3])[-1:]
        self._found[_crc32(frame)] = found
        return found

    def arrays(self) -> Arrays:
        """The `face.*` arrays."""
        boxes, eyes = [], []
        for found in self._found.values():
            face = found[0] if found else None
            boxes.append(face.box_px if face else (np.nan,) * 4)
            eyes.append(face.eyes_px if face and face.eyes_px else ((np.nan, np.nan), (np.nan, np.nan)))
        return {
            "face.crc32": np.array(list(self._found), np.int64),
            "face.box_px": np.array(boxes, np.float64).reshape(-1, 4),
            "face.eyes_px": np.array(eyes, np.float64).reshape(-1, 2, 2),
        }


class PlaybackDetector:
    """Finds what was found when the session was recorded."""

    name = "recorded"

    def __init__(self, arrays: Arrays) -> None:
        keys = arrays["face.crc32"].tolist()
        boxes, eyes = arrays["face.box_px"].tolist(), arrays["face.eyes_px"].tolist()
        self._found = {key: (box, pair) for key, box, pair in zip(keys, boxes, eyes, strict=True)}

    def detect(self, frame: NDArray[np.uint8]) -> list[Detection]:
        """The recorded face of a recorded frame, nothing for any other frame."""
        box, eyes = self._found.get(_crc32(frame), ((np.nan,) * 4, None))
        if np.isnan(box).any():
            return []
        pair = None if np.isnan(eyes).any() else ((eyes[0][0], eyes[0][1]), (eyes[1][0], eyes[1][1]))
        return [Detection(box_px=(box[0], box[1], box[2], box[3]), score=1.0, eyes_px=pair)]


def _crc32(frame: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(frame).tobytes())


def session_arrays(chunks: Iterable[Chunk], specs: Iterable[StreamSpec]) -> Arrays:
    """The raw half of a session's arrays, from its chunks."""
    rates = {spec.modality: spec.rate_hz for spec in specs}
    by_modality: dict[str, list[Chunk]] = {"text": []} if "text" in rates else {}  # also where nobody speaks
    for chunk in chunks:
        by_modality.setdefault(chunk.modality, []).append(chunk)
    arrays: Arrays = {}
    for modality, held in by_modality.items():
        if modality == "visual":
            arrays["visual.t_ns"] = np.array([chunk.t_ns for chunk in held], np.int64)
            arrays["visual.data"] = np.stack([chunk.data for chunk in held])
        elif modality == "text":
            arrays["text.t_ns"] = np.array([chunk.t_ns for chunk in held], np.int64)
            arrays["text.data"] = np.concatenate([_NO_WORDS, *(chunk.data for chunk in held)])
            arrays["text.n_words"] = np.array([len(chunk.data) for chunk in held], np.int64)
        else:
            arrays[f"{modality}.t_ns"] = np.array([held[0].t_ns], np.int64)
            arrays[f"{modality}.data"] = np.concatenate([chunk.data for chunk in held])
            arrays[f"{modality}.rate_hz"] = np.array([rates[held[0].modality]], np.float64)
    return arrays


def session_specs(arrays: Arrays) -> tuple[StreamSpec, ...]:
    """The streams of a recorded session."""
    specs = []
    for modality in _modalities(arrays):
        data = arrays[f"{modality}.data"]
        is_visual = modality == "visual"
        if modality == "text":
            specs.append(TEXT_STREAM)
            continue
        specs.append(
            StreamSpec(
                name=f"golden/{modality}",
                modality=modality,
                axes=("height", "width", "channel") if is_visual else ("sample", "channel"),
                shape=data.shape[1:] if is_visual else (None, data.shape[1]),
                dtype=str(data.dtype),
                rate_hz=None if is_visual else float(arrays[f"{modality}.rate_hz"].item()),
                unit=UNITS[modality],
                channels=("r", "g", "b") if is_visual else tuple(map(str, range(data.shape[1]))),
            )
        )
    return tuple(specs)


def session_chunks(arrays: Arrays) -> list[Chunk]:
    """The chunks of a recorded session in order of capture."""
    chunks = [chunk for modality in _modalities(arrays) for chunk in _stream_chunks(modality, arrays)]
    return sorted(chunks, key=lambda chunk: chunk.t_ns)


def _stream_chunks(modality: Modality, arrays: Arrays) -> Iterator[Chunk]:
    data, t_ns = arrays[f"{modality}.data"], arrays[f"{modality}.t_ns"]
    if modality == "visual":
        for seq in range(len(data)):
            yield Chunk("golden/visual", "visual", seq, int(t_ns[seq]), data[seq])
        return
    if modality == "text":
        stops = np.cumsum(arrays["text.n_words"]).tolist()
        for seq, stop in enumerate(stops):
            first = stops[seq - 1] if seq else 0
            yield Chunk(TEXT_STREAM.name, "text", seq, int(t_ns[seq]), data[first:stop])
        return
    rate_hz = float(arrays[f"{modality}.rate_hz"].item())
    size = max(1, round(rate_hz / _CHUNKS_PER_S))
    for seq, first in enumerate(range(0, len(data), size)):
        start_ns = int(t_ns[0]) + int(first * 1_000_000_000 / rate_hz)
        yield Chunk(f"golden/{modality}", modality, seq, start_ns, data[first : first + size])


def _modalities(arrays: Arrays) -> list[Modality]:
    known: list[Modality] = ["visual", "audio", "text", "eda", "ecg", "emg", "ppg", "rsp", "skt"]
    return [modality for modality in known if f"{modality}.data" in arrays]

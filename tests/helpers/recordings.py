"""Recordings for tests: chunks of every kind of stream, and files of them in parts as a test wants them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from edge_mer.errors import EdgeMerError
from edge_mer.sinks.mcap_file import McapFile
from edge_mer.sinks.recorded_message import schema_of, to_message
from edge_mer.sources.base import Source
from edge_mer.sources.replay import ReplaySource
from edge_mer.types.recording import RecordedChannel, SessionInfo
from edge_mer.types.signals import Chunk, StreamSpec

INFO = SessionInfo("0.1.0", None, 1_790_000_000_123_456_000, utc_synchronised=True)

_SAMPLES = ("sample", "channel")
PICTURES = StreamSpec(
    "cam/visual",
    "visual",
    ("height", "width", "channel"),
    (9, 14, 3),
    "uint8",
    30.0,
    "rgb24",
    ("R", "G", "B"),
)
SOUND = StreamSpec("mic/audio", "audio", _SAMPLES, (None, 2), "float32", 48_000.0, "1", ("left", "right"))
SKIN = StreamSpec("e4/eda", "eda", _SAMPLES, (None, 1), "float32", 4.0, "uS", ("eda",))
BEATS = StreamSpec("lsl/ecg", "ecg", _SAMPLES, (None, 3), "float64", None, "mV", ("I", "II", "III"))
SPEECH = StreamSpec(
    "asr/text", "text", ("word", "field"), (None, 3), "str", None, "word", ("word", "start_ns", "end_ns")
)
SPECS = (PICTURES, SOUND, SKIN, BEATS, SPEECH)


def chunks_of(specs: Sequence[StreamSpec], n: int, seed: int = 0) -> list[Chunk]:
    """`n` chunks of each stream, in turn, a tenth of a second apart."""
    rng = np.random.default_rng(seed)
    return [_chunk(spec, seq, rng) for seq in range(n) for spec in specs]


def _chunk(spec: StreamSpec, seq: int, rng: np.random.Generator) -> Chunk:
    if spec.modality == "visual":
        data: np.ndarray = rng.integers(0, 256, [size or 5 for size in spec.shape]).astype(np.uint8)
    elif spec.modality == "text":
        data = np.array([['ä „x"\n', str(seq), str(seq + 1)], ["mo", "3", "4"]][: 1 + seq % 2])
    else:
        data = rng.normal(size=(1 + seq % 3, len(spec.channels))).astype(spec.dtype)
    basis = ("driver", "arrival", "remote")[seq % 3]
    return Chunk(spec.name, spec.modality, seq, seq * 100_000_000, data, basis)  # type: ignore[arg-type]


def write_recording(
    path: Path,
    parts: Iterable[Sequence[Chunk]],
    specs: Sequence[StreamSpec] = SPECS,
    info: SessionInfo = INFO,
) -> Path:
    """A recording with just these chunks in each of its parts."""
    channels = {i: RecordedChannel(f"/{spec.name}", schema_of(spec), spec) for i, spec in enumerate(specs, 1)}
    number_of = {spec.name: i for i, spec in enumerate(specs, 1)}
    file = McapFile(path)
    file.begin(info, channels)
    for part in parts:
        for chunk in part:
            number = number_of[chunk.stream]
            spec, utc_ns = specs[number - 1], info.utc_zero_ns + chunk.t_ns
            data = to_message(chunk, spec, channels[number].schema, utc_ns, None)
            file.add(number, utc_ns, utc_ns, data, chunk.seq)
        file.flush(0)
    file.finish(info.utc_zero_ns, 0)
    return path


def played(source: Source) -> list[Chunk]:
    """All that a source gives."""
    return [*_chunks_of(source)]


def played_until_refused(path: Path) -> tuple[list[Chunk], EdgeMerError | None]:
    """What a recording gives, and what it was refused with, if it was."""
    chunks: list[Chunk] = []
    try:
        for chunk in _chunks_of(ReplaySource(str(path))):
            chunks.append(chunk)
    except EdgeMerError as error:
        return chunks, error
    return chunks, None


def _chunks_of(source: Source) -> Iterator[Chunk]:
    try:
        source.ensure_ready()
        source.start()
        while not source.ended:
            if (chunk := source.read(1000)) is not None:
                yield chunk
    finally:
        source.ensure_stopped()


def equal(one: Chunk, other: Chunk) -> bool:
    """Whether two chunks say the same, bit for bit; when they arrived aside."""
    return (
        (one.stream, one.modality, one.seq, one.t_ns, one.time_basis)
        == (other.stream, other.modality, other.seq, other.t_ns, other.time_basis)
        and one.data.dtype.kind == other.data.dtype.kind
        and one.data.shape == other.data.shape
        and (one.data.tobytes() == other.data.tobytes() or _same_text(one, other))
    )


def _same_text(one: Chunk, other: Chunk) -> bool:
    """Arrays of text may have room for longer words than are in them."""
    return one.modality == "text" and one.data.tolist() == other.data.tolist()

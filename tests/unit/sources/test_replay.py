"""Recordings are played chunk by chunk; cut, spoilt and hostile ones give nothing wrong."""

from __future__ import annotations

import json
import logging
import struct
import zlib
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from mcap.writer import CompressionType, Writer

from edge_mer.errors import DataError, UsageError
from edge_mer.sources.recorded_parts import PartReader
from edge_mer.sources.registry import open_source
from edge_mer.sources.replay import ReplaySource
from edge_mer.sources.replayed_message import to_chunk
from edge_mer.types.recording import COMPRESSED_IMAGE, MAX_PART_BYTES, RAW_AUDIO, SAMPLES, WORDS
from edge_mer.types.signals import Chunk
from tests.helpers.recordings import (
    PICTURES,
    SKIN,
    SOUND,
    SPECS,
    SPEECH,
    chunks_of,
    equal,
    played,
    played_until_refused,
    write_recording,
)

N_PARTS = 6


@pytest.fixture(scope="module")
def chunks() -> list[Chunk]:
    return chunks_of(SPECS, 2 * N_PARTS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, chunks: list[Chunk]) -> bytes:
    """The bytes of a recording of six parts with ten chunks each."""
    each = len(chunks) // N_PARTS
    parts = [chunks[i : i + each] for i in range(0, len(chunks), each)]
    return write_recording(tmp_path_factory.mktemp("whole") / "a.mcap", parts).read_bytes()


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spoilt") / "a.mcap"


def is_part_of(found: list[Chunk], chunks: list[Chunk]) -> bool:
    """Whether every found chunk is one of these, in their order."""
    rest = iter(chunks)
    return all(any(equal(one, other) for other in rest) for one in found)


# -- whole files ----------------------------------------------------------------------------------


def test_it_is_played_as_it_was_recorded(spoilt: Path, whole: bytes, chunks: list[Chunk]) -> None:
    spoilt.write_bytes(whole)
    source = open_source(f"mcap:{spoilt}")
    assert not source.is_live
    for _ in range(2):  # it can be played again
        assert all(equal(one, other) for one, other in zip(chunks, played(source), strict=True))
    assert source.ended


def test_nothing_is_said_of_a_whole_file(
    spoilt: Path, whole: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    spoilt.write_bytes(whole)
    played(ReplaySource(str(spoilt)))
    assert not caplog.records


def test_reading_before_the_start_is_a_mistake(spoilt: Path, whole: bytes) -> None:
    spoilt.write_bytes(whole)
    source = ReplaySource(str(spoilt))
    source.ensure_ready()
    with pytest.raises(RuntimeError, match="must be started"):
        source.read(0)
    source.ensure_stopped()


def test_a_path_is_needed() -> None:
    with pytest.raises(UsageError, match="needs a path"):
        open_source("mcap:")


# -- cut and spoilt files -------------------------------------------------------------------------


@given(share=st.floats(0, 1))
def test_cut_anywhere_it_gives_all_parts_that_are_whole(
    spoilt: Path, whole: bytes, chunks: list[Chunk], share: float
) -> None:
    size = round(share * len(whole))
    spoilt.write_bytes(whole[:size])
    found, refusal = played_until_refused(spoilt)
    assert is_part_of(found, chunks)
    assert len(found) % (len(chunks) // N_PARTS) == 0
    assert (refusal is None) == bool(found)
    ends = part_ends(whole)
    assert len(found) == sum(end <= size for end in ends[:N_PARTS]) * (len(chunks) // N_PARTS)


def part_ends(data: bytes) -> list[int]:
    """Where each part ends, by the lengths in the file."""
    ends, at = [], 8
    while at + 9 <= len(data) - 8:
        opcode, length = struct.unpack_from("<BQ", data, at)
        at += 9 + length
        if opcode == 6:
            ends.append(at)
    return ends


@given(at=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_a_spoilt_byte_costs_at_most_its_part_and_is_told(
    spoilt: Path, whole: bytes, chunks: list[Chunk], at: float, bits: int
) -> None:
    data = bytearray(whole)
    index = int(at * len(data))
    data[index] ^= bits
    spoilt.write_bytes(data)
    found, refusal = played_until_refused(spoilt)
    assert is_part_of(found, chunks)
    each = len(chunks) // N_PARTS
    if index >= 8:
        assert len(found) >= len(chunks) - each
        assert refusal is None
        with spoilt.open("rb") as file:
            reader = PartReader(file)
            list(reader)
        assert len(found) == len(chunks) - each * reader.n_lost
        assert reader.was_cut == (part_ends(whole)[-2] <= index < part_ends(whole)[-1] and not reader.has_end)
    else:
        assert refusal is not None


@given(data=st.data())
def test_many_spoilt_bytes_never_give_a_wrong_chunk(
    spoilt: Path, whole: bytes, chunks: list[Chunk], data: st.DataObject
) -> None:
    spots = data.draw(st.lists(st.integers(8, len(whole) - 1), min_size=2, max_size=30))
    broken = bytearray(whole)
    for spot in spots:
        broken[spot] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(8, len(whole)))
    spoilt.write_bytes(broken[:cut])
    found, _ = played_until_refused(spoilt)
    assert is_part_of(found, chunks)


@given(rest=st.binary(max_size=2000))
def test_any_bytes_are_refused(spoilt: Path, rest: bytes) -> None:
    spoilt.write_bytes(b"\x89MCAP0\r\n" + rest)
    found, refusal = played_until_refused(spoilt)
    assert not found
    assert isinstance(refusal, DataError)
    assert "nothing can be read" in str(refusal)


def test_what_is_missing_is_told(spoilt: Path, whole: bytes, caplog: pytest.LogCaptureFixture) -> None:
    first, second = part_ends(whole)[:2]
    spoilt.write_bytes(whole[:first] + whole[second:-600])
    with caplog.at_level(logging.WARNING):
        played(ReplaySource(str(spoilt)))
    assert [record.message.partition("a.mcap'")[2] for record in caplog.records] == [
        ": 1 parts are spoilt and were left out"
    ]
    caplog.clear()
    spoilt.write_bytes(whole[: second + 9])
    played(ReplaySource(str(spoilt)))
    assert [record.message.partition("a.mcap'")[2] for record in caplog.records] == [
        " was cut; it was played up to there"
    ]


def test_parts_of_another_session_are_left_out(tmp_path: Path, chunks: list[Chunk], whole: bytes) -> None:
    other = write_recording(tmp_path / "other.mcap", [chunks_of((SKIN,), 3, seed=5)], (SKIN,)).read_bytes()
    end = part_ends(whole)[2]
    (tmp_path / "a.mcap").write_bytes(whole[:end] + other[8:] + whole[end:])
    found, _ = played_until_refused(tmp_path / "a.mcap")
    assert len(found) == len(chunks)
    assert is_part_of(found, chunks)


# -- files of others, and hostile ones ------------------------------------------------------------


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    path.write_bytes(b"RIFF" + bytes(100))
    with pytest.raises(DataError, match=r"is no recording.*file:"):
        ReplaySource(str(path)).ensure_ready()
    with pytest.raises(DataError, match="not found"):
        ReplaySource(str(tmp_path / "b.mcap")).ensure_ready()


@pytest.mark.parametrize("compression", [CompressionType.ZSTD, CompressionType.LZ4, CompressionType.NONE])
def test_mcap_files_of_other_programs_are_refused(tmp_path: Path, compression: CompressionType) -> None:
    path = tmp_path / "a.mcap"
    with path.open("wb") as file:
        writer = Writer(file, compression=compression)
        writer.start()
        schema = writer.register_schema("foxglove.CompressedImage", "jsonschema", b"{}")
        channel = writer.register_channel("/camera", "json", schema)
        writer.add_message(channel, 1, b'{"data": ""}', 1)
        writer.finish()
    with pytest.raises(DataError, match="nothing can be read of"):
        ReplaySource(str(path)).ensure_ready()


def a_part(contents: bytes, size: int | None = None) -> bytes:
    """A part with these contents, that says that they are `size` bytes."""
    packed = zstandard.compress(contents)
    length = 8 + 8 + 8 + 4 + 4 + 4 + 8 + len(packed)
    said = len(contents) if size is None else size
    start = struct.pack("<BQQQQII4sQ", 6, length, 0, 0, said, zlib.crc32(contents), 4, b"zstd", len(packed))
    return start + packed


@pytest.mark.parametrize("said", [None, 1, MAX_PART_BYTES, MAX_PART_BYTES + 1, (1 << 64) - 1])
def test_what_unpacks_to_very_much_is_never_unpacked(tmp_path: Path, said: int | None) -> None:
    path, bomb = tmp_path / "a.mcap", bytes(MAX_PART_BYTES + 1)
    path.write_bytes(b"\x89MCAP0\r\n" + a_part(bomb, said))
    assert path.stat().st_size < 100_000
    with path.open("rb") as file:
        reader = PartReader(file)
        assert not list(reader)
    assert "MiB" in str(reader.why_not) or "unpack" in str(reader.why_not)


def message_of(**fields: object) -> bytes:
    return json.dumps({"edge_mer": {"seq": 0, "time_basis": "driver"}} | fields).encode()


def text(data: bytes) -> str:
    return b64encode(data).decode()


PNG_OF = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@pytest.mark.parametrize(
    ("schema", "data"),
    [
        (SAMPLES, b"no JSON"),
        (SAMPLES, b"[" * 100_000),
        (SAMPLES, b"[]"),
        (SAMPLES, b'{"edge_mer": 3}'),
        (SAMPLES, b'{"values": [[1]]}'),
        (SAMPLES, json.dumps({"values": [[1]], "edge_mer": {"seq": 0, "time_basis": []}}).encode()),
        (SAMPLES, message_of(values=[[1], [1, 2]])),
        (SAMPLES, message_of(values=[[{}]])),
        (SAMPLES, message_of(values=[["x"]])),
        (SAMPLES, message_of(values=[[1, 2]])),
        (SAMPLES, message_of(values=[1, 2])),
        (SAMPLES, message_of(values=7)),
        (SAMPLES, message_of(values=[], edge_mer={"seq": 1e400, "time_basis": "driver"})),
        (WORDS, message_of(words=[["a", 1, 2]])),
        (WORDS, message_of(words=[["a", "1"]])),
        (WORDS, message_of(words=3)),
        (RAW_AUDIO, message_of(data="%", format="pcm-s16", number_of_channels=2)),
        (RAW_AUDIO, message_of(data=text(b"123"), format="pcm-s16", number_of_channels=2)),
        (RAW_AUDIO, message_of(data=text(b"1234"), format="pcm-s16", number_of_channels=0)),
        (RAW_AUDIO, message_of(data=text(b"1234"), format="opus", number_of_channels=2)),
        (RAW_AUDIO, message_of(data=7, format="pcm-s16", number_of_channels=2)),
        (COMPRESSED_IMAGE, message_of(data=text(b""), format="png")),
        (COMPRESSED_IMAGE, message_of(data=text(PNG_OF), format="png")),
        (COMPRESSED_IMAGE, message_of(data=text(PNG_OF + struct.pack(">II", 14, 9)), format="png")),
        (
            COMPRESSED_IMAGE,
            message_of(data=text(PNG_OF + struct.pack(">II", 1 << 20, 1 << 20)), format="png"),
        ),
        (COMPRESSED_IMAGE, message_of(data=text(b"\xff\xd8\xff"), format="jpeg")),
        ("edge_mer.Else", message_of()),
    ],
)
def test_messages_that_are_not_what_they_should_be_are_refused(schema: str, data: bytes) -> None:
    specs = {SAMPLES: SKIN, WORDS: SPEECH, RAW_AUDIO: SOUND}
    with pytest.raises(ValueError, match=r"\w"):
        to_chunk(data, specs.get(schema, PICTURES), schema, 0)


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    wide = chunks_of((PICTURES,), 1)[0]
    other = Chunk(wide.stream, "visual", 0, 0, np.zeros((4, 4, 3), np.uint8))
    path = write_recording(tmp_path / "a.mcap", [[wide, other]], (PICTURES,))
    found, refusal = played_until_refused(path)
    assert len(found) <= 1
    assert "is not what its channel says" in str(refusal)

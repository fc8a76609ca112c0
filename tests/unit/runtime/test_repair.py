"""Recordings that were cut or spoilt, and what is mended."""

from __future__ import annotations

from pathlib import Path

import pytest
from mcap.reader import make_reader

from edge_mer.errors import DataError, UsageError
from edge_mer.runtime.repair import repair
from edge_mer.sources.recorded_parts import PartReader
from edge_mer.types.signals import Chunk
from tests.helpers.recordings import SPECS, chunks_of, equal, played_until_refused, write_recording

N_PARTS = 5


@pytest.fixture
def chunks() -> list[Chunk]:
    return chunks_of(SPECS, N_PARTS)


@pytest.fixture
def path(tmp_path: Path, chunks: list[Chunk]) -> Path:
    parts = [chunks[i : i + len(SPECS)] for i in range(0, len(chunks), len(SPECS))]
    return write_recording(tmp_path / "a.mcap", parts)


def n_read_by_others(path: Path) -> int:
    """Messages that MCAP's own reader finds by the summary, heads of parts aside."""
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        assert summary is not None
        return sum(channel.topic != "/edge-mer/session" for _, channel, _ in reader.iter_messages())


def test_a_whole_recording_is_left_alone(path: Path, chunks: list[Chunk]) -> None:
    before = path.read_bytes()
    mended = repair(path)
    assert (mended.is_changed, mended.n_messages, mended.n_lost, mended.was_cut) == (
        False,
        len(chunks),
        0,
        False,
    )
    assert mended.duration_s == pytest.approx(0.4)
    assert path.read_bytes() == before


@pytest.mark.parametrize("share", [0.25, 0.35, 0.5])
def test_a_cut_recording_is_mended_in_its_place(path: Path, chunks: list[Chunk], share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    found, _ = played_until_refused(path)
    mended = repair(path)
    again, refusal = played_until_refused(path)
    assert refusal is None
    assert len(found) == len(again) == mended.n_messages == n_read_by_others(path)
    assert all(equal(one, other) for one, other in zip(chunks, again, strict=False))
    assert (mended.is_changed, mended.was_cut, mended.n_lost) == (True, True, 0)
    with path.open("rb") as file:
        reader = PartReader(file)
        list(reader)
    assert (reader.has_end, reader.was_cut) == (True, True)  # it goes on telling that its end was lost
    assert not repair(path).is_changed
    assert [*path.parent.iterdir()] == [path]


def test_a_lost_summary_is_written_anew(path: Path, chunks: list[Chunk]) -> None:
    path.write_bytes(path.read_bytes()[:-20])
    mended = repair(path)
    assert (mended.is_changed, mended.was_cut, mended.n_messages) == (True, False, len(chunks))
    assert n_read_by_others(path) == len(chunks)


def test_a_spoilt_part_is_left_out_and_told_for_good(path: Path, chunks: list[Chunk], tmp_path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
    mended = repair(path, tmp_path / "b.mcap")
    assert path.read_bytes() == data  # another file was asked for
    assert (mended.n_messages, mended.n_lost) == (len(chunks) - len(SPECS), 1)
    again = repair(tmp_path / "b.mcap", tmp_path / "c.mcap")
    assert again.n_lost == 1


def test_nothing_to_mend_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.mcap").write_bytes(b"\x89MCAP0\r\n and no more")
    with pytest.raises(DataError, match="nothing can be read"):
        repair(tmp_path / "a.mcap")
    with pytest.raises(DataError, match="not found"):
        repair(tmp_path / "b.mcap")
    assert len([*tmp_path.iterdir()]) == 1


def test_a_file_that_is_there_is_not_replaced(path: Path, tmp_path: Path) -> None:
    (tmp_path / "b.mcap").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        repair(path, tmp_path / "b.mcap")
    assert (tmp_path / "b.mcap").read_text() == "mine"

"""What is recorded comes back, and what goes wrong stays with the recorder."""

from __future__ import annotations

import json
import resource
import stat
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader

from edge_mer.clock import ManualClock, MonotonicClock
from edge_mer.errors import DataError, UsageError
from edge_mer.sinks.recorder import Recorder
from edge_mer.sources.replay import ReplaySource
from edge_mer.types.recording import CLOCKS_TOPIC, RAW_AUDIO
from edge_mer.types.signals import Chunk, ClockOffset, StreamSpec
from tests.helpers.recordings import INFO, PICTURES, SKIN, SOUND, SPECS, chunks_of, equal, played

Told = list[str]


@contextmanager
def recording(
    path: Path, specs: tuple[StreamSpec, ...] = SPECS, told: Told | None = None, **how: object
) -> Iterator[Recorder]:
    tell: Callable[[str], None] = [].append if told is None else told.append
    recorder = Recorder(path, MonotonicClock(), tell=tell, **{"waits": True, **how})  # type: ignore[arg-type]
    recorder.open()
    try:
        recorder.begin(specs, INFO)
        yield recorder
    finally:
        recorder.close()


def test_every_kind_of_stream_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path, chunks = tmp_path / "a.mcap", chunks_of(SPECS, 7)
    with recording(path) as recorder:
        for chunk in chunks:
            recorder.chunk(chunk)
    source = ReplaySource(str(path))
    back = played(source)
    assert source.specs == SPECS
    assert source.session == INFO
    assert len(back) == len(chunks)
    assert all(equal(one, other) for one, other in zip(chunks, back, strict=True))
    assert recorder.n_messages == len(chunks)
    assert recorder.n_bytes == path.stat().st_size


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, -0.0, 1.5, 1e-45, 3.4e38])
def test_numbers_that_json_or_16_bits_cannot_hold_come_back(tmp_path: Path, odd: float) -> None:
    sound = Chunk(SOUND.name, "audio", 0, 0, np.array([[0.5, odd]], np.float32))
    skin = Chunk(SKIN.name, "eda", 0, 0, np.array([[odd], [2.0]], np.float32))
    with recording(tmp_path / "a.mcap", (SOUND, SKIN)) as recorder:
        recorder.chunk(sound)
        recorder.chunk(skin)
    back = played(ReplaySource(str(tmp_path / "a.mcap")))
    assert [chunk.data.tobytes() for chunk in back] == [sound.data.tobytes(), skin.data.tobytes()]


def test_sound_in_16_bits_stays_in_16_bits(tmp_path: Path) -> None:
    whole = np.array([[-32768, 32767], [1, 0]], "<i2")
    with recording(tmp_path / "a.mcap", (SOUND,)) as recorder:
        recorder.chunk(Chunk(SOUND.name, "audio", 0, 0, (whole / 32768).astype(np.float32)))
    with (tmp_path / "a.mcap").open("rb") as file:
        ((schema, _, message),) = make_reader(file).iter_messages(topics=["/mic/audio"])
    fields = json.loads(message.data)
    assert schema is not None
    assert (schema.name, schema.encoding) == (RAW_AUDIO, "jsonschema")
    assert (fields["format"], fields["sample_rate"], fields["number_of_channels"]) == ("pcm-s16", 48_000, 2)
    assert b64decode(fields["data"]) == whole.tobytes()


def test_other_programs_read_pictures_times_and_descriptions(tmp_path: Path) -> None:
    (chunk,) = chunks_of((PICTURES,), 1)
    with recording(tmp_path / "a.mcap", (PICTURES,)) as recorder:
        recorder.chunk(chunk, arrived_ns=40_000_000, given_ns=77)
        recorder.offset(ClockOffset("cam/visual", 1000, 30_000_000, 20))
    with (tmp_path / "a.mcap").open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        found = {channel.topic: (channel, message) for _, channel, message in reader.iter_messages()}
    assert summary is not None
    assert summary.statistics is not None
    assert summary.statistics.message_count == 4  # two heads of parts beside the two
    channel, message = found["/cam/visual"]
    fields = json.loads(message.data)
    assert message.log_time - INFO.utc_zero_ns == 40_000_000
    assert message.publish_time == INFO.utc_zero_ns + chunk.t_ns
    assert fields["timestamp"] == {"sec": 1_790_000_000, "nsec": 123_456_000}
    assert fields["edge_mer"]["given_ns"] == 77
    pixels = cv2.imdecode(np.frombuffer(b64decode(fields["data"]), np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert np.array_equal(pixels[:, :, ::-1], chunk.data)
    assert json.loads(channel.metadata["shape"]) == [9, 14, 3]
    assert json.loads(channel.metadata["rate_hz"]) == 30.0
    look = json.loads(found[CLOCKS_TOPIC][1].data)
    assert look == {
        "stream": "cam/visual",
        "remote_ns": 1000,
        "host_ns": 30_000_000,
        "uncertainty_ns": 20,
    }


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    with recording(tmp_path / "a.mcap"):
        assert stat.S_IMODE((tmp_path / "a.mcap").stat().st_mode) == 0o600


def test_a_queue_that_is_full_drops_whole_chunks_and_counts_them(tmp_path: Path) -> None:
    big = StreamSpec(
        "cam/visual", "visual", PICTURES.axes, (700, 900, 3), "uint8", 30.0, "rgb24", ("R", "G", "B")
    )
    told: Told = []
    chunks = chunks_of((big,), 12)
    room = 2 * chunks[0].data.nbytes
    with recording(tmp_path / "a.mcap", (big,), told, waits=False, max_queued_bytes=room) as recorder:
        for chunk in chunks:
            recorder.chunk(chunk)
    assert 0 < recorder.n_dropped < len(chunks)
    assert recorder.n_messages + recorder.n_dropped == len(chunks)
    assert len(told) == 1
    assert "too slow" in told[0]
    back = played(ReplaySource(str(tmp_path / "a.mcap")))
    assert len(back) == recorder.n_messages
    assert all(equal(chunk, chunks[chunk.seq]) for chunk in back)


def test_a_session_that_can_wait_loses_nothing(tmp_path: Path) -> None:
    chunks = chunks_of((PICTURES,), 40)
    with recording(tmp_path / "a.mcap", (PICTURES,), max_queued_bytes=6000) as recorder:
        for chunk in chunks:
            recorder.chunk(chunk)
    assert recorder.n_dropped == 0
    assert len(played(ReplaySource(str(tmp_path / "a.mcap")))) == len(chunks)


def test_times_that_no_file_can_hold_are_left_out(tmp_path: Path) -> None:
    told: Told = []
    (chunk,) = chunks_of((SKIN,), 1)
    far = Chunk(SKIN.name, "eda", 1, -(1 << 62), chunk.data)
    with recording(tmp_path / "a.mcap", (SKIN,), told) as recorder:
        recorder.chunk(chunk)
        recorder.chunk(far)
    assert (recorder.n_dropped, len(told)) == (1, 1)
    assert len(played(ReplaySource(str(tmp_path / "a.mcap")))) == 1


def test_a_full_disk_ends_the_recording_and_nothing_else(tmp_path: Path) -> None:
    told: Told = []
    big = StreamSpec(
        "cam/visual", "visual", PICTURES.axes, (480, 640, 3), "uint8", 30.0, "rgb24", ("R", "G", "B")
    )
    chunks = chunks_of((big,), 12)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000_000, before[1]))  # they are 11 MB of noise
    try:
        with recording(tmp_path / "a.mcap", (big,), told) as recorder:
            for chunk in chunks:
                recorder.chunk(chunk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(told) == 1
    assert "Recording stopped" in told[0]
    assert "File too large" in told[0]
    assert isinstance(recorder.failure, OSError)
    back = played(ReplaySource(str(tmp_path / "a.mcap")))
    assert 0 < len(back) == recorder.n_messages == len(chunks) - recorder.n_dropped
    assert recorder.n_bytes == (tmp_path / "a.mcap").stat().st_size
    assert all(equal(one, other) for one, other in zip(chunks, back, strict=False))


def test_a_recording_never_takes_a_files_place(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    path.write_text("dear diary")
    recorder = Recorder(path, ManualClock(), waits=True, tell=[].append)
    with pytest.raises(UsageError, match=r"exists.*another file"):
        recorder.open()
    recorder.close()
    assert path.read_text() == "dear diary"


def test_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        Recorder(tmp_path / "no" / "a.mcap", ManualClock(), waits=True, tell=[].append).open()


def test_what_never_began_leaves_no_file(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.mcap", ManualClock(), waits=True, tell=[].append)
    recorder.open()
    recorder.close()
    recorder.close()
    assert not (tmp_path / "a.mcap").exists()


def test_two_streams_of_one_name_are_refused(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.mcap", ManualClock(), waits=True, tell=[].append)
    recorder.open()
    with pytest.raises(DataError, match="two streams are called e4/eda"):
        recorder.begin([SKIN, SOUND, SKIN], INFO)
    recorder.close()


def test_a_stream_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    grey = StreamSpec("cam/ir", "visual", PICTURES.axes, (9, 14, 1), "uint16", 30.0, "1", ("ir",))
    recorder = Recorder(tmp_path / "a.mcap", ManualClock(), waits=True, tell=[].append)
    recorder.open()
    with pytest.raises(DataError, match=r"cam/ir cannot be recorded.*uint16"):
        recorder.begin([grey], INFO)
    recorder.close()
    assert not (tmp_path / "a.mcap").exists()

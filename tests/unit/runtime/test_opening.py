"""What a session is opened on: no sink takes the place of what is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_mer.errors import UsageError
from edge_mer.runtime.opening import refuse_to_overwrite
from edge_mer.sinks.jsonl import JsonlSink
from edge_mer.sources.base import Source
from edge_mer.sources.registry import SOURCES, open_source
from edge_mer.sources.signal import SignalSource
from tests.helpers.numbered_session import ListSource

READS_A_FILE = {
    "file": "file:{}",
    "mcap": "mcap:{}",
    "serial": "serial:/dev/ttyUSB0?config={}",
    "signal": "signal:{}?modality=eda&column=gsr&rate_hz=512",
    "transcript": "transcript:{}?offset_s=0.5",
}
READS_NONE = ["mic:default", "lsl:type=EDA", "brainflow:synthetic", "serial:/dev/ttyUSB0?eda=1&rate_hz=4"]
READS_NONE += ["camera:0", "csi:0", "rtsp://host/a", "http://host/a", "https://host/a", "tcp://host:80"]
READS_NONE += ["sim-live:", "sim:", "transcript:-", "transcript:unix:{}", "transcript:tcp://127.0.0.1:2700"]


def is_refused(source: Source | str, target: Path) -> bool:
    opened = open_source(source) if isinstance(source, str) else source
    try:
        refuse_to_overwrite([JsonlSink(str(target))], [opened], Path("/nowhere"))
    except UsageError as error:
        return str(target.resolve()) in str(error)
    return False


@pytest.mark.parametrize("uri", READS_A_FILE.values(), ids=READS_A_FILE)
def test_no_sink_takes_the_place_of_the_file_that_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    played, link = tmp_path / "played", tmp_path / "link"
    played.touch()
    link.symlink_to(played)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in (played, "played", "~/played", link, f"{tmp_path}/./played"):
        assert is_refused(uri.format(name), played)
    assert is_refused(uri.format(played), link)
    assert not is_refused(uri.format(played), tmp_path / "other")


def test_every_source_that_is_known_is_looked_at() -> None:
    assert {uri.partition(":")[0] for uri in [*READS_A_FILE.values(), *READS_NONE]} == set(SOURCES)


@pytest.mark.parametrize("uri", READS_NONE)
def test_what_reads_no_file_stands_in_nobodys_way(tmp_path: Path, uri: str) -> None:
    assert not is_refused(uri.format(tmp_path / "asr.sock"), tmp_path / "-")


def test_a_source_of_the_users_own_names_its_file(tmp_path: Path) -> None:
    own = ListSource((), [])
    assert not is_refused(own, tmp_path / "tone.wav")
    for path in (tmp_path / "tone.wav", str(tmp_path / "tone.wav")):
        own.path = path  # type: ignore[attr-defined]
        assert is_refused(own, tmp_path / "tone.wav")


def test_a_name_that_no_file_can_have_is_left_to_whoever_opens_it(tmp_path: Path) -> None:
    ring = tmp_path / "ring"
    ring.symlink_to(ring)
    for uri in ("file:\0", f"file:{ring}", "transcript:\0"):
        assert not is_refused(uri, tmp_path / "out.jsonl")


def test_a_path_ends_where_its_keys_begin() -> None:
    assert SignalSource("a/b.csv?modality=eda&column=1&rate_hz=4").path == Path("a/b.csv")

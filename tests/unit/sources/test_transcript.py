"""TranscriptSource: every layout and every wrong line, files, real pipes and real sockets."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_mer.clock import ManualClock, MonotonicClock
from edge_mer.errors import DataError, EdgeMerError, UsageError
from edge_mer.runtime.arrivals import as_they_come, check_chunk, merged, since_start
from edge_mer.runtime.labelled import measure
from edge_mer.sources import transcript, transcript_line
from edge_mer.sources.registry import open_source
from edge_mer.sources.sim import SimSource
from edge_mer.sources.transcript import TranscriptSource
from edge_mer.sources.transcript_line import Word, parse_line
from edge_mer.types.signals import Chunk

NS = 1_000_000_000
MS = 1_000_000
PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to-words.md"

Said = tuple[str, float, float]


def words_line(*said: Said) -> str:
    """An utterance in the plainest layout."""
    return json.dumps({"words": [{"word": word, "start": start, "end": end} for word, start, end in said]})


def one(end_s: float, word: str = "mo") -> str:
    """An utterance of one word."""
    return words_line((word, max(0.0, end_s - 0.25), end_s))


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def play(uri: str) -> list[Chunk]:
    source = open_source(uri)
    chunks: list[Chunk] = []
    try:
        source.start()
        while (chunk := source.read(0)) is not None:
            chunks.append(chunk)
    finally:
        source.ensure_stopped()
    assert source.ended
    return chunks


def rows(chunks: list[Chunk]) -> list[list[list[str]]]:
    return [chunk.data.tolist() for chunk in chunks]


def refusal(uri: str) -> EdgeMerError:
    with pytest.raises(EdgeMerError) as caught:
        open_source(uri).ensure_ready()
    return caught.value


# --- one line ---------------------------------------------------------------------------------------

THE = Word("the", 840 * MS, 1020 * MS)
CAT = Word("cat,", 1100 * MS, 1500 * MS)


@pytest.mark.parametrize(
    "line",
    [
        '{"result": [{"conf": 0.9, "start": 0.84, "end": 1.02, "word": "the"}, {"conf": 1.0, "start": 1.1,'
        ' "end": 1.5, "word": "cat,"}], "text": "the cat,"}',
        '{"text": " the cat,", "segments": [{"id": 0, "start": 0.84, "end": 1.02, "text": " the", "words": ['
        '{"word": " the", "start": 0.84, "end": 1.02, "probability": 0.5}]}, {"words": [{"word": " cat,",'
        ' "start": 1.1, "end": 1.5, "probability": 0.5}]}], "language": "en"}',
        '{"words": [{"word": " the ", "start": 0.84, "end": 1.02}, {"word": "cat,","start":1.1,"end":1.5}]}',
        '{"words": [{"text": "the", "start": 0.84, "end": 1.02}, {"text": "cat,", "start": 1.1, "end":1.5}]}',
        '\ufeff {"words":[{"text":"the","start":84e-2,"end":1.02},{"word":"cat,","start":1.1,"end":1.5}]}\r',
    ],
)
def test_layouts_of_engines(line: str) -> None:
    assert parse_line(line.encode(), "line 1") == (THE, CAT)


@pytest.mark.parametrize(
    "line",
    ['{"text": ""}', '{"result": [], "text": ""}', '{"segments": []}', '{"segments": [{"words": []}]}'],
)
def test_final_lines_without_words(line: str) -> None:
    assert parse_line(line.encode(), "line 1") == ()


@pytest.mark.parametrize(
    "line",
    [
        '{"partial": "the c"}',
        '{"partial": "", "partial_result": [{}]}',
        '{"partial": "the c", "words": [{"word": "the", "start": 0, "end": 1}]}',
        '{"partial": true, "words": [{"word": "the", "start": 0, "end": 1}]}',
        '{"partial": false}',
        '{"partial": null, "text": ""}',
    ],
)
def test_partial_lines_are_not_final(line: str) -> None:
    assert parse_line(line.encode(), "line 1") is None


@pytest.mark.parametrize("partial", ["false", "null", "0"])
def test_words_that_are_said_to_be_final_are_words(partial: str) -> None:
    line = f'{{"partial": {partial}, "words": [{{"word": "the", "start": 0.84, "end": 1.02}}]}}'
    assert parse_line(line.encode(), "line 1") == (THE,)
    assert parse_line(f'{{"partial": {partial}, "result": []}}'.encode(), "line 1") == ()
    with pytest.raises(DataError, match="word 1: no time as 'start'"):
        parse_line(f'{{"partial": {partial}, "words": [{{"word": "the"}}]}}'.encode(), "line 1")


def test_whole_seconds_and_other_scripts() -> None:
    line = '{"words": [{"word": "niño", "start": 0, "end": 1}, {"word": "\\u732b", "start": 1, "end": 1}]}'
    assert parse_line(line.encode(), "line 1") == (Word("niño", 0, NS), Word("猫", NS, NS))


def entry(**changed: Any) -> str:
    return json.dumps({"words": [{"word": "the", "start": 0.5, "end": 1.5, **changed}]})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", ["no JSON", "one JSON object", "'{'", "docs/how-to-words.md"]),
        ("the cat", ["no JSON", "'the cat'"]),
        ("[" * 100_000, ["no JSON"]),
        (b"\xff\xfe{", ["not in UTF-8", "invalid start byte at byte 0"]),
        ("[]", ["no words with times", "a list"]),
        ("12", ["no words with times", "12"]),
        ("null", ["no words with times", "nothing"]),
        ("{}", ["no words with times", "an empty object"]),
        ('{"text": "the cat"}', ["no words with times", "'text'", "SetWords(True)", "word_timestamps=True"]),
        ('{"alternatives": [], "kind": 3}', ["an object with 'alternatives', 'kind'"]),
        ('{"\\ud800": 1}', ["'\\ud800'"]),
        ('{"result": {"the": 1}}', ["an object as 'result'"]),
        ('{"words": null}', ["nothing as 'words'"]),
        ('{"segments": [{"text": " the", "start": 0.5, "end": 1.5}]}', ["a segment without words"]),
        ('{"segments": ["the"]}', ["a segment without words"]),
        ('{"words": ["the"]}', ["word 1: no word with its times", '"word": "the"', "'the'"]),
        (entry(word=" "), ["word 1: no word", "1 to 100 characters", "' '"]),
        (entry(word=None), ["word 1: no word", "nothing"]),
        (entry(word="x" * 101), ["word 1: no word", "101 characters"]),
        (entry(word="a\u0000"), ["word 1: no word", "'a\\x00'"]),
        (entry(word="a\ud800"), ["word 1: no word", "'a\\ud800'"]),
        (entry(start=None), ["word 1: no time as 'start'", "nothing", "word_timestamps=True"]),
        (entry(start="0.5"), ["no time as 'start'", "'0.5'"]),
        (entry(start=True), ["no time as 'start'", "true"]),
        (entry(start=-0.01), ["no time as 'start'", "from 0", "-0.01"]),
        (entry(end=float("nan")), ["no time as 'end'", "nan"]),
        (entry(end=float("inf")), ["no time as 'end'", "inf"]),
        (entry(end=1_700_000_000), ["no time as 'end'", "below 1e+09", "1.7e+09"]),
        (entry(end=0.4), ["word 1: it ends before it starts", "start <= end", "start 0.5, end 0.4"]),
        ('{"words": [{"word": "a", "start": 0, "end": ' + "9" * 400_000 + "}]}", ["'end'", "inf"]),
    ],
)
def test_wrong_lines_say_what_is_wrong(line: str | bytes, said: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        parse_line(line if isinstance(line, bytes) else line.encode(), "'words.jsonl', line 7")
    message = str(caught.value)
    assert message.startswith("'words.jsonl', line 7")
    assert caught.value.exit_code == 3
    for piece in said:
        assert piece in message, message
    message.encode()  # can be printed


def test_limits_are_reached_and_not_passed() -> None:
    the = {"word": "x" * 100, "start": 0, "end": 1}
    words = parse_line(json.dumps({"words": [{**the, "word": "x"}] * 10_000}).encode(), "line 1")
    assert words is not None
    assert len(words) == 10_000
    with pytest.raises(DataError, match=r"too many words.* at most 10000. Found: 10001"):
        parse_line(json.dumps({"words": [{**the, "word": "x"}] * 10_001}).encode(), "line 1")
    assert parse_line(json.dumps({"words": [the]}).encode(), "line 1") == (Word("x" * 100, 0, NS),)
    full = json.dumps({"words": [the]}).ljust(1 << 20).encode()
    assert parse_line(full + b"\r\n", "line 1") == (Word("x" * 100, 0, NS),)
    with pytest.raises(DataError, match=r"line 1: too long. Expected: at most 1048576 bytes"):
        parse_line(full + b" \n", "line 1")


def parsed_or_refused(line: bytes) -> None:
    words: tuple[Word, ...] | None = ()
    said = "line 1"
    try:
        words = parse_line(line, "line 1")
    except DataError as error:
        said = str(error)
    assert said.startswith("line 1")
    said.encode()
    for text, start_ns, end_ns in words or ():
        assert 1 <= len(text) <= 100
        assert text == text.strip()
        assert 0 <= start_ns <= end_ns <= 10**18
        assert np.array([[text]]).tolist() == [[text]]  # nothing that NumPy or UTF-8 would lose
        text.encode()


@given(st.binary(max_size=200))
@example(b'{"words": [{"word": "a", "start": -0.0, "end": 1e-400}]}')
def test_any_bytes_are_words_or_refused(line: bytes) -> None:
    parsed_or_refused(line)


NUMBERS = st.floats() | st.integers() | st.sampled_from([0, 0.5, 1.0, 2, None, True, "1"])
ENTRIES = st.dictionaries(st.sampled_from(["word", "text", "start", "end"]), st.text(max_size=3) | NUMBERS)
LISTS = st.lists(ENTRIES | st.fixed_dictionaries({"word": st.text(), "start": NUMBERS, "end": NUMBERS}))
LAYOUTS = st.one_of(
    st.fixed_dictionaries({"result": LISTS | NUMBERS}),
    st.fixed_dictionaries({"words": LISTS | NUMBERS}),
    st.fixed_dictionaries({"segments": st.lists(st.fixed_dictionaries({"words": LISTS}) | ENTRIES)}),
    st.dictionaries(st.text(), LISTS | NUMBERS),
)


@given(LAYOUTS)
def test_anything_like_an_utterance_is_words_or_refused(found: object) -> None:
    parsed_or_refused(json.dumps(found).encode())


WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=100)
MILLISECONDS = st.integers(0, 10**9)


@given(st.lists(st.tuples(WORDS, MILLISECONDS, MILLISECONDS), min_size=1, max_size=5), st.booleans())
def test_good_words_come_out_as_they_went_in(said: list[tuple[str, int, int]], escaped: bool) -> None:
    given_words = [(word, min(times) / 1000, max(times) / 1000) for word, *times in said]
    line = {"result": [{"word": f" {word}", "start": start, "end": end} for word, start, end in given_words]}
    found = parse_line(json.dumps(line, ensure_ascii=escaped).encode(), "line 1")
    assert found == tuple(Word(word, min(times) * MS, max(times) * MS) for word, *times in said)


# --- files ------------------------------------------------------------------------------------------


def test_a_file_is_one_chunk_per_utterance(tmp_path: Path) -> None:
    lines = [
        '{"partial": "so"}',
        words_line(("so", 0.1, 0.4), ("mo", 0.4, 0.9)),
        "",
        '{"text": ""}',
        words_line(("fe", 0.8, 1.2)),  # begins before the one before has ended
    ]
    path = written(tmp_path / "words.jsonl", *lines)
    source = TranscriptSource(str(path))
    assert source.is_live is False
    chunks = play(f"transcript:{path}")
    assert rows(chunks) == [
        [["so", str(100 * MS), str(400 * MS)], ["mo", str(400 * MS), str(900 * MS)]],
        [["fe", str(800 * MS), str(1200 * MS)]],
    ]
    assert [(chunk.seq, chunk.t_ns, chunk.time_basis) for chunk in chunks] == [
        (0, 900 * MS, "driver"),
        (1, 1200 * MS, "driver"),
    ]
    source.start()
    while not source.ended:
        source.read(0)
    counts = source.counts
    assert (counts.n_utterances, counts.n_partial, counts.n_empty, counts.n_bad) == (2, 1, 1, 0)
    source.ensure_stopped()


def test_its_stream_is_that_of_simulated_people(tmp_path: Path) -> None:
    source = TranscriptSource(str(written(tmp_path / "words.jsonl", one(1))))
    unknown = source.specs
    source.ensure_ready()
    assert len(unknown) == 0
    (spec,) = source.specs
    (simulated,) = SimSource("streams=text").specs
    assert spec.name == "words.jsonl/text"
    for name in ("modality", "axes", "dtype", "rate_hz", "unit", "channels"):
        assert getattr(spec, name) == getattr(simulated, name)
    assert spec.shape == (None, 3)
    source.ensure_stopped()


def test_both_sources_stamp_the_end_of_the_last_word(tmp_path: Path) -> None:
    original = play("sim:seed=2&duration_s=20&streams=text")
    assert len(original) > 3
    said = [
        [(word, int(start) / NS, int(end) / NS) for word, start, end in chunk.data.tolist()]
        for chunk in original
    ]
    path = written(tmp_path / "words.jsonl", *(words_line(*words) for words in said))
    copied = play(f"transcript:{path}")
    assert [chunk.t_ns for chunk in copied] == [chunk.t_ns for chunk in original]
    assert rows(copied) == rows(original)
    assert all(chunk.t_ns == int(chunk.data[-1, 2]) for chunk in [*copied, *original])


def test_it_is_merged_with_other_recordings_by_time(tmp_path: Path) -> None:
    uri = f"transcript:{written(tmp_path / 'words.jsonl', one(0.5), one(0.9), one(5))}"
    sources = [open_source(uri), open_source("sim:duration_s=1&streams=audio")]
    for source in sources:
        source.start()
    chunks = list(merged(sources))
    for source in sources:
        source.ensure_stopped()
    specs = {spec.name: spec for source in sources for spec in source.specs}
    times_ns = [chunk.t_ns for chunk in chunks]
    assert times_ns == sorted(times_ns)
    assert [chunk.t_ns for chunk in chunks if chunk.modality == "text"] == [NS // 2, 900 * MS, 5 * NS]
    assert {chunk.modality for chunk in chunks[:3]} == {"audio"}
    for chunk in chunks:
        check_chunk(chunk, specs)
    assert measure(uri).duration_ns == 5 * NS


@pytest.mark.parametrize(("offset", "times"), [("0.2", [1200, 3200]), ("-1.5", [1500]), ("+2", [3000, 5000])])
def test_the_offset_moves_the_engines_zero(tmp_path: Path, offset: str, times: list[int]) -> None:
    path = written(tmp_path / "words.jsonl", one(1), words_line(("so", 1.4, 2), ("mo", 2, 3)))
    source = TranscriptSource(f"{path}?offset_s={offset}")
    chunks = play(source.uri)
    assert [chunk.t_ns for chunk in chunks] == [time * MS for time in times]
    shift = round(float(offset) * 1000)
    assert chunks[-1].data[-1].tolist() == ["mo", str((2000 + shift) * MS), str((3000 + shift) * MS)]
    source.ensure_ready()
    assert source.counts.n_words_before == (2 if shift < 0 else 0)
    source.ensure_stopped()


def test_a_last_line_needs_no_newline(tmp_path: Path) -> None:
    path = tmp_path / "words.jsonl"
    path.write_text(f"{one(1)}\r\n{one(2)}")
    assert [chunk.t_ns for chunk in play(f"transcript:{path}")] == [NS, 2 * NS]


def test_lines_longer_than_a_block(tmp_path: Path) -> None:
    long = words_line(*((f"w{n}", n / 10, n / 10 + 0.1) for n in range(5000)))
    assert len(long) > 3 * transcript._BLOCK_BYTES
    chunks = play(f"transcript:{written(tmp_path / 'words.jsonl', long, one(501))}")
    assert [chunk.data.shape for chunk in chunks] == [(5000, 3), (1, 3)]


def test_silence_is_a_transcript_too(tmp_path: Path) -> None:
    for lines in (['{"text": ""}'], [""], []):
        path = written(tmp_path / "words.jsonl", *lines)
        assert play(f"transcript:{path}") == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("oops", ["line 3: no JSON"]),
        ('{"text": "oops"}', ["line 3: no words with times"]),
        (one(0.9), ["line 3: out of order", "an end at 1.000 s or later", "0.900 s"]),
        ('{"words": [{"word": "a"}]}', ["line 3, word 1: no time as 'start'"]),
        (" " * (1 << 20) + "{}", ["line 3: too long"]),
        ("x" * (3 << 20), ["line 3: too long"]),
    ],
)
def test_a_file_with_a_bad_line_is_refused_before_it_is_played(
    tmp_path: Path, bad: str, said: list[str]
) -> None:
    path = written(tmp_path / "words.jsonl", one(1), "", bad, one(2))
    error = refusal(f"transcript:{path}")
    assert isinstance(error, DataError)
    assert str(error).startswith(repr(str(path)))
    for piece in said:
        assert piece in str(error)
    source = open_source(f"transcript:{path}")
    with pytest.raises(DataError):
        source.start()
    source.ensure_stopped()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "not found" in str(refusal(f"transcript:{tmp_path / 'none'}"))
    assert "not found" in str(refusal("transcript:\0")) or "opened" in str(refusal("transcript:\0"))
    directory = str(refusal(f"transcript:{tmp_path}"))
    assert "Expected: a regular file of JSON lines. Found: a directory" in directory
    assert "media" not in directory
    os.mkfifo(tmp_path / "fifo")
    assert f"write transcript:- < {tmp_path}/fifo" in str(refusal(f"transcript:{tmp_path}/fifo"))
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(tmp_path / "s"))
        assert f"write transcript:unix:{tmp_path}/s" in str(refusal(f"transcript:{tmp_path}/s"))


def test_it_is_played_again_after_a_stop(tmp_path: Path) -> None:
    source = TranscriptSource(str(written(tmp_path / "words.jsonl", one(1), one(2))))
    with pytest.raises(RuntimeError, match="must be started"):
        source.read(0)
    for _ in range(2):
        source.start()
        first = source.read(0)
        assert first is not None
        assert (first.seq, first.t_ns, source.ended) == (0, NS, False)
        source.ensure_stopped()
        source.ensure_stopped()
        assert source.ended


# --- the URI ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "kind", "address"),
    [
        ("a/b.jsonl", "file", "a/b.jsonl"),
        ("-", "stdin", "-"),
        ("./-", "file", "./-"),
        ("unix:/run/asr.sock?offset_s=1", "unix", "/run/asr.sock"),
        ("tcp://localhost:2700/", "tcp", "localhost:2700"),
        ("tcp://[::1]:2700", "tcp", "[::1]:2700"),
    ],
)
def test_uris(rest: str, kind: str, address: str) -> None:
    source = TranscriptSource(rest)
    assert (source.settings.kind, source.settings.address) == (kind, address)
    assert source.uri == f"transcript:{rest}"
    assert source.is_live is (kind != "file")
    if kind == "tcp":
        assert source.settings.host_and_port == (address.rpartition(":")[0].strip("[]"), 2700)


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("", ["no path", "transcript:words.jsonl"]),
        ("?offset_s=1", ["no path"]),
        ("unix:", ["no path", "transcript:unix:/run/asr.sock"]),
        ("tcp://localhost", ["no address", "tcp://HOST:PORT"]),
        ("tcp:127.0.0.1:2700", ["no address"]),
        ("tcp://h:0", ["no address", "1 to 65535"]),
        ("tcp://h:65536", ["no address"]),
        ("ws://127.0.0.1:2700", ["no address", "tcp://127.0.0.1:2700"]),
        ("a?offset=1", ["unknown key 'offset'", "did you mean offset_s"]),
        ("a?model=x", ["unknown key 'model'", "write transcript:words.jsonl?offset_s=0.2"]),
        ("a?offset_s", ["has no value"]),
        ("a?offset_s=1&offset_s=2", ["is given twice"]),
        ("a?offset_s=1e3", ["cannot use offset_s=1e3", "-1.5"]),
        ("a?offset_s=nan", ["cannot use offset_s=nan"]),
        ("a?offset_s=86401", ["cannot use", "86400"]),
    ],
)
def test_wrong_uris_say_what_is_wrong(rest: str, said: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        TranscriptSource(rest)
    assert f"transcript:{rest}" in str(caught.value)
    for piece in said:
        assert piece in str(caught.value)


# --- live -------------------------------------------------------------------------------------------

Send = Callable[[bytes], None]


class Engine:
    """The other side of a pipe or socket."""

    def __init__(self, rest: str, send: Send, close: Callable[[], None], accept: Callable[[], None]) -> None:
        self.rest = rest
        self.send = send
        self.close = close
        self.accept = accept

    def say(self, *lines: str) -> None:
        self.send("".join(f"{line}\n" for line in lines).encode())


def _write_all(pipe: io.FileIO, data: bytes) -> None:
    while data:
        data = data[pipe.write(data) :]


def _serve(listening: socket.socket, rest: str, stack: contextlib.ExitStack) -> Engine:
    connections: list[socket.socket] = []
    listening.listen()

    def accept() -> None:
        connections.append(listening.accept()[0])
        stack.callback(connections[-1].close)

    return Engine(
        rest,
        lambda data: connections[-1].sendall(data),
        lambda: connections[-1].close(),
        accept,
    )


@pytest.fixture(params=["stdin", "unix", "tcp"])
def engine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    with contextlib.ExitStack() as stack:
        if request.param == "stdin":
            ours, theirs = (io.FileIO(fd, mode) for fd, mode in zip(os.pipe(), "rw", strict=True))
            stack.callback(ours.close)
            stack.callback(theirs.close)
            monkeypatch.setattr("sys.stdin", ours)
            yield Engine("-", lambda data: _write_all(theirs, data), theirs.close, lambda: None)
        elif request.param == "unix":
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(tmp_path / "asr.sock"))
            yield _serve(listening, f"unix:{tmp_path}/asr.sock", stack)
        else:
            listening = stack.enter_context(socket.socket())
            listening.bind(("127.0.0.1", 0))
            yield _serve(listening, f"tcp://127.0.0.1:{listening.getsockname()[1]}", stack)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start_ns=1000 * NS)


@pytest.fixture
def live(engine: Engine, clock: ManualClock) -> Iterator[TranscriptSource]:
    """A source that began 60 s ago."""
    source = TranscriptSource(engine.rest, clock)
    source.ensure_ready()
    engine.accept()
    source.start()
    clock.advance_ns(60 * NS)
    yield source
    source.ensure_stopped()


WAIT_MS = 10_000
"""Longer than a test may take: what is waited for comes."""


def test_live_utterances_come_while_they_are_said(engine: Engine, live: TranscriptSource) -> None:
    assert live.is_live
    assert live.read(0) is None
    line = words_line(("so", 0.1, 0.4), ("mo", 0.4, 0.9)).encode()
    engine.send(line[:20])
    assert live.read(0) is None
    engine.send(line[20:] + b"\n" + b'{"partial": "f"}\n')
    first = live.read(WAIT_MS)
    assert first is not None
    assert first.data.tolist() == [
        ["so", str(100 * MS), str(400 * MS)],
        ["mo", str(400 * MS), str(900 * MS)],
    ]
    assert (first.seq, first.t_ns, first.time_basis) == (0, 1000 * NS + 900 * MS, "remote")
    check_chunk(first, {spec.name: spec for spec in live.specs})
    assert not live.ended
    engine.say(one(2), one(3))
    assert [chunk.seq for chunk in (live.read(WAIT_MS), live.read(0)) if chunk] == [1, 2]
    assert live.read(0) is None
    assert (live.counts.n_utterances, live.counts.n_partial) == (3, 1)


def test_the_session_counts_from_its_own_start(
    engine: Engine, live: TranscriptSource, clock: ManualClock
) -> None:
    engine.say(one(59.5))
    chunk = live.read(WAIT_MS)
    assert chunk is not None
    timed = since_start(chunk, 1000 * NS, clock)
    assert timed is not None
    assert str(timed.t_ns) == timed.data[-1, 2] == str(59_500 * MS)


def test_the_end_of_the_stream(engine: Engine, live: TranscriptSource) -> None:
    engine.send(one(1).encode() + b"\n" + one(2).encode())  # the last line is not finished
    engine.close()
    first, second = live.read(WAIT_MS), live.read(WAIT_MS)
    assert [chunk.t_ns for chunk in (first, second) if chunk] == [1001 * NS, 1002 * NS]
    assert live.read(WAIT_MS) is None
    assert live.ended
    assert live.read(WAIT_MS) is None  # at once


def test_it_has_not_ended_while_something_waits(engine: Engine, live: TranscriptSource) -> None:
    engine.say(one(1), one(2), one(3))
    engine.close()
    ended = []
    for _ in range(3):
        assert live.read(WAIT_MS) is not None
        ended.append(live.ended)
    assert ended == [False, False, True]


def all_of(live: TranscriptSource) -> list[Chunk]:
    return [found for found in as_they_come([live], MonotonicClock()) if isinstance(found, Chunk)]


def test_half_a_last_line_is_a_bad_one(engine: Engine, live: TranscriptSource) -> None:
    engine.send(one(1).encode() + b"\n" + one(2).encode()[:-9])
    engine.close()
    assert len(all_of(live)) == 1
    assert live.ended
    assert live.counts.n_bad == 1


def test_bad_lines_are_counted_said_once_and_skipped(
    engine: Engine, live: TranscriptSource, caplog: pytest.LogCaptureFixture
) -> None:
    bad = ["oops", '{"text": "oops"}', one(0.5), one(66), entry(end=-1), "\x00", "[" * 3000]
    engine.say(one(1), *bad, one(2))
    engine.send(b"\xff\xff\n")
    engine.say(one(64.9))  # a clock may be a little fast
    engine.close()
    with caplog.at_level(logging.WARNING):
        chunks = all_of(live)
    assert [chunk.t_ns - 1000 * NS for chunk in chunks] == [NS, 2 * NS, 64_900 * MS]
    assert [chunk.seq for chunk in chunks] == [0, 1, 2]
    assert live.counts.n_bad == len(bad) + 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"transcript:{engine.rest}, line 2: no JSON. Expected: ")
    assert "This line is skipped" in record.getMessage()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (one(65.1), "said in the future. Expected: times from the session's start, which was 60.000 s ago"),
        (one(0.5), "out of order. Expected: an end at 1.000 s or later"),
    ],
)
def test_live_times_that_cannot_be(
    engine: Engine, live: TranscriptSource, caplog: pytest.LogCaptureFixture, line: str, said: str
) -> None:
    engine.say(one(1), line, one(1.5))
    engine.close()
    assert [chunk.t_ns for chunk in all_of(live)] == [1001 * NS, 1001 * NS + NS // 2]
    assert said in caplog.text


def test_a_line_without_an_end_is_bounded_and_skipped(engine: Engine, live: TranscriptSource) -> None:
    def send() -> None:
        for _ in range(3 * 16):
            engine.send(b"x" * (1 << 16))
        engine.say("", one(1))
        engine.close()

    sender = threading.Thread(target=send)
    sender.start()
    chunks = all_of(live)
    sender.join()
    assert len(chunks) == 1
    assert live.counts.n_bad == 1
    assert live._live is not None
    assert len(live._live._lines._held) == 0


def test_what_is_held_of_a_long_line_is_bounded() -> None:
    lines = transcript._Lines()
    for _ in range(100):
        assert lines.feed(b"x" * (1 << 16)) == []
    assert len(lines._held) == (1 << 20) + 2
    long, short = lines.feed(b"\r\r\nab\nc")
    assert len(long) == (1 << 20) + 2
    assert (short, lines.rest(), lines.rest()) == (b"ab", [b"c"], [])


@given(st.lists(st.binary(max_size=9), max_size=9), st.integers(1, 9))
def test_lines_are_the_same_however_they_are_cut(pieces: list[bytes], size: int) -> None:
    lines, text = transcript._Lines(), b"\n".join(pieces)
    found = [line for at in range(0, len(text), size) for line in lines.feed(text[at : at + size])]
    whole = text.split(b"\n")
    assert [*found, *lines.rest()] == (whole if whole[-1] else whole[:-1])


@pytest.mark.parametrize(
    ("sizes", "read"),
    [([2, 2, 2], [2, 2]), ([2, 2, 2, 2, 1], [2, 1]), ([2, 2, 9], [9]), ([9, 1], [1]), ([2, 2], [2, 2])],
)
def test_the_oldest_utterances_are_dropped_whole(
    engine: Engine,
    live: TranscriptSource,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sizes: list[int],
    read: list[int],
) -> None:
    monkeypatch.setattr(transcript, "MAX_HELD_WORDS", 4)
    engine.say(*(words_line(*[("so", at, at + 1)] * size) for at, size in enumerate(sizes)))
    engine.close()
    chunks = all_of(live)
    assert [chunk.data.shape for chunk in chunks] == [(size, 3) for size in read]
    assert [chunk.seq for chunk in chunks] == list(range(len(read)))
    assert chunks[-1].t_ns == (1000 + len(sizes)) * NS  # the newest one is always there
    n_dropped = len(sizes) - len(read)
    assert (live.counts.n_utterances, live.counts.n_dropped) == (len(sizes), n_dropped)
    assert caplog.text.count("the oldest are dropped") == (n_dropped > 0)


def test_what_was_read_waits_no_longer(
    engine: Engine, live: TranscriptSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcript, "MAX_HELD_WORDS", 2)
    clock = MonotonicClock()
    before_ns = clock.now_ns()
    for at in range(1, 9, 2):
        engine.say(one(at), one(at + 1))
        assert live.read(WAIT_MS) is not None
        assert live.read(WAIT_MS) is not None  # at once, and not when the next words come
    assert live.counts.n_dropped == 0
    assert clock.now_ns() - before_ns < WAIT_MS * MS


def test_a_read_waits_no_longer_than_it_may(engine: Engine) -> None:
    clock = MonotonicClock()
    source = TranscriptSource(engine.rest, clock)
    source.ensure_ready()
    engine.accept()
    source.start()
    engine.send(b'{"partial": "a"}\n{"wor')  # something comes, but no utterance
    before_ns = clock.now_ns()
    assert source.read(30) is None
    assert clock.now_ns() - before_ns >= 29 * MS
    assert source.read(0) is None
    source.ensure_stopped()


def test_a_waiting_read_wakes_up_when_words_come(engine: Engine, live: TranscriptSource) -> None:
    sender = threading.Thread(target=engine.say, args=[one(1)])
    sender.start()
    chunk = live.read(WAIT_MS)
    sender.join()
    assert chunk is not None
    assert chunk.t_ns == 1001 * NS


def test_it_stops_in_any_state(engine: Engine, clock: ManualClock) -> None:
    source = TranscriptSource(engine.rest, clock)
    source.ensure_stopped()
    source.ensure_ready()
    engine.accept()
    source.ensure_stopped()
    states = [source.ended]
    source.start()  # connects again
    engine.accept()
    states.append(source.ended)
    clock.advance_ns(60 * NS)
    engine.say(one(1), one(2))
    assert source.read(WAIT_MS) is not None
    source.ensure_stopped()
    source.ensure_stopped()
    assert [*states, source.ended] == [True, False, True]
    with pytest.raises(RuntimeError, match="must be started"):
        source.read(0)


def test_names_of_live_streams(engine: Engine, live: TranscriptSource) -> None:
    names = {"-": "stdin/text", "unix": "asr.sock/text", "tcp": f"{engine.rest.removeprefix('tcp://')}/text"}
    assert live.specs[0].name == names[engine.rest.partition(":")[0]]


def test_a_connection_that_breaks_has_ended(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
        source = TranscriptSource(f"tcp://127.0.0.1:{listening.getsockname()[1]}", clock)
        source.start()
        clock.advance_ns(60 * NS)
        other, _ = listening.accept()
        other.sendall(one(1).encode() + b"\n")
        assert source.read(WAIT_MS) is not None
        linger_0 = (1).to_bytes(4, "little") + bytes(4)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_0)  # closes with a reset
        other.close()
        assert all_of(source) == []
        assert source.ended
        assert "cut off: Connection reset by peer" in caplog.text
        source.ensure_stopped()


def test_nobody_to_connect_to(tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
        port = listening.getsockname()[1]
    for rest in (
        f"tcp://127.0.0.1:{port}",
        f"unix:{tmp_path}/none",
        f"unix:{tmp_path}/{'x' * 200}",
        "tcp://a..b:1",
    ):
        error = refusal(f"transcript:{rest}")
        assert error.exit_code == 3
        assert "cannot connect to the" in str(error)
        assert "start the engine first" in str(error)


def test_no_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with PAGE.open() as closed:
        pass
    for stdin in (None, closed):
        monkeypatch.setattr("sys.stdin", stdin)
        assert "standard input cannot be read. Found: it is closed." in str(refusal("transcript:-"))
    monkeypatch.setattr("sys.stdin", io.StringIO("{}"))
    assert "Found: it is no file, pipe or terminal." in str(refusal("transcript:-"))


def test_a_file_as_standard_input_is_live_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    with written(tmp_path / "words.jsonl", one(1), one(2)).open("rb") as stdin:
        assert stat.S_ISREG(os.fstat(stdin.fileno()).st_mode)
        monkeypatch.setattr("sys.stdin", stdin)
        source = TranscriptSource("-", clock)
        source.start()
        clock.advance_ns(60 * NS)
        assert [chunk.t_ns for chunk in all_of(source)] == [1001 * NS, 1002 * NS]
        source.ensure_stopped()


# --- the page ---------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)


def test_every_line_on_the_page_is_read() -> None:
    lines = [line for block in blocks("json") for line in block.splitlines()]
    assert len(lines) >= 5
    found = [parse_line(line.encode(), "how-to-words.md") for line in lines]
    assert any(found)
    assert None in found
    assert () in found


def test_the_page_reads_words_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "words.jsonl", one(1, "so"))
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in blocks("python") if "TranscriptSource" in block)
    said: list[object] = []
    exec(code, {"print": lambda *words: said.extend(words)})  # noqa: S102
    assert said == [0.75, 1.0, "so"]


def test_the_page_names_the_limits() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for limit in (transcript_line.MAX_WORDS, transcript.MAX_HELD_WORDS, transcript_line.MAX_WORD_CHARS):
        assert f"{limit:,}".replace(",", " ") in text or str(limit) in text
    assert f"{transcript.MAX_AHEAD_S} s" in text

"""LslSource: what is chosen of a stream, and real outlets in other processes, with clocks of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mer.clock import MonotonicClock
from edge_mer.errors import DataError, LostError, MissingError, UsageError
from edge_mer.sources import lsl
from edge_mer.sources.base import RemotelyClocked
from edge_mer.sources.lsl import LslSource, attached
from edge_mer.sources.lsl_choice import Channel, Chosen, Description, LslSettings, choose
from edge_mer.sources.registry import LISTERS, open_source
from edge_mer.types.signals import Chunk, ClockOffset
from tests.helpers.lsl_network import LslNetwork
from tests.helpers.lsl_outlet import WRAP_S
from tests.helpers.system_packages import needs

pytestmark = pytest.mark.live

NS = 1_000_000_000
MS = 1_000_000
CLOCK = MonotonicClock()

GSR = Channel("GSR", "microsiemens", "EDA")
PULSE = Channel("pulse", "a.u.", "PPG")
NOTHING = Channel("", "", "")


def described(type_: str, *channels: Channel, is_text: bool = False) -> Description:
    return Description("Wrist", type_, 0.0 if is_text else 50.0, is_text, channels)


# --- what is chosen ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "found", "chosen"),
    [
        ("type=EDA", described("EDA", GSR), Chosen("eda", 0, 1.0)),
        ("type=GSR", described("GSR", Channel("", "nS", "")), Chosen("eda", 0, 0.001)),
        (
            "type=ECG",
            described("ECG", Channel("I", "µV", ""), Channel("II", "uV", "ECG")),
            Chosen("ecg", 1, 0.001),
        ),
        ("type=ECG&channel=I", described("ECG", Channel("I", "V", ""), NOTHING), Chosen("ecg", 0, 1000.0)),
        ("type=ECG&channel=2&unit=mV", described("ECG", NOTHING, NOTHING), Chosen("ecg", 1, 1.0)),
        ("name=Wrist&modality=ppg", described("Misc", GSR, PULSE), Chosen("ppg", 1, 1.0)),
        ("name=Wrist&channel=pulse", described("Misc", GSR, PULSE), Chosen("ppg", 1, 1.0)),
        ("type=Temp", described("Temp", Channel("", "celsius", "")), Chosen("skt", 0, 1.0)),
        ("type=Markers", described("Markers", NOTHING, is_text=True), Chosen("text", 0, 1.0)),
    ],
)
def test_what_is_taken_of_a_stream(rest: str, found: Description, chosen: Chosen) -> None:
    assert choose(found, LslSettings.parse(rest)) == chosen


@pytest.mark.parametrize(
    ("rest", "found", "said"),
    [
        ("type=EDA", described("EDA", NOTHING), "unit of eda is not known.*no unit.*unit=uS"),
        ("type=EDA", described("EDA", Channel("", "kOhm", "")), "found: unit 'kOhm'"),
        ("type=Temp", described("Temp", Channel("", "F", "")), "unit of skt"),
        ("type=EEG", described("EEG", NOTHING), "does not say what it is"),
        ("type=ECG", described("ECG", NOTHING, NOTHING), "has 2 channels.*channel=LABEL"),
        ("type=EDA&channel=heart", described("EDA", GSR), "no channel 'heart'.*GSR"),
        ("type=EDA&channel=2", described("EDA", GSR), "no channel '2'"),
        ("type=EDA&modality=text", described("EDA", GSR), "cannot be text"),
        ("type=EDA&modality=eda", described("EDA", GSR, is_text=True), "cannot be eda"),
    ],
)
def test_what_is_doubtful_is_refused(rest: str, found: Description, said: str) -> None:
    with pytest.raises(DataError, match=f"(?i){said}"):
        choose(found, LslSettings.parse(rest))


@pytest.mark.parametrize(
    ("rest", "predicate"),
    [
        ("type=EDA", "type='EDA'"),
        ("name='Shimmer 3'&type=ECG", "name='Shimmer 3' and type='ECG'"),
        ("name=Shimmer%203&hostname=lab", "name='Shimmer 3' and hostname='lab'"),
        ("name=Anna's", 'name="Anna\'s"'),
        ("source_id=%22a%26b%22", "source_id='a&b'"),
    ],
)
def test_predicates(rest: str, predicate: str) -> None:
    assert LslSettings.parse(rest).predicate == predicate


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("", "nothing says which stream"),
        ("unit=uS", "nothing says which stream"),
        ("typ=EDA", "did you mean type"),
        ("type=EDA&modality=audio", "cannot use modality"),
        ("name=a'b%22c", "cannot use name"),
        ("type=EDA&type=ECG", "given twice"),
    ],
)
def test_wrong_uris(rest: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_source(f"lsl:{rest}")


# --- real outlets -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lsl")


@pytest.fixture
def network(settings_folder: Path) -> Iterator[LslNetwork]:
    found = LslNetwork(settings_folder)
    pytest.importorskip("pylsl", reason="needs pylsl: pip install 'edge-mer[bio]'")
    yield found
    found.stop()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], LslSource]]:
    monkeypatch.setattr(lsl, "_SECOND_S", 0.0)
    sources: list[LslSource] = []

    def open_one(rest: str) -> LslSource:
        sources.append(LslSource(rest))
        return sources[-1]

    yield open_one
    for source in sources:
        source.ensure_stopped()
        source.ensure_stopped()


def read_until(
    source: LslSource, is_enough: Callable[[list[Chunk]], bool], within_s: float = 10
) -> list[Chunk]:
    chunks: list[Chunk] = []
    until_ns = CLOCK.now_ns() + round(within_s * NS)
    while not is_enough(chunks):
        assert CLOCK.now_ns() < until_ns, f"not within {within_s} s"
        chunk = source.read(100)
        chunks += [] if chunk is None else [chunk]
    return chunks


def error_ms(chunk: Chunk, looks: list[ClockOffset]) -> float:
    """How far a chunk's time is from the true one that it carries, by the looks around it."""
    remote = [look.remote_ns - looks[0].remote_ns for look in looks]
    offset = [look.host_ns - look.remote_ns - (looks[0].host_ns - looks[0].remote_ns) for look in looks]
    moved_ns = round(float(np.interp(chunk.t_ns - looks[0].remote_ns, remote, offset)))
    host_s = (chunk.t_ns + looks[0].host_ns - looks[0].remote_ns + moved_ns) / NS
    off_s = (host_s - float(chunk.data[0, 0])) % WRAP_S
    return 1e3 * (off_s - WRAP_S if off_s > WRAP_S / 2 else off_s)


@needs("faketime")
def test_a_remote_clock_that_is_shifted_and_drifts(
    network: LslNetwork, opened: Callable[[str], LslSource]
) -> None:
    stream: dict[str, Any] = {
        "name": "Wrist",
        "type": "EDA",
        "rate_hz": 50,
        "channels": [["GSR", "uS", "EDA"]],
    }
    outlet = network.send("+1000 x1.001", **stream)
    source = opened("type=EDA")
    assert isinstance(source, RemotelyClocked)
    source.start()
    (spec,) = source.specs
    assert (spec.name, spec.rate_hz, spec.unit, spec.channels) == ("lsl/eda", 50.0, "uS", ("GSR",))
    looks: list[ClockOffset] = []

    def has_three_looks(_: list[Chunk]) -> bool:
        looks.extend(source.clock_offsets())
        return len(looks) >= 3

    chunks = read_until(source, has_three_looks, 20)
    assert {(chunk.stream, chunk.time_basis) for chunk in chunks} == {("lsl/eda", "remote")}
    assert [chunk.seq for chunk in chunks] == list(range(len(chunks)))
    assert {look.stream for look in looks} == {"lsl/eda"}
    assert all(0 < look.uncertainty_ns < 5 * MS for look in looks)
    # it really was shifted, and drifts by a millisecond a second
    assert abs(looks[0].host_ns - looks[0].remote_ns) > 900 * NS
    drift = (looks[-1].remote_ns - looks[0].remote_ns) / (looks[-1].host_ns - looks[0].host_ns) - 1
    assert drift == pytest.approx(1e-3, rel=0.1)
    within = [chunk for chunk in chunks if looks[0].remote_ns < chunk.t_ns < looks[-1].remote_ns]
    assert len(within) > 100
    assert max(abs(error_ms(chunk, looks)) for chunk in within) < 5

    outlet.kill()
    killed_ns = CLOCK.now_ns()
    with pytest.raises(LostError, match="the outlet is gone"):
        read_until(source, lambda found: False)
    assert CLOCK.now_ns() - killed_ns < NS
    source.ensure_stopped()
    network.send(**stream)
    source.start()
    assert read_until(source, bool)[0].seq == 0


def test_an_irregular_stream_comes_sample_by_sample(
    network: LslNetwork, opened: Callable[[str], LslSource]
) -> None:
    network.send(name="Chest", type="RSP", channels=[["a", "", ""], ["b", "", "RSP"]])
    source = opened("name=Chest&latency_ms=10")
    source.start()
    chunks = read_until(source, lambda found: len(found) >= 5)
    assert source.specs[0].rate_hz is None
    assert source.specs[0].channels == ("b",)
    assert {chunk.data.shape for chunk in chunks} == {(1, 1)}
    truly_ns = [float(chunk.data[0, 0]) * NS for chunk in chunks]
    late_ms = [
        (chunk.t_ns - true_ns) / MS % (WRAP_S * 1e3) for chunk, true_ns in zip(chunks, truly_ns, strict=True)
    ]
    # the sender's clock is this machine's; what is left is that its sensor is 10 ms behind it
    assert np.array(late_ms) - WRAP_S * 1e3 == pytest.approx(-10, abs=5)


def test_words_come_as_strings(network: LslNetwork, opened: Callable[[str], LslSource]) -> None:
    line = json.dumps(
        {"words": [{"word": "the", "start": 0.1, "end": 0.2}, {"word": "cat", "start": 0.2, "end": 0.3}]}
    )
    network.send(
        name="Speech", type="Text", texts=["two words", line, '{"words": 7}', " ", '{"partial": "x"}', "end"]
    )
    source = opened("type=Text")
    source.start()
    start_ns = CLOCK.now_ns()
    first, second, third = read_until(source, lambda found: len(found) == 3)
    assert source.n_bad == 1
    assert first.data[:, 0].tolist() == ["two", "words"]
    assert [[word, int(start), int(end)] for word, start, end in second.data.tolist()] == [
        ["the", 100 * MS, 200 * MS],
        ["cat", 200 * MS, 300 * MS],
    ]
    assert second.t_ns == pytest.approx(start_ns + 300 * MS, abs=20 * MS)
    for chunk in (first, third):
        (_, start, end), *_ = chunk.data.tolist()
        assert start == end
        assert 0 <= (chunk.arrived_ns or 0) - chunk.t_ns < 60 * MS
    assert [chunk.seq for chunk in (first, second, third)] == [0, 1, 2]


def test_what_there_is_and_what_there_is_not(
    network: LslNetwork, opened: Callable[[str], LslSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lsl, "_RESOLVE_S", 0.5)
    with pytest.raises(MissingError, match=r"no lsl stream with type='ECG'.*edge-mer sources"):
        opened("type=ECG").ensure_ready()
    monkeypatch.setattr(lsl, "_SECOND_S", 2.0)  # it returns as soon as there are two
    for name in ("Left", "Right hand"):
        network.send(name=name, type="EMG", rate_hz=100, channels=[["", "mV", ""]])
    devices = attached()
    assert [device.uri for device in devices] == [
        "lsl:name=Left&type=EMG",
        "lsl:name=Right%20hand&type=EMG",
    ]
    assert devices[0].note == "1 channel, 100 Hz"
    assert LISTERS["lsl"] == "edge_mer.sources.lsl:attached"
    with pytest.raises(UsageError, match=r"2 lsl streams with type='EMG'.*hostname="):
        opened("type=EMG").ensure_ready()

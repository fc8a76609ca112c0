"""BrainFlowSource: BrainFlow's own descriptions of boards, and its synthetic board, which really runs."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mer.clock import ManualClock, MonotonicClock
from edge_mer.errors import DataError, MissingError, UsageError
from edge_mer.sources import brainflow, brainflow_rows
from edge_mer.sources.brainflow import BrainFlowSource, PackageCounter, attached, unix_to_ns
from edge_mer.sources.brainflow_rows import BrainFlowSettings, rows
from edge_mer.sources.pieces import GAP_NS, first_ns, pieces
from edge_mer.sources.registry import LISTERS, open_source
from edge_mer.types.signals import Chunk

pytestmark = pytest.mark.live

NS = 1_000_000_000
MS = 1_000_000
CLOCK = MonotonicClock()


@pytest.fixture(scope="module")
def shim() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "brainflow.board_shim", reason="needs BrainFlow: pip install 'edge-mer[bio]'"
        )


def chosen(shim: Any, rest: str) -> dict[str, tuple[str, int, float, float]]:
    """Modality -> preset, row, rate and factor, by BrainFlow's description of the board."""
    settings = BrainFlowSettings.parse(rest)
    name, number = brainflow._board_id(shim, settings.board)
    found = rows(name, brainflow._described(shim, number), settings)
    return {row.modality: (row.preset, row.index, row.rate_hz, row.factor) for row in found}


# --- which channels ---------------------------------------------------------------------------------


def test_boards_by_their_descriptions(shim: Any) -> None:
    assert chosen(shim, "synthetic") == {
        "eda": ("DEFAULT", 23, 250.0, 1.0),
        "ppg": ("DEFAULT", 24, 250.0, 1.0),
        "skt": ("DEFAULT", 26, 250.0, 1.0),
    }
    assert chosen(shim, "emotibit?eda=1&eda.unit=uS&ppg=2&skt.unit=celsius") == {
        "eda": ("ANCILLARY", 1, 15.0, 1.0),
        "ppg": ("AUXILIARY", 2, 25.0, 1.0),
        "skt": ("ANCILLARY", 2, 15.0, 1.0),
    }
    assert chosen(shim, "cyton?ecg=3&emg=4") == {
        "ecg": ("DEFAULT", 3, 250.0, 0.001),
        "emg": ("DEFAULT", 4, 250.0, 0.001),
    }
    assert chosen(shim, "galea?eda=2&eda.unit=nS")["eda"] == ("AUXILIARY", 2, 50.0, 0.001)
    assert chosen(shim, "0?ecg=1") == chosen(shim, "CYTON_BOARD?ecg=1")
    assert set(chosen(shim, "muse_2")) == {"ppg"}


@pytest.mark.parametrize(
    ("rest", "error", "said"),
    [
        ("cyton", UsageError, "no channel is certain.*8 ecg, 8 emg"),
        ("cyton?eda=1", UsageError, "no eda channel 1"),
        ("cyton?ecg=9", UsageError, "no ecg channel 9.*1 to 8"),
        ("emotibit?eda=1", UsageError, "does not say in which unit it gives eda"),
        ("emotibit?eda=1&eda.unit=mV", DataError, "unit of eda is not known"),
        ("cytom?ecg=1", UsageError, "did you mean cyton"),
    ],
)
def test_what_is_doubtful_is_refused(shim: Any, rest: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        chosen(shim, rest)


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("", "no board"),
        ("cyton?serialport=/dev/ttyUSB0", "did you mean serial_port"),
        ("cyton?ecg=0", "cannot use ecg=0"),
        ("cyton?ip_port=99999", "cannot use ip_port"),
    ],
)
def test_wrong_uris(rest: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_source(f"brainflow:{rest}")


def test_parameters_are_those_of_brainflow(shim: Any) -> None:
    assert set(brainflow_rows.PARAMS) == set(vars(shim.BrainFlowInputParams()))


# --- times ------------------------------------------------------------------------------------------


def test_unix_time_on_the_hosts_clock() -> None:
    clock = ManualClock(5 * NS, utc=datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=timezone.utc))
    now_ns, offset_ns = brainflow._now(clock)
    assert now_ns == 5 * NS
    stamps_s = np.array([clock.utc().timestamp() - 0.5])
    assert unix_to_ns(stamps_s)[0] + offset_ns == pytest.approx(4.5 * NS, abs=500)


def losses(*blocks: list[int]) -> tuple[list[list[int]], int]:
    counter = PackageCounter()
    found = [np.flatnonzero(counter.losses(np.array(block, np.float64))).tolist() for block in blocks]
    return found, counter.n_lost


def test_package_counters() -> None:
    assert losses([253, 254, 255, 0, 1], [2, 3]) == ([[], []], 0)
    assert losses([1, 2, 3], [5, 6, 9]) == ([[], [0, 2]], 3)
    assert losses([2, 4, 6], [8, 12]) == ([[], [1]], 1)  # Cyton with Daisy counts by two
    assert losses([1, 1, 1, 2, 2, 2], [3, 3, 5]) == ([[], [2]], 1)  # several samples per package
    assert losses([100, 101, 0]) == ([[]], 0)


@given(
    delays_ns=st.lists(st.integers(0, GAP_NS), min_size=1, max_size=40),
    lost_before=st.sets(st.integers(1, 39)),
)
def test_pieces_cover_all_samples_and_never_date_back(delays_ns: list[int], lost_before: set[int]) -> None:
    n, rate_hz = len(delays_ns), 250.0
    captured_ns = np.array([round((i + sum(k <= i for k in lost_before)) * NS / rate_hz) for i in range(n)])
    stamps_ns = np.maximum.accumulate(captured_ns + np.array(delays_ns))
    is_after_loss = np.isin(np.arange(n), list(lost_before))
    found = list(pieces(stamps_ns, rate_hz, is_after_loss))
    assert np.concatenate([np.arange(n)[part] for part in found]).tolist() == list(range(n))
    for part in found:
        t_ns = first_ns(stamps_ns[part], rate_hz)
        least_late_ns = (stamps_ns - captured_ns)[part].min()
        assert t_ns == pytest.approx(captured_ns[part.start] + least_late_ns, abs=2)
    assert lost_before & set(range(n)) <= {part.start for part in found}


def test_a_jump_of_stamps_is_a_gap() -> None:
    stamps_ns = np.array([0, 4, 8, 200, 204]) * MS
    assert list(pieces(stamps_ns, 250.0)) == [slice(0, 3), slice(3, 5)]
    assert list(pieces(stamps_ns[:2], None)) == [slice(0, 1), slice(1, 2)]
    assert list(pieces(np.zeros(0, np.int64), 250.0)) == []


# --- the synthetic board ----------------------------------------------------------------------------


@pytest.fixture
def opened(shim: Any) -> Iterator[Callable[[str], BrainFlowSource]]:
    sources: list[BrainFlowSource] = []

    def open_one(rest: str) -> BrainFlowSource:
        sources.append(BrainFlowSource(rest))
        return sources[-1]

    yield open_one
    for source in sources:
        source.ensure_stopped()


def read(source: BrainFlowSource, modality: str, n_samples: int) -> list[Chunk]:
    """Chunks, until there are so many samples of that modality."""
    chunks: list[Chunk] = []
    until_ns = CLOCK.now_ns() + 10 * NS
    while sum(chunk.n_samples for chunk in chunks if chunk.modality == modality) < n_samples:
        assert CLOCK.now_ns() < until_ns, "not within 10 s"
        chunk = source.read(50)
        chunks += [] if chunk is None else [chunk]
    return chunks


def test_the_synthetic_board_runs_at_its_rate(opened: Callable[[str], BrainFlowSource]) -> None:
    source = opened("synthetic?eda=1&ecg=2&latency_ms=30")
    before_ns = CLOCK.now_ns()
    source.start()
    assert [(spec.name, spec.unit) for spec in source.specs] == [
        ("brainflow/eda", "uS"),
        ("brainflow/ecg", "mV"),
    ]
    chunks = read(source, "ecg", 400)
    for modality in ("eda", "ecg"):
        mine = [chunk for chunk in chunks if chunk.modality == modality]
        assert [chunk.seq for chunk in mine] == list(range(len(mine)))
        n = sum(chunk.n_samples for chunk in mine[:-1])
        assert n * NS / (mine[-1].t_ns - mine[0].t_ns) == pytest.approx(250, rel=0.02)
        assert {chunk.time_basis for chunk in mine} == {"driver"}
        for chunk in mine:
            arrived_ns = chunk.arrived_ns or 0
            assert before_ns - 40 * MS < chunk.t_ns < arrived_ns - 25 * MS
    assert source.n_lost == 0

    source.ensure_stopped()
    source.ensure_stopped()
    source.start()
    again = read(source, "eda", 10)
    assert again[0].seq == 0
    assert again[0].t_ns > chunks[-1].t_ns


def test_a_recording_with_packages_missing(
    shim: Any, opened: Callable[[str], BrainFlowSource], tmp_path: Path
) -> None:
    file = tmp_path / "board.csv"
    board = shim.BoardShim(-1, shim.BrainFlowInputParams())
    board.prepare_session()
    board.add_streamer(f"file://{file}:w")
    board.start_stream()
    while board.get_board_data_count() < 150:
        CLOCK.sleep_until_ns(CLOCK.now_ns() + 20 * MS)
    board.stop_stream()
    board.release_session()
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = lines[:60] + lines[67:140]
    file.write_text("".join(kept), encoding="utf-8")
    table = np.array([[float(cell) for cell in line.split("\t")] for line in kept])

    source = opened(f"playback_file?file={file}&master_board=-1&eda=1&eda.unit=uS")
    source.start()
    eda = [np.asarray(chunk.data[:, 0], np.float32) for chunk in read(source, "eda", 101)]
    n = sum(map(len, eda))
    assert n > 100
    np.testing.assert_allclose(np.concatenate(eda), table[:n, 23], rtol=1e-5)
    assert source.n_lost == 7
    assert 60 in np.cumsum([len(one) for one in eda])  # a chunk ends where they are missing


def test_a_board_that_is_not_there(opened: Callable[[str], BrainFlowSource]) -> None:
    with pytest.raises(MissingError, match="CYTON_BOARD does not answer"):
        opened("cyton?serial_port=/dev/null&ecg=1").ensure_ready()


def test_a_setuptools_without_what_brainflow_asks_for(shim: Any) -> None:
    code = """
import sys
sys.modules["pkg_resources"] = None
from edge_mer.errors import MissingError
from edge_mer.sources.brainflow import BrainFlowSource
try:
    BrainFlowSource("synthetic").ensure_ready()
except MissingError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'setuptools<82'" in done.stdout


def test_a_library_for_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "build it here" in str(brainflow._no_library(OSError("wrong ELF class")))


def test_what_there_is(shim: Any) -> None:
    assert LISTERS["brainflow"] == "edge_mer.sources.brainflow:attached"
    assert [device.uri for device in attached()] == ["brainflow:synthetic"]

"""SignalSource: rates, times, gaps, every wrong file and URI, and real recordings read twice."""

from __future__ import annotations

import csv
import gzip
import itertools
import math
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.errors import DataError, EdgeMerError, UsageError
from edge_mer.sources.registry import open_source
from edge_mer.sources.signal import CHUNKS_PER_S, SignalSource
from edge_mer.types.signals import Chunk
from tests.helpers.data import real

NS = 1_000_000_000


def table(path: Path, lines: Iterable[str]) -> Path:
    text = "".join(f"{line}\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
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


def values(chunks: list[Chunk]) -> NDArray[np.float32]:
    return np.concatenate([np.asarray(chunk.data, np.float32) for chunk in chunks])[:, 0]


def refusal(uri: str) -> EdgeMerError:
    with pytest.raises(EdgeMerError) as caught:
        play(uri)
    return caught.value


# --- a rate -----------------------------------------------------------------------------------------


def test_rows_at_a_rate(tmp_path: Path) -> None:
    path = table(tmp_path / "bio.csv", ["gsr,ecg", *(f"{row / 8},{-row}" for row in range(1000))])
    uri = f"signal:{path}?modality=ecg&column=ecg&rate_hz=512&scale=1000"
    chunks = play(uri)
    np.testing.assert_array_equal(values(chunks), -1000.0 * np.arange(1000))
    assert [chunk.t_ns for chunk in chunks] == [start * NS // 512 for start in range(0, 1000, 64)]
    assert {chunk.data.shape for chunk in chunks} == {(64, 1), (1000 % 64, 1)}
    source = SignalSource(uri.removeprefix("signal:"))
    assert source.uri == uri
    assert source.measure_ns() == pytest.approx(1000 * NS / 512, abs=2)
    source.ensure_ready()
    (spec,) = source.specs
    assert (spec.name, spec.modality, spec.unit, spec.rate_hz) == ("bio.csv/ecg", "ecg", "mV", 512.0)
    assert spec.channels == ("ecg",)
    source.ensure_stopped()


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.csv", ["1", "2", "3"]),
        ("a.tsv", ["9\t1", "9\t2", "9\t3"]),
        ("a.txt", ["# made by hand", "# 1, 2", "9;1", "9;2", "9;3"]),
        ("a.csv.gz", ["9,1", "9,2", "9,3", "", ""]),
        ("b.csv", ["\ufeff9, 1 ", '"9","2"', "9,3"]),
    ],
)
def test_tables_without_a_header(tmp_path: Path, name: str, lines: list[str]) -> None:
    path = table(tmp_path / name, lines)
    column = 1 if lines[0] == "1" else 2
    chunks = play(f"signal:{path}?modality=skt&column={column}&rate_hz=4")
    assert values(chunks).tolist() == [1, 2, 3]
    assert [chunk.t_ns for chunk in chunks] == [0, NS // 4, NS // 2]


@given(st.lists(st.sampled_from(["", "nan", " ", "NaN", "1.5", "2", "-3e1"]), min_size=1, max_size=60))
def test_cells_without_a_number_are_gaps(tmp_path_factory: pytest.TempPathFactory, cells: list[str]) -> None:
    path = tmp_path_factory.mktemp("gaps") / "a.csv"
    table(path, ["x,y", *(f"{cell},0" for cell in cells)])
    uri = f"signal:{path}?modality=eda&column=x&rate_hz=32"
    wanted = {
        i * NS // 32: float(cell) for i, cell in enumerate(cells) if cell.strip() not in ("", "nan", "NaN")
    }
    if not wanted:
        assert "not one number" in str(refusal(uri))
        return
    found = {}
    for chunk in play(uri):
        first = chunk.t_ns * 32 // NS + (chunk.t_ns * 32 % NS > 0)
        for offset, value in enumerate(chunk.data[:, 0].tolist()):
            found[(first + offset) * NS // 32] = value
    assert found == wanted


def test_blank_lines_of_a_single_column_are_gaps_too(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["x", "1", "", "", "4", "", ""])
    source = SignalSource(f"{path}?modality=eda&column=x&rate_hz=8")
    assert [(c.t_ns, c.data.tolist()) for c in play(source.uri)] == [(0, [[1]]), (3 * NS // 8, [[4]])]
    assert source.measure_ns() == 4 * NS // 8


# --- a time column ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "per_s"), [("s", 1), ("ms", 1_000), ("us", 1_000_000), ("ns", NS)])
def test_times_in_any_unit(tmp_path: Path, unit: str, per_s: int) -> None:
    """Unix times keep their nanoseconds, which a float would lose."""
    start = 1_644_227_583 * per_s
    times = [start + Fraction(row * per_s, 125) for row in range(300)]
    rows = (f"{float(t - start) + start if t.denominator == 1 else _decimal(t)}\t1" for t in times)
    path = table(tmp_path / "a.tsv", ["time\tx", *rows])
    chunks = play(f"signal:{path}?modality=ppg&column=x&time_column=time&time_unit={unit}")
    assert [chunk.t_ns for chunk in chunks] == [start * NS // 125 for start in range(0, 300, 16)]


def _decimal(value: Fraction) -> str:
    return f"{value.numerator // value.denominator}.{value % 1 * 10**9 // 1:09d}"


def test_the_rate_is_found_and_missing_rows_are_jumped_over(tmp_path: Path) -> None:
    kept = [row for row in range(2_000) if not 700 <= row < 900 and row != 1_500]
    rows = (f"{row * 1000 / 512:.0f},{row}" for row in kept)  # whole milliseconds, as many devices write
    path = table(tmp_path / "a.csv", ["t,x", *rows])
    source = open_source(f"signal:{path}?modality=ecg&column=x&time_column=t&time_unit=ms")
    source.ensure_ready()
    assert source.specs[0].rate_hz == 512.0
    source.ensure_stopped()
    chunks = play(source.uri)
    assert values(chunks).tolist() == kept
    for chunk in chunks:
        rows_of = chunk.data[:, 0].astype(int).tolist()
        assert rows_of == list(range(rows_of[0], rows_of[-1] + 1)), "a chunk reaches over a gap"
        assert chunk.t_ns == round(rows_of[0] * 1000 / 512) * 1_000_000
    assert isinstance(source, SignalSource)
    assert source.measure_ns() == pytest.approx(2_000 * NS / 512, abs=1_000_000)


def test_a_rate_that_is_not_whole_is_told_as_it_is(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["t,x", *(f"{row / 31.25:.6f},1" for row in range(500))])
    source = open_source(f"signal:{path}?modality=eda&column=x&time_column=t")
    source.ensure_ready()
    assert source.specs[0].rate_hz == pytest.approx(31.25, rel=1e-7)
    source.ensure_stopped()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["0,1", "0.1,1", "0.1,1"], "line 4: the time does not increase"),
        (["0,1", ",1"], "line 3: no time"),
        (["0,1", "1e999999999,1"], "line 3: no time"),
        (["2026-01-01T00:00:00,1", "0,1"], "line 2: no time"),
        (["0,1"], "1 rows"),
        ([f"{row * 4000},1" for row in range(9)], "check time_unit"),
        ([f"{row**2 / 100},1" for row in range(90)], "no one rate"),
    ],
)
def test_times_that_cannot_be_used(tmp_path: Path, rows: list[str], said: str) -> None:
    path = table(tmp_path / "a.csv", ["t,x", *rows])
    assert said in str(refusal(f"signal:{path}?modality=eda&column=x&time_column=t"))


# --- files that are refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["x,y", "1,2", "low,2"], "line 3: no number. Expected: a number"),
        (["x,y", "1,2", "1_0,2"], "line 3: no number"),
        (["x,y", "1,2", "inf,2"], "line 3: no number"),
        (["x,y", "1,2", "1e39,2"], "line 3: no number"),
        (["x;y", "1,5;2"], "line 2: no number. Expected: a number, or nothing where there is no sample. "),
        (["y,x", "1,2", "1"], "line 3 has too few cells"),
        (["y,x", "1,2", "", "1,2"], "line 3 has too few cells"),
        (["y,X", "1,2"], "no column 'x'"),
        (["x,x", "1,2"], "two columns 'x'"),
        (["x,y"], "not one number"),
        (["x,y", '1,"2'], "cannot be read as a table"),
        (["x," + "y" * 70_000], "lines of less than"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, lines: list[str], said: str) -> None:
    path = table(tmp_path / "a.csv", lines)
    error = refusal(f"signal:{path}?modality=eda&column=x&rate_hz=4")
    assert isinstance(error, DataError)
    assert said in str(error)
    assert "a.csv" in str(error)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    keys = "?modality=eda&column=x&rate_hz=4"
    assert "not found" in str(refusal(f"signal:{tmp_path / 'none.csv'}{keys}"))
    assert "a regular CSV or TSV file. Found: a directory" in str(refusal(f"signal:{tmp_path}{keys}"))
    (tmp_path / "bytes.csv").write_bytes(b"x\n\xff\xfe\n")
    assert "UTF-8" in str(refusal(f"signal:{tmp_path / 'bytes.csv'}{keys}"))
    whole = gzip.compress(("x\n" + "1.25\n" * 5_000).encode())
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    assert "cut off" in str(refusal(f"signal:{tmp_path / 'cut.csv.gz'}{keys}"))
    path = table(tmp_path / "a.csv", ["gsr", "1"])
    assert "needs its column's name" in str(refusal(f"signal:{path}?modality=eda&column=1&rate_hz=4"))
    assert "did you mean gsr?" in str(refusal(f"signal:{path}?modality=eda&column=gsm&rate_hz=4"))


def test_text_far_into_a_file_is_found_by_measuring(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["x", *["1"] * 3_000, "off"])
    source = SignalSource(f"{path}?modality=eda&column=x&rate_hz=100")
    source.ensure_ready()
    source.ensure_stopped()
    with pytest.raises(DataError, match="line 3002"):
        source.measure_ns()


# --- URIs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("", "no path"),
        ("a.csv", "no modality"),
        ("a.csv?modality=gsr&column=x&rate_hz=4", "modality = one of eda, ecg"),
        ("a.csv?modalty=eda", "did you mean modality"),
        ("a.csv?modality=eda&modality=eda", "given twice"),
        ("a.csv?modality", "no value"),
        ("a.csv?modality=eda&rate_hz=4", "no column"),
        ("a.csv?modality=eda&column=0&rate_hz=4", "a number from 1"),
        ("a.csv?modality=eda&column=x", "neither rate_hz nor time_column"),
        ("a.csv?modality=eda&column=x&rate_hz=4&time_column=t", "both"),
        ("a.csv?modality=eda&column=x&rate_hz=0", "from 1 to 100000"),
        ("a.csv?modality=eda&column=x&rate_hz=4&time_unit=s", "time_unit without time_column"),
        ("a.csv?modality=eda&column=x&time_column=1", "by name and one by number"),
        ("a.csv?modality=eda&column=x&rate_hz=4&scale=0", "a number but 0"),
        ("a.csv?modality=eda&layout=e4&rate_hz=4", "rate_hz does not go with layout=e4"),
        ("a.csv?modality=eda&layout=e4&column=x", "a column name does not go with"),
        (
            "a.csv?modality=ecg&column=x&rate_hz=4&unit=V",
            "Expected: unit mV. Found: unit V. Next: write unit",
        ),
        ("a.csv?modality=skt&column=x&rate_hz=4&unit=K", "Expected: unit degC. Found: unit K"),
    ],
)
def test_uris_that_are_refused(rest: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_source(f"signal:{rest}")
    assert said in str(caught.value)


def test_reading_before_the_start_is_a_mistake_of_the_program(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", ["x", "1"])
    source = SignalSource(f"{path}?modality=eda&column=x&rate_hz=4&unit=uS")
    with pytest.raises(RuntimeError, match="must be started"):
        source.read(0)


# --- Empatica E4 ------------------------------------------------------------------------------------


def test_e4_layout(tmp_path: Path) -> None:
    path = table(tmp_path / "EDA.csv", ["1560279825.00", "4.000000", "0.5", "0.25", "0.125"])
    source = open_source(f"signal:{path}?modality=eda&layout=e4")
    source.ensure_ready()
    assert (source.specs[0].rate_hz, source.specs[0].channels) == (4.0, ("eda",))
    source.ensure_stopped()
    chunks = play(source.uri)
    assert [(c.t_ns, c.data.tolist()) for c in chunks] == [
        (0, [[0.5]]),
        (NS // 4, [[0.25]]),
        (NS // 2, [[0.125]]),
    ]


@pytest.mark.parametrize("lines", [["gsr", "4"], ["1560279825.0, IBI", "83.5,0.6"], ["1560279825.0"]])
def test_what_is_no_e4_file(tmp_path: Path, lines: list[str]) -> None:
    path = table(tmp_path / "EDA.csv", lines)
    assert "is no E4 file" in str(refusal(f"signal:{path}?modality=eda&layout=e4"))


# --- real recordings --------------------------------------------------------------------------------


def check_whole(uri: str, wanted: NDArray[np.float64], rate_hz: float) -> None:
    """All samples, in order, at the right times."""
    chunks = play(uri)
    np.testing.assert_array_equal(values(chunks), wanted.astype(np.float32))
    assert float(values(chunks).mean(dtype=np.float64)) == pytest.approx(float(wanted.mean()), abs=1e-6)
    counts = list(itertools.accumulate((chunk.n_samples for chunk in chunks), initial=0))
    assert [chunk.t_ns for chunk in chunks] == [int(n * NS // Fraction(rate_hz)) for n in counts[:-1]]
    assert max(chunk.n_samples for chunk in chunks) <= max(1, round(rate_hz / CHUNKS_PER_S))
    source = open_source(uri)
    assert isinstance(source, SignalSource)
    assert source.measure_ns() == pytest.approx(len(wanted) / rate_hz * NS, abs=2)


def test_a_real_table_with_a_header() -> None:
    path = real("biosignal_neurokit", "bio_eventrelated_100hz.csv")
    wanted = np.genfromtxt(path, delimiter=",", names=True)["EDA"]
    assert len(wanted) == 15_000
    check_whole(f"signal:{path}?modality=eda&column=EDA&rate_hz=100", wanted, 100.0)


def test_a_real_table_without_a_header() -> None:
    path = real("biosignal_biosppy", "ecg.txt")
    wanted = np.loadtxt(path)
    check_whole(f"signal:{path}?modality=ecg&column=1&rate_hz=1000", wanted, 1000.0)


def test_a_real_table_read_as_512_hz_with_times(tmp_path: Path) -> None:
    """Rows of a real recording under times of 512 Hz in microseconds, as BioVid has them."""
    wanted = np.loadtxt(real("biosignal_biosppy", "eda.txt"))[: 512 * 11]
    rows = (f"{row * 1_000_000 // 512}\t{value}" for row, value in enumerate(wanted))
    path = table(tmp_path / "one_bio.csv", ["time\tgsr", *rows])
    uri = f"signal:{path}?modality=eda&column=gsr&time_column=time&time_unit=us"
    source = open_source(uri)
    source.ensure_ready()
    assert source.specs[0].rate_hz == 512.0
    source.ensure_stopped()
    chunks = play(uri)
    np.testing.assert_array_equal(values(chunks), wanted.astype(np.float32))
    assert chunks[-1].t_ns + chunks[-1].n_samples * NS / 512 == pytest.approx(11 * NS, abs=2_000)


def test_a_real_time_column() -> None:
    path = real("biosignal_heartpy", "heartpy_data2.csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(float(row["timer"]), float(row["hr"])) for row in csv.DictReader(file)]
    uri = f"signal:{path}?modality=ppg&column=hr&time_column=timer&time_unit=ms"
    source = open_source(uri)
    source.ensure_ready()
    rate_hz = source.specs[0].rate_hz
    assert rate_hz == pytest.approx((len(rows) - 1) / (rows[-1][0] - rows[0][0]) * 1000, rel=1e-9)
    source.ensure_stopped()
    chunks = play(uri)
    assert values(chunks).tolist() == [value for _, value in rows]
    starts = itertools.accumulate((chunk.n_samples for chunk in chunks), initial=0)
    for chunk, start in zip(chunks, starts, strict=False):
        assert math.isclose(chunk.t_ns, rows[start][0] * 1e6, abs_tol=1)


@pytest.mark.parametrize(
    ("file", "modality", "rate_hz"),
    [("EDA.csv", "eda", 4.0), ("BVP.csv", "ppg", 64.0), ("TEMP.csv", "skt", 4.0)],
)
def test_real_e4_files(file: str, modality: str, rate_hz: float) -> None:
    path = real("biosignal_flirt_e4", file)
    wanted = np.genfromtxt(path, skip_header=2)
    assert np.genfromtxt(path, skip_header=1, max_rows=1) == rate_hz
    check_whole(f"signal:{path}?modality={modality}&layout=e4", wanted, rate_hz)


def test_a_real_gzipped_e4_file() -> None:
    path = real("stress_predict", "Raw_data", "S02", "BVP.csv.gz")
    with gzip.open(path, "rt") as file:
        numbers = [float(line) for line in file]
    source = SignalSource(f"{path}?modality=ppg&layout=e4")
    assert source.measure_ns() == pytest.approx((len(numbers) - 2) / 64 * NS, abs=2)
    source.start()
    read = list(itertools.islice(iter(lambda: source.read(0), None), 500))
    source.ensure_stopped()
    assert values([c for c in read if c is not None]).tolist() == np.float32(numbers[2 : 2 + 4_000]).tolist()

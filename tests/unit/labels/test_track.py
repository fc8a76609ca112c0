"""Label tracks: the nearest row, every kind of label that is none, and every wrong file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mer.labels.problems import Problem
from edge_mer.labels.track import NO_TIMES, LabelTrack, read_track

NS = 1_000_000_000
AFFECT = {"valence": (-1.0, 1.0), "arousal": (-1.0, 1.0)}


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def fatal(problems: list[Problem]) -> list[str]:
    return [f"{problem.line}: {problem.what}" for problem in problems if problem.is_fatal]


# --- the nearest row --------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 1_000), min_size=1, max_size=20, unique=True),
    st.lists(st.integers(-200, 1_200), min_size=1, max_size=20),
    st.integers(0, 300),
)
def test_the_nearest_row(times: list[int], asked: list[int], max_distance: int) -> None:
    times.sort()
    track = LabelTrack(np.array(times, np.int64), {"valence": np.arange(len(times), dtype=np.float32)})
    found = track.at(asked, max_distance)["valence"]
    assert found.dtype == np.float32
    for at, label in zip(asked, found.tolist(), strict=True):
        near = min(range(len(times)), key=lambda row: (abs(times[row] - at), times[row]))
        if abs(times[near] - at) > max_distance:
            assert np.isnan(label)
        else:
            assert label == near


def test_the_nearest_row_counts_even_where_it_has_no_label() -> None:
    track = LabelTrack(np.array([0, 10, 20]), {"pain": np.array([1, np.nan, 3], np.float32)})
    np.testing.assert_array_equal(track.at([[5, 6], [14, 19]], 5)["pain"], [[1, np.nan], [np.nan, 3]])
    assert track.at(16, 5)["pain"].shape == ()


def test_an_empty_track_has_no_labels() -> None:
    track = LabelTrack(np.zeros(0, np.int64), {"pain": np.zeros(0, np.float32)})
    assert np.isnan(track.at([1, 2], 10)["pain"]).tolist() == [True, True]


# --- what is read -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("column", "unit"), [("t_s", NS), ("t_ns", 1)])
def test_a_time_column(tmp_path: Path, column: str, unit: int) -> None:
    times_ns = [0, 40_000_001, 3 * NS]
    lines = (f"x,{t // unit}.{t % unit:09d},0.5" for t in times_ns)
    path = written(tmp_path / "a.csv", f"note, {column} ,valence", *lines)
    track, problems = read_track(path, {"valence": (-1, 1)})
    assert problems == []
    assert track.t_ns.tolist() == times_ns
    assert list(track.values) == ["valence"]


def test_unix_times_keep_their_nanoseconds(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "t_s,pain", "1644227583.000000001,0", "1644227583.000000002,1")
    track, _ = read_track(path)
    assert np.diff(track.t_ns).tolist() == [1]


def test_rows_at_a_rate(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", "arousal\tvalence", "0.1\t-1", "0.2\t1")
    track, problems = read_track(path, AFFECT, rate_hz=Fraction(30_000, 1_001))
    assert problems == []
    assert track.t_ns.tolist() == [0, 1_001 * NS // 30_000]
    np.testing.assert_array_equal(track.values["arousal"], np.float32([0.1, 0.2]))
    np.testing.assert_array_equal(track.values["valence"], np.float32([-1, 1]))


def test_a_row_per_picture(tmp_path: Path) -> None:
    frames_ns = np.array([0, 40, 95, 120, 160, 200], np.int64) * 1_000_000
    path = written(tmp_path / "vid.txt", "valence,arousal", "0.5,0.25", "-5,-5", "0,0", "1,1", "")
    track, problems = read_track(path, AFFECT, frames_ns=frames_ns, duration_ns=NS)
    assert fatal(problems) == []
    assert track.t_ns.tolist() == frames_ns[:4].tolist()
    path = written(tmp_path / "long.txt", "valence,arousal", *["0,0"] * 8)
    track, problems = read_track(path, AFFECT, frames_ns=frames_ns, duration_ns=NS)
    assert problems == []
    assert track.t_ns.size == track.values["valence"].size == 6


def test_blank_lines_of_a_single_column_are_rows(tmp_path: Path) -> None:
    """Were they skipped, all later labels would belong to other pictures."""
    path = written(tmp_path / "a.csv", "pain", "0", "", "1", "")
    track, problems = read_track(path, {"pain": (0, 1)}, rate_hz=Fraction(1))
    np.testing.assert_array_equal(track.values["pain"], np.float32([0, np.nan, 1]))
    assert [(p.what, p.line, p.count) for p in problems] == [("pain: empty or NaN", 3, 1)]


def test_without_ranges_all_columns_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "t_s,pain,mood", "0,7,100", "1,-5,")
    track, problems = read_track(path)
    np.testing.assert_array_equal(track.values["pain"], np.float32([7, np.nan]))
    np.testing.assert_array_equal(track.values["mood"], np.float32([100, np.nan]))
    assert len(problems) == 2


# --- labels that are none ---------------------------------------------------------------------------


def test_labels_that_are_none_are_counted_by_kind(tmp_path: Path) -> None:
    cells = ["0.5", "", "NaN", "inf", "-inf", "1e39", "-5", "-5.0", "1.01", "-2", "-1", "1", " "]
    path = written(tmp_path / "a.csv", "t_s,valence", *(f"{t},{cell}" for t, cell in enumerate(cells)))
    track, problems = read_track(path, {"valence": (-1, 1)}, duration_ns=len(cells) * NS)
    assert np.flatnonzero(np.isfinite(track.values["valence"])).tolist() == [0, 10, 11]
    assert {(p.what, p.count, p.line, p.more_lines, p.is_fatal) for p in problems} == {
        ("valence: empty or NaN", 3, 3, (4, 14), False),
        ("valence: infinite", 3, 5, (6, 7), False),
        ("valence: -5, which means that there is no label", 2, 8, (9,), False),
        ("valence: outside -1 to 1", 2, 10, (11,), False),
    }


def test_a_recording_without_a_label_is_fatal(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "t_s,valence,arousal", "0,-5,-5", "1,,7")
    _, problems = read_track(path, AFFECT)
    assert fatal(problems) == ["None: not one valid label in 2 rows"]
    assert sum(problem.count for problem in problems if not problem.is_fatal) == 4


# --- files that are wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        (["t_s,valence", "0,1"], ["1: no column 'arousal' among t_s, valence"]),
        (["t_s,val,Arousal"], ["1: no column 'valence' among", "1: no column 'arousal' among"]),
        (["t_s,valence,valence,arousal"], ["1: two columns are named 'valence'"]),
        (["t_s,t_ns,valence,arousal", "0,0,0,0"], ["1: two time columns"]),
        (
            ["t_s,valence,arousal", "0,low,0", "1,0,high", "2,1_0,0"],
            ["2: valence: no num", "3: arousal: no num"],
        ),
        (["t_s,valence,arousal", "0,0,0", "1,0,0", "1,0,0", "0.5,0,0"], ["4: the time is not later"]),
        (["t_s,valence,arousal", "0,0,0", ",0,0", "now,0,0"], ["3: the time is no number"]),
        (["t_s,valence,arousal", "0,0,0", "1e400,0,0"], ["3: the time is no number"]),
        (["t_s,valence,arousal", "0,0,0", "1,0"], ["3: fewer than 3 cells"]),
        (
            ["t_s,valence,arousal", "0,0,0", "", "1,0,0"],
            ["3: fewer than 3 cells", "3: the time is no number"],
        ),
        (["valence,arousal", "0,0"], [f"None: {NO_TIMES}"]),
        (["t_s,valence,arousal"], ["None: not one valid label in 0 rows"]),
        (["", ""], ["None: empty"]),
        (['t_s,"valence', "0,0"], ["None: not readable"]),
        # all at once
        (["valence,arousal", "0,x"], ["2: arousal: no number", f"None: {NO_TIMES}"]),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, lines: list[str], wanted: list[str]) -> None:
    _, problems = read_track(written(tmp_path / "a.csv", *lines), AFFECT)
    found = fatal(problems)
    assert len(found) == len(wanted), found
    for text in wanted:
        assert any(one.startswith(text) for one in found), found
    assert all(problem.path.endswith("a.csv") and problem.hint for problem in problems if problem.is_fatal)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes.csv").write_bytes(b"t_s,valence,arousal\n\xff\n")
    for name, said in (("none.csv", "no such label file"), ("", "not a file"), ("bytes.csv", "utf-8")):
        track, problems = read_track(tmp_path / name, AFFECT)
        assert [said in problem.what for problem in problems] == [True]
        assert track.t_ns.size == 0
        assert set(track.values) == set(AFFECT)


@pytest.mark.parametrize(("n_rows", "is_right"), [(7, False), (8, True), (10, True), (12, True), (13, False)])
def test_the_number_of_pictures(tmp_path: Path, n_rows: int, is_right: bool) -> None:
    path = written(tmp_path / "a.csv", "valence,arousal", *["0,0"] * n_rows)
    _, problems = read_track(path, AFFECT, frames_ns=np.arange(10, dtype=np.int64) * NS)
    assert [problem.what.startswith(f"{n_rows} rows for 10 pictures") for problem in problems] == [True] * (
        not is_right
    )


@pytest.mark.parametrize(
    ("times_s", "duration_s", "is_right"),
    [
        (range(60), 60, True),  # at the start of each second
        (range(1, 61), 60, True),  # at its end
        (range(60), 61.2, True),  # 2 % off
        (range(60), 61.3, False),
        (range(60), 57.0, False),
        (range(10), 10.4, True),  # half a second off
        (range(10), 11.6, False),
        (range(30, 60), 60, False),  # begins late
        (range(1_644_227_583, 1_644_227_643), 60, False),  # times of a clock
        (range(-30, 30), 60, False),
    ],
)
def test_the_length_of_the_recording(
    tmp_path: Path, times_s: range, duration_s: float, is_right: bool
) -> None:
    path = written(tmp_path / "a.csv", "t_s,valence,arousal", *(f"{t},0,0" for t in times_s))
    _, problems = read_track(path, AFFECT, duration_ns=int(duration_s * NS))
    assert [problem.what.startswith("labels from") for problem in problems] == [True] * (not is_right)


def test_the_length_of_rows_at_a_rate(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "valence,arousal", *["0,0"] * 100)
    for rate_hz, n_problems in ((10, 0), (8, 1), (12, 1)):
        _, problems = read_track(path, AFFECT, rate_hz=Fraction(rate_hz), duration_ns=10 * NS)
        assert len(problems) == n_problems, rate_hz


def test_a_time_column_and_a_rate_contradict_each_other(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "t_s,valence,arousal", "0,0,0")
    _, problems = read_track(path, AFFECT, rate_hz=Fraction(1))
    assert fatal(problems) == ["1: a time column, and label_rate_hz in the manifest"]

"""Truth beside predictions: nearest in time, on the same scale, and compared as Lin wrote."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mer.errors import DataError
from edge_mer.report.read import Records, read_records
from edge_mer.report.truth import agreements, concordance, read_track, truth_of_simulation, truth_of_track
from tests.helpers.predictions import pain, record, withheld, write_records


def read(folder: Path, *records: dict[str, Any]) -> Records:
    return read_records(write_records(folder / "out.jsonl", records))


def track(folder: Path, text: str) -> Path:
    path = folder / "truth.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_nearest_truth_within_a_step_counts(tmp_path: Path) -> None:
    """Steps end at 0.25, 0.5, 0.75, …; 1.3 s is nearest to 1.25, and 2 s is more than a step from all."""
    records = read(tmp_path, *(record(i) for i in range(8)))
    given = track(tmp_path, "t_s,valence\n0.2,0.1\n0.31,0.2\n0.5,-5\n0.76,0.4\n1.3,0.5\n")
    truth = truth_of_track(read_track(given), records, "truth.csv")
    expected = [0.1, np.nan, 0.4, 0.4, 0.5, 0.5, np.nan, np.nan]
    np.testing.assert_array_equal(truth.values["valence"], expected)


def test_cells_without_truth_and_columns_without_use(tmp_path: Path) -> None:
    text = "\ufefft_ns, arousal ,rater,valence\n250000000,,a,0.5\n500000000,nan,b,-5\n750000000,-0.5,c,-5.0\n"
    truth = truth_of_track(read_track(track(tmp_path, text)), read(tmp_path, *map(record, range(3))), "x")
    np.testing.assert_array_equal(truth.values["arousal"], [np.nan, np.nan, -0.5])
    np.testing.assert_array_equal(truth.values["valence"], [0.5, np.nan, np.nan])
    assert truth.notes == ("Columns of the truth that were not used: rater.",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "an empty first line"),
        ("valence,arousal\n0,0\n", "no header that names a time.*valence, arousal"),
        ("t_s,t_ns,valence\n0,0,0\n", "no header"),
        ("t_s,valence,valence\n0,0,0\n", "no header"),
        ("t_s,joy\n0,0\n", "no header"),
        ("t_s,valence\n", "nothing below it"),
        ("t_s,valence\n0.25,0.5,1\n", "row 2 does not fit the header"),
        ("t_s,valence\n0.25,0.5\nsoon,0.5\n", "row 3: t_s is no time"),
        ("t_s,valence\n1e300,0.5\n", "row 2: t_s is no time"),
        ("t_s,valence\n0.25,much\n", "row 2: valence cannot be.*'much'"),
        ("t_s,valence\n0.25,7\n", "row 2: valence cannot be.*-1 to 1"),
        ("t_s,valence\n0.5,0\n0.25,0\n", "goes back in time"),
        ("t_s,valence\n100,0.5\n", "says nothing about any estimate.*100 s"),
        ("t_s,valence\n0.25,-5\n0.5,\n", "says nothing about any estimate"),
        ("t_s,pain\n0.25,0.5\n", "says nothing about any estimate"),
    ],
)
def test_a_truth_that_is_none_is_refused(tmp_path: Path, text: str, words: str) -> None:
    records = read(tmp_path, record(0), record(1))
    with pytest.raises(DataError, match=words):
        truth_of_track(read_track(track(tmp_path, text)), records, "truth.csv")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_track(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"t_s,valence\n\xff\xfe,0\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_track(tmp_path / "b.csv")


def test_pain_of_a_simulation_is_put_on_the_scale_of_levels(tmp_path: Path) -> None:
    records = read(tmp_path, record(0, pain=pain(0.5, 0.5, 0, 0, 0)), record(1, pain=pain(0, 0, 0, 0, 1)))
    given = {"pain": np.array([0.25, 1.0], np.float32), "valence": np.zeros(2), "au12": np.ones(2)}
    truth = truth_of_simulation(given, records, "sim:")
    assert truth.values["pain"].tolist() == [1.0, 4.0]
    assert set(truth.values) == {"pain", "valence"}
    assert given["pain"].tolist() == [0.25, 1.0]


def test_pain_of_a_file_stays_as_it_is_and_must_fit(tmp_path: Path) -> None:
    records = read(tmp_path, record(0, pain=pain(0.5, 0.5, 0)))
    fits = truth_of_track(read_track(track(tmp_path, "t_s,pain\n0.25,2\n")), records, "x")
    assert fits.values["pain"].tolist() == [2.0]
    with pytest.raises(DataError, match=r"another scale.*0 to 2, the scale sim-0-4.*10"):
        truth_of_track(read_track(track(tmp_path, "t_s,pain\n0.25,10\n")), records, "x")


def lin(a: list[float], b: list[float]) -> float:
    """Lin (1989), equation by equation, with the standard library."""
    n, mean_a, mean_b = len(a), statistics.fmean(a), statistics.fmean(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True)) / n
    return 2 * covariance / (statistics.pvariance(a) + statistics.pvariance(b) + (mean_a - mean_b) ** 2)


def test_agreement_counts_only_steps_that_have_both(tmp_path: Path) -> None:
    estimates = [0.1, 0.5, -0.25, 0.0, 0.75]
    rows = [record(i, v) for i, v in enumerate(estimates)]
    rows[3] = withheld(3, "audio_missing")
    records = read(tmp_path, *rows)
    text = "t_s,valence\n0.25,0.2\n0.5,0.3\n0.75,-0.5\n1.0,0.9\n1.25,0.5\n"
    (found,) = agreements(truth_of_track(read_track(track(tmp_path, text)), records, "x"), records)
    assert (found.output, found.n) == ("valence", 4)
    assert found.ccc == pytest.approx(lin([0.1, 0.5, -0.25, 0.75], [0.2, 0.3, -0.5, 0.5]), abs=1e-6)


def test_concordance_where_nothing_varies() -> None:
    assert concordance(np.zeros(3), np.zeros(3)) is None
    assert concordance(np.zeros(3), np.ones(3)) is None
    assert concordance(np.zeros(3), np.array([0.0, 1.0, 2.0])) == 0.0
    equal = concordance(np.arange(4.0), np.arange(4.0))
    assert equal is not None
    assert math.isclose(equal, 1.0)

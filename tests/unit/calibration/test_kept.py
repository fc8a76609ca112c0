"""An interrupted calibration goes on with what was done, and with nothing of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mer.runtime.labelled import LabelledSession
from edge_mer.runtime.pipeline import StepTrace
from edge_mer_calibration.kept import Kept
from edge_mer_calibration.ranges import Histogram

pytestmark = pytest.mark.workbench


class Made:
    """Counts how often something is made."""

    def __init__(self, value: Any) -> None:
        self.n, self._value = 0, value

    def __call__(self) -> Any:
        self.n += 1
        return self._value


def test_what_was_done_is_read_again(tmp_path: Path) -> None:
    numbers, arrays = Made({"a": [1.5, None]}), Made({"x/y": np.arange(3.0)})
    for _ in range(2):
        kept = Kept(tmp_path / "work", "key")
        assert kept.numbers("one", numbers) == {"a": [1.5, None]}
        assert kept.arrays("two", arrays)["x/y"].tolist() == [0, 1, 2]
    assert (numbers.n, arrays.n) == (1, 1)
    assert (tmp_path / "work").stat().st_mode & 0o777 == 0o700


def test_parts_of_another_calibration_are_thrown_away(tmp_path: Path) -> None:
    made = Made(1)
    Kept(tmp_path / "work", "key").numbers("one", made)
    Kept(tmp_path / "work", "another").numbers("one", made)
    assert made.n == 2


@pytest.mark.parametrize("content", [b"", b"{", b"PK\x03\x04 cut"])
def test_a_broken_part_is_made_anew(tmp_path: Path, content: bytes) -> None:
    kept = Kept(tmp_path / "work", "key")
    for name in ("one.json", "two.npz"):
        (tmp_path / "work" / name).write_bytes(content)
    assert kept.numbers("one", Made(7)) == 7
    assert kept.arrays("two", Made({"x": np.ones(1)}))["x"].tolist() == [1]


def test_a_session_comes_back_as_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    traces = [
        StepTrace(
            index=i,
            inputs={"visual": rng.random((1, 2)).astype(np.float32)} if i else {},
            features={"visual": rng.random((1, 4, 2)).astype(np.float32)},
            present=np.array([[True, False, i > 0, True]]),
            n_used=4 * (i % 2),
            raw={"valence": np.float32(0.25 * i)} if i % 2 else {},  # type: ignore[dict-item]
            is_real=bool(i),
        )
        for i in range(3)
    ]
    session = LabelledSession("anna/1", traces, {"valence": np.array([0, np.nan, 1], np.float32)})
    kept = Kept(tmp_path / "work", "key")
    kept.session("s", Made(session))
    again = kept.session("s", Made(None))
    assert again.person == "anna/1"
    np.testing.assert_array_equal(again.labels["valence"], session.labels["valence"])
    for one, other in zip(again.traces, traces, strict=True):
        assert (one.index, one.n_used, one.is_real) == (other.index, other.n_used, other.is_real)
        for found, expected in (
            (one.inputs, other.inputs),
            (one.features, other.features),
            (one.raw, other.raw),
        ):
            assert list(found) == list(expected)
            for name in found:
                np.testing.assert_array_equal(found[name], expected[name])
        np.testing.assert_array_equal(one.present, other.present)


def test_histograms_come_back_as_they_were(tmp_path: Path) -> None:
    one = Histogram(
        counts=np.array([1, 2], np.int64),
        edges=np.array([0, 1, 2], np.float32),
        low=0.5,
        high=1.5,
        peaks=np.array([1.5], np.float32),
        means=np.array([0.5], np.float32),
    )
    kept = Kept(tmp_path / "work", "key")
    kept.histograms("s", Made({"stem/Conv_0": one}))
    again = kept.histograms("s", Made(None))["stem/Conv_0"]
    assert (again.low, again.high) == (0.5, 1.5)
    assert again.counts.tolist() == [1, 2]
    assert again.edges.dtype == np.float32


def test_in_the_end_nothing_is_left(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "work", "key")
    kept.numbers("one", Made(1))
    kept.finish()
    assert not list(tmp_path.iterdir())


def test_parts_that_depend_on_other_windows_are_others(tmp_path: Path) -> None:
    made = Made(1)
    kept = Kept(tmp_path / "work", "key")
    for windows in ("a", "b", "a"):
        kept.of(windows).numbers("one", made)
    assert made.n == 2

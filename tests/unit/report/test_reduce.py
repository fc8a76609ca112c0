"""Reducing a long session: nothing is lost that a mean would hide, and nothing is bridged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mer.report.read import Records, read_records
from edge_mer.report.reduce import into_columns, runs
from tests.helpers.predictions import STEP_NS, record, withheld, write_records

STEP_S = STEP_NS / 1e9


def read(folder: Path, records: Any) -> Records:
    return read_records(write_records(folder / "out.jsonl", records))


def test_few_predictions_are_their_own_columns(tmp_path: Path) -> None:
    columns = into_columns(read(tmp_path, [record(0, 0.1), withheld(1), record(2, 0.3)]))
    assert columns.width_s == 0.0
    np.testing.assert_allclose(columns.t_s, [STEP_S, 2 * STEP_S, 3 * STEP_S])
    np.testing.assert_allclose(columns.left_s, [0.0, STEP_S, 2 * STEP_S], atol=1e-9)
    assert columns.is_estimated.tolist() == [True, False, True]
    assert columns.is_joined.tolist() == [True, True]


def test_a_hole_in_time_is_not_joined(tmp_path: Path) -> None:
    columns = into_columns(read(tmp_path, [record(i) for i in (0, 1, 2, 5, 6)]))
    assert columns.is_joined.tolist() == [True, True, False, True]


def test_envelopes_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    n, n_columns = 1000, 37
    rng = np.random.default_rng(5)
    values = rng.uniform(-1, 1, n)
    gone = rng.random(n) < 0.3
    lines = [withheld(i) if gone[i] else record(i, float(values[i])) for i in range(n)]
    records = read(tmp_path, lines)
    columns = into_columns(records, n_columns)
    buckets: dict[int, list[int]] = {}
    for i in range(n):
        buckets.setdefault(min(((i + 1) * STEP_NS) * n_columns // (n * STEP_NS), n_columns - 1), []).append(i)
    assert len(columns) == n_columns == len(buckets)
    valence = records.values["valence"]
    low, high, mean = columns.low(valence), columns.high(valence), columns.mean(valence)
    for column, members in enumerate(buckets.values()):
        known = [values[i] for i in members if not gone[i]]
        assert low[column] == pytest.approx(min(known), abs=1e-6)
        assert high[column] == pytest.approx(max(known), abs=1e-6)
        assert mean[column] == pytest.approx(sum(known) / len(known), abs=1e-6)
        part = sum(gone[i] for i in members) / len(members)
        assert columns.shares["withheld"][column] == pytest.approx(part)
        assert columns.is_estimated[column] == (part <= 0.5)
    assert columns.is_joined.all()


def test_one_peak_in_a_long_session_survives(tmp_path: Path) -> None:
    records = read(tmp_path, [record(i, 0.9 if i == 1234 else 0.0) for i in range(4000)])
    columns = into_columns(records)
    assert len(columns) == 800
    assert columns.high(records.values["valence"]).max() == pytest.approx(0.9)
    assert columns.mean(records.values["valence"]).max() < 0.3


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_runs_are_what_a_loop_finds(flags: list[bool], random: Any) -> None:
    joined = [random.random() < 0.7 for _ in flags[1:]]
    expected: list[tuple[int, int]] = []
    for i, flag in enumerate(flags):
        if not flag:
            continue
        if expected and expected[-1][1] == i - 1 and joined[i - 1]:
            expected[-1] = (expected[-1][0], i)
        else:
            expected.append((i, i))
    assert runs(np.array(flags), np.array(joined, bool)) == expected

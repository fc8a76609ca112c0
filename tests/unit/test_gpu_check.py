"""What `make gpu-check` concludes from what it measured; `tests/cuda/test_gpu_check.py` runs it."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import checks, install, table, timing
from benchmarks.gpu.table import Goal, Row


def of(median_ms: float) -> timing.Time:
    return timing.Time(median_ms, median_ms / 2, median_ms * 2)


@pytest.mark.parametrize(
    ("ours_ms", "copy_ms", "verdict", "shown"),
    [
        (10.0, 7.0, "pass", "70 %"),
        (10.0, 6.9, "FAIL", "69 %"),
        (5.0, 7.0, "pass", "140 %"),
        (0.0, 1.0, "FAIL", "nan"),
    ],
)
def test_a_kernel_is_judged_by_the_fraction_of_a_copys_speed(
    ours_ms: float, copy_ms: float, verdict: str, shown: str
) -> None:
    row = table.compared("crops", "rgb", of(ours_ms), of(copy_ms), "copy", Goal(0.7, "%"), unit="%")
    assert row.verdict() == verdict
    assert shown in row.found
    assert row.cells()[3] == "at least 70 %"


@pytest.mark.parametrize(("other_ms", "verdict"), [(50.0, "pass"), (49.9, "FAIL")])
def test_a_kernel_is_judged_by_how_many_times_as_fast_it_is(other_ms: float, verdict: str) -> None:
    row = table.compared("log-mel", "batch 1", of(10.0), of(other_ms), "stft", Goal(5.0, " times as fast"))
    assert row.verdict() == verdict
    assert "10 ms, stft " in row.found


@pytest.mark.parametrize(
    ("theirs", "verdict"), [([1.0, 2.001], "pass"), ([1.0, 2.01], "FAIL"), ([1.0, math.nan], "FAIL")]
)
def test_outputs_must_agree(theirs: list[float], verdict: str) -> None:
    row = table.parity("crops", "against", theirs, [1.0, 2.0], Goal(2e-3, is_most=True))
    assert row.verdict() == verdict


def test_what_was_not_run_says_why_and_fails_nothing() -> None:
    rows = [
        table.not_run("end to end", "PyTorch", "there is no PyTorch"),
        Row("crops", "an empty launch", "3 us"),
    ]
    assert [row.verdict() for row in rows] == ["not run", "-"]
    assert table.failed(rows) == []
    assert "not run: there is no PyTorch" in table.plain(rows)
    assert "| not run: there is no PyTorch | - | not run |" in table.markdown(rows)


def test_the_table_has_a_line_per_row_and_names_what_failed() -> None:
    rows = [
        table.parity("a", "one", [1.0], [1.0], Goal(0.1, is_most=True)),
        table.parity("a", "two", [1.0], [2.0], Goal(0.1, is_most=True)),
    ]
    assert [row.measured for row in table.failed(rows)] == ["two"]
    lines = table.plain(rows).splitlines()
    assert len(lines) == 3
    assert lines[1].endswith("pass")
    assert lines[2].endswith("FAIL")
    assert rows[1].as_dict()["figure"] == 1.0


def test_ways_are_timed_in_turn_and_medians_compared() -> None:
    order: list[str] = []
    found = {"a": iter([9.0, 1.0, 5.0, 2.0]), "b": iter([9.0, 4.0, 4.0, 40.0])}

    def way(name: str) -> timing.Measure:
        def measure() -> float:
            order.append(name)
            return next(found[name])

        return measure

    times = timing.in_turn({name: way(name) for name in found}, timing.Plan(warm_up_s=0.0, n_rounds=3))
    assert order == ["a", "b"] * 4  # the first is warming up
    assert times == {"a": timing.Time(2.0, 1.0, 5.0), "b": timing.Time(4.0, 4.0, 40.0)}


WELL = "\n========= COMPUTE-SANITIZER\n243 passed, 20 skipped in 61.20s (0:01:01)\n"
SUMMARY = r"^=+ (\w+ SUMMARY: .*)$"


@pytest.mark.parametrize(
    ("code", "said", "summary", "verdict"),
    [
        (0, WELL, "", "pass"),
        (0, f"{WELL}========= ERROR SUMMARY: 0 errors\n", SUMMARY, "pass"),
        (checks.FOUND, f"{WELL}========= ERROR SUMMARY: 3 errors\n", SUMMARY, "FAIL"),
        (0, WELL, SUMMARY, "FAIL"),  # it did not look
        (1, "1 failed, 242 passed in 3.00s\n", "", "FAIL"),
        (0, "243 skipped in 0.30s\n", "", "FAIL"),
        (None, "", "", "not run"),
    ],
)
def test_tests_are_judged_by_how_they_ended(code: int | None, said: str, summary: str, verdict: str) -> None:
    row = checks.judged("tests", checks.Ended(code, said, 3.0), 60.0, summary)
    assert row.verdict() == verdict


def test_what_takes_too_long_is_ended_with_all_that_it_started() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    ended = checks.run([sys.executable, "-c", code], 0.5)
    assert ended.code is None
    assert ended.took_s < 10.0


def test_the_toolkit_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_ROOT", str(tmp_path))
    assert install.find_toolkit() != tmp_path  # there is nothing in it
    for file in ("bin/nvcc", "include/cuda.h"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    assert install.find_toolkit() == tmp_path


def test_without_a_toolkit_or_a_driver_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "find_driver", lambda: None)
    monkeypatch.setattr(install, "find_toolkit", lambda: Path("/nowhere"))
    assert install.main() == 5
    assert "there is no GPU here" in capsys.readouterr().err
    monkeypatch.setattr(install, "find_toolkit", lambda: None)
    assert install.main() == 5
    assert "there is no nvcc" in capsys.readouterr().err

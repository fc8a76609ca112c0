"""Problems are told all at once, merged, in order, and never without end."""

from __future__ import annotations

import pytest

from edge_mer.errors import DataError
from edge_mer.labels.problems import MAX_LINES, Problem, demand, summary


def refused(problems: list[Problem]) -> str:
    with pytest.raises(DataError) as caught:
        demand(problems, "manifest people.csv")
    return str(caught.value)


def test_what_is_not_fatal_is_no_error_but_a_warning() -> None:
    problems = [
        Problem.at_lines("a.csv", [3, 4, 5, 6, 7, 8, 9], "valence: empty or NaN", is_fatal=False),
        Problem("b.csv", None, "odd", is_fatal=False),
    ]
    demand(problems, "x")
    demand([], "x")
    assert summary([]) == ""
    assert summary([*problems, Problem("c.csv", 1, "broken")]).splitlines() == [
        "  a.csv",
        "    - lines 3, 4, 5, 6, 7, ...: valence: empty or NaN (7 times)",
        "  b.csv",
        "    - odd",
    ]


def test_everything_is_told_by_file_and_the_worst_first() -> None:
    text = refused(
        [
            Problem("a.csv", 2, "out of range", 9, is_fatal=False),
            Problem("b.csv", 4, "valence: odd", is_fatal=False),
            Problem("b.csv", 7, "no number", hint="mend it"),
            Problem("b.csv", 8, "no number", hint="mend it"),
        ]
    )
    head, *lines = text.splitlines()
    assert head.startswith("manifest people.csv cannot be used: 3 problems in 2 places. Next: mend what is")
    assert lines == [
        "  b.csv",
        "    ! lines 7, 8: no number (2 times); mend it",
        "    - line 4: valence: odd",
        "  a.csv",
        "    - line 2, ...: out of range (9 times).",
    ]


@pytest.mark.parametrize("per_file", [1, 7, 500])
def test_long_lists_end(per_file: int) -> None:
    n = 1_000
    problems = [Problem(f"{i // per_file}.csv", i + 1, f"kind {i}") for i in range(n)]
    problems.insert(0, Problem("fine.csv", 1, "empty", is_fatal=False))
    lines = refused(problems).splitlines()[1:]
    assert len(lines) <= MAX_LINES
    n_told = sum(line.startswith("    !") for line in lines)
    assert n_told > 20
    assert lines[-1] == f"  and {n + 1 - n_told} more."
    assert "fine.csv" not in "".join(lines)


def test_texts_stay_on_their_line() -> None:
    lines = refused([Problem("a\nb.csv", 1, "x" * 5_000 + "\ny")]).splitlines()
    assert len(lines) == 3
    assert lines[1] == "  a b.csv"
    assert len(lines[2]) < 500

"""Problems of labels and manifests: collected first, then told all at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from edge_mer.errors import DataError

MAX_LINES = 60
"""Longer lists end with the number of what was left out."""

_MAX_NUMBERS = 5
_MAX_TEXT_CHARS = 400


@dataclass(frozen=True)
class Problem:
    """Something wrong with a manifest, a label file or a recording.

    Attributes:
        path: The file it is in, or the URI of a source.
        line: The first line it is in, from 1; None where it is in no one line.
        what: What was found and what was expected; with `count`, what each of them is.
        count: How often.
        is_fatal: Nothing may be computed from these labels; otherwise they are only left out.
        more_lines: The lines behind the first, as far as they are told.
        hint: What to do about it.
    """

    path: str
    line: int | None
    what: str
    count: int = 1
    is_fatal: bool = True
    more_lines: tuple[int, ...] = ()
    hint: str = ""

    @classmethod
    def at_lines(
        cls, path: str, lines: Sequence[int], what: str, *, is_fatal: bool, hint: str = ""
    ) -> Problem:
        """One problem that occurs in all of `lines`, which are not empty."""
        return cls(path, lines[0], what, len(lines), is_fatal, tuple(lines[1:_MAX_NUMBERS]), hint)


def demand(problems: Iterable[Problem], what: str) -> None:
    """Refuse if any problem is fatal.

    Args:
        problems: All that were found.
        what: What cannot be used because of them, e.g. "manifest people.csv".

    Raises:
        DataError: One message with every problem, those that are fatal first, by file.
    """
    found = list(problems)
    n_fatal = sum(problem.is_fatal for problem in found)
    if not n_fatal:
        return
    places = _counted(len({problem.path for problem in found}), "place")
    raise DataError(
        f"{what} cannot be used: {_counted(len(_merged(found)), 'problem')} in {places}",
        hint="mend what is marked with !; what is marked with - would only be left out:\n"
        + "\n".join(_listed(found)),
    )


def summary(problems: Iterable[Problem]) -> str:
    """The problems that are not fatal, by file, as a warning has them; "" where there are none."""
    return "\n".join(_listed([problem for problem in problems if not problem.is_fatal]))


def _listed(problems: Sequence[Problem]) -> list[str]:
    """Lines of text, at most `MAX_LINES`; what is fatal comes first."""
    by_path: dict[str, list[Problem]] = {}
    for problem in _merged(problems):
        by_path.setdefault(problem.path, []).append(problem)
    groups = sorted(by_path.values(), key=lambda group: not any(problem.is_fatal for problem in group))
    lines: list[str] = []
    n_told = 0
    for group in groups:
        if len(lines) + 2 > MAX_LINES - 1:
            break
        lines.append(f"  {_one_line(group[0].path)}")
        told = sorted(group, key=lambda problem: not problem.is_fatal)[: MAX_LINES - 1 - len(lines)]
        lines += [f"    {_told(problem)}" for problem in told]
        n_told += len(told)
    n_left = sum(map(len, groups)) - n_told
    return [*lines, f"  and {n_left} more"] if n_left else lines


def _merged(problems: Sequence[Problem]) -> list[Problem]:
    """The same thing found several times in one file as one problem."""
    merged: dict[tuple[str, str, bool, str], Problem] = {}
    for problem in problems:
        key = (problem.path, problem.what, problem.is_fatal, problem.hint)
        if key not in merged:
            merged[key] = problem
            continue
        first = merged[key]
        numbers = [*_numbers(first), *_numbers(problem)][:_MAX_NUMBERS]
        merged[key] = replace(
            first,
            line=numbers[0] if numbers else None,
            more_lines=tuple(numbers[1:]),
            count=first.count + problem.count,
        )
    return list(merged.values())


def _numbers(problem: Problem) -> tuple[int, ...]:
    return () if problem.line is None else (problem.line, *problem.more_lines)


def _told(problem: Problem) -> str:
    numbers = _numbers(problem)
    where = ""
    if numbers:
        more = ", ..." if problem.count > len(numbers) else ""
        where = f"{'lines' if len(numbers) > 1 else 'line'} {', '.join(map(str, numbers))}{more}: "
    times = f" ({problem.count} times)" if problem.count > 1 else ""
    hint = f"; {problem.hint}" if problem.hint else ""
    return _one_line(f"{'!' if problem.is_fatal else '-'} {where}{problem.what}{times}{hint}")


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_TEXT_CHARS else text[: _MAX_TEXT_CHARS - 3] + "..."


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"

"""What was found, as rows, with what each must reach; and the table of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.gpu.timing import Time

TITLES = ("part", "measured", "found", "goal", "verdict")


@dataclass(frozen=True)
class Goal:
    """A bound for one figure.

    Attributes:
        bound: The figure must reach it, or stay within it.
        unit: "%" of a fraction; else what stands behind the number.
        is_most: It must stay within it.
    """

    bound: float
    unit: str = ""
    is_most: bool = False

    def words(self) -> str:
        """E.g. "at least 70 %"."""
        return f"{'at most' if self.is_most else 'at least'} {shown(self.bound, self.unit)}"

    def is_met(self, figure: float) -> bool:
        """What is not a number is not met."""
        return figure <= self.bound if self.is_most else figure >= self.bound


def shown(figure: float, unit: str) -> str:
    """A figure with its unit."""
    if unit == "%":
        return f"{100 * figure:.0f} %"
    return f"{figure:.3g}{unit}"


@dataclass(frozen=True)
class Row:
    """One thing that was measured, or could not be.

    Attributes:
        part: What is looked at, e.g. "face crops".
        measured: What was held against what.
        found: In words and figures.
        figure: What the goal is about; None where there is none.
        goal: None: it is only told.
        why_not: Why it was not run.
        data: For JSON.
    """

    part: str
    measured: str
    found: str = ""
    figure: float | None = None
    goal: Goal | None = None
    why_not: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    def verdict(self) -> str:
        """Pass, FAIL, not run, or nothing where there is no goal."""
        if self.why_not:
            return "not run"
        if self.goal is None:
            return "-"
        return "pass" if self.goal.is_met(math.nan if self.figure is None else self.figure) else "FAIL"

    def cells(self) -> tuple[str, ...]:
        """In the order of `TITLES`."""
        goal = self.goal.words() if self.goal and not self.why_not else "-"
        found = f"not run: {self.why_not}" if self.why_not else self.found
        return self.part, self.measured, found, goal, self.verdict()

    def with_more(self, found: str, **data: Any) -> Row:
        """The same with more to tell."""
        return replace(self, found=self.found + found, data={**self.data, **data})

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        figure = None if self.figure is None or not math.isfinite(self.figure) else self.figure
        return {**dict(zip(TITLES, self.cells(), strict=True)), "figure": figure, **self.data}


def not_run(part: str, measured: str, why: str) -> Row:
    """What could not be measured here."""
    return Row(part, measured, why_not=why)


def compared(
    part: str,
    measured: str,
    ours: Time,
    other: Time,
    name: str,
    goal: Goal | None = None,
    unit: str = " times as fast",
) -> Row:
    """Our time against another's; the figure is how many times as fast ours is.

    Args:
        part: What is looked at.
        measured: What was held against what.
        ours: Of ours.
        other: Of the other.
        name: What the other is called in the table.
        goal: For other / ours.
        unit: How the figure is shown.
    """
    figure = other.median_ms / ours.median_ms if ours.median_ms > 0 else math.nan
    found = f"{duration(ours.median_ms)}, {name} {duration(other.median_ms)}: {shown(figure, unit)}"
    return Row(
        part, measured, found, figure, goal, data={"ours_ms": ours.as_dict(), "other_ms": other.as_dict()}
    )


def parity(part: str, measured: str, theirs: ArrayLike, ours: ArrayLike, goal: Goal) -> Row:
    """The largest difference of two outputs."""
    far = float(np.abs(np.asarray(theirs, np.float64) - np.asarray(ours, np.float64)).max())
    return Row(part, measured, f"differ by at most {far:.2g}", far, goal)


def duration(ms: float) -> str:
    """With a unit that suits it."""
    if ms < 0.1:
        return f"{1000 * ms:.3g} us"
    return f"{ms:.3g} ms" if ms < 1000 else f"{ms / 1000:.3g} s"


def speed(n_bytes: float, ms: float) -> str:
    """Bytes read and written in a time."""
    return f"{n_bytes / ms / 1e6:.0f} GB/s" if ms > 0 else "-"


def failed(rows: Sequence[Row]) -> list[Row]:
    """Those whose goal was missed."""
    return [row for row in rows if row.verdict() == "FAIL"]


def plain(rows: Sequence[Row]) -> str:
    """For a terminal."""
    cells = [TITLES, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(TITLES))]
    return "\n".join(
        "  ".join(c.ljust(n) for c, n in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def markdown(rows: Sequence[Row]) -> str:
    """For a page."""
    lines = [TITLES, ["---"] * len(TITLES), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

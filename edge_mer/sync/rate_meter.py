"""What a stream delivers per second."""

from __future__ import annotations

from collections import deque

from edge_mer.clock import NS_PER_S

SPAN_NS = 10 * NS_PER_S
"""So far back it is counted."""

_CELL_NS = NS_PER_S // 10


class RateMeter:
    """Counts frames or samples over the last seconds."""

    def __init__(self) -> None:
        self._cells: deque[tuple[int, int]] = deque()  # since when, how many

    def push(self, t_ns: int, n: int) -> None:
        """Take a chunk of `n`, the first of which was captured at `t_ns`."""
        cells = self._cells
        if cells and t_ns - cells[-1][0] < _CELL_NS:
            cells[-1] = cells[-1][0], cells[-1][1] + n
        else:
            cells.append((t_ns, n))
        while t_ns - cells[0][0] > SPAN_NS:
            cells.popleft()

    @property
    def rate_hz(self) -> float | None:
        """Per second; None before it can be told."""
        if len(self._cells) < 2:
            return None
        n = sum(n for _, n in self._cells) - self._cells[-1][1]
        return n * NS_PER_S / (self._cells[-1][0] - self._cells[0][0])

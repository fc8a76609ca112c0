"""A straight line through integers of any size, by recursive least squares that forget."""

from __future__ import annotations


class RecursiveLine:
    """y = a + slope * x, from points that come one after the other.

    Everything is counted from the newest point, so that no digits are lost far from zero.

    Args:
        half_life: A point that lies so far back in x counts half.
        slope_deviation: Until points say otherwise, the slope is 0 within about so much.
    """

    def __init__(self, half_life: int, slope_deviation: float) -> None:
        self._half_life = half_life
        self._prior_slope = 0.0
        self._prior = slope_deviation**-2
        self._x = self._y = 0
        # Weighted sums over all points, in coordinates whose origin is the newest one.
        self._w = self._wx = self._wy = self._wxx = self._wxy = 0.0

    def push(self, x: int, y: int, deviation: float) -> None:
        """Take a point, whose y is off by about `deviation` > 0."""
        self._move_origin(x, y)
        self._w += deviation**-2

    def restart(self, slope_deviation: float) -> None:
        """Forget where the line lay; keep its slope, now known within `slope_deviation` at best."""
        known = self._prior + self._spread
        self._prior_slope, self._prior = self.slope, min(known, slope_deviation**-2)
        self._w = self._wx = self._wy = self._wxx = self._wxy = 0.0

    def at(self, x: int) -> int:
        """The line's y at `x`."""
        slope = self.slope
        level = (self._wy - slope * self._wx) / self._w if self._w else 0.0
        return self._y + round(level + slope * (x - self._x))

    @property
    def slope(self) -> float:
        """How much y grows with x."""
        if not self._w:
            return self._prior_slope
        found = self._wxy - self._wx * self._wy / self._w
        return (found + self._prior_slope * self._prior) / (self._spread + self._prior)

    @property
    def _spread(self) -> float:
        return max(0.0, self._wxx - self._wx * self._wx / self._w) if self._w else 0.0

    def _move_origin(self, x: int, y: int) -> None:
        dx, dy = x - self._x, y - self._y
        self._x, self._y = x, y
        if not self._w:
            return
        kept = 0.5 ** min(1e3, max(0, dx) / self._half_life)
        w, wx, wy = kept * self._w, kept * self._wx, kept * self._wy
        self._wxx = kept * self._wxx - 2.0 * dx * wx + dx * (dx * w)
        self._wxy = kept * self._wxy - dx * wy - dy * wx + dx * (dy * w)
        self._w, self._wx, self._wy = w, wx - dx * w, wy - dy * w

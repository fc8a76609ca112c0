"""Chooses the frames of a step by nearest capture time, and keeps no others."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mer.types.model import Clip, Encoder, line_ns, to_ns

_N_RECENT = 64


@dataclass(frozen=True)
class Frame:
    """A camera frame; `pixels` (height, width, 3) uint8 RGB."""

    t_ns: int
    pixels: NDArray[np.uint8]


class FrameSelector:
    """The frame nearest to each nominal time of a clip, whatever the camera's rate.

    Frames may come in any order. Holds at most the frames of the steps not yet taken. `n_late` counts frames
    that came after their step was taken, `n_duplicate` those that came twice.

    Args:
        encoder: Declares span, offset and the clip's frame times.
        spec: Its clip.
    """

    def __init__(self, encoder: Encoder, spec: Clip) -> None:
        self._n_frames = spec.n_frames
        # One more, since nominal and capture times are rounded to a nanosecond each.
        self._tolerance_ns = to_ns(spec.frame_tolerance) + 1
        newest = encoder.period + encoder.offset - spec.last_frame_before_end
        self._nominal_ns = [
            line_ns(encoder.period, newest - spec.frame_interval * age)
            for age in range(spec.n_frames - 1, -1, -1)
        ]
        self._period_ns = max(1, to_ns(encoder.period))
        self._before_end_ns = to_ns(spec.last_frame_before_end) - to_ns(encoder.offset)
        self._next_step = 0
        self._taken_until_ns = -1
        self._chosen: dict[int, list[Frame | None]] = {}
        self._n_settled = 0
        self._recent_ns: deque[int] = deque(maxlen=_N_RECENT)
        self.watermark_ns: int | None = None
        self.n_late = 0
        self.n_duplicate = 0

    def nominal_ns(self, step: int) -> list[int]:
        """Nominal times of the frames of `step`, oldest first."""
        return [nominal_ns(step) for nominal_ns in self._nominal_ns]

    def push(self, t_ns: int, pixels: NDArray[np.uint8]) -> None:
        """Take a frame; one that was captured just when a recent one was is the same again."""
        if self.watermark_ns is None or t_ns > self.watermark_ns:
            self.watermark_ns = t_ns
        elif t_ns in self._recent_ns:
            self.n_duplicate += 1
            return
        self._recent_ns.append(t_ns)
        wanted, frame = False, Frame(t_ns, pixels)
        for step in self._steps_near(t_ns):
            for index, nominal_ns in enumerate(self.nominal_ns(step)):
                if abs(t_ns - nominal_ns) <= self._tolerance_ns:
                    wanted |= self._offer(step, index, nominal_ns, frame)
        if not wanted and t_ns <= self._taken_until_ns:
            self.n_late += 1

    def _offer(self, step: int, index: int, nominal_ns: int, frame: Frame) -> bool:
        chosen = self._chosen.setdefault(step, [None] * self._n_frames)
        held = chosen[index]
        if held is None or abs(frame.t_ns - nominal_ns) < abs(held.t_ns - nominal_ns):
            chosen[index] = frame
            return True
        return False

    def _steps_near(self, t_ns: int) -> Iterator[int]:
        """The steps, not yet taken, whose clip may hold a frame of time `t_ns`."""
        first_ns, last_ns = self._nominal_ns[0], self._nominal_ns[-1]
        step = max(self._next_step, (t_ns + self._before_end_ns - self._tolerance_ns) // self._period_ns - 2)
        while last_ns(step) < t_ns - self._tolerance_ns:
            step += 1
        while first_ns(step) <= t_ns + self._tolerance_ns:
            yield step
            step += 1

    def is_complete(self, step: int) -> bool:
        """True once no later frame can be nearer to any nominal time of `step`."""
        return self._is_past(self._nominal_ns[-1](step))

    def settled(self) -> list[Frame]:
        """Frames of the next step that none in order will replace, oldest first; each is told once."""
        chosen, found = self._chosen.get(self._next_step, []), list[Frame]()
        while self._n_settled < len(chosen) and self._is_past(
            self._nominal_ns[self._n_settled](self._next_step)
        ):
            frame = chosen[self._n_settled]
            self._n_settled += 1
            if frame is not None:
                found.append(frame)
        return found

    def _is_past(self, t_ns: int) -> bool:
        return self.watermark_ns is not None and self.watermark_ns >= t_ns

    def take(self, step: int) -> list[Frame | None]:
        """The frames of `step`, None where missing; afterwards they are forgotten."""
        frames = self._chosen.pop(step, [None] * self._n_frames)
        self._next_step, self._n_settled = step + 1, 0
        self._taken_until_ns = self._nominal_ns[-1](step)
        for old in [s for s in self._chosen if s <= step]:
            del self._chosen[old]
        return frames

    def skew_ns(self, step: int, frames: list[Frame | None]) -> int:
        """Mean distance of the frames of `step` from their nominal times; 0 when there are none."""
        pairs = zip(frames, self.nominal_ns(step), strict=True)
        distances = [frame.t_ns - nominal_ns for frame, nominal_ns in pairs if frame is not None]
        return sum(distances) // len(distances) if distances else 0

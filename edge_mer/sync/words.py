"""The vectors of spoken words, each in the steps at which its word was being said."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mer.types.model import Encoder, to_ns

Vector = NDArray[np.float32]

MAX_HELD_WORDS = 10_000
"""So many words wait for their steps, of some hours of talk; then the oldest go."""


@dataclass(frozen=True)
class Said:
    """What was being said in one step.

    Attributes:
        vector: (feature,) of the word; None between words.
        newest_ns: When the last word known so far ended; None before the first.
        note: What was noted of the word.
    """

    vector: Vector | None
    newest_ns: int | None
    note: object = None


@dataclass(frozen=True)
class _Word:
    start_ns: int
    end_ns: int
    vector: Vector | None
    note: object


class WordTrack:
    """Words by the time at which they were said.

    `n_late` counts words that came after a step of theirs was taken, and those that were let go because
    too many waited.

    Args:
        encoder: Declares the steps, and how long after a step's end a word may still come.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._words: deque[_Word] = deque()
        self._taken_ns = -1
        self.watermark_ns: int | None = None
        self.n_late = 0

    def push(self, start_ns: int, end_ns: int, vector: Vector | None, note: object = None) -> None:
        """Take a word.

        Args:
            start_ns: When it began.
            end_ns: When it ended.
            vector: (feature,); None: nobody could encode it.
            note: Comes back with it.
        """
        if start_ns < self._taken_ns <= end_ns or end_ns <= self._taken_ns:
            self.n_late += 1
        self.watermark_ns = max(end_ns, self.watermark_ns or 0)
        if end_ns > self._taken_ns:
            self._words.append(_Word(start_ns, end_ns, vector, note))
        if len(self._words) > MAX_HELD_WORDS:
            self._words.popleft()
            self.n_late += 1

    def is_complete(self, step: int, session_ns: int) -> bool:
        """True once no word of `step` is expected any more.

        Args:
            step: The step.
            session_ns: How far the session's other streams have come.
        """
        if self.watermark_ns is not None and self.watermark_ns >= self._start_ns(step):
            return True
        return session_ns >= to_ns(self._encoder.period * (step + 1) + self._encoder.offset)

    def take(self, step: int) -> Said:
        """What was being said at the start of `step`; earlier words are forgotten.

        Of two words at one time the one that came first counts.
        """
        self._taken_ns = self._start_ns(step)
        self._words = deque(word for word in self._words if word.end_ns >= self._taken_ns)
        said = next((word for word in self._words if word.start_ns < self._taken_ns), None)
        if said is None:
            return Said(None, self.watermark_ns)
        return Said(said.vector, self.watermark_ns, said.note)

    def _start_ns(self, step: int) -> int:
        return to_ns(self._encoder.period * step)

"""The features of the last L steps of one modality, and what each slot holds."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Slot = Literal["empty", "present", "filled", "absent", "cleared"]
"""empty: before the session; present: encoded; filled: by a policy; absent: nothing to encode;
cleared: of another person."""


class FeatureRing:
    """The newest slot is the last one.

    Args:
        buffer: (1, L, feature) float32, the fusion engine's own input: the ring lives in it.
    """

    def __init__(self, buffer: NDArray[np.float32]) -> None:
        self.buffer = buffer
        self.slots: list[Slot] = ["empty"] * buffer.shape[1]
        self._held: tuple[NDArray[np.float32], int] | None = None

    def push(self, feature: NDArray[np.float32] | None, slot: Slot) -> None:
        """Append one step; `feature` (feature,) or None for zeros."""
        self.buffer[0, :-1] = self.buffer[0, 1:]
        self.buffer[0, -1] = 0.0 if feature is None else feature
        self.slots = [*self.slots[1:], slot]
        if slot == "present" and feature is not None:
            self._held = (feature.copy(), 0)
        elif self._held is not None:
            self._held = (self._held[0], self._held[1] + 1)

    def held(self, max_age_steps: int) -> NDArray[np.float32] | None:
        """The last encoded feature if the step to come is at most `max_age_steps` after it."""
        if self._held is None or self._held[1] + 1 > max_age_steps:
            return None
        return self._held[0]

    def clear(self) -> None:
        """Forget everything held: it belongs to another person."""
        self.buffer[...] = 0.0
        self.slots = ["empty" if slot == "empty" else "cleared" for slot in self.slots]
        self._held = None

    @property
    def present(self) -> list[bool]:
        """Per step: holds an encoded feature of this person."""
        return [slot in ("present", "filled") for slot in self.slots]

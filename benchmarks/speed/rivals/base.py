"""What all rivals have in common, and the two ways to use encoders that stand alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np

from benchmarks.speed.steps import Array, Steps, is_encoded
from edge_mer.engine.base import Engine
from edge_mer.types.model import Encoder, ModelSpec

Values = dict[str, Array]
"""Output -> the raw numbers of a window's last step, (*value_shape)."""

Executed = dict[str, int]
"""What products were really computed in -> how many layers."""

UNKNOWN: Executed = {}


class Rival(ABC):
    """A way to a prediction, loaded and ready.

    Attributes:
        is_streaming: It remembers the features of a window, so that warming up takes longer.
    """

    is_streaming = False

    @abstractmethod
    def warm_up(self, windows: Sequence[int]) -> None:
        """Do everything that is done once only, before any of these windows is asked for."""

    @abstractmethod
    def predict(self, window: int) -> Values:
        """From the step tensors of a window to its outputs."""

    def executed(self) -> Executed:
        """What its engine says of itself; empty where it says nothing."""
        return UNKNOWN


class Stages(Rival):
    """Encoders and fusion that stand alone.

    Args:
        spec: The model's declaration.
        engines: One per stage.
        steps: What it looks at.
        ask: What its engines compute in.
    """

    def __init__(
        self,
        spec: ModelSpec,
        engines: Mapping[str, Engine],
        steps: Steps,
        ask: Callable[[], Executed] = lambda: UNKNOWN,
    ) -> None:
        self._spec, self._engines, self._steps, self._ask = spec, engines, steps, ask
        self._fusion = engines[spec.fusion.stage]
        pairs = zip(spec.encoders, spec.fusion.inputs, strict=False)
        self._windows = {encoder.stage: self._fusion.inputs[tensor.name] for encoder, tensor in pairs}
        if spec.fusion.has_present_input:
            self._fusion.inputs[spec.fusion.inputs[-1].name][...] = True

    def executed(self) -> Executed:
        """As its engines say."""
        return self._ask()

    def _encode(self, encoder: Encoder, piece: Array) -> Array:
        """One piece (…) -> its feature (feature,)."""
        if not is_encoded(encoder):
            return piece
        engine = self._engines[encoder.stage]
        engine.inputs[encoder.input.name][0] = piece
        feature: Array = engine.infer()[encoder.output.name][0]
        return feature

    def _fuse(self) -> Values:
        found = self._fusion.infer()
        names = zip(self._spec.outputs, self._spec.fusion.outputs, strict=True)
        return {output.name: tensor.step_of(found[tensor.name][0], -1) for output, tensor in names}

    def _features(self, encoder: Encoder, pieces: Array) -> Array:
        """(n, …) -> (n, feature), piece by piece."""
        return np.stack([self._encode(encoder, piece) for piece in pieces])


class SlidingWindow(Stages):
    """Every prediction encodes its whole window anew."""

    def warm_up(self, windows: Sequence[int]) -> None:
        """One clip of each encoder, and the fusion: the whole window would be the same again and again."""
        for encoder in self._spec.encoders:
            self._encode(encoder, self._steps.pieces(self._spec, encoder, windows[0])[-1])
        self._fuse()

    def predict(self, window: int) -> Values:
        """All L steps through the encoders, then the fusion."""
        for encoder in self._spec.encoders:
            found = self._features(encoder, self._steps.pieces(self._spec, encoder, window))
            self._windows[encoder.stage][0] = found.repeat(encoder.repeat, axis=0)
        return self._fuse()


class EachStepOnce(Stages):
    """Features are kept; a prediction encodes the steps of its hop."""

    is_streaming = True

    @cached_property
    def _kept(self) -> dict[str, Array]:
        """Stage -> (people, pieces, feature)."""
        held = {encoder: self._steps.tensors[encoder.stage].shape[:2] for encoder in self._spec.encoders}
        return {one.stage: np.zeros((*shape, one.feature), np.float32) for one, shape in held.items()}

    def warm_up(self, windows: Sequence[int]) -> None:
        """Encode all that these windows show, as if they had been seen step by step."""
        for encoder in self._spec.encoders:
            pieces, kept = self._steps.tensors[encoder.stage], self._kept[encoder.stage]
            shown = [self._steps.places(self._spec, encoder, window) for window in windows]
            for person, number in sorted({(who, int(one)) for who, numbers in shown for one in numbers}):
                kept[person, number] = self._encode(encoder, pieces[person, number])
        self._fuse()

    def predict(self, window: int) -> Values:
        """The hop's steps through the encoders, then the fusion."""
        for encoder in self._spec.encoders:
            person, numbers = self._steps.places(self._spec, encoder, window)
            new = numbers[-(self._spec.fusion.hop // encoder.repeat) :]
            found = self._kept[encoder.stage][person, numbers]
            found[-len(new) :] = self._features(encoder, self._steps.tensors[encoder.stage][person, new])
            self._windows[encoder.stage][0] = found.repeat(encoder.repeat, axis=0)
        return self._fuse()


def summed(parts: list[Executed]) -> Executed:
    """Of several stages together."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total.most_common())

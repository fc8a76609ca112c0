"""What every engine does: own its input buffers, and run one stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.errors import BundleError, DataError
from edge_mer.types.model import ModelSpec, TensorSpec

Array = NDArray[Any]

_USUAL_TOKENS = 32
"""Of an utterance; the size of buffers that are only timed."""


def buffer_sizes(model: ModelSpec) -> dict[str, int]:
    """Sizes of free axes of the buffers of one session's engines."""
    return {"batch": 1, "steps": model.fusion.n_steps, "token": _USUAL_TOKENS}


class Engine(ABC):
    """One stage, ready to run at batch 1.

    Preprocessing writes into `inputs`; `infer` reads them. Outputs are fresh arrays, safe to keep.

    Args:
        stage: Name of the stage, for messages.
        inputs: Declared inputs.
        outputs: Declared outputs.
        sizes: Sizes of free axes of the buffers, e.g. {"batch": 1, "steps": 16}.

    Attributes:
        name: Of the engine, for the records.
        sizes: As given.
        exclusive: Engines with the same one may run only one after the other; None: any number of threads may
            run this one at once.
    """

    name: str = "engine"

    def __init__(
        self,
        stage: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        sizes: dict[str, int],
    ) -> None:
        self.stage = stage
        self.sizes = sizes
        self.exclusive: object | None = self
        self.input_specs = inputs
        self.output_specs = outputs
        self.inputs: dict[str, Array] = {
            spec.name: np.zeros(spec.concrete(**sizes), np.dtype(spec.dtype)) for spec in inputs
        }
        self.n_runs = 0

    def infer(self) -> dict[str, Array]:
        """Run on what lies in `inputs`."""
        return self.run(self.inputs)

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run on other arrays of the declared axes (another batch size, fewer steps).

        Raises:
            DataError: An input is missing or has another shape or type than declared.
        """
        for spec in self.input_specs:
            self._check(spec, feed)
        self.n_runs += 1
        return self._run(feed)

    def read_input(self, name: str) -> Array:
        """A copy of what an input held when it was last read."""
        return np.array(self.inputs[name])

    def _check(self, spec: TensorSpec, feed: Mapping[str, Array]) -> None:
        array = feed.get(spec.name)
        fits = (
            array is not None
            and array.ndim == len(spec.shape)
            and array.dtype == spec.dtype
            and all(isinstance(d, str) or d == s for d, s in zip(spec.shape, array.shape, strict=True))
        )
        if not fits:
            raise DataError(
                f"stage {self.stage}: input {spec.name} does not fit",
                expected=f"{spec.dtype} {spec.shape} ({', '.join(spec.axes)})",
                found="nothing" if array is None else f"{array.dtype} {array.shape}",
            )

    def _check_names(self, found_in: Sequence[str], found_out: Sequence[str]) -> None:
        """Whether a file's inputs, in any order, and outputs are the declared ones.

        Raises:
            BundleError: They are not.
        """
        expected_in = [spec.name for spec in self.input_specs]
        expected_out = [spec.name for spec in self.output_specs]
        if sorted(found_in) != sorted(expected_in) or list(found_out) != expected_out:
            raise BundleError(
                f"stage {self.stage}: the ONNX file is not what the manifest declares",
                expected=f"inputs {expected_in}, outputs {expected_out}",
                found=f"inputs {found_in}, outputs {found_out}",
                hint="export the bundle again",
            )

    @abstractmethod
    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]: ...

    def close(self) -> None:  # noqa: B027 -- most engines hold nothing that must be freed
        """Free what the engine holds; it cannot run afterwards."""

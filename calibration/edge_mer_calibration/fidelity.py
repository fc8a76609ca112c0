"""How far quantized stages' outputs are from FP32's, on sessions that nothing was calibrated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_mer.bundle.manifest import OutputError
from edge_mer.engine.base import Engine
from edge_mer.runtime.offline import blank_features, encode, engine_fusion, last_rows, padded
from edge_mer.runtime.pipeline import StepTrace
from edge_mer.runtime.proof import output_error
from edge_mer.types.model import ModelSpec

Floats = NDArray[np.floating]


class Fidelity:
    """Sessions as FP32 played them, against which stages are held.

    Args:
        model: The model's declaration.
        engines: Its stages in FP32.
        sessions: FP32's traces.
    """

    def __init__(
        self, model: ModelSpec, engines: Mapping[str, Engine], sessions: Sequence[list[StepTrace]]
    ) -> None:
        self._model, self._engines, self._sessions = model, engines, sessions
        self._features = [encode(model, engines, traces) for traces in sessions]
        used = [trace for traces in sessions for trace in traces if trace.n_used]
        self._expected = {o.name: np.array([trace.raw[o.name] for trace in used]) for o in model.outputs}

    def of(self, engines: Mapping[str, Engine]) -> dict[str, OutputError]:
        """Outputs with other stages in the place of FP32's, on the same step tensors.

        Args:
            engines: Stage -> engine; FP32's stand for the others.

        Returns:
            Output -> error in standard deviations of FP32's output, and concordance with it.
        """
        found: dict[str, list[Floats]] = {output.name: [] for output in self._model.outputs}
        for traces, features in zip(self._sessions, self._features, strict=True):
            for raw in self._replay(engines, traces, features):
                for name, value in raw.items():
                    found[name].append(value)
        errors: dict[str, OutputError] = {}
        for output in self._model.outputs:
            truth = self._expected[output.name]
            errors[output.name] = output_error(
                output, np.array(found[output.name]), truth, float(truth.std())
            )
        return errors

    def _replay(
        self, engines: Mapping[str, Engine], traces: list[StepTrace], features: Mapping[str, Floats]
    ) -> list[dict[str, Floats]]:
        """What the stages give where FP32 gave something."""
        model = self._model
        n_steps = model.fusion.n_steps
        mixed = {**self._engines, **engines}
        anew = encode(model, {stage: one for stage, one in engines.items() if stage in features}, traces)
        run_fusion, blanks = engine_fusion(model, mixed[model.fusion.stage]), blank_features(model, mixed)
        results = []
        for index, trace in enumerate(traces):
            if trace.n_used == 0:
                continue
            present = trace.present[:, n_steps - trace.n_used :]
            window = {
                stage: last_rows(anew.get(stage, rows), index, trace.n_used) * present[row][:, np.newaxis]
                for row, (stage, rows) in enumerate(features.items())
            }
            if blanks is not None:
                window = {stage: padded(rows, blanks[stage], n_steps) for stage, rows in window.items()}
            results.append(run_fusion(window, present, trace.n_used - 1))
        return results


def drop(errors: Mapping[str, OutputError]) -> float:
    """How much concordance the worst output has lost; all of it where it has none."""
    return max(1.0 - (one.ccc or 0.0) for one in errors.values())

"""What stages cost on sessions that nothing was calibrated on: against FP32, and against labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from edge_mer.bundle.manifest import OutputError
from edge_mer.engine.base import Engine
from edge_mer.postprocess.decode import answers
from edge_mer.runtime.labelled import LabelledSession
from edge_mer.runtime.offline import blank_features, encode, engine_fusion, last_rows, padded, played_features
from edge_mer.runtime.pipeline import StepTrace
from edge_mer.runtime.proof import deviation_of, output_error
from edge_mer.types.model import AffectOutput, ModelSpec, Output
from edge_mer_calibration.scoring import Found, People, score

Floats = NDArray[np.floating]
Raw = dict[str, Floats]


@dataclass(frozen=True)
class Cost:
    """What a candidate costs.

    Attributes:
        errors: Output -> error in standard deviations of FP32's output, and concordance with it.
        points: Points of a hundred that the worst output loses against labels, of CCC or, where there are
            classes or levels, of accuracy; below 0 where it gains, None without labels.
    """

    errors: dict[str, OutputError]
    points: float | None = None

    @property
    def drop(self) -> float:
        """Concordance with FP32 that the worst output has lost; all of it where it has none."""
        return max(1.0 - (one.ccc or 0.0) for one in self.errors.values())


class Fidelity:
    """Sessions as FP32 played them, against which stages are held.

    Args:
        model: The model's declaration.
        engines: Its stages in FP32.
        sessions: FP32's traces, and labels where somebody knows them.
    """

    def __init__(
        self, model: ModelSpec, engines: Mapping[str, Engine], sessions: Sequence[LabelledSession]
    ) -> None:
        self._model, self._engines = model, engines
        self._known: WeakKeyDictionary[Engine, dict[int, Floats]] = WeakKeyDictionary()
        self._sessions = [session.traces for session in sessions]
        self._features = [played_features(model, traces) for traces in self._sessions]
        expected = [[trace.raw for trace in traces if trace.n_used] for traces in self._sessions]
        self._expected = self._gathered(expected)
        self._deviations = {name: deviation_of(values) for name, values in self._expected.items()}
        self._people = _labelled(sessions)
        self._scores = self._scored(expected)

    def of(self, engines: Mapping[str, Engine]) -> Cost:
        """What other stages in the place of FP32's cost, on the same step tensors.

        Args:
            engines: Stage -> engine; FP32's stand for the others.
        """
        sessions = zip(self._sessions, self._features, strict=True)
        found = [self._replay(engines, traces, features) for traces, features in sessions]
        gathered = self._gathered(found)
        errors = {str(o.name): self._error(o, gathered[o.name]) for o in self._model.outputs}
        scores = self._scored(found)
        lost = [self._scores[name] - scores[name] for name in scores]
        return Cost(errors, 100 * max(lost) if lost else None)

    def _error(self, output: Output, found: Floats) -> OutputError:
        """Of one output; with a number that is none it has no concordance."""
        expected = self._expected[output.name]
        error = output_error(output, found, expected, self._deviations[output.name])
        return error if np.isfinite(found).all() else error.model_copy(update={"ccc": None})

    def _gathered(self, sessions: Sequence[Sequence[Mapping[str, Floats]]]) -> Raw:
        """Output -> (windows, *value_shape) of all sessions."""
        return {
            output.name: np.array([raw[output.name] for session in sessions for raw in session])
            for output in self._model.outputs
        }

    def _scored(self, sessions: Sequence[Sequence[Mapping[str, Floats]]]) -> dict[str, float]:
        """Output -> its leading measure against labels; empty where there are none."""
        if self._people is None:
            return {}
        per_session: list[Found] = []
        for traces, raws in zip(self._sessions, sessions, strict=True):
            used = [index for index, trace in enumerate(traces) if trace.n_used]
            estimates: Found = {}
            for output in self._model.outputs:
                rows = np.full((len(traces), *output.value_shape), np.nan)
                for index, raw in zip(used, raws, strict=True):
                    rows[index] = answers(output, np.asarray(raw[output.name]))
                estimates[output.name] = rows
            per_session.append(estimates)
        scores, _ = score(self._model, self._people, per_session)
        return {o.name: float(scores[o.name][_measure(o)][0]) for o in self._model.outputs}

    def _replay(
        self, engines: Mapping[str, Engine], traces: list[StepTrace], features: Mapping[str, Floats]
    ) -> list[Raw]:
        """What the stages give where FP32 gave something."""
        model = self._model
        n_steps = model.fusion.n_steps
        mixed = {**self._engines, **engines}
        anew = self._encoded(engines, traces, features)
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

    def _encoded(
        self, engines: Mapping[str, Engine], traces: list[StepTrace], features: Mapping[str, Floats]
    ) -> dict[str, Floats]:
        """What encoders make of a session; once for each engine."""
        made: dict[str, Floats] = {}
        for stage, engine in engines.items():
            if stage in features:
                known = self._known.setdefault(engine, {})
                if id(traces) not in known:
                    known[id(traces)] = encode(self._model, {stage: engine}, traces)[stage]
                made[stage] = known[id(traces)]
        return made


def _measure(output: Output) -> str:
    return "CCC" if isinstance(output, AffectOutput) else "accuracy"


def first_windows(sessions: Sequence[LabelledSession], n: int) -> Sequence[LabelledSession]:
    """The first sessions that together have `n` windows; all of them if they have fewer."""
    n_so_far = np.cumsum([sum(trace.n_used > 0 for trace in one.traces) for one in sessions])
    return sessions[: int(np.searchsorted(n_so_far, n)) + 1]


def _labelled(sessions: Sequence[LabelledSession]) -> People | None:
    """Everyone, if all outputs of every session have labels."""
    known = all(np.isfinite(values).any() for session in sessions for values in session.labels.values())
    names = tuple(sorted({one.person for one in sessions}))
    return People(names, tuple(sessions), np.ones((1, len(names)))) if known else None

"""Adds candidates in few bits to a bundle, each with what it costs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import onnxruntime

import edge_mer
from edge_mer.bundle.manifest import Budget, Calibration, Candidate, FileEntry, Manifest, kind_of
from edge_mer.bundle.read import Bundle
from edge_mer.bundle.write import check_free, write_bundle
from edge_mer.clock import MonotonicClock
from edge_mer.corpus.crew import Crew
from edge_mer.engine.base import Engine
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.engine.threads import available_threads
from edge_mer.errors import EdgeMerError, ParityError, UsageError
from edge_mer.labels.manifest import Recording
from edge_mer.runtime.build import hop_ms
from edge_mer.runtime.golden import Arrays
from edge_mer.runtime.labelled import LabelledSession
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.proof import golden_errors, golden_sessions
from edge_mer.runtime.setup import assets_of, open_engines
from edge_mer.types.model import ModelSpec, TensorSpec
from edge_mer_calibration.fidelity import Fidelity, first_windows
from edge_mer_calibration.forms import FORMS
from edge_mer_calibration.kept import Kept
from edge_mer_calibration.methods import Stage, histograms_of
from edge_mer_calibration.ranges import Histogram
from edge_mer_calibration.ranges_file import RANGES_PATH, ranges_file
from edge_mer_calibration.say import Say, prefixed
from edge_mer_calibration.search import Found, Judge, Search
from edge_mer_calibration.sessions import play
from edge_mer_calibration.sharing import PlayingSessions, Shared, results
from edge_mer_calibration.trt_rules import problems, unknown_operators
from edge_mer_calibration.windows import WindowSet, choose_windows, held_windows

MILLION = 1_000_000
N_HELD = 16
"""Windows of the other sessions on which methods are compared."""

N_RANKED = 64
"""Windows on which blocks are compared."""


@dataclass(frozen=True)
class CalibrationPlan:
    """What to calibrate with.

    Attributes:
        data: Sessions that windows come from.
        check: Other sessions, on which candidates are judged.
        n_windows: Windows to use, neither more nor fewer.
        kinds: Kinds of candidates to make.
        budget: What a candidate may cost.
        play: From a recording to what FP32 makes of it; of one who works alone.
        crew: Who plays sessions and judges blocks, many at once; None: this process alone.
        face_detector: YuNet's ONNX file, for a crew.
    """

    data: Sequence[Recording]
    check: Sequence[Recording]
    n_windows: int
    kinds: Sequence[str]
    budget: Budget
    play: Callable[[PipelineSetup, Recording], LabelledSession] = play
    crew: Crew | None = None
    face_detector: Path | None = None


@dataclass(frozen=True)
class Calibrated:
    """What a calibration came to.

    Attributes:
        manifest: Of the new bundle.
        ms: Precision -> what a prediction takes here; only of those that this processor runs in earnest.
        missed: Kind -> the best that was found of those of which nothing is within the budget.
    """

    manifest: Manifest
    ms: dict[str, float]
    missed: dict[str, Found] = field(default_factory=dict)


def calibrate_bundle(
    bundle: Bundle, setup: PipelineSetup, plan: CalibrationPlan, out: Path, say: Say, *, replace: bool
) -> Calibrated:
    """Write a new bundle with the candidates of `bundle`, and those that are found within the budget.

    Args:
        bundle: Has an `fp32` candidate.
        setup: That candidate, ready to run.
        plan: What to calibrate with.
        out: The new bundle's folder.
        say: Told what is being done.
        replace: Whether a bundle of that name may be replaced.

    Raises:
        UsageError: No such kind of candidates, TensorRT knows an operator not, or the place is taken.
        DataError: A session cannot be used, or there are too few windows.
        ParityError: Nothing that was found is within the budget.
    """
    if unknown := [name for name in plan.kinds if name not in FORMS]:
        raise UsageError(f"unknown precision {unknown[0]!r}", expected=" or ".join(FORMS))
    check_free(out, replace=replace)
    _demand_known_operators(bundle, plan.kinds)
    kept = Kept(out.absolute().parent / f".{out.name}.calibrating", _key(bundle, plan))
    work = _Work(bundle, setup, plan, kept, say)
    try:
        calibrated = work.run(out, replace=replace)
    except EdgeMerError:  # whatever else ends it leaves what is done
        kept.finish()
        raise
    kept.finish()
    return calibrated


def _demand_known_operators(bundle: Bundle, kinds: Sequence[str]) -> None:
    """What TensorRT cannot run is said before anything is searched."""
    if all(FORMS[kind].is_for_cpu for kind in kinds):
        return
    for stage in bundle.manifest.model.stages:
        if unknown := unknown_operators(bundle.read_stage("fp32", stage)):
            raise UsageError(
                f"TensorRT cannot run stage {stage}",
                expected="operators that its ONNX parser knows",
                found=", ".join(unknown),
                hint="write the stage with others, or ask only for what a CPU runs: --precision int8-cpu",
            )


def _key(bundle: Bundle, plan: CalibrationPlan) -> str:
    """What finished parts depend on."""
    sources = [[recording.sources for recording in one] for one in (plan.data, plan.check)]
    parts = [
        edge_mer.__version__,
        onnxruntime.__version__,
        bundle.manifest.bundle_id,
        sources,
        plan.n_windows,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _mark(*sets: WindowSet) -> str:
    return hashlib.sha256("".join(one.sha256 for one in sets).encode()).hexdigest()[:16]


class _Work:
    """One calibration on its way."""

    def __init__(
        self, bundle: Bundle, setup: PipelineSetup, plan: CalibrationPlan, kept: Kept, say: Say
    ) -> None:
        self._bundle, self._setup, self._plan, self._kept, self._say = bundle, setup, plan, kept, say
        self._golden: list[Arrays] = golden_sessions(bundle.manifest, bundle.read_arrays)

    @property
    def _model(self) -> ModelSpec:
        return self._bundle.manifest.model

    def run(self, out: Path, *, replace: bool) -> Calibrated:
        windows = choose_windows(
            self._model, self._played("calibration", self._plan.data), self._plan.n_windows
        )
        checked = self._played("check", self._plan.check)
        stages = self._stages(windows, held_windows(self._model, checked, N_HELD))
        self._say("judging fp32")
        fidelity = Fidelity(self._model, self._setup.engines, checked)
        first = first_windows(checked, N_RANKED)
        ranking = (
            fidelity if len(first) == len(checked) else Fidelity(self._model, self._setup.engines, first)
        )
        crew = self._plan.crew
        shared = None if crew is None else Shared(crew, self._bundle, first)
        found: dict[str, Found] = {}
        for kind in self._plan.kinds:
            form = FORMS[kind]
            judge = Judge(fidelity, ranking, self._plan.budget, self._time_ms if form.is_for_cpu else None)
            found |= Search(stages, form, judge, prefixed(kind, self._say), shared).run()
        good = {name: one for name, one in found.items() if one.is_good}
        missed = {kind_of(name): one for name, one in found.items() if not one.is_good}
        if not good:
            raise _nothing_found(missed)
        fp32_ms = self._time_ms(self._setup.engines)
        ms = {"fp32": fp32_ms} | {name: one.ms for name, one in good.items() if one.ms is not None}
        manifest = self._written(good, windows, stages, out, replace=replace)
        return Calibrated(manifest, ms, missed)

    def _played(self, what: str, recordings: Sequence[Recording]) -> list[LabelledSession]:
        names = [f"{what}.{number}" for number in range(len(recordings))]
        played = self._played_at_once(what, names, recordings)
        sessions = []
        for number, (name, recording) in enumerate(zip(names, recordings, strict=True)):
            self._say(f"playing sessions for {what}", number, len(recordings))
            play = partial(played.pop, name) if name in played else partial(self._play, recording)
            is_simulated = all(uri.startswith("sim:") for uri in recording.sources)
            sessions.append(self._kept.session(name, play) if is_simulated else play())
        return sessions

    def _play(self, recording: Recording) -> LabelledSession:
        return self._plan.play(self._setup, recording)

    def _played_at_once(
        self, what: str, names: Sequence[str], recordings: Sequence[Recording]
    ) -> dict[str, LabelledSession]:
        """Those that were not kept, by name; none where nobody shares the work."""
        if self._plan.crew is None:
            return {}
        todo = [one for one in zip(names, recordings, strict=True) if not self._kept.has_session(one[0])]
        make = PlayingSessions(self._bundle, self._plan.face_detector)
        found: dict[str, LabelledSession] = {}
        for number, session in results(self._plan.crew, make, [recording for _, recording in todo]):
            found[todo[number][0]] = session
            self._say(f"playing sessions for {what}", len(found), len(todo))
        return found

    def _stages(self, windows: WindowSet, held: WindowSet) -> list[Stage]:
        model = self._model
        tensors: dict[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]] = {
            encoder.stage: ((encoder.input,), (encoder.output,)) for encoder in model.encoders
        }
        tensors[model.fusion.stage] = (model.fusion.inputs, model.fusion.outputs)
        kept = self._kept.of(_mark(windows, held))  # a recording may have changed under its name
        return [
            Stage(
                name,
                self._bundle.read_stage("fp32", name),
                *tensors[name],
                windows.feeds[name],
                self._histograms(name, windows, kept),
                held.feeds[name],
                kept,
            )
            for name in model.stages
        ]

    def _histograms(self, stage: str, windows: WindowSet, kept: Kept) -> dict[str, Histogram]:
        def measured() -> dict[str, Histogram]:
            return histograms_of(
                self._bundle.read_stage("fp32", stage),
                windows.feeds[stage],
                lambda done, of: self._say(f"measuring ranges of {stage}", done, of),
            )

        return kept.histograms(f"{stage}.histograms", measured)

    def _time_ms(self, engines: Mapping[str, Engine]) -> float:
        return hop_ms(self._with(engines), self._golden, MonotonicClock())

    def _with(self, engines: Mapping[str, Engine]) -> PipelineSetup:
        """Other stages, ready for the golden sessions."""
        return PipelineSetup(self._model, dict(engines), None, assets=assets_of(self._bundle))

    def _written(
        self,
        good: Mapping[str, Found],
        windows: WindowSet,
        stages: Sequence[Stage],
        out: Path,
        *,
        replace: bool,
    ) -> Manifest:
        old = self._bundle.manifest
        kinds = set(self._plan.kinds)
        candidates = {name: one for name, one in old.candidates.items() if kind_of(name) not in kinds}
        paths = {path for one in candidates.values() for path in one.stages.values()}
        stale = {path for one in old.candidates.values() for path in one.stages.values()} - paths
        files = {name: self._bundle.read(name) for name in old.files if name not in stale}
        for name, one in good.items():
            if not FORMS[kind_of(name)].is_for_cpu:
                _demand_rules(name, one.shipped)
            candidates[name] = self._candidate(name, one)
            files |= {f"stages/{stage}.{name}.onnx": data for stage, data in one.shipped.items()}
        files[RANGES_PATH] = ranges_file(stages, good)
        return self._write(candidates, files, windows, out, replace=replace)

    def _candidate(self, name: str, found: Found) -> Candidate:
        """What a candidate costs."""
        model, manifest = self._model, self._bundle.manifest
        # Golden errors are of the graph as it is written: a device's INT8 kernels are held against that.
        options = OrtOptions(threads=available_threads(), fuse_qdq=False)
        judged = {stage: FORMS[kind_of(name)].judged(data) for stage, data in found.shipped.items()}
        as_written = open_engines(model, judged, options)
        errors = golden_errors(self._with(as_written), manifest.golden, self._golden)
        n_bytes = sum(len(data) for data in found.shipped.values())
        return Candidate(
            stages={stage: f"stages/{stage}.{name}.onnx" for stage in found.stages},
            n_bytes=n_bytes,
            golden=errors,
            fidelity=found.cost.errors,
            points=found.cost.points,
            quantization=found.how,
            note=_note(manifest, name),
        )

    def _write(
        self,
        candidates: dict[str, Candidate],
        files: dict[str, bytes],
        windows: WindowSet,
        out: Path,
        *,
        replace: bool,
    ) -> Manifest:
        old = self._bundle.manifest
        made_by = f"edge-mer calibrate {edge_mer.__version__}, onnxruntime {onnxruntime.__version__}"
        lineage = old.lineage.model_copy(
            update={"made_by": (*old.lineage.made_by, made_by), "parent": old.bundle_id}
        )
        calibration = Calibration(
            source=tuple(uri for recording in self._plan.data for uri in recording.sources),
            n_windows=windows.n_windows,
            windows_sha256=windows.sha256,
            people=tuple(sorted(windows.people.values(), reverse=True)),
            cells=windows.cells,
            without={str(modality): n for modality, n in windows.without.items()},
            budget=self._plan.budget,
            ranges=RANGES_PATH,
        )

        def manifest(table: dict[str, FileEntry]) -> Manifest:
            update = {
                "candidates": candidates,
                "lineage": lineage,
                "calibration": calibration,
                "files": table,
            }
            return old.model_copy(update=update)

        return write_bundle(out, files, manifest, replace=replace)


def _note(manifest: Manifest, name: str) -> str | None:
    lineage = manifest.lineage
    if kind_of(name).startswith("int8") and lineage.n_params - lineage.n_params_pruned < MILLION:
        return "below a million parameters INT8 seldom wins size or time: compare with fp32"
    return None


def _demand_rules(precision: str, stages: Mapping[str, bytes]) -> None:
    """A graph that TensorRT would refuse, or run in float, is a fault of this program."""
    broken = [f"{stage}: {one}" for stage, data in stages.items() for one in problems(data)]
    if broken:
        raise RuntimeError(f"{precision} breaks rules of TensorRT: {'; '.join(broken[:5])}")


def _nothing_found(missed: Mapping[str, Found]) -> ParityError:
    """What was best of each kind, and which blocks stand in the way."""
    found = []
    for kind, one in missed.items():
        blocks = [
            f"{stage} {block} ({finding.drop:.4f} alone)"
            for (stage, block), finding in one.in_the_way.items()
        ]
        why = "; ".join(one.over) or "only with every block in float"
        found.append(f"{kind} {why}" + (f"; in the way are {', '.join(blocks[:5])}" if blocks else ""))
    return ParityError(
        "no candidate is within the budget",
        found=". ".join(found),
        hint="keep fp32, allow more with --max-ccc-drop, or tune its weights with edge-mer qat",
    )

"""Few bits on people whom nobody learned from: for models that were trained without some people in turn.

Each model is exported, calibrated on whom it learned from, and judged on whom it never saw. No recording is
played again: the steps that it was trained on are encoded anew by each bundle's own engines.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_mer.bundle.manifest import Budget, Lineage, kind_of
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.engine.base import Engine
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.errors import ParityError
from edge_mer.labels.manifest import Recording
from edge_mer.postprocess.decode import answers
from edge_mer.runtime.labelled import LabelledSession
from edge_mer.runtime.offline import (
    encode,
    engine_fusion,
    last_rows,
    offline_outputs,
    presence,
    window_sizes,
)
from edge_mer.runtime.pipeline import StepTrace
from edge_mer.runtime.setup import open_engines, open_setup
from edge_mer.types.model import ModelSpec
from edge_mer_calibration.against_fp32 import agreement, flips
from edge_mer_calibration.candidates import CalibrationPlan, calibrate_bundle
from edge_mer_calibration.forms import FORMS
from edge_mer_calibration.metrics import Estimate, estimate
from edge_mer_calibration.scoring import Found, People, PerDraw, score
from edge_mer_export.bundle_from_model import export_bundle
from edge_mer_export.models.zoo import ZooModel
from edge_mer_export.training.sessions import Session

N_WINDOWS = 64
CHECK_SHARE = 4
"""Of those whom a model learned from, every fourth is one to judge candidates on."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fold:
    """A model, and who knows what.

    Attributes:
        name: Of the fold, e.g. "1-S03".
        seed: Folds of one seed together judge everybody once.
        model: Trained on `learned` alone.
        learned: Sessions that it, or the choice of it, knows.
        away: Sessions that it never saw.
    """

    name: str
    seed: int
    model: ZooModel
    learned: Sequence[Session]
    away: Sequence[Session]


@dataclass(frozen=True)
class Judged:
    """What became of a fold.

    Attributes:
        name: Of the fold.
        seed: Its.
        people: Who was judged, in order.
        found: Kind of candidates ("fp32", "int8-cpu", …) -> each session's estimates.
        n_bytes: Kind -> size.
        ms: Kind -> a prediction here; only of those that a processor runs.
        how: Kind -> name of the candidate, and the methods of its stages.
    """

    name: str
    seed: int
    people: tuple[str, ...]
    found: dict[str, list[Floats]]
    n_bytes: dict[str, int]
    ms: dict[str, float]
    how: dict[str, str]


def judge_fold(fold: Fold, folder: Path, budget: Budget) -> Judged:
    """Export, calibrate and judge; what was judged once is read from `folder`."""
    kept = folder / f"{fold.name}.json"
    if kept.exists():
        return _read(kept)
    folder.mkdir(parents=True, exist_ok=True)
    exported, target = folder / f"{fold.name}.exported", folder / f"{fold.name}.bundle"
    lineage = Lineage(
        made_by=("edge-mer",), weights=fold.name, n_params=_n_params(fold.model), n_params_pruned=0
    )
    export_bundle(fold.model, lineage, exported, lambda text: None, replace=True)
    bundle, ms = _calibrated(fold, open_bundle(exported), target, budget)
    candidates = bundle.manifest.candidates
    sessions = {name: _estimates(bundle, name, fold.away) for name in candidates}
    judged = Judged(
        fold.name,
        fold.seed,
        tuple(one.person for one in fold.away),
        {kind_of(name): found for name, found in sessions.items()},
        {kind_of(name): one.n_bytes for name, one in candidates.items()},
        {kind_of(name): value for name, value in ms.items()},
        {kind_of(name): _how(bundle, name) for name in candidates},
    )
    _write(judged, kept)
    for path in (exported, target):
        shutil.rmtree(path, ignore_errors=True)
    return judged


def _calibrated(
    fold: Fold, exported: Bundle, target: Path, budget: Budget
) -> tuple[Bundle, dict[str, float]]:
    """With every candidate that is within the budget; the bundle as it was where none is."""
    known = {str(number): one for number, one in enumerate(fold.learned)}
    recordings = [Recording(name, one.person, (f"held:{name}",), None) for name, one in known.items()]
    plan = CalibrationPlan(
        data=[one for number, one in enumerate(recordings) if number % CHECK_SHARE],
        check=recordings[::CHECK_SHARE],
        n_windows=N_WINDOWS,
        kinds=list(FORMS),
        budget=budget,
        play=lambda setup, one: replayed(setup.model, setup.engines, known[one.name]),
    )
    try:
        made = calibrate_bundle(
            exported, open_setup(exported, "fp32", None), plan, target, _quiet, replace=True
        )
    except ParityError:
        return exported, {}
    return open_bundle(target), made.ms


def _quiet(text: str, done: int | None = None, of: int | None = None) -> None:
    """Nothing is told."""


def replayed(model: ModelSpec, engines: Mapping[str, Engine], session: Session) -> LabelledSession:
    """A session in steps as these engines would play it.

    Args:
        model: Its declaration.
        engines: Stage -> engine.
        session: Its steps.
    """
    inputs = _inputs(model, session)
    features, there = encode(model, engines, inputs), presence(model, inputs)
    outputs = offline_outputs(model, features, there, engine_fusion(model, engines[model.fusion.stage]))
    n, sizes = model.fusion.n_steps, window_sizes(model, there)
    traces = []
    for step, trace in enumerate(inputs):
        traces.append(
            StepTrace(
                index=step,
                inputs=trace.inputs,
                features={
                    stage: last_rows(rows, step, n)[np.newaxis].astype(np.float32)
                    for stage, rows in features.items()
                },
                present=np.stack([last_rows(one, step, n) for one in there.values()]),
                n_used=sizes[step],
                raw={name: np.asarray(rows[step], np.float32) for name, rows in outputs.items()}
                if sizes[step]
                else {},
                is_real=trace.is_real,
            )
        )
    return LabelledSession(session.person, traces, session.labels)


def _inputs(model: ModelSpec, session: Session) -> list[StepTrace]:
    """Steps with nothing but what encoders take."""
    traces = []
    for step in range(session.n_steps):
        inputs = {
            one.stage: session.steps[one.stage][step : step + 1].astype(np.float32)
            for one in model.encoders
            if session.present[one.stage][step]
        }
        nothing = np.zeros((len(model.encoders), model.fusion.n_steps), np.bool_)
        traces.append(StepTrace(step, inputs, {}, nothing, 0, {}, len(inputs) == len(model.encoders)))
    return traces


def _estimates(bundle: Bundle, name: str, sessions: Sequence[Session]) -> list[Floats]:
    """A candidate's answers of the first output, per session, as a device of its kind would compute them."""
    model = bundle.manifest.model
    engines = _engines(bundle, name)
    output, found = model.outputs[0], []
    for session in sessions:
        inputs = _inputs(model, session)
        features, there = encode(model, engines, inputs), presence(model, inputs)
        raw = offline_outputs(model, features, there, engine_fusion(model, engines[model.fusion.stage]))
        found.append(answers(output, raw[output.name]).astype(np.float64))
    return found


def _engines(bundle: Bundle, name: str) -> dict[str, Engine]:
    model = bundle.manifest.model
    if name == "fp32" or FORMS[kind_of(name)].is_for_cpu:
        return dict(open_setup(bundle, name, None).engines)
    form = FORMS[kind_of(name)]
    stages = {stage: form.judged(bundle.read_stage(name, stage)) for stage in model.stages}
    return open_engines(model, stages, OrtOptions(threads=1, fuse_qdq=False))


def _how(bundle: Bundle, name: str) -> str:
    found = bundle.manifest.candidates[name].quantization
    methods = ", ".join(f"{stage} {one.method}" for stage, one in found.items())
    return f"{name}: {methods}" if methods else name


def _n_params(model: ZooModel) -> int:
    return sum(p.numel() for module in model.stages.values() for p in module.parameters())


def _write(judged: Judged, file: Path) -> None:
    content = {**vars(judged), "found": {k: [one.tolist() for one in v] for k, v in judged.found.items()}}
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(file)


def _read(file: Path) -> Judged:
    content = json.loads(file.read_text(encoding="utf-8"))
    found = {kind: [np.array(one) for one in some] for kind, some in content.pop("found").items()}
    return Judged(**{**content, "people": tuple(content["people"])}, found=found)


# -- all folds together ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A kind of candidates over all folds.

    Attributes:
        kind: "fp32", "fp16", "int8-cpu" or "int8-trt".
        n_folds: Folds that have one within the budget; FP32 stands for the others.
        score: The measure, mean over the seeds.
        change: The same minus FP32's, on the same people.
        ccc: Concordance of its estimates with FP32's, over all folds.
        flips: Share of the steps with another likeliest class.
        size: Of FP32's bytes, mean over the folds.
        speed: Of FP32's time, median over the folds; None of those that no processor runs.
    """

    kind: str
    n_folds: int
    score: Estimate
    change: Estimate
    ccc: float
    flips: float
    size: float
    speed: float | None


def lines(
    model: ModelSpec, judged: Sequence[Judged], sessions: Sequence[Session], measure: str
) -> list[Line]:
    """Every kind against FP32.

    Args:
        model: Its declaration; the first output counts, which is one of classes.
        judged: Every fold of every seed.
        sessions: Everybody's, for their labels.
        measure: E.g. "AUC".
    """
    return [_line(model, kind, judged, sessions, measure) for kind in ("fp32", *FORMS)]


def _line(
    model: ModelSpec, kind: str, judged: Sequence[Judged], sessions: Sequence[Session], measure: str
) -> Line:
    output = model.outputs[0]
    own, reference = (_by_seed(model, judged, sessions, which, measure) for which in (kind, "fp32"))
    pairs = [(one.found.get(kind, one.found["fp32"]), one.found["fp32"]) for one in judged]
    a, b = (np.concatenate([rows for pair in pairs for rows in pair[side]]) for side in (0, 1))
    there = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    ratios = [one.n_bytes[kind] / one.n_bytes["fp32"] for one in judged if kind in one.n_bytes]
    times = [one.ms[kind] / one.ms["fp32"] for one in judged if kind in one.ms]
    return Line(
        kind,
        sum(kind in one.found for one in judged),
        estimate(own),
        estimate(own - reference),
        agreement(output, a[there], b[there]) or 0.0,
        flips(a[there], b[there]),
        float(np.mean(ratios)) if ratios else 1.0,
        float(np.median(times)) if times else None,
    )


def _by_seed(
    model: ModelSpec, judged: Sequence[Judged], sessions: Sequence[Session], kind: str, measure: str
) -> Floats:
    """One measure per draw, mean over the seeds; everybody is judged once in each."""
    name = model.outputs[0].name
    found = []
    for seed in sorted({one.seed for one in judged}):
        rows: dict[str, list[Floats]] = {}
        for one in judged:
            if one.seed == seed:
                for person, estimates in zip(one.people, one.found.get(kind, one.found["fp32"]), strict=True):
                    rows.setdefault(person, []).append(estimates)
        per_draw = _scored(model, sessions, [{name: rows[one.person].pop(0)} for one in sessions])
        found.append(per_draw[name][measure])
    return np.asarray(np.mean(found, axis=0))


def _scored(model: ModelSpec, sessions: Sequence[Session], found: Sequence[Found]) -> PerDraw:
    people = People.of([LabelledSession(one.person, [], one.labels) for one in sessions])
    return score(model, people, found)[0]


def table(found: Sequence[Line], measure: str) -> str:
    """A Markdown table of them."""
    heads = ("", measure, "minus FP32", "concordance", "other class", "size", "time")
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for one in found:
        score = f"{one.score.value:.3f} ({one.score.low:.3f} to {one.score.high:.3f})"
        value, low, high = (round(x, 4) + 0.0 for x in vars(one.change).values())  # never "-0.0000"
        change = f"{value:+.4f} ({low:+.4f} to {high:+.4f})"
        cells = [change, f"{one.ccc:.4f}", f"{100 * one.flips:.2f} %", f"{one.size:.2f}"]
        cells.append("-" if one.speed is None else f"{one.speed:.2f}")
        if one.kind == "fp32":
            cells = ["", "", "", "1", "1"]
        rows.append(f"| {' | '.join([one.kind, score, *cells])} |")
    return "\n".join(rows)


def found_in(judged: Sequence[Judged]) -> dict[str, dict[str, int]]:
    """Kind -> how its candidates were made -> in how many folds."""
    counted: dict[str, dict[str, int]] = {}
    for one in judged:
        for kind, how in one.how.items():
            counted.setdefault(kind, {})[how] = counted.setdefault(kind, {}).get(how, 0) + 1
    return counted

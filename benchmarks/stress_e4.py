"""Trains `stress-e4` on real people, judges it on people it never saw, and writes docs/stress-e4.md.

    .venv/bin/python benchmarks/stress_e4.py DATA           everything: figures, page
    .venv/bin/python benchmarks/stress_e4.py DATA --weights  the weights that come along, too

DATA is a copy of the Stress-Predict data set (Iqbal et al. 2022), with a folder Raw_data and its labels as
labels_1hz.csv.gz; without it, EDGE_MER_TEST_DATA/stress_predict is looked for. What is made of it lies in
build/stress-e4, which is not part of the project.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import gzip
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from held_out import Fold, Line, found_in, judge_fold, lines, table
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from edge_mer.bundle.manifest import Budget
from edge_mer.labels.manifest import read_manifest
from edge_mer.labels.problems import demand
from edge_mer.runtime.labelled import check, ranges_of
from edge_mer_export.models.spec_stress_e4 import HIDDEN, MEMORY_S, SPAN_S, STEP_S, WARM_UP_S, of_width
from edge_mer_export.models.zoo import ZooModel, build
from edge_mer_export.training.data import split_by_person
from edge_mer_export.training.phases import BackboneTask, FusionTask
from edge_mer_export.training.recipe import Recipe, read_recipe
from edge_mer_export.training.run import Told, open_run, train
from edge_mer_export.training.sessions import Session, load_sessions
from edge_mer_export.training.trainer import State, seeded, train_phase

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "stress-e4"
PAGE = ROOT / "docs" / "stress-e4.md"
CARD = Path(__file__).with_name("stress_e4_card.md")
WEIGHTS = ROOT / "export" / "edge_mer_export" / "weights" / "stress-e4.safetensors"
FILES = {"eda": "EDA.csv", "ppg": "BVP.csv.gz", "skt": "TEMP.csv"}

Floats = NDArray[np.float64]


# -- data ---------------------------------------------------------------------------------------


def prepare(data: Path) -> Path:
    """Write label tracks and a manifest of everybody who has labels; returns the manifest."""
    rows: dict[int, list[tuple[float, int]]] = {}
    with gzip.open(data / "labels_1hz.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault(int(row["Participant"]), []).append((float(row["Time(sec)"]), int(row["Label"])))
    folder = WORK / "labels"
    folder.mkdir(parents=True, exist_ok=True)
    manifest = WORK / "people.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["person", "sources", "labels"])
        for number in sorted(rows):
            person, raw = f"S{number:02d}", data / "Raw_data" / f"S{number:02d}"
            if not raw.is_dir():
                continue
            labels = folder / f"{person}.csv"
            _write_labels(labels, rows[number], start_s=_start_s(raw / FILES["eda"]))
            uris = [f"signal:{raw / name}?modality={kind}&layout=e4" for kind, name in FILES.items()]
            lines.writerow([person, ";".join(uris), labels.relative_to(WORK)])
    return manifest


def _start_s(file: Path) -> float:
    with file.open(encoding="utf-8") as lines:
        return float(lines.readline().split(",")[0])


def _write_labels(file: Path, rows: Sequence[tuple[float, int]], start_s: float) -> None:
    """Labels by time; none until every window is whole, since an earlier one tells how late it is."""
    first_s = WARM_UP_S + STEP_S / 2  # a step takes the nearest label, and the step before must find none
    with file.open("w", encoding="utf-8", newline="") as target:
        lines = csv.writer(target)
        lines.writerow(["t_s", "emotion"])
        for time_s, label in rows:
            t_s = time_s - start_s
            lines.writerow([f"{t_s:.3f}", label if t_s >= first_s else ""])


def sessions_of(manifest: Path, model: ZooModel) -> list[Session]:
    """Every recording in steps, through the device's own runtime; played once, and kept."""
    recordings, problems = read_manifest(manifest)
    folder = WORK / "data"
    if not folder.exists():
        demand([*problems, *check(recordings, ranges_of(model.spec))], "recordings")
    told: Callable[[int, int], None] = lambda done, n: print(f"played {done} of {n}", flush=True)  # noqa: E731
    return load_sessions(model.spec, recordings, folder, torch.get_num_threads(), told)


# -- people who were never seen ------------------------------------------------------------------

SEEDS = (1, 2, 3)
N_FOLDS = 5
WIDTHS = (8, 16, 32)
ALL = ("eda", "ppg", "skt")
CLOCK, READ_CLOCK = "time since start", "clock from features"
SUBSETS = (ALL, ("eda", "ppg"), ("eda", "skt"), ("ppg", "skt"), ("eda",), ("ppg",), ("skt",))


@dataclasses.dataclass(frozen=True)
class Judged:
    """What was estimated of one person by models that never saw them.

    Attributes:
        person: Who it is.
        seed: Of folds and weights.
        time_s: (n,) ends of the steps with a label.
        truth: (n,) 0 or 1.
        scores: Way of estimating -> (n,), larger for stress.
    """

    person: str
    seed: int
    time_s: Floats
    truth: Floats
    scores: dict[str, Floats]

    def as_json(self) -> dict[str, Any]:
        """With lists of numbers."""
        scores = {name: values.tolist() for name, values in self.scores.items()}
        return {
            "person": self.person,
            "seed": self.seed,
            "time_s": self.time_s.tolist(),
            "truth": self.truth.tolist(),
            "scores": scores,
        }

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Judged:
        """From what `as_json` gave."""
        scores = {name: np.array(values) for name, values in kept["scores"].items()}
        return cls(kept["person"], kept["seed"], np.array(kept["time_s"]), np.array(kept["truth"]), scores)


def cross_validated(sessions: Sequence[Session], recipe: Recipe) -> list[Judged]:
    """Every person by models of every seed that learned from others, width and epoch chosen on others too."""
    judged: list[Judged] = []
    for seed in SEEDS:
        order = np.random.default_rng(seed).permutation(len(sessions))
        for fold in range(N_FOLDS):
            away = set(order[fold::N_FOLDS].tolist())
            rest = [sessions[i] for i in order.tolist() if i not in away]
            n_valid = round(recipe.data.valid_share * len(rest))
            train, valid = rest[n_valid:], rest[:n_valid]
            known = _Known(recipe, train, valid, seed)
            _keep(known, f"{seed}-{fold}", seed, [sessions[i].person for i in sorted(away)])
            judged += [known.judge(sessions[i], seed) for i in sorted(away)]
            print(f"seed {seed}, fold {fold + 1}: width {known.width}", flush=True)
    return judged


def _keep(known: _Known, name: str, seed: int, away: list[str]) -> None:
    """The weights of one fold, and whom they never saw."""
    folder = WORK / "folds"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(known.model.state_dict(), folder / f"{name}.safetensors")
    facts = {"seed": seed, "width": known.width, "away": away}
    (folder / f"{name}.json").write_text(json.dumps(facts), encoding="utf-8")


def folds(sessions: Sequence[Session]) -> Iterator[Fold]:
    """What was kept of each fold."""
    for file in sorted((WORK / "folds").glob("*.json")):
        facts = json.loads(file.read_text(encoding="utf-8"))
        model = of_width(facts["width"])
        model.load_state_dict(load_file(file.with_suffix(".safetensors")))
        away = set(facts["away"])
        yield Fold(
            file.stem,
            facts["seed"],
            model.eval(),
            [one for one in sessions if one.person not in away],
            [one for one in sessions if one.person in away],
        )


class _Known:
    """Models of some people, and simpler ways to guess."""

    def __init__(self, recipe: Recipe, train: list[Session], valid: list[Session], seed: int) -> None:
        tried = [(_learn(recipe, width, train, valid, seed), width) for width in WIDTHS]
        (self._score, self.model), self.width = max(tried, key=lambda one: one[0][0])
        self._alone = {
            kind: _fused(recipe, self.width, self.model, _only(train, kind), _only(valid, kind), seed)
            for kind in ALL
        }
        time_s = np.concatenate([_labelled(one)[1] for one in train])
        truth = np.concatenate([_labelled(one)[2] for one in train])
        self._stress_by_time = _histogram(time_s, truth)
        rows = np.concatenate([_windows(self.model, one, ALL)[2][_labelled(one)[0]] for one in train])
        self._clock = _ridge(rows, time_s)
        self._later_is_stress = float(np.sign(np.corrcoef(time_s, truth)[0, 1]))

    def judge(self, session: Session, seed: int) -> Judged:
        """One person whom the models never saw."""
        where, time_s, truth = _labelled(session)
        scores = {"+".join(one): _estimates(self.model, session, one)[where] for one in SUBSETS}
        scores |= {
            f"{kind} alone": _estimates(model, session, (kind,))[where] for kind, model in self._alone.items()
        }
        scores[CLOCK] = self._stress_by_time(time_s)
        clock = self._clock(_windows(self.model, session, ALL)[2][where])
        scores[READ_CLOCK] = self._later_is_stress * clock
        return Judged(session.person, seed, time_s, truth, scores)


def _learn(
    recipe: Recipe, width: int, train: list[Session], valid: list[Session], seed: int
) -> tuple[float, ZooModel]:
    """A model, and how well it does on the people to choose by."""
    torch.manual_seed(seed)
    model = of_width(width)
    for encoder in model.spec.encoders:
        seeded(seed, encoder.stage, 0)
        task = BackboneTask(model, encoder, recipe.backbones[encoder.stage], train, valid)
        train_phase(task, State(task.name), seed, keep=lambda now: None, told=lambda epoch: None)
    model.eval()
    return _train_fusion(recipe, model, train, valid, seed), model


def _fused(
    recipe: Recipe, width: int, like: ZooModel, train: list[Session], valid: list[Session], seed: int
) -> ZooModel:
    """The same encoders with a fusion that learns anew."""
    torch.manual_seed(seed)
    model = of_width(width)
    for stage in ALL:
        model.stages[stage].load_state_dict(like.stages[stage].state_dict())
    model.eval()
    _train_fusion(recipe, model, train, valid, seed)
    return model


def _train_fusion(
    recipe: Recipe, model: ZooModel, train: list[Session], valid: list[Session], seed: int
) -> float:
    if recipe.fusion is None:
        raise ValueError("the recipe trains no fusion")
    seeded(seed, "fusion", 0)
    task, state = FusionTask(model, recipe.fusion, train, valid), State("fusion")
    train_phase(task, state, seed, keep=lambda now: None, told=lambda epoch: None)
    model.eval()
    return max(epoch.score for epoch in state.epochs)


def _only(sessions: list[Session], kind: str) -> list[Session]:
    """The same people wearing one sensor."""
    return [
        dataclasses.replace(
            one, present={k: there if k == kind else np.zeros_like(there) for k, there in one.present.items()}
        )
        for one in sessions
    ]


def _labelled(session: Session) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Steps that are judged, their ends in seconds, and their labels: those of a whole window."""
    labels = session.labels["emotion"].astype(np.float64)
    is_there = np.stack(list(session.present.values())).all(axis=0)
    where = np.flatnonzero(np.isfinite(labels) & is_there)
    return where, (where + 1.0) * STEP_S, labels[where]


def _windows(
    model: ZooModel, session: Session, kinds: Sequence[str]
) -> tuple[list[torch.Tensor], torch.Tensor, Floats]:
    """Features (n, L, D) per modality, masks (n, M, L), and all of it flat, for every step of a session."""
    length, n = model.spec.fusion.n_steps, session.n_steps
    rows = np.arange(n)[:, None] + np.arange(length)
    features, masks = [], []
    for stage in ALL:
        there = session.present[stage] & (stage in kinds)
        with torch.no_grad():
            steps = model.stages[stage](torch.from_numpy(session.steps[stage])).numpy() * there[:, None]
        features.append(torch.from_numpy(np.pad(steps, ((length - 1, 0), (0, 0)))[rows]))
        masks.append(np.pad(there, (length - 1, 0))[rows])
    flat = torch.cat(features, dim=-1).flatten(1).numpy().astype(np.float64)
    return features, torch.from_numpy(np.stack(masks, axis=1)), flat


def _estimates(model: ZooModel, session: Session, kinds: Sequence[str]) -> Floats:
    """How much more likely stress is than calm, as a difference of logits, for every step."""
    features, masks, _ = _windows(model, session, kinds)
    with torch.no_grad():
        logits = model.stages["fusion"](*features, masks).numpy().astype(np.float64)
    return np.asarray(logits[:, 1] - logits[:, 0])


def _histogram(time_s: Floats, truth: Floats, bin_s: float = 30.0) -> Callable[[Floats], Floats]:
    """How often others were under stress at a time since the start."""
    bins = (time_s // bin_s).astype(int)
    n = np.bincount(bins, minlength=400)
    share = (np.bincount(bins, truth, minlength=400) + truth.mean()) / (n + 1)
    return lambda t_s: share[(t_s // bin_s).astype(int)]


def _ridge(rows: Floats, target: Floats, weight: float = 100.0) -> Callable[[Floats], Floats]:
    """A linear regression with a penalty."""
    mean, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    x = (rows - mean) / scale
    found = np.linalg.solve(x.T @ x + weight * np.eye(x.shape[1]), x.T @ (target - target.mean()))
    return lambda other: np.asarray((other - mean) / scale @ found)


BUDGET = Budget(ccc=0.005)
"""What `edge-mer calibrate` allows where nothing else is said."""

# -- figures --------------------------------------------------------------------------------------

N_RESAMPLED = 500
NEAR_S, SAME_S = 210.0, 30.0
Where = Literal["everywhere", "near", "same time"]


class Pairs:
    """Moments of stress held against calm ones; a person may count several times.

    Args:
        scores: (n,), larger for stress.
        truth: (n,) 0 or 1.
        group: (n,) numbers; only moments of one group are compared.
        person: (n,) number of the person.
    """

    def __init__(
        self, scores: Floats, truth: Floats, group: NDArray[np.intp], person: NDArray[np.intp]
    ) -> None:
        keys, self._place = np.unique(np.stack([group, scores]), axis=1, return_inverse=True)
        self._place = self._place.ravel()
        starts = np.flatnonzero(np.diff(keys[0], prepend=-1))
        self._starts = starts
        self._group_of = np.repeat(np.arange(len(starts)), np.diff(starts, append=keys.shape[1]))
        self._truth, self._person = truth, person

    def auc(self, weight: Floats) -> float:
        """How often a moment of stress has a larger score than a calm one; a tie counts half.

        Args:
            weight: (people,) how often each person counts.
        """
        each = weight[self._person]
        n_places = len(self._group_of)
        stress = np.bincount(self._place, each * self._truth, n_places)
        calm = np.bincount(self._place, each * (1 - self._truth), n_places)
        n_calm, n_stress = (np.add.reduceat(one, self._starts) for one in (calm, stress))
        before = np.cumsum(calm) - calm - (np.cumsum(n_calm) - n_calm)[self._group_of]
        return float((stress * (before + calm / 2)).sum() / (n_calm * n_stress).sum())


@dataclasses.dataclass(frozen=True)
class Figure:
    """An AUC, the mean over the seeds.

    Attributes:
        value: Of everybody.
        low: 2.5th percentile over people drawn anew.
        high: 97.5th.
        by_seed: Of each seed.
    """

    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]


def figures(judged: Sequence[Judged], where: Where = "everywhere") -> dict[str, Figure]:
    """AUC of each way of estimating, and "gain": of all streams over the best one alone.

    Args:
        judged: Every person with every seed.
        where: Which moments are compared: all, those within `NEAR_S` of a change of the label, or those
            that are equally late in their sessions, to `SAME_S`, where a clock knows nothing.
    """
    people = sorted({one.person for one in judged})
    names = list(judged[0].scores)
    kept = [_near(one) if where == "near" else one for one in judged]
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(people), np.full(len(people), 1 / len(people)), N_RESAMPLED)
    weights = np.concatenate([np.ones((1, len(people))), drawn])  # everybody once, then people drawn anew
    found = np.zeros((len(names), len(SEEDS), len(weights)))
    for column, seed in enumerate(SEEDS):
        parts = [one for one in kept if one.seed == seed]
        truth, time_s = (np.concatenate([getattr(one, key) for one in parts]) for key in ("truth", "time_s"))
        person = np.repeat([people.index(one.person) for one in parts], [len(one.truth) for one in parts])
        group = (time_s // SAME_S).astype(np.intp) if where == "same time" else np.zeros(len(truth), np.intp)
        for row, name in enumerate(names):
            pairs = Pairs(np.concatenate([one.scores[name] for one in parts]), truth, group, person)
            found[row, column] = [pairs.auc(weight) for weight in weights]
    every = names.index("+".join(ALL))
    best = max((names.index(f"{kind} alone") for kind in ALL), key=lambda row: found[row, :, 0].mean())
    found = np.concatenate([found, found[[every]] - found[[best]]])
    low, high = np.percentile(found[:, :, 1:].mean(axis=1), (2.5, 97.5), axis=1)
    return {
        name: Figure(
            float(found[row, :, 0].mean()),
            float(low[row]),
            float(high[row]),
            tuple(found[row, :, 0].tolist()),
        )
        for row, name in enumerate([*names, "gain"])
    }


def _near(one: Judged) -> Judged:
    """Only the steps near a change of the label."""
    changes_s = one.time_s[1:][np.diff(one.truth) != 0]
    rows = np.flatnonzero(np.abs(one.time_s[:, None] - changes_s).min(axis=1, initial=np.inf) <= NEAR_S)
    scores = {name: values[rows] for name, values in one.scores.items()}
    return dataclasses.replace(one, time_s=one.time_s[rows], truth=one.truth[rows], scores=scores)


# -- weights ---------------------------------------------------------------------------------------


def train_weights(manifest: Path) -> None:
    """What `edge-mer train stress-e4` does, on sessions that were played already."""
    read, model = read_recipe("stress-e4"), build("stress-e4")
    recordings, problems = read_manifest(manifest)
    demand(problems, "recordings")
    run = WORK / "run"
    shutil.rmtree(run, ignore_errors=True)
    open_run(run, read.text, resume=False)
    shutil.copytree(WORK / "data", run / "data")
    split = split_by_person(recordings, read.recipe.data.valid_share, read.recipe.seed)
    told = Told(
        print, lambda done, n: None, lambda last, epoch: print(epoch.phase, epoch.number, epoch.scores)
    )
    result = train(read.recipe, split, run, told)
    shutil.copyfile(result.weights, WEIGHTS)
    who = sorted(one.person for one in split if one.split == "valid")
    n_params = sum(value.numel() for value in model.state_dict().values())
    facts = {"chosen_by": who, "n_people": len(split), "n_params": n_params, "scores": result.scores}
    (WORK / "weights.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


# -- the page --------------------------------------------------------------------------------------

_ROWS = (
    ("eda+ppg+skt", "all three streams"),
    ("eda+ppg", "skin conductance and pulse"),
    ("eda+skt", "skin conductance and temperature"),
    ("ppg+skt", "pulse and temperature"),
    ("eda", "skin conductance, the others missing"),
    ("ppg", "pulse, the others missing"),
    ("skt", "temperature, the others missing"),
)
_ALONE = (
    ("eda alone", "a model of skin conductance alone"),
    ("ppg alone", "a model of the pulse alone"),
    ("skt alone", "a model of skin temperature alone"),
)


def page(judged: Sequence[Judged], weights: dict[str, Any], quantized: Sequence[Line]) -> str:
    """The model card."""
    whole, near, same = figures(judged), figures(judged, "near"), figures(judged, "same time")
    people = {one.person for one in judged}
    n_steps = sum(len(one.truth) for one in judged if one.seed == SEEDS[0])
    share = np.concatenate([one.truth for one in judged if one.seed == SEEDS[0]]).mean()
    return CARD.read_text(encoding="utf-8").format(
        n_people=len(people),
        first=min(people),
        last=max(people),
        n_steps=n_steps,
        share=f"{100 * share:.0f} %",
        n_params=weights["n_params"],
        chosen_by=", ".join(weights["chosen_by"]),
        n_learned=weights["n_people"] - len(weights["chosen_by"]),
        width=HIDDEN,
        table="\n".join(_row(title, whole[name], near[name], same[name]) for name, title in _ROWS),
        alone="\n".join(_row(title, whole[name], near[name], same[name]) for name, title in _ALONE),
        clock=_row("time since the start of the session", whole[CLOCK], near[CLOCK], None),
        read_clock=_row(
            "the time that can be read off the features",
            *(found[READ_CLOCK] for found in (whole, near, same)),
        ),
        quantized=table(quantized, "AUC"),
        gain=_gain(whole["gain"]),
        gain_same=_gain(same["gain"]),
        read_r=f"{_read_r(judged):.2f}",
        same_s=round(SAME_S),
        seeds=", ".join(f"{value:.3f}" for value in whole["eda+ppg+skt"].by_seed),
        widths=", ".join(map(str, WIDTHS)),
        memory_s=MEMORY_S,
        span_s=SPAN_S,
        step_s=STEP_S,
        warm_up_s=WARM_UP_S,
        near_s=round(NEAR_S),
        n_resampled=N_RESAMPLED,
        n_folds=N_FOLDS,
        n_seeds=len(SEEDS),
    )


def _row(title: str, *found: Figure | None) -> str:
    cells = " | ".join("0.500" if one is None else _shown(one) for one in found)
    return f"| {title} | {cells} |"


def _shown(one: Figure) -> str:
    return f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"


def _read_r(judged: Sequence[Judged]) -> float:
    """How the time that is read off the features goes with the time, over people who were never seen."""
    read = np.concatenate([one.scores[READ_CLOCK] for one in judged])
    return abs(float(np.corrcoef(read, np.concatenate([one.time_s for one in judged]))[0, 1]))


def _gain(one: Figure) -> str:
    return f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})"


def main(arguments: Sequence[str]) -> None:
    """Read what is asked for, measure what is not measured yet, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--weights", action="store_true", help="train the weights that come along, too")
    asked = parser.parse_args(arguments)
    data = asked.data or Path(os.environ.get("EDGE_MER_TEST_DATA", "")) / "stress_predict"
    if not (data / "labels_1hz.csv.gz").is_file():
        sys.exit(f"no {data / 'labels_1hz.csv.gz'}: give the folder of the Stress-Predict data set")
    torch.set_num_threads(1)
    manifest, measured = prepare(data.resolve()), WORK / "judged.json"
    sessions = sessions_of(manifest, build("stress-e4"))
    if asked.weights:
        train_weights(manifest)
    if not measured.exists() or not (WORK / "folds").exists():
        judged = cross_validated(sessions, read_recipe("stress-e4").recipe)
        measured.write_text(json.dumps([one.as_json() for one in judged]), encoding="utf-8")
    judged = [Judged.from_json(one) for one in json.loads(measured.read_text(encoding="utf-8"))]
    few = []
    for fold in folds(sessions):
        few.append(judge_fold(fold, WORK / "few-bits", BUDGET))
        print(f"few bits, {fold.name}: {few[-1].how}", flush=True)
    model = build("stress-e4").spec
    quantized = lines(model, few, sessions, "AUC")
    print(table(quantized, "AUC"), found_in(few), sep="\n")
    weights = json.loads((WORK / "weights.json").read_text(encoding="utf-8"))
    PAGE.write_text(page(judged, weights, quantized), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:])

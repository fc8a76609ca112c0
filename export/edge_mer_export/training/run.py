"""A training run: its folder, its phases in order, what it leaves.

recipe.toml        what was asked for
data/              sessions in steps, so that they are played once; removed at the end
checkpoint.pt      where training stands
done/              the best weights of every phase that is over
model.safetensors  the trained weights, for `edge-mer export --checkpoint`
metrics.json       what they are worth on the people to choose by, all and each modality alone
history.csv        every epoch
curves.svg         a picture of it
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import edge_mer
from edge_mer.errors import UsageError
from edge_mer.labels.manifest import Recording
from edge_mer.runtime.agreement import measure
from edge_mer.types.model import EmotionOutput, LogMel, ModelSpec, Words
from edge_mer_export.models.zoo import ZooModel, build
from edge_mer_export.training.curves import curves
from edge_mer_export.training.phases import BackboneTask, FusionTask, Scores, Task, WholeTask
from edge_mer_export.training.recipe import Recipe
from edge_mer_export.training.sessions import Session, load_sessions
from edge_mer_export.training.trainer import Epoch, State, load_state, save_state, seeded, train_phase

CHECKPOINT, WEIGHTS = "checkpoint.pt", "model.safetensors"


@dataclass(frozen=True)
class Told:
    """Whom a run tells what it is doing.

    Attributes:
        say: What comes next.
        played: Sessions played (done, all).
        epoch: An epoch is over (its phase's last number, what it came to).
    """

    say: Callable[[str], None]
    played: Callable[[int, int], None]
    epoch: Callable[[int, Epoch], None]


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        weights: The trained weights' file.
        scores: Modalities joined by "+" -> scores on the people to choose by.
        history: Every epoch.
        n_people: People learned from, and people to choose by.
    """

    weights: Path
    scores: dict[str, Scores]
    history: tuple[Epoch, ...]
    n_people: tuple[int, int]


def open_run(folder: Path, recipe_text: str, *, resume: bool) -> None:
    """Make the run's folder, or find it as it was left.

    Raises:
        UsageError: It is taken, or was made by another recipe.
    """
    kept = folder / "recipe.toml"
    if not resume:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            is_empty = not any(folder.iterdir())
            if is_empty:
                kept.write_text(recipe_text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot train into {folder}", found=str(error)) from error
        if not is_empty:
            raise UsageError(
                f"{folder} is not empty", hint="name another folder, or go on there with --resume"
            )
        return
    if not kept.is_file():
        raise UsageError(
            f"nothing to go on with in {folder}", expected="the folder of a run that was started"
        )
    if kept.read_text(encoding="utf-8") != recipe_text:
        raise UsageError(
            f"{folder} was started with another recipe", hint="train into a new folder, or restore the recipe"
        )


def train(recipe: Recipe, recordings: Sequence[Recording], folder: Path, told: Told) -> Result:
    """Train every phase that is not done yet, and write what came out.

    Args:
        recipe: What to do.
        recordings: Each with the split "train" or "valid".
        folder: Of the run, opened.
        told: Whom to tell.

    Raises:
        DataError: A recording cannot be used, or training came to nothing.
    """
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe.seed)
    model = build(recipe.model).eval()
    check_phases(model.spec, recipe)
    told.say(f"playing {len(recordings)} sessions")
    sessions = load_sessions(model.spec, recordings, folder / "data", recipe.threads, told.played)
    splits = {
        split: [s for s, one in zip(sessions, recordings, strict=True) if one.split == split]
        for split in ("train", "valid")
    }
    history = _train_phases(recipe, model, splits["train"], splits["valid"], folder, told)
    with torch.no_grad():
        scores = _worth(recipe, model, splits["train"][:1], splits["valid"])
    n_people = (len({s.person for s in splits["train"]}), len({s.person for s in splits["valid"]}))
    result = Result(folder / WEIGHTS, scores, history, n_people)
    _write(model, recipe, result, folder)
    shutil.rmtree(folder / "data")
    return result


def check_phases(spec: ModelSpec, recipe: Recipe) -> None:
    """Whether a recipe trains what the model has.

    Raises:
        UsageError: It has other backbones, or some that are not trained step by step.
    """
    for encoder in spec.encoders:
        is_words = isinstance(encoder.preprocess, Words)
        if is_words or encoder.repeat > 1:
            kind = "utterances" if is_words else f"{encoder.repeat} steps at once"
            raise UsageError(
                f"model {spec.name} cannot be trained here",
                expected="encoders that read one step of sound, pictures or a biosignal",
                found=f"{encoder.stage}, which reads {kind}",
                hint="train it with its authors' code, and give its files to edge-mer export --checkpoint",
            )
    stages = {encoder.stage for encoder in spec.encoders}
    if recipe.backbones.keys() != stages:
        raise UsageError(
            f"the recipe's [backbones] do not fit model {spec.name}",
            expected=", ".join(sorted(stages)),
            found=", ".join(sorted(recipe.backbones)),
        )
    if recipe.fusion is None and (
        len(spec.encoders) > 1 or spec.fusion.n_steps > 1 or spec.fusion.has_present_input
    ):
        raise UsageError(
            "the recipe has no [fusion]",
            expected=f"one, since model {spec.name} fuses several steps or modalities",
            hint="only the fusion of a single step of one encoder learns along with the encoder",
        )
    if any(p.balance or p.smoothing for p in recipe.phases.values()) and not any(
        isinstance(o, EmotionOutput) for o in spec.outputs
    ):
        raise UsageError(f"the recipe balances or smooths classes, and model {spec.name} has none")
    of_sound = {encoder.stage for encoder in spec.encoders if isinstance(encoder.preprocess, LogMel)}
    for name, phase in recipe.phases.items():
        if phase.changes_spectrograms and name not in of_sound:
            raise UsageError(
                f"the recipe shifts or masks columns or bands for {name}, which has none",
                expected=f"these keys for {' or '.join(sorted(of_sound))}"
                if of_sound
                else "none of these keys",
            )


def _train_phases(
    recipe: Recipe, model: ZooModel, train: list[Session], valid: list[Session], folder: Path, told: Told
) -> tuple[Epoch, ...]:
    (folder / "done").mkdir(exist_ok=True)
    state = load_state(folder / CHECKPOINT) if (folder / CHECKPOINT).exists() else State("")
    for phase, stages in _learning_together(recipe, model.spec).items():
        done = {stage: folder / "done" / f"{stage}.safetensors" for stage in stages}
        if all(file.exists() for file in done.values()):
            for stage, file in done.items():
                model.stages[stage].load_state_dict(safetensors.torch.load_file(file))
            continue
        if state.phase != phase:
            state = State(phase, history=[*state.history, *state.epochs])
        told.say(f"training {' and '.join(stages)}")
        seeded(recipe.seed, phase, 0)  # heads begin the same, whatever was trained before them
        task = _task(recipe, model, phase, train, valid)
        train_phase(
            task,
            state,
            recipe.seed,
            keep=lambda now: save_state(now, folder / CHECKPOINT),
            told=partial(told.epoch, task.phase.epochs),
        )
        for stage, file in done.items():
            model.stages[stage].eval()
            save_weights(model.stages[stage].state_dict(), {}, file)
    return (*state.history, *state.epochs)


def _learning_together(recipe: Recipe, spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """Phase -> the stages that learn in it."""
    if recipe.fusion is None:
        return {spec.encoders[0].stage: spec.stages}
    return {stage: (stage,) for stage in spec.stages}


def _task(recipe: Recipe, model: ZooModel, phase: str, train: list[Session], valid: list[Session]) -> Task:
    encoders = {one.stage: one for one in model.spec.encoders}
    if recipe.fusion is None:
        return WholeTask(model, encoders[phase], recipe.backbones[phase], train, valid)
    for_backbones, for_fusion = shared_out(train, recipe.fusion.own_people_share)
    if phase in encoders:
        return BackboneTask(model, encoders[phase], recipe.backbones[phase], for_backbones, valid)
    return FusionTask(model, recipe.fusion, for_fusion, valid)


def _worth(recipe: Recipe, model: ZooModel, train: list[Session], valid: list[Session]) -> dict[str, Scores]:
    """Modalities joined by "+" -> scores on the people to choose by."""
    if recipe.fusion is None:
        (encoder,) = model.spec.encoders
        task = WholeTask(model, encoder, recipe.backbones[encoder.stage], train, valid)
        return {encoder.modality: task.scores()}
    judge = FusionTask(model, recipe.fusion, train, valid)
    return {"+".join(subset): judge.scores_of(subset) for subset in _subsets(model.spec)}


def shared_out(sessions: list[Session], share: float) -> tuple[list[Session], list[Session]]:
    """Sessions for the backbones, and those of other people for the fusion; all for both if `share` is 0."""
    people = list(dict.fromkeys(one.person for one in sessions))
    n_own = round(share * len(people))
    if n_own == 0 or n_own == len(people):
        return sessions, sessions
    own = set(people[-n_own:])
    return [s for s in sessions if s.person not in own], [s for s in sessions if s.person in own]


def _subsets(spec: ModelSpec) -> list[tuple[str, ...]]:
    """All modalities, and each alone where the model can do without the others."""
    alone: list[tuple[str, ...]] = [(m,) for m in spec.modalities] if spec.fusion.has_present_input else []
    return [spec.modalities, *alone]


def _write(model: ZooModel, recipe: Recipe, result: Result, folder: Path) -> None:
    recipe_sha256 = hashlib.sha256((folder / "recipe.toml").read_bytes()).hexdigest()
    metadata = {
        "made_by": f"edge-mer train {edge_mer.__version__}, torch {torch.__version__}",
        "model": recipe.model,
        "recipe_sha256": recipe_sha256,
        "seed": str(recipe.seed),
    }
    save_weights(model.state_dict(), metadata, result.weights)
    n_train, n_valid = result.n_people
    metrics: dict[str, Any] = {
        **metadata,
        "n_people_learned_from": n_train,
        "n_people_to_choose_by": n_valid,
        **_by_measure(result.scores),
    }
    _replace(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    _replace(folder / "history.csv", _table(result.history))
    _replace(folder / "curves.svg", curves(result.history))


def _by_measure(scores: dict[str, Scores]) -> dict[str, dict[str, Scores]]:
    """Measure, in small letters -> modalities joined by "+" -> output -> score."""
    found: dict[str, dict[str, Scores]] = {}
    for subset, by_output in scores.items():
        for name, score in by_output.items():
            found.setdefault(measure(name).lower(), {}).setdefault(subset, {})[name] = score
    return found


def save_weights(state: dict[str, torch.Tensor], metadata: dict[str, str], file: Path) -> None:
    """Write a safetensors file, all of it or nothing; the same weights give the same bytes."""
    data = safetensors.torch.save({key: value.contiguous() for key, value in state.items()}, metadata)
    unfinished = file.with_suffix(".part")
    unfinished.write_bytes(_in_order(data))
    unfinished.replace(file)


def _in_order(data: bytes) -> bytes:
    """A safetensors file whose metadata, which come in any order, are sorted: same weights, same file."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(end - 8)
    return len(written).to_bytes(8, "little") + written + data[end:]


def _replace(file: Path, text: str) -> None:
    unfinished = file.with_suffix(".part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(file)


def _table(history: Sequence[Epoch]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    names = list(history[0].scores)
    titles = [f"{measure(name).lower()}_{name}" for name in names]
    rows.writerow(["phase", "epoch", "loss", *titles, "is_best"])
    for one in history:
        scores = [f"{one.scores[name]:.5f}" for name in names]
        rows.writerow([one.phase, one.number, f"{one.loss:.5f}", *scores, int(one.is_best)])
    return text.getvalue()

"""Trains `voice-emodb` on real people, judges it on people it never heard, and writes docs/voice-emodb.md.

    .venv/bin/python benchmarks/voice_emodb.py DATA           everything: figures, page
    .venv/bin/python benchmarks/voice_emodb.py DATA --weights  the weights that come along, too

DATA is a folder with a table labels.csv (columns file, speaker, emotion) and the clips that it names in a
folder flac: recordings of EmoDB (Burkhardt et al. 2005), each 2 s long. Without it,
EDGE_MER_TEST_DATA/speech_emodb is looked for. What is made of it lies in build/voice-emodb, which is not part
of the project; models that were trained already are taken from there.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import scipy.special
import torch
from held_out import Fold, Line, found_in, judge_fold, lines, table
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_mer.bundle.manifest import Budget
from edge_mer.labels.manifest import read_manifest
from edge_mer.labels.problems import demand
from edge_mer.runtime.labelled import check, ranges_of
from edge_mer_export.models.spec_voice_emodb import LABELS, SPAN, STEP, WIDE, WIDTHS, of_width
from edge_mer_export.models.zoo import ZooModel, build
from edge_mer_export.training.data import split_by_person
from edge_mer_export.training.phases import WholeTask
from edge_mer_export.training.recipe import Recipe, read_recipe
from edge_mer_export.training.run import Told, open_run, save_weights, train
from edge_mer_export.training.sessions import Session, load_sessions
from edge_mer_export.training.trainer import State, seeded, train_phase
from edge_mer_export.weight_files import read_weights

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "voice-emodb"
PAGE = ROOT / "docs" / "voice-emodb.md"
CARD = Path(__file__).with_name("voice_emodb_card.md")
WEIGHTS = ROOT / "export" / "edge_mer_export" / "weights" / "voice-emodb.safetensors"

Floats = NDArray[np.float64]


# -- data ---------------------------------------------------------------------------------------


def prepare(data: Path) -> Path:
    """Write a label track per emotion and a manifest of all clips; returns the manifest."""
    folder = WORK / "labels"
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(LABELS):
        rows = "".join(f"{float(STEP * i)},{number}\n" for i in range(int(SPAN / STEP) + 1))
        (folder / f"{name}.csv").write_text(f"t_s,emotion\n{rows}", encoding="utf-8")
    manifest = WORK / "people.csv"
    with (
        (data / "labels.csv").open(encoding="utf-8", newline="") as source,
        manifest.open("w", encoding="utf-8", newline="") as target,
    ):
        lines = csv.writer(target)
        lines.writerow(["person", "sources", "labels"])
        for row in csv.DictReader(source):
            lines.writerow(
                [row["speaker"], f"file:{data / 'flac' / row['file']}", f"labels/{row['emotion']}.csv"]
            )
    return manifest


def sessions_of(manifest: Path, model: ZooModel) -> list[Session]:
    """Every clip in steps, through the device's own runtime; played once, and kept."""
    recordings, problems = read_manifest(manifest)
    folder = WORK / "data"
    if not folder.exists():
        demand([*problems, *check(recordings, ranges_of(model.spec))], "recordings")
    told: Callable[[int, int], None] = lambda done, n: print(f"played {done} of {n}", flush=True)  # noqa: E731
    return load_sessions(model.spec, recordings, folder, torch.get_num_threads(), told)


def clips_of(sessions: Sequence[Session]) -> tuple[Tensor, NDArray[np.intp]]:
    """The spectrogram (n, 1, mel, column) of each clip at its end, where all of it is heard; its class."""
    heard = np.stack([one.present["audio"] for one in sessions])
    if heard[:, :-1].any() or not heard[:, -1].all():
        raise ValueError("a clip has to be heard as a whole at its end, and only there")
    spectrograms = np.stack([one.steps["audio"][-1] for one in sessions])
    truth = np.array([one.labels["emotion"][-1] for one in sessions])
    return torch.from_numpy(spectrograms), truth.astype(np.intp)


# -- people who were never heard ------------------------------------------------------------------

SEEDS = (1, 2, 3)
N_SCORED = 16
MODEL, WIDER, LINEAR = "voice-emodb", "wider", "logistic regression"
KINDS: dict[str, tuple[int, ...]] = {MODEL: WIDTHS, WIDER: WIDE}
"""Name -> channels."""


def folds(
    sessions: Sequence[Session], widths: tuple[int, ...], seeds: Sequence[int] = SEEDS
) -> Iterator[Fold]:
    """For every seed and every speaker a model that learned from the others.

    Each lies in build/voice-emodb/folds; what is there is not trained again.
    """
    recipe, mark = read_recipe("voice-emodb").recipe, "-wide" if widths == WIDE else ""
    folder = WORK / "folds"
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for speaker in sorted({one.person for one in sessions}):
            learned = [one for one in sessions if one.person != speaker]
            away = [one for one in sessions if one.person == speaker]
            name = f"{seed}-{speaker}{mark}"
            file = folder / f"{name}.safetensors"
            if not file.exists():
                save_weights(_learned(recipe, widths, learned, seed).state_dict(), {}, file)
                print(f"trained {name}", flush=True)
            model = of_width(widths)
            model.load_state_dict(safetensors.torch.load_file(file))
            yield Fold(name, seed, model.eval(), learned, away)


def _learned(recipe: Recipe, widths: tuple[int, ...], train: list[Session], seed: int) -> ZooModel:
    """A model as `edge-mer train` makes it; the recipe keeps the last epoch, so nobody chooses."""
    scored = train[:N_SCORED]
    torch.manual_seed(seed)
    model = of_width(widths)
    (encoder,) = model.spec.encoders
    seeded(seed, encoder.stage, 0)
    task = WholeTask(model, encoder, recipe.backbones[encoder.stage], train, scored)
    train_phase(task, State(task.name), seed, keep=lambda now: None, told=lambda epoch: None)
    return model.eval()


def estimates(model: ZooModel, sessions: Sequence[Session]) -> Floats:
    """Logits (n, class) of each clip at its end."""
    with torch.no_grad():
        feature = model.stages["audio"](clips_of(sessions)[0])
        logits: Tensor = model.stages["fusion"](feature[:, None])
    return np.asarray(logits.numpy(), np.float64)


@dataclasses.dataclass(frozen=True)
class Judged:
    """What was estimated of every clip by models that never heard its speaker.

    Attributes:
        by: What estimated.
        seed: Of folds and weights.
        speaker: (n,) who speaks.
        truth: (n,) class numbers.
        found: (n,) class numbers.
        sure: (n,) how likely these are said to be.
    """

    by: str
    seed: int
    speaker: tuple[str, ...]
    truth: NDArray[np.intp]
    found: NDArray[np.intp]
    sure: Floats


def cross_validated(sessions: Sequence[Session]) -> list[Judged]:
    """Every clip by models of every seed that never heard its speaker."""
    judged: list[Judged] = []
    for by, widths in KINDS.items():
        for seed in SEEDS:
            each = [
                _judged(by, one.seed, one.away, estimates(one.model, one.away))
                for one in folds(sessions, widths, (seed,))
            ]
            judged.append(_together(each))
    speakers = sorted({one.person for one in sessions})
    return [*judged, _together([_linear(sessions, speaker) for speaker in speakers])]


def _judged(by: str, seed: int, sessions: Sequence[Session], logits: Floats) -> Judged:
    speaker = tuple(one.person for one in sessions)
    shares = scipy.special.softmax(logits, axis=1)
    return Judged(by, seed, speaker, clips_of(sessions)[1], shares.argmax(axis=1), shares.max(axis=1))


def _together(parts: Sequence[Judged]) -> Judged:
    speaker = tuple(name for one in parts for name in one.speaker)
    truth, found = (np.concatenate([getattr(one, key) for one in parts]) for key in ("truth", "found"))
    sure = np.concatenate([one.sure for one in parts])
    return Judged(parts[0].by, parts[0].seed, speaker, truth, found, sure)


LINEAR_PENALTY = 0.01


def _linear(sessions: Sequence[Session], speaker: str) -> Judged:
    """One speaker by a logistic regression on mean and deviation of every band."""
    train = [one for one in sessions if one.person != speaker]
    held_out = [one for one in sessions if one.person == speaker]
    rows, truth = _statistics(train), torch.from_numpy(clips_of(train)[1])
    mean, scale = rows.mean(dim=0), rows.std(dim=0) + 1e-6
    head = nn.Linear(rows.shape[1], len(LABELS)).double()
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = head((rows - mean) / scale)
        total = nn.functional.cross_entropy(logits, truth) + LINEAR_PENALTY * head.weight.square().sum()
        torch.autograd.backward(total)
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        logits = head((_statistics(held_out) - mean) / scale).numpy()
    return _judged(LINEAR, 0, held_out, logits)


def _statistics(sessions: Sequence[Session]) -> Tensor:
    """Mean and deviation over time of each band: (n, 2 mel)."""
    bands = clips_of(sessions)[0][:, 0].double()
    return torch.cat([bands.mean(dim=-1), bands.std(dim=-1)], dim=1)


# -- figures --------------------------------------------------------------------------------------

N_RESAMPLED = 2000


@dataclasses.dataclass(frozen=True)
class Figure:
    """A share, the mean over the seeds.

    Attributes:
        value: Of every clip.
        low: 2.5th percentile over speakers and clips drawn anew.
        high: 97.5th.
        by_seed: Of each seed.
    """

    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]


def drawn(speaker: Sequence[str], n: int = N_RESAMPLED) -> Floats:
    """How often each clip counts, (1 + n, clips): once each in the first row, then as it was drawn.

    Speakers are drawn anew, and of each of them as many clips as there are, drawn anew too.
    """
    rng = np.random.default_rng(0)
    names = np.array(speaker)
    people = [np.flatnonzero(names == name) for name in sorted(set(speaker))]
    counts = np.ones((1 + n, len(names)))
    for row in counts[1:]:
        row[:] = 0
        for number in rng.integers(len(people), size=len(people)):
            clips = people[number]
            np.add.at(row, rng.choice(clips, len(clips)), 1)
    return counts


def recalls(one: Judged, counts: Floats) -> Floats:
    """How often each class was found where it was true: (draws, class); NaN where nobody drawn has it."""
    is_of = one.truth[:, None] == np.arange(len(LABELS))
    there = counts @ is_of
    right = counts @ (is_of & (one.found == one.truth)[:, None])
    return np.asarray(np.where(there > 0, right / np.maximum(there, 1), np.nan))


def uar(judged: Sequence[Judged], counts: Floats) -> Figure:
    """Unweighted average recall: the mean over the classes, over those only that are there in a draw."""
    return _figure(np.stack([np.nanmean(recalls(one, counts), axis=1) for one in judged]))


def uar_by_speaker(judged: Sequence[Judged], counts: Floats) -> Figure:
    """The same of each speaker alone, over the classes of their clips; the mean over the speakers."""
    speaker = np.array(judged[0].speaker)
    names = sorted(set(judged[0].speaker))
    drawn_times = np.stack(
        [counts[:, speaker == name].sum(axis=1) / (speaker == name).sum() for name in names]
    )
    found = []
    for one in judged:
        of_each = np.stack([recalls(one, counts * (speaker == name)) for name in names])
        n_classes = np.isfinite(of_each).sum(axis=-1).clip(min=1)  # none of a speaker who was not drawn
        each = np.nansum(of_each, axis=-1) / n_classes
        found.append((each * drawn_times).sum(axis=0) / drawn_times.sum(axis=0))
    return _figure(np.stack(found))


def accuracy(judged: Sequence[Judged], counts: Floats) -> Figure:
    """How often the class was right."""
    return _figure(np.stack([counts @ (one.found == one.truth) / counts.sum(axis=1) for one in judged]))


def _figure(found: Floats) -> Figure:
    low, high = np.percentile(found[:, 1:].mean(axis=0), (2.5, 97.5))
    return Figure(float(found[:, 0].mean()), float(low), float(high), tuple(found[:, 0].tolist()))


def _of(judged: Sequence[Judged], by: str) -> list[Judged]:
    return [one for one in judged if one.by == by]


# -- fewer bits -----------------------------------------------------------------------------------

BUDGET = Budget(ccc=0.0001)
"""A fiftieth of what `edge-mer calibrate` allows where nothing else is said: on clips that a model learned
from, 8 bits cost less than on others."""


def in_few_bits(sessions: Sequence[Session], widths: tuple[int, ...]) -> list[Line]:
    """Every model of some width in every form, on the speaker whom it never heard."""
    few = []
    for fold in folds(sessions, widths):
        few.append(judge_fold(fold, WORK / "few-bits", BUDGET))
        print(f"few bits, {fold.name}: {few[-1].how}", flush=True)
    found = lines(of_width(widths).spec, few, sessions, "UAR")
    print(table(found, "UAR"), found_in(few), sep="\n", flush=True)
    return found


# -- weights ---------------------------------------------------------------------------------------


def train_weights(manifest: Path) -> None:
    """What `edge-mer train voice-emodb` does, on clips that were played already."""
    read = read_recipe("voice-emodb")
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
    left_out = sorted({one.person for one in split if one.split == "valid"})
    (WORK / "weights.json").write_text(json.dumps({"left_out": left_out}), encoding="utf-8")
    if len(left_out) == 1:  # what a fold would train again: the same seed, the same people in the same order
        (WORK / "folds").mkdir(parents=True, exist_ok=True)
        save_weights(
            read_weights(WEIGHTS).values, {}, WORK / "folds" / f"{read.recipe.seed}-{left_out[0]}.safetensors"
        )


# -- the page --------------------------------------------------------------------------------------


def page(
    sessions: Sequence[Session],
    judged: Sequence[Judged],
    left_out: Sequence[str],
    few_bits: Mapping[str, Sequence[Line]],
) -> str:
    """The model card."""
    narrow, speakers = _of(judged, MODEL), sorted({one.person for one in sessions})
    recipe = read_recipe("voice-emodb").recipe
    backbone = recipe.backbones["audio"]
    counts = drawn(narrow[0].speaker)
    return CARD.read_text(encoding="utf-8").format(
        n_clips=len(sessions),
        n_speakers=len(speakers),
        speakers=", ".join(speakers),
        n_by_class=_n_by_class(narrow[0].truth),
        sure=f"{np.mean([one.sure.mean() for one in narrow]):.2f}",
        right=f"{accuracy(narrow, counts).value:.2f}",
        rarest=np.bincount(narrow[0].truth).min(),
        n_params=_n_params(WIDTHS),
        n_params_wide=_n_params(WIDE),
        widths=", ".join(map(str, WIDTHS)),
        wide=", ".join(map(str, WIDE)),
        step_s=float(STEP),
        span_s=float(SPAN),
        n_seeds=len(SEEDS),
        budget=BUDGET.ccc,
        n_resampled=N_RESAMPLED,
        epochs=backbone.epochs,
        batch_size=backbone.batch_size,
        table=_table(judged, counts),
        seeds=", ".join(f"{value:.3f}" for value in uar_by_speaker(narrow, counts).by_seed),
        by_speaker="\n".join(_speaker_row(judged, name) for name in speakers),
        by_class="\n".join(_class_rows(judged, counts)),
        confusion="\n".join(_confusion_rows(narrow)),
        classes=" | ".join(LABELS),
        rule="|---" * (len(LABELS) + 1) + "|",
        left_out=", ".join(left_out),
        n_learned=len(speakers) - len(left_out),
        shipped=_shipped(sessions, left_out),
        quantized=table(few_bits[MODEL], "UAR"),
        quantized_wide=table(few_bits[WIDER], "UAR"),
    )


_TITLES = {
    MODEL: "`voice-emodb`",
    WIDER: "the wider one",
    LINEAR: "logistic regression on means and deviations",
}


def _table(judged: Sequence[Judged], counts: Floats) -> str:
    rows = []
    for by, title in _TITLES.items():
        parts = _of(judged, by)
        n_seeds = "" if by == LINEAR else str(len(parts))
        rows.append(
            f"| {title} | {n_seeds} | {_shown(uar_by_speaker(parts, counts))} | {_shown(uar(parts, counts))} "
            f"| {_shown(accuracy(parts, counts))} |"
        )
    most = np.bincount(judged[0].truth).argmax()
    always = dataclasses.replace(judged[0], found=np.full_like(judged[0].found, most))
    share = accuracy([always], counts)
    by_speaker = uar_by_speaker([always], counts).value
    rows.append(f"| always {LABELS[most]} | | {by_speaker:.3f} | {1 / len(LABELS):.3f} | {_shown(share)} |")
    return "\n".join(rows)


def _shown(one: Figure) -> str:
    return f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"


def _speaker_row(judged: Sequence[Judged], name: str) -> str:
    here = [_only(one, name) for one in judged]
    n = len(here[0].truth)
    ways = (_of(here, by) for by in _TITLES)
    cells = " | ".join(f"{uar(parts, np.ones((2, n))).value:.3f}" for parts in ways)
    return f"| {name} | {n} | {len(set(here[0].truth.tolist()))} | {cells} |"


def _only(one: Judged, name: str) -> Judged:
    rows = np.flatnonzero(np.array(one.speaker) == name)
    truth, found, sure = one.truth[rows], one.found[rows], one.sure[rows]
    return dataclasses.replace(one, speaker=(name,) * len(rows), truth=truth, found=found, sure=sure)


def _class_rows(judged: Sequence[Judged], counts: Floats) -> Iterator[str]:
    """Recall of each class with its interval, over the draws that have it."""
    found = {by: np.stack([recalls(one, counts) for one in _of(judged, by)]).mean(axis=0) for by in _TITLES}
    n_of = np.bincount(judged[0].truth)
    for number, name in enumerate(LABELS):
        low, high = np.nanpercentile(found[MODEL][1:, number], (2.5, 97.5))
        share, *others = (f"{found[by][0, number]:.2f}" for by in _TITLES)
        yield f"| {name} | {n_of[number]} | {share} ({low:.2f} to {high:.2f}) | {' | '.join(others)} |"


def _confusion_rows(judged: Sequence[Judged]) -> Iterator[str]:
    for number, name in enumerate(LABELS):
        found = np.concatenate([one.found[one.truth == number] for one in judged])
        shares = np.bincount(found, minlength=len(LABELS)) / len(found)
        yield f"| **{name}** | " + " | ".join(f"{100 * share:.0f} %" for share in shares) + " |"


def _n_by_class(truth: NDArray[np.intp]) -> str:
    return ", ".join(f"{name} {n}" for name, n in zip(LABELS, np.bincount(truth), strict=True))


def _n_params(widths: tuple[int, ...]) -> int:
    return sum(one.numel() for stage in of_width(widths).stages.values() for one in stage.parameters())


def _shipped(sessions: Sequence[Session], left_out: Sequence[str]) -> str:
    """UAR of the weights that come along, on whom they never heard."""
    model = build("voice-emodb")
    model.load_state_dict(read_weights(WEIGHTS).values)
    away = [one for one in sessions if one.person in left_out]
    judged = _judged(MODEL, 0, away, estimates(model.eval(), away))
    return f"{uar([judged], np.ones((2, len(away)))).value:.3f}"


def main(arguments: Sequence[str]) -> None:
    """Read what is asked for, train what is not trained yet, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--weights", action="store_true", help="train the weights that come along, too")
    asked = parser.parse_args(arguments)
    data = asked.data or Path(os.environ.get("EDGE_MER_TEST_DATA", "")) / "speech_emodb"
    if not (data / "labels.csv").is_file():
        sys.exit(f"no {data / 'labels.csv'}: give the folder of the recordings")
    torch.set_num_threads(1)
    manifest = prepare(data.resolve())
    sessions = sessions_of(manifest, build("voice-emodb"))
    if asked.weights:
        train_weights(manifest)
    judged = cross_validated(sessions)
    few_bits = {by: in_few_bits(sessions, widths) for by, widths in KINDS.items()}
    weights = json.loads((WORK / "weights.json").read_text(encoding="utf-8"))
    PAGE.write_text(page(sessions, judged, weights["left_out"], few_bits), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:])

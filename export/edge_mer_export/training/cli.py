"""`edge-mer train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from edge_mer.cli.common import err, out, table
from edge_mer.labels.manifest import Recording
from edge_mer.runtime.agreement import measure
from edge_mer_export.models.zoo import build
from edge_mer_export.training.data import recordings_of
from edge_mer_export.training.recipe import Recipe, read_recipe
from edge_mer_export.training.run import Result, Told, check_phases, open_run, train
from edge_mer_export.training.trainer import Epoch


def train_verb(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's .toml file, or the name of one that comes along, e.g. jmt-tiny.")
    ],
    to: Annotated[Path, typer.Option("--out", help="The run's folder.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in that folder, wherever it was stopped.")
    ] = False,
) -> None:
    """Train a model of the zoo on labelled sessions."""
    read = read_recipe(recipe)
    spec = build(read.recipe.model).spec
    check_phases(spec, read.recipe)
    recordings, warning = recordings_of(spec, read)
    open_run(to, read.text, resume=resume)
    if warning:
        err.print(warning)
    try:
        result = _train(read.recipe, recordings, to)
    except KeyboardInterrupt:
        err.print(
            f"interrupted; to go on: edge-mer train {shlex.join([recipe, '--out', str(to), '--resume'])}"
        )
        raise
    _show(result, read.recipe, to)


def _train(recipe: Recipe, recordings: list[Recording], to: Path) -> Result:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    ) as bars:
        return train(recipe, recordings, to, _teller(bars))


def _teller(bars: Progress) -> Told:
    tasks: dict[str, object] = {}

    def advance(name: str, done: int, n: int) -> None:
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=n)
        bars.update(bars.task_ids[list(tasks).index(name)], completed=done)

    def epoch(last: int, one: Epoch) -> None:
        scores = ", ".join(f"{measure(name)} {name} {score:.3f}" for name, score in one.scores.items())
        best = " (best so far)" if one.is_best else ""
        bars.console.print(f"{one.phase} {one.number}: loss {one.loss:.3f}, {scores}{best}")
        advance(f"training {one.phase}", one.number, last)

    return Told(bars.console.print, lambda done, n: advance("playing sessions", done, n), epoch)


def _show(result: Result, recipe: Recipe, to: Path) -> None:
    names = list(next(iter(result.scores.values())))
    rows = [[subset, *(f"{scores[name]:.3f}" for name in names)] for subset, scores in result.scores.items()]
    n_train, n_valid = result.n_people
    out.print(table(["modalities", *(f"{measure(name)} {name}" for name in names)], rows))
    others = f"chosen by the {_measures(names)} on {n_valid} others, which flatters it: judge it on"
    if all(phase.keep == "last" for phase in recipe.phases.values()):
        others = f"judged on {n_valid} others, who chose no epoch. More is known from"
    out.print(f"\nLearned from {n_train} people, {others} people of neither group with edge-mer evaluate.")
    out.print(
        f"Weights: {result.weights}. "
        f"Next: edge-mer export {recipe.model} --checkpoint {result.weights} --out DIR"
    )
    out.print(f"Epochs: {to / 'history.csv'}. Curves: {to / 'curves.svg'}.")


def _measures(outputs: list[str]) -> str:
    return " and ".join(dict.fromkeys(measure(name) for name in outputs))

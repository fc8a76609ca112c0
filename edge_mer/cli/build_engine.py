"""`edge-mer build-engine`: the fastest candidate of a bundle that keeps its numbers here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.cli.common import out, progress, table
from edge_mer.clock import Clock, MonotonicClock
from edge_mer.errors import UsageError
from edge_mer.runtime.build import MIN_GAIN, TARGETS, Choice, Trial, build, cached_choice, choices


def build_engine(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    target: Annotated[str, typer.Option(help="What to build for.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Build again even if this was done before.")] = False,
) -> None:
    """Find the fastest candidate of a bundle on this device that keeps its numbers."""
    if target not in TARGETS:
        raise UsageError(f"unknown target {target!r}", expected=" or ".join(TARGETS))
    opened = open_bundle(bundle)
    if not force and (choice := cached_choice(opened, target)) is not None:
        out.print(f"Built before: {describe(choice)}. Build again with --force.")
        return
    trials = try_all(opened, MonotonicClock(), target)
    chosen = next(trial for trial in trials if trial.error is not None and trial.refused is None)
    rows = [
        [
            describe(t.choice),
            f"{t.hop_ms:.2f}",
            "" if t.error is None else f"{t.error:.2g}",
            _verdict(t, chosen),
        ]
        for t in trials
    ]
    out.print(table(["candidate", "ms per prediction", "error", "verdict"], rows))
    out.print(f"\nChosen: {describe(chosen.choice)}, {chosen.hop_ms:.2f} ms per prediction.")


def try_all(bundle: Bundle, clock: Clock, target: str) -> list[Trial]:
    """Build with a progress line; the last state of every trial."""
    trials: dict[Choice, Trial] = {}
    n_choices = len(choices(bundle))
    with progress() as say:
        for trial in build(bundle, clock, target):
            trials[trial.choice] = trial
            what = f"timed {len(trials)} of {n_choices}" if trial.error is None else "proven"
            say(f"{what}: {describe(trial.choice)} {trial.hop_ms:.2f} ms")
    return list(trials.values())


def describe(choice: Choice) -> str:
    """A choice in words."""
    threads = "thread" if choice.options.threads == 1 else "threads"
    return f"{choice.precision}, {choice.options.threads} {threads}, graph {choice.options.graph}"


def _verdict(trial: Trial, chosen: Trial) -> str:
    if trial.refused is not None:
        return f"refused: {trial.refused}"
    if trial.error is not None:
        return "passed"
    return "slower" if trial.hop_ms > chosen.hop_ms else f"saves less than {100 * MIN_GAIN:g} %"

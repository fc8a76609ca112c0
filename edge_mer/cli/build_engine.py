"""`edge-mer build-engine`: the fastest candidate of a bundle that keeps its numbers here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.cli.common import out, progress, table
from edge_mer.clock import Clock, MonotonicClock
from edge_mer.errors import MissingError, UsageError
from edge_mer.runtime.build import Trial, build, fitting_build
from edge_mer.runtime.target import Choice, Target
from edge_mer.runtime.target_cpu import CpuTarget
from edge_mer.runtime.target_tensorrt import TensorRtSettings, TensorRtTarget
from edge_mer.runtime.targets import TARGETS


def build_engine(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    target: Annotated[str, typer.Option(help="What to build for: cpu or tensorrt.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Build again even if this was done before.")] = False,
    workspace_mb: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="TensorRT: most memory in MiB that a kernel may use beside its tensors. "
            "Default: half of what is free, 256 to 4096.",
        ),
    ] = None,
    max_batch: Annotated[
        int,
        typer.Option(
            min=1,
            max=64,
            help="Prove and time batches up to this size, in powers of two, for sessions that share engines.",
        ),
    ] = 1,
    dla: Annotated[
        bool,
        typer.Option(
            "--dla", help="TensorRT: say what a deep learning accelerator could run, and why not more."
        ),
    ] = False,
) -> None:
    """Find the fastest candidate of a bundle on this device that keeps its numbers."""
    chosen_target = _target(target, TensorRtSettings(workspace_mb, max_batch, dla))
    opened = open_bundle(bundle)
    if not force and (record := _done_before(opened, chosen_target)) is not None:
        out.print(f"Built before: {chosen_target.choice_of(record)}. Build again with --force.")
        _print_batches(record.get("batches", {}))
        _print_built(record.get("built", {}))
        return
    trials = try_all(opened, MonotonicClock(), chosen_target)
    chosen = next(trial for trial in trials if trial.error is not None and trial.refused is None)
    rows = [
        [
            str(t.choice),
            "" if t.hop_ms is None else f"{t.hop_ms:.2f}",
            "" if t.error is None else f"{t.error:.2g}",
            _verdict(t, chosen),
        ]
        for t in trials
    ]
    out.print(table(["candidate", "ms per prediction", "error", "verdict"], rows))
    for trial in trials:
        if trial.refused is not None:
            out.print(f"\n{trial.choice} was refused. {trial.refused}", markup=False)
    out.print(f"\nChosen: {chosen.choice}, {chosen.hop_ms:.2f} ms per prediction.")
    _print_batches({stage: times.as_json() for stage, times in chosen.batches.items()})
    _print_built(chosen.prepared.facts)


def _target(name: str, settings: TensorRtSettings) -> Target:
    if name not in TARGETS:
        raise UsageError(f"unknown target {name!r}", expected=" or ".join(sorted(TARGETS)))
    if name == TensorRtTarget.name:
        return TensorRtTarget(settings)
    if settings != TensorRtSettings(max_batch=settings.max_batch):
        raise UsageError(
            f"--workspace-mb and --dla mean nothing for {name}",
            expected="--target tensorrt, or none of them",
        )
    return CpuTarget(settings.max_batch)


def _done_before(bundle: Bundle, target: Target) -> dict[str, Any] | None:
    """A build for what is here, with the same settings."""
    try:
        record = fitting_build(bundle, target)
    except MissingError as stale:
        target.environment()  # if the target itself is missing, that is the message
        out.print(f"Building anew: {stale.found}.")
        return None
    return record if record is not None and record["settings"] == target.settings() else None


def try_all(bundle: Bundle, clock: Clock, target: Target) -> list[Trial]:
    """Build with a progress line; the last state of every trial."""
    trials: dict[Choice, Trial] = {}
    n_choices = len(target.choices(bundle))
    with progress() as say:
        for trial in build(bundle, clock, target, say):
            trials[trial.choice] = trial
            say(_said(trial, len(trials), max(n_choices, len(trials))))
    return list(trials.values())


def _said(trial: Trial, n_tried: int, n_choices: int) -> str:
    if trial.hop_ms is None:
        return f"tried {n_tried} of {n_choices}: {trial.choice} was refused"
    what = f"timed {n_tried} of {n_choices}" if trial.error is None else "proven"
    return f"{what}: {trial.choice} {trial.hop_ms:.2f} ms"


def _verdict(trial: Trial, chosen: Trial) -> str:
    if trial.refused is not None:
        return "refused"
    if trial.error is not None:
        return "passed"
    if trial.hop_ms is not None and chosen.hop_ms is not None and trial.hop_ms > chosen.hop_ms:
        return "slower"
    return "saves too little"


def _print_batches(batches: Any) -> None:
    """What batches save of each stage's time, where sessions are to share engines."""
    sizes = sorted({int(size) for told in batches.values() for size in told["ms_per_row"]})
    rows = []
    for stage, told in batches.items():
        times = {int(size): f"{ms:.3f}" for size, ms in told["ms_per_row"].items()}
        verdict = "alone" if told["best"] == 1 else f"batches up to {told['best']}"
        rows.append([stage, *(times.get(size, "") for size in sizes), verdict])
    if rows:
        out.print()
        heads = ["alone", *(f"of {size}" for size in sizes[1:])]
        out.print(table(["ms per step", *heads, "sessions that share run"], rows))


def _print_built(built: Any) -> None:
    """What each stage's engine computes in, and what an accelerator could run of it."""
    stages = built.get("stages", {})
    rows = [
        [
            stage,
            _counted(facts["precision"]["used"]),
            str(facts["precision"]["n_hidden"]),
            f"{facts['seconds']:.1f}",
        ]
        for stage, facts in stages.items()
    ]
    if rows:
        out.print()
        out.print(table(["stage", "products by precision", "not shown", "built in s"], rows))
    for stage, facts in stages.items():
        if report := facts.get("dla"):
            out.print(f"\nDLA, {stage}: {report['verdict']}.")
            for kind, n in report["unable"].items():
                out.print(f"  not {n} x {kind}", markup=False)


def _counted(used: dict[str, int]) -> str:
    return ", ".join(f"{n} {precision}" for precision, n in used.items()) or "none shown"

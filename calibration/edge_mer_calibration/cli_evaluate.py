"""`edge-mer evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edge_mer.bundle.read import open_bundle
from edge_mer.bundle.write import check_free
from edge_mer.cli.common import err, out, progress, table
from edge_mer.cli.corpus import RAY_HELP, WORKERS_HELP, crew_of, left_out, tell_failed, tell_replaced
from edge_mer.errors import UsageError
from edge_mer.labels.manifest import Recording, read_manifest
from edge_mer.labels.problems import demand, summary
from edge_mer.runtime.labelled import check, ranges_of
from edge_mer.types.model import ModelSpec
from edge_mer_calibration.against_fp32 import Difference
from edge_mer_calibration.corruption import Corruption
from edge_mer_calibration.evaluation import Evaluation, evaluate_bundle, simulated_people
from edge_mer_calibration.findings import write_findings
from edge_mer_calibration.judging import Row
from edge_mer_calibration.kept_estimates import KeptEstimates
from edge_mer_calibration.metrics import Estimate, leading
from edge_mer_calibration.scoring import Scored


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="A manifest (CSV or JSON lines) of labelled recordings. Default: simulated people."
        ),
    ] = None,
    people: Annotated[int, typer.Option(min=2, help="How many simulated people.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each simulated person.")] = 75,
    precision: Annotated[list[str], typer.Option(help="Judge only this candidate; may be repeated.")] = [],  # noqa: B006
    corrupt: Annotated[
        list[str],
        typer.Option(
            help="Judge once more with something that goes wrong, e.g. noise=10 (dB), blur=2, dark=0.2, "
            "cover=0.1, artefacts=6, skew=audio:200 (ms); may be repeated."
        ),
    ] = [],  # noqa: B006
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the numbers to this file too.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Write a new bundle there that knows how sure it may be.")
    ] = None,
    face_detector: Annotated[
        Path | None, typer.Option(help="YuNet's ONNX file; without it OpenCV's cascades find faces.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle of that name.")] = False,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help=RAY_HELP)] = None,
    workers: Annotated[int | None, typer.Option(min=1, help=WORKERS_HELP)] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep there what each recording came to: a run that was stopped goes on from it.",
        ),
    ] = None,
) -> None:
    """Hold a bundle's estimates against labels."""
    if to is not None:
        check_free(to, replace=replace)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UsageError(f"cannot write {json_file}", found=f"no folder {json_file.parent}")
    corruptions = [Corruption.parse(one) for one in corrupt]
    opened = open_bundle(bundle)
    model = opened.manifest.model
    recordings = simulated_people(model, people, steps) if data is None else _recordings(data, model)
    kept = None if keep is None else KeptEstimates(keep, opened, precision, face_detector)
    with crew_of(ray, workers) as crew:
        with progress() as say:
            found = evaluate_bundle(
                opened, face_detector, recordings, precision, say, corruptions, crew, kept
            )
        tell_replaced(crew)
    if told := summary(found.problems):
        err.print(told)
    tell_failed(found.failed)
    _show(found)
    if json_file is not None:
        _write(found, json_file)
    if to is not None:
        who = (
            f"{found.n_people} simulated people"
            if data is None
            else f"{found.n_people} people of {data.name}"
        )
        made = write_findings(opened, found, who, to, replace=replace)
        out.print(f"{to} is {made.bundle_id}; {_policies(made.model)}{_skew(made.model)}.")
    if found.failed:
        raise left_out(found.failed, len(recordings))


def _recordings(data: Path, model: ModelSpec) -> list[Recording]:
    """The manifest's recordings of the split "test", or all where it has none."""
    recordings, problems = read_manifest(data)
    if any(problem.is_fatal for problem in problems):  # everything that is wrong is told at once
        demand([*problems, *check(recordings, ranges_of(model))], f"recordings of {data}")
    if told := summary(problems):
        err.print(told)
    held_out = [one for one in recordings if one.split == "test"]
    chosen = held_out or recordings
    if not held_out and any(one.split for one in recordings):
        err.print(
            f"no recording of {data} has the split test, so all are judged; "
            "people that the model learned from, or was chosen by, flatter it"
        )
    if len({one.person for one in chosen}) < 2:
        raise UsageError("an evaluation needs at least two people", expected="two or more", found="one")
    return chosen


def _show(found: Evaluation) -> None:
    first = found.rows[0].scores
    measures = {name: leading(scores) for name, scores in first.items()}

    def cells(scores: Scored) -> list[str]:
        return [written(scores[name][measure]) for name, measure in measures.items()]

    def signed(values: dict[str, Estimate]) -> list[str]:
        return [written(values[name], sign=True) for name in measures]

    titles = [f"{measure} {name}" for name, measure in measures.items()]
    for precision, gains in found.gain.items():
        rows = [[_what_is_there(row), *cells(row.scores)] for row in found.rows if row.precision == precision]
        if gains:
            rows.append(["fusion minus best single", *signed(gains)])
        rows += [[f"guessed: {what}", *cells(scores)] for what, scores in found.baselines.items()]
        _show_table([precision, *titles], rows)
    if found.corrupted:
        rows = [[f"{one.corruption}, {one.precision}", *cells(one.scores)] for one in found.corrupted]
        _show_table(["corrupted", *titles], rows)
        rows = [[f"{one.corruption}, {one.precision}", *signed(one.change)] for one in found.corrupted]
        _show_table(["change by it", *titles], rows)
    whole = [row for row in found.rows if row.modalities == found.rows[0].modalities]
    sides = {row.precision: row.scores for row in whole}
    sides |= {f"guessed: {what}": scores for what, scores in found.baselines.items()}
    for name, scores in first.items():
        if len(scores) > 1:
            rows = [[what, *map(written, one[name].values())] for what, one in sides.items()]
            rows += [
                [
                    f"{one.precision} minus fp32",
                    *(written(value, sign=True) for value in one.change[name].values()),
                ]
                for one in found.differences
            ]
            _show_table([name, *scores], rows)
    for one in found.differences:
        out.print(f"{one.precision} against fp32: {_agreement(one)}.\n")
    _show_certainty(found)
    out.print(
        f"{found.n_people} people, {found.rows[0].n_steps} steps; "
        "in brackets 95 % intervals, by drawing whole people again. Guesses know the other people's labels,\n"
        "but no sensor: their mean, or that at the same time since the start."
    )


def _agreement(one: Difference) -> str:
    """How far a precision's estimates are FP32's, e.g. "concordance of valence 0.9998"."""
    said = [
        f"concordance of {name} {'unknown' if ccc is None else f'{ccc:.4f}'}" for name, ccc in one.ccc.items()
    ]
    said += [
        f"another likeliest {name} in {100 * share:.2f} % of the steps" for name, share in one.flips.items()
    ]
    return ", ".join(said)


def _show_certainty(found: Evaluation) -> None:
    """90 % intervals and temperatures, each judged on people that it was not taken from."""
    for precision in dict.fromkeys(row.precision for row in found.rows):
        own = [row for row in found.rows if row.precision == precision]
        names = [name for name in own[0].scores if name in own[0].interval or name in own[0].sharpness]
        if names:
            rows = [[_what_is_there(row), *(_how_sure(row, name) for name in names)] for row in own]
            _show_table([f"{precision}, how sure", *names], rows)
    if any(row.held for row in found.rows):
        out.print(
            "In parentheses: what the bundle's own intervals and temperatures come to on these people.\n"
        )


def _how_sure(row: Row, name: str) -> str:
    if name in row.interval:
        one = row.interval[name]
        said = f"±{one.half_width:.3f} holds {100 * one.coverage:.1f} %"
        return said + (f" ({100 * row.held[name]:.1f} %)" if name in row.held else "")
    if name in row.sharpness:
        sharp = row.sharpness[name]
        said = f"ECE {sharp.ece:.3f} at T = {sharp.temperature:.2f}"
        return said + (f" ({row.held[name]:.3f})" if name in row.held else "")
    return "-"


def _show_table(titles: list[str], rows: list[list[str]]) -> None:
    out.print(table(titles, rows))
    out.print()


def _what_is_there(row: Row) -> str:
    stand_in = {"zero_feature": ", rest zero", "blank_input": ", rest blank"}.get(str(row.stand_in), "")
    return " + ".join(row.modalities) + stand_in


def _policies(model: ModelSpec) -> str:
    """What is done without each modality, e.g. "without visual mask, without audio abstain"."""
    return ", ".join(f"without {one.modality} {one.missing or 'abstain'}" for one in model.encoders)


def _skew(model: ModelSpec) -> str:
    most_ms = model.max_skew_ms
    return "" if most_ms is None else f", streams more than {most_ms:g} ms apart abstain"


def written(one: Estimate, *, sign: bool = False) -> str:
    """A number with its interval, e.g. "0.812 [0.77, 0.84]"."""
    plus = "+" if sign else ""
    return f"{one.value:{plus}.3f} [{one.low:{plus}.2f}, {one.high:{plus}.2f}]"


def _write(found: Evaluation, file: Path) -> None:
    unfinished = file.with_name(f"{file.name}.part")
    try:
        unfinished.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
        unfinished.replace(file)
    except OSError as error:
        raise UsageError(f"cannot write {file}", found=str(error)) from error

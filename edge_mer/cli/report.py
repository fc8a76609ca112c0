"""`edge-mer report`: one page that shows what a run gave, or what a bundle's candidates are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_mer.cli.common import err
from edge_mer.cli.report_bundle import bundle_page, refuse_inside
from edge_mer.errors import DataError, UsageError
from edge_mer.report.page import check_free, render, write_page
from edge_mer.report.read import Records, read_records
from edge_mer.report.truth import Truth, read_track, truth_of_simulation, truth_of_track
from edge_mer.sources.registry import open_source


def report(
    given: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|BUNDLE",
            help="What edge-mer run wrote with --sink jsonl:FILE, or a table (.parquet); or a bundle.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The page to write, e.g. report.html.")],
    truth: Annotated[
        str | None,
        typer.Option(
            metavar="TRACK",
            help="Of a run, what was true: a CSV with t_s or t_ns and valence, arousal or pain; or the "
            "sim: URI.",
        ),
    ] = None,
    person: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of a run that followed several people: who the page is about, e.g. p1."
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="The page's heading; without it the name of the file or the model.")
    ] = None,
    times: Annotated[
        bool, typer.Option("--times/--no-times", help="Of a bundle, time the candidates on this machine.")
    ] = True,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the page if it is there.")] = False,
) -> None:
    """Show what a run gave, or what a bundle's candidates are worth, as one HTML page without a network."""
    if given.is_dir():
        if person is not None:
            raise UsageError("--person is of a run, not of a bundle", hint="give the predictions of a run")
        _report_bundle(given, out, truth, title, times=times, replace=replace)
    else:
        _report_run(given, out, truth, title, person, replace=replace)


def _report_run(
    predictions: Path, out: Path, truth: str | None, title: str | None, person: str | None, *, replace: bool
) -> None:
    if person is not None and truth is not None and truth.startswith("sim:"):
        raise UsageError(
            "a simulation does not say which of its people was given which name",
            hint="give --truth as a CSV of the person's own",
        )
    inputs = [predictions] if truth is None or truth.startswith("sim:") else [predictions, Path(truth)]
    _refuse_input(out, inputs)
    check_free(out, replace=replace)
    records = read_records(predictions, person)
    page = render(records, _truth(truth, records), title)
    write_page(page, out, replace=replace)
    err.print(f"{len(records):,} predictions in {out}, {_kilobytes(page)}.", markup=False)


def _report_bundle(
    bundle: Path, out: Path, truth: str | None, title: str | None, *, times: bool, replace: bool
) -> None:
    if truth is not None:
        raise UsageError("--truth is of a run, not of a bundle", hint="give the predictions of a run")
    refuse_inside(out, bundle)
    check_free(out, replace=replace)
    page = bundle_page(bundle, title, with_times=times)
    write_page(page, out, replace=replace)
    err.print(f"{bundle} in {out}, {_kilobytes(page)}.", markup=False)


def _kilobytes(page: str) -> str:
    return f"{len(page.encode()) / 1000:,.0f} kB"


def _refuse_input(out: Path, inputs: list[Path]) -> None:
    """The page takes the place of nothing that it is made from."""
    for path in inputs:
        if out.resolve() == path.resolve() or (out.exists() and path.exists() and out.samefile(path)):
            raise UsageError(
                f"cannot write {out}", found="it is what the page is made from", hint="name another file"
            )


def _truth(asked: str | None, records: Records) -> Truth | None:
    if asked is None:
        return None
    if not asked.startswith("sim:"):
        return truth_of_track(read_track(Path(asked)), records, Path(asked).name)
    tell = getattr(open_source(asked), "truth", None)
    if tell is None:
        raise UsageError(f"{asked} knows no truth", expected="a simulation or a CSV file")
    try:
        return truth_of_simulation(tell(records.t_ns), records, asked)
    except ValueError as error:
        raise DataError(
            f"the truth of {asked} does not span {records.name}",
            found=str(error),
            hint="give the sim: URI that the run had as its source",
        ) from error

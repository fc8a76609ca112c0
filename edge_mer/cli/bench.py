"""`edge-mer bench`: what a prediction costs on this device, part by part, and against another bundle."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import edge_mer
from edge_mer.cli.common import err, out, progress, table
from edge_mer.cli.report_bundle import refuse_inside
from edge_mer.clock import MonotonicClock
from edge_mer.daemon.health import power_w
from edge_mer.engine.cache import processor
from edge_mer.engine.threads import available_threads
from edge_mer.errors import DataError, UsageError
from edge_mer.files import write_atomically
from edge_mer.report.bench_chart import Bar, bars
from edge_mer.report.page import check_free
from edge_mer.runtime.bench import MIN_RUNS, Bench, Cost, Ratio, Spread, from_golden, from_sources, ratio, run
from edge_mer.runtime.start_up import StartUp, measure_start_up
from edge_mer.runtime.ways import ENGINES, OpenedWay, Way, executed, open_way
from edge_mer.sources.registry import open_source

SCHEMA_VERSION = 1
_MB = 1_000_000


@dataclass(frozen=True)
class Measured:
    """All that was found out about one way to run a bundle.

    Attributes:
        label: Which it is.
        opened: The same.
        executed: Stage -> precision -> how many layers that multiply really ran in it.
        cost: What its predictions cost.
        ratio: Against the last one; None where it is alone.
        start_up: How a session of it starts; None where that could not be measured.
    """

    label: str
    opened: OpenedWay
    executed: Mapping[str, Mapping[str, int]]
    cost: Cost
    ratio: Ratio | None
    start_up: StartUp | None


def bench(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    against: Annotated[
        list[Path], typer.Option(help="Another bundle, by turns in the same run; may be repeated.")
    ] = [],  # noqa: B006
    precision: Annotated[
        list[str],
        typer.Option(
            help="A candidate to measure; may be repeated. Default: what build-engine chose here and, where "
            "nothing else is compared, fp32 beside it."
        ),
    ] = [],  # noqa: B006
    engine: Annotated[
        list[str],
        typer.Option(
            help=f"Run in this engine, not as build-engine chose: {', '.join(ENGINES)}; may be repeated."
        ),
    ] = [],  # noqa: B006
    source: Annotated[
        list[str],
        typer.Option(
            help="A recording to measure on, e.g. file:clip.mp4; may be repeated. Default: golden sessions."
        ),
    ] = [],  # noqa: B006
    seconds: Annotated[
        float, typer.Option(min=0, max=3600, help="How long to measure each, after a second of warming up.")
    ] = 10.0,
    face_detector: Annotated[
        Path | None, typer.Option(help="YuNet's ONNX file; without it OpenCV's cascades find faces.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    chart: Annotated[Path | None, typer.Option(help="Draw them into this file, as SVG.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace files that are there.")] = False,
) -> None:
    """Measure what a prediction costs on this device, and where the time goes."""
    paths = (bundle, *against)
    _check_files([one for one in (json_file, chart) if one is not None], source, paths, replace=replace)
    wanted = [
        Way(path, one_precision, one_engine, face_detector, tuple(source))
        for path in paths
        for one_engine in engine or (None,)
        for one_precision in precision or ((None,) if against or engine else (None, "fp32"))
    ]
    with ExitStack() as stack:
        opened = _opened(wanted, stack)
        found, n_rounds = _measured(opened, seconds)
    _show(found, n_rounds, seconds)
    if json_file is not None:
        _write(json_file, json.dumps(_as_dict(found, n_rounds, seconds, source), indent=1) + "\n")
    if chart is not None:
        _write(chart, bars([_bar(one) for one in found], f"ms per prediction, on {processor()['name']}"))


# -- before --------------------------------------------------------------------------------------


def _check_files(
    files: Sequence[Path], sources: Sequence[str], bundles: Sequence[Path], *, replace: bool
) -> None:
    """Whether all can be written, before any time is spent."""
    played = [getattr(open_source(uri), "path", None) for uri in sources]
    taken = {Path(one).resolve() for one in played if one is not None}
    for path in files:
        if path.resolve() in taken:
            raise UsageError(
                f"cannot write {path}", found="it is a source or written already", hint="name another file"
            )
        taken.add(path.resolve())
        for bundle in bundles:
            refuse_inside(path, bundle)
        check_free(path, replace=replace)
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(
                f"cannot write {path}",
                found=f"no folder {path.parent} that you may write to",
                hint="create it first",
            )


def _opened(wanted: Sequence[Way], stack: ExitStack) -> dict[Way, OpenedWay]:
    """All of them, but of one bundle none twice."""
    found: dict[Way, OpenedWay] = {}
    for way in wanted:
        opened = open_way(way)
        stack.callback(opened.setup.close)
        alike = [one for other, one in found.items() if other.bundle == way.bundle]
        if any(one.choice == opened.choice for one in alike):
            continue
        if not opened.was_built:
            err.print(
                f"No engine was built for {way.bundle} here: measuring fp32. Next: edge-mer build-engine.",
                markup=False,
            )
        found[way] = opened
    return found


# -- measuring -----------------------------------------------------------------------------------


def _measured(opened: Mapping[Way, OpenedWay], seconds: float) -> tuple[list[Measured], int]:
    clock = MonotonicClock()
    labels = _labels(opened)
    ran_in = [executed(one) for one in opened.values()]
    with ExitStack() as stack, progress() as say:
        benches = []
        for way, one in opened.items():
            play = from_sources(way.sources) if way.sources else from_golden(one.bundle)
            benches.append(stack.enter_context(closing(Bench(one.setup, play, clock, power_w))))
        n_rounds = run(benches, seconds, clock, lambda n: say("measuring", n, 0))
        start_ups: list[StartUp | None] = []
        for label, way in zip(labels, opened, strict=True):
            say("starting sessions", len(start_ups), len(opened))
            start_ups.append(_start_up(label, way))
    ratios = [ratio(one, benches[-1]) if len(benches) > 1 else None for one in benches]
    costs = [one.cost() for one in benches]
    columns = (labels, opened.values(), ran_in, costs, ratios, start_ups)
    return [Measured(*one) for one in zip(*columns, strict=True)], n_rounds


def _labels(opened: Mapping[Way, OpenedWay]) -> list[str]:
    of_several = len({way.bundle for way in opened}) > 1
    return [f"{way.bundle}: {one.choice}" if of_several else str(one.choice) for way, one in opened.items()]


def _start_up(label: str, way: Way) -> StartUp | None:
    try:
        return measure_start_up(way)
    except DataError as error:
        err.print(f"{label}: its start could not be measured. {error}", markup=False)
        return None


# -- telling -------------------------------------------------------------------------------------


def _show(found: Sequence[Measured], n_rounds: int, seconds: float) -> None:
    for number, one in enumerate(found, 1):
        out.print(f"{number}. {one.label}", markup=False)
        out.print(table(["ms per prediction", "p50", "p95", "p99", "layers run in"], list(_part_rows(one))))
        out.print()
    columns = ["", *(name for name, _ in _COLUMNS)] + ([f"against {len(found)}"] if len(found) > 1 else [])
    rows = [
        [f"{number}.", *(tell(one) for _, tell in _COLUMNS), *_told_ratio(one.ratio)]
        for number, one in enumerate(found, 1)
    ]
    filled = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    out.print(table([columns[i] for i in filled], [[row[i] for i in filled] for row in rows]))
    out.print(
        f"\n{n_rounds} rounds by turns, {found[0].cost.whole.n} predictions each, on {processor()['name']}, "
        f"{available_threads()} threads.",
        markup=False,
    )
    for remark in _remarks([one.cost for one in found], seconds):
        out.print(remark, markup=False)


def _part_rows(one: Measured) -> Iterator[list[str]]:
    for part, took in one.cost.parts.items():
        ran_in = one.executed.get(part, {})
        yield [part, *_told(took), ", ".join(f"{n} {precision}" for precision, n in ran_in.items())]
    yield ["all together", *_told(one.cost.whole), ""]


def _told(took: Spread) -> list[str]:
    return [f"{ms:.2f}" for ms in (took.p50, took.p95, took.p99)]


def _told_ratio(found: Ratio | None) -> list[str]:
    return [] if found is None else [f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"]


def _start(tell: Callable[[StartUp], str]) -> Callable[[Measured], str]:
    return lambda one: "" if one.start_up is None else tell(one.start_up)


_COLUMNS: tuple[tuple[str, Callable[[Measured], str]], ...] = (
    ("per s", lambda one: f"{one.cost.predictions_per_s:.1f}"),
    ("of the time", lambda one: f"{100 * one.cost.whole.p50 / one.cost.hop_ms:.0f} %"),
    ("start-up s", _start(lambda it: f"{it.first_record_s:.2f}")),
    ("memory MB", _start(lambda it: f"{it.memory_bytes / _MB:.0f}")),
    ("peak MB", _start(lambda it: f"{it.peak_memory_bytes / _MB:.0f}")),
    ("mJ", lambda one: "" if one.cost.energy_mj is None else f"{one.cost.energy_mj:.1f}"),
)


def _remarks(costs: Sequence[Cost], seconds: float) -> Iterator[str]:
    """What makes figures worth less than they look."""
    n = costs[0].whole.n
    if n < MIN_RUNS:
        in_a_second = n / max(seconds, n * max(cost.whole.p50 for cost in costs) / 1000)
        needed = math.ceil(1.5 * MIN_RUNS / in_a_second)
        yield f"Only {n} predictions each: percentiles say little. Next: --seconds {needed}."
    for number, cost in enumerate(costs, 1):
        if cost.n_without:
            told = ", ".join(f"{stage} in {without}" for stage, without in cost.n_without.items())
            yield f"{number}. Did not run, for want of data, and cost nothing: {told} of {n} predictions."


def _bar(one: Measured) -> Bar:
    return Bar(one.label, {part: took.p50 for part, took in one.cost.parts.items()}, one.cost.whole.p50)


def _as_dict(
    found: Sequence[Measured], n_rounds: int, seconds: float, sources: Sequence[str]
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "edge_mer": edge_mer.__version__,
        "utc": MonotonicClock().utc().isoformat(timespec="seconds"),
        "processor": processor()["name"],
        "threads": available_threads(),
        "sources": list(sources),
        "seconds": seconds,
        "n_rounds": n_rounds,
        "measured": [_told_of(one) for one in found],
    }


def _told_of(one: Measured) -> dict[str, Any]:
    bundle, setup, cost = one.opened.bundle, one.opened.setup, one.cost
    return {
        "label": one.label,
        "bundle": str(bundle.path),
        "bundle_id": bundle.bundle_id,
        "model": setup.model.name,
        "precision": setup.precision,
        "engine": setup.engine_name,
        "face_detector": None if setup.detector is None else setup.detector.name,
        "executed": {stage: dict(found) for stage, found in one.executed.items()},
        "ms": asdict(cost.whole),
        "parts_ms": {part: asdict(took) for part, took in cost.parts.items()},
        "hop_ms": cost.hop_ms,
        "predictions_per_s": cost.predictions_per_s,
        "n_by_status": dict(cost.n_by_status),
        "n_without": dict(cost.n_without),
        "power_w": cost.power_w,
        "energy_mj": cost.energy_mj,
        "start_up": None if one.start_up is None else asdict(one.start_up),
        "ratio_to_last": None if one.ratio is None else asdict(one.ratio),
    }


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise UsageError(f"cannot write {path}", found=error.strerror, hint="name another file") from error
    err.print(f"Written: {path}.", markup=False)

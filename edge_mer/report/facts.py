"""What a session amounts to, in numbers and plain sentences."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from edge_mer.report.figures import STAGE_WORDS
from edge_mer.report.read import STAGES, STATUSES, Floats, Records
from edge_mer.report.reduce import Columns, runs
from edge_mer.report.truth import Agreement, Truth, agreements
from edge_mer.report.words import (
    clock,
    duration,
    milliseconds,
    modality_in_words,
    number,
    plural,
    reason_explained,
    reason_in_words,
    reasons_in_words,
    share,
    short_id,
    three_digits,
)

MAX_STRETCHES = 100
MAX_REASONS = 100


@dataclass(frozen=True)
class Tile:
    """A number that stands out, what it is, and a remark."""

    value: str
    what: str
    remark: str = ""


@dataclass(frozen=True)
class ReasonRow:
    """A reason, how often it came, and what it means."""

    code: str
    words: str
    meaning: str
    n_withheld: int
    n_degraded: int
    part: str


@dataclass(frozen=True)
class Stretch:
    """Withheld predictions one after the other, for the same reasons."""

    start: str
    end: str
    length: str
    reasons: str
    n: int


@dataclass(frozen=True)
class Facts:
    """All that the page says in words and tables.

    Attributes:
        sentences: The summary.
        tiles: Its numbers.
        statuses: Status, number, share in percent.
        reasons: By how often they came.
        n_reasons_left: Reasons that were left out.
        stretches: Withheld ones, in the order of time.
        stretches_left: A sentence on those that were left out; "" when all are there.
        modalities: A sentence each.
        latency: Per stage: its name, then median, 95th, 99th percentile and the longest.
        latency_note: What was not measured.
        sync: A sentence.
        agreement: With the truth.
        notes: What a reader must know about the file.
        lineage: What ran, word by word.
    """

    sentences: list[str]
    tiles: list[Tile]
    statuses: list[tuple[str, int, float]]
    reasons: list[ReasonRow]
    n_reasons_left: int
    stretches: list[Stretch]
    stretches_left: str
    modalities: list[str]
    latency: list[list[str]]
    latency_note: str
    sync: str
    agreement: list[Agreement]
    notes: list[str]
    lineage: list[tuple[str, str]]


def collect(records: Records, columns: Columns, truth: Truth | None) -> Facts:
    """Everything at once."""
    counts = [int((records.status == i).sum()) for i in range(len(STATUSES))]
    reasons = _reasons(records)
    agreement = agreements(truth, records) if truth else []
    stretches, left = _stretches(records)
    latency, note = _latency(records)
    return Facts(
        sentences=_sentences(records, counts, reasons, agreement),
        tiles=_tiles(records, counts, agreement),
        statuses=[(s, n, 100.0 * n / len(records)) for s, n in zip(STATUSES, counts, strict=True)],
        reasons=reasons[:MAX_REASONS],
        n_reasons_left=max(0, len(reasons) - MAX_REASONS),
        stretches=stretches,
        stretches_left=left,
        modalities=_modalities(records),
        latency=latency,
        latency_note=note,
        sync=_sync(records),
        agreement=agreement,
        notes=_notes(records, columns, truth),
        lineage=_lineage(records),
    )


def session_s(records: Records) -> float:
    """From the start of the first step to the end of the last."""
    return float(records.t_ns[-1] - records.t_ns[0] + records.step_ns) / 1e9


def _sentences(
    records: Records, counts: list[int], reasons: list[ReasonRow], agreement: list[Agreement]
) -> list[str]:
    n = len(records)
    made = [
        f"{_what_ran(records)} over {duration(session_s(records))} and gave {plural(n, 'prediction')}, "
        f"one every {duration(records.step_ns / 1e9)}."
    ]
    found = [(status, count) for status, count in zip(STATUSES, counts, strict=True) if count]
    if len(found) == 1:
        made.append(f"All of them are {found[0][0]}.")
    else:
        parts = [f"{count:,} {status} ({share(count, n)})" for status, count in found]
        made.append(f"Of these were {_listed(parts)}.")
    if reasons:
        most = [f"{row.words} ({row.part})" for row in reasons[:3]]
        made.append(f"The main {'reasons' if len(most) > 1 else 'reason'}: {'; '.join(most)}.")
    made += [_presence(records)]
    made += [_latency_sentence(records), _sync(records)]
    made += [_agreement_sentence(one) for one in agreement]
    return [sentence for sentence in made if sentence]


def _what_ran(records: Records) -> str:
    bundles = _listed([short_id(bundle) for bundle in records.bundles])
    many = "Bundles" if len(records.bundles) > 1 else "Bundle"
    return f"{many} {bundles} ran in {_listed(list(records.precisions))} on {_listed(list(records.engines))}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _latency_sentence(records: Records) -> str:
    times = records.latency_ms["end_to_end"]
    if not np.isfinite(times).any():
        return ""
    middle, most = (milliseconds(float(v)) for v in np.nanpercentile(times, (50, 95)))
    return f"End to end a prediction took {middle} (median); 95 % took at most {most}."


def _agreement_sentence(one: Agreement) -> str:
    steps = plural(one.n, "compared step")
    if one.ccc is None:
        return f"Agreement with the truth in {one.output} cannot be computed: neither varies over {steps}."
    return f"Agreement with the truth in {one.output}: CCC {number(one.ccc, 3)} over {steps}."


def _tiles(records: Records, counts: list[int], agreement: list[Agreement]) -> list[Tile]:
    n = len(records)
    tiles = [
        Tile(duration(session_s(records)), "session", plural(n, "prediction")),
        Tile(share(counts[0], n), "ok", f"{share(counts[1], n)} degraded, {share(counts[2], n)} withheld"),
    ]
    times = records.latency_ms["end_to_end"]
    if np.isfinite(times).any():
        middle, most = (milliseconds(float(v)) for v in np.nanpercentile(times, (50, 95)))
        tiles.append(Tile(middle, "median latency", f"95th percentile {most}"))
    skew = np.percentile(records.skew_ms, (50, 95))
    tiles.append(
        Tile(
            milliseconds(float(skew[1])),
            "sync skew, 95th percentile",
            f"median {milliseconds(float(skew[0]))}",
        )
    )
    tiles += [
        Tile(
            "–" if one.ccc is None else number(one.ccc, 3),
            f"CCC of {one.output}",
            plural(one.n, "compared step"),
        )
        for one in agreement
    ]
    return tiles


def _reasons(records: Records) -> list[ReasonRow]:
    withheld: Counter[str] = Counter()
    degraded: Counter[str] = Counter()
    of_set = np.bincount(records.reason_set, minlength=len(records.reason_sets))
    of_withheld = np.bincount(records.reason_set[records.is_withheld], minlength=len(records.reason_sets))
    for reasons, n, n_withheld in zip(
        records.reason_sets, of_set.tolist(), of_withheld.tolist(), strict=True
    ):
        for reason in set(reasons):
            withheld[reason] += n_withheld
            degraded[reason] += n - n_withheld
    both = withheld + degraded
    return [
        ReasonRow(
            code=reason,
            words=reason_in_words(reason),
            meaning=reason_explained(reason),
            n_withheld=withheld[reason],
            n_degraded=degraded[reason],
            part=share(n, len(records)),
        )
        for reason, n in sorted(both.items(), key=lambda item: (-item[1], item[0]))
    ]


def _stretches(records: Records) -> tuple[list[Stretch], str]:
    step_ns, t_ns = records.step_ns, records.t_ns
    is_joined = (np.diff(t_ns) <= 1.5 * step_ns) & (np.diff(records.reason_set) == 0)
    found = runs(records.is_withheld, is_joined)
    longest = sorted(found, key=lambda run: int(t_ns[run[0]] - t_ns[run[1]]))[:MAX_STRETCHES]
    decimals = 0 if session_s(records) > 7200 else 2
    rows = []
    for first, last in sorted(longest):
        start_ns, end_ns = int(t_ns[first]) - step_ns, int(t_ns[last])
        rows.append(
            Stretch(
                start=clock(start_ns / 1e9, decimals),
                end=clock(end_ns / 1e9, decimals),
                length=duration((end_ns - start_ns) / 1e9),
                reasons=reasons_in_words(records.reason_sets[int(records.reason_set[first])]),
                n=last - first + 1,
            )
        )
    if len(found) <= MAX_STRETCHES:
        return rows, ""
    return rows, f"The {MAX_STRETCHES} longest of {len(found):,} withheld stretches are listed."


def _presence_counts(present: Floats) -> tuple[float, float]:
    """Steps in which it was there, and all steps that speak of it."""
    return float(np.nansum(present)), float(np.isfinite(present).sum())


def _presence(records: Records) -> str:
    parts = [
        f"{modality_in_words(modality)} in {share(*_presence_counts(present))}"
        for modality, present in records.present.items()
    ]
    return f"Present: {_listed(parts)} of the steps." if parts else ""


def _modalities(records: Records) -> list[str]:
    made = []
    for modality, present in records.present.items():
        part = share(*_presence_counts(present))
        coverage = 100.0 * float(np.nanmean(records.coverage[modality], dtype=np.float64))
        words = modality_in_words(modality)
        made.append(
            f"{words[0].upper()}{words[1:]} was present in {part} of the steps; "
            f"on average {coverage:.0f} % of a step was covered."
        )
    return made


def _latency(records: Records) -> tuple[list[list[str]], str]:
    rows, absent = [], []
    for stage in STAGES:
        times = records.latency_ms[stage]
        if not np.isfinite(times).any():
            absent.append(STAGE_WORDS[stage])
            continue
        marks: Floats = np.nanpercentile(times, (50, 95, 99, 100))
        rows.append([STAGE_WORDS[stage], *(three_digits(v) for v in marks.tolist())])
    if not absent:
        return rows, ""
    note = f"Not measured: {_listed(absent)}."
    if absent[:2] == ["capture", "waiting"]:
        note += (
            " A recording played faster than its own pace (--fast) has neither: end to end is the work alone."
        )
    return rows, note


def _sync(records: Records) -> str:
    n_streams = len(records.coverage)
    if n_streams < 2 and not np.any(records.skew_ms):
        return ""
    middle, most = (float(v) for v in np.percentile(records.skew_ms, (50, 95)))
    unsure = float(np.median(records.uncertainty_ms))
    if not np.any(records.skew_ms):
        text = "The streams lay on each other without any skew"
    else:
        text = f"The streams lay {milliseconds(middle)} apart (median), 95 % of the time at most"
        text += f" {milliseconds(most)}"
    return f"{text}, by clocks known to {milliseconds(unsure)}." if unsure else f"{text}."


def _notes(records: Records, columns: Columns, truth: Truth | None) -> list[str]:
    made = []
    if records.is_cut:
        made.append(
            "The file ends in the middle of a line: the run was killed, or is not over. "
            "Everything before that line is shown."
        )
    elif records.name.endswith(".part"):
        made.append("The file still has the name of an unfinished run: it was killed, or is not over.")
    if len(records.bundles) > 1:
        listed = _listed([f"{short_id(bundle)} ({n:,})" for bundle, n in records.bundles.items()])
        made.append(
            f"The file holds predictions of {len(records.bundles)} bundles: {listed}. "
            "They are different models or builds."
        )
    gaps = np.diff(records.t_ns) - records.step_ns
    if (is_gap := gaps > 0.5 * records.step_ns).any():
        lost_s = float(gaps[is_gap].sum()) / 1e9
        made.append(
            f"Records are missing in {plural(int(is_gap.sum()), 'place')}, {duration(lost_s)} in all."
        )
    if columns.width_s:
        made.append(
            f"{columns.n_records:,} predictions are more than a screen has columns. In charts over time a "
            f"column stands for {duration(columns.width_s)}: lines are its mean, pale bands reach from its "
            "lowest to its highest value, and it is hatched as withheld when more than half of it is. "
            "Tables and percentages count every prediction."
        )
    return made + (list(truth.notes) if truth else [])


def _hosts_time(records: Records, synchronised: str) -> list[tuple[str, str]]:
    """Of a table, which says of the recording alone, there is none."""
    if not records.first_utc:
        return []
    said = f"{records.first_utc} to {records.last_utc}; its clock {synchronised} a reference"
    return [("Host's time", said)]


def _lineage(records: Records) -> list[tuple[str, str]]:
    window_s = float(np.max(records.t_ns - records.t_start_ns)) / 1e9
    synchronised = {0: "did not follow", len(records): "followed"}.get(
        records.n_synchronised, "at times followed"
    )
    return [
        ("File", records.name),
        *(("Bundle", f"{bundle}, {plural(n, 'prediction')}") for bundle, n in records.bundles.items()),
        (
            "Precision",
            ", ".join(f"{name}, {plural(n, 'prediction')}" for name, n in records.precisions.items()),
        ),
        ("Engine", ", ".join(f"{name}, {plural(n, 'prediction')}" for name, n in records.engines.items())),
        ("Longest window", duration(window_s)),
        *_hosts_time(records, synchronised),
    ]

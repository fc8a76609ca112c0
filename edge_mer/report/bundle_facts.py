"""What a bundle's candidates amount to, in verdicts, tables and plain sentences."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from edge_mer.report.evidence import BundleEvidence, CandidateEvidence, Limits, StageHow, TensorRange
from edge_mer.report.words import modality_in_words, number, plural, short_id, three_digits
from edge_mer.types.evaluation import Findings, Measured, SubsetFindings

BEYOND = 0.1
"""Part of a range that held windows may leave it by before it is worth a warning."""
SAME_SPEED = 1.1
"""Times that differ by less are told as equal: a machine that does other things, too, cannot tell them."""
MAX_WARNINGS = 40
MAX_BARS = 60
MAX_NAMES = 300
MAX_ROWS = 200
MAX_TEXT = 200

STATES = {
    "good": "within the budget",
    "over": "over the budget",
    "refused": "too coarse",
    "unknown": "not measured",
    "unlimited": "no budget known",
}
_HARMFUL = "few bits harm there, see above"
_LEADING = ("CCC", "kappa")
_LOWER_IS_BETTER = ("RMSE", "MAE")


@dataclass(frozen=True)
class Verdict:
    """What to make of a candidate, in a word of `STATES` and a sentence."""

    name: str
    state: str
    sentence: str
    note: str = ""

    @property
    def word(self) -> str:
        """For people."""
        return STATES[self.state]


@dataclass(frozen=True)
class LimitCell:
    """A limit of the budget, and whether it is kept."""

    text: str
    is_kept: bool


@dataclass(frozen=True)
class CandidateRow:
    """A candidate in the table beside the charts; "–" for what is not known."""

    name: str
    size: str
    part: str
    ms: str
    ccc: list[str]
    rms: list[str]
    points: str
    limits: list[LimitCell]


@dataclass(frozen=True)
class Bar:
    """A bar in a list of bars: its name, its number, its length in percent, and marks."""

    name: str
    value: str
    percent: float
    remark: str = ""
    is_marked: bool = False


@dataclass(frozen=True)
class BarList:
    """Bars under a heading; a remark stands in the place of bars where there are none."""

    title: str
    bars: list[Bar]
    remark: str = ""


@dataclass(frozen=True)
class CandidateBars:
    """Lists of bars of one candidate, or a remark on several that have none."""

    name: str
    lists: list[BarList]
    remark: str = ""


@dataclass(frozen=True)
class Warned:
    """A tensor that went out of its range where nothing was calibrated."""

    stage: str
    tensor: str
    seen: str
    held: str
    beyond: str
    readers: str


@dataclass(frozen=True)
class Left:
    """What stayed in float in a stage, for one reason."""

    reason: str
    what: str
    modules: list[tuple[str, int]]
    n_more: int = 0


@dataclass(frozen=True)
class StageLeft:
    """What stayed in float in a stage, in the candidates of a name; a remark where that is nothing."""

    candidates: str
    stage: str
    left: list[Left]
    remark: str = ""


@dataclass(frozen=True)
class SubsetRow:
    """What holds of an output while just some modalities are there."""

    there: str
    output: str
    scores: list[str]
    interval: str
    sharpness: str


@dataclass(frozen=True)
class SubsetTable:
    """An evaluation of one candidate; `measures` heads the scores."""

    name: str
    people: str
    measures: list[str]
    rows: list[SubsetRow]


@dataclass(frozen=True)
class BundleFacts:
    """All that the page says in words and tables."""

    about: list[tuple[str, str]]
    set_of: list[tuple[str, str]]
    verdicts: list[Verdict]
    cautions: list[str]
    rows: list[CandidateRow]
    times: str
    harm: list[CandidateBars]
    methods: list[CandidateBars]
    warnings: list[Warned]
    n_warned: int
    n_tensors: int
    left: list[StageLeft]
    subsets: list[SubsetTable]


def collect(found: BundleEvidence) -> BundleFacts:
    """Everything at once."""
    warned = beyond_range(found)
    return BundleFacts(
        about=_about(found),
        set_of=_set_of(found),
        verdicts=[_verdict(found, one) for one in found.made],
        cautions=_cautions(found, len(warned)),
        rows=[_row(found, one) for one in found.candidates],
        times=_times(found),
        harm=_harm(found),
        methods=_methods(found),
        warnings=[_warned(stage, one) for stage, one in warned[:MAX_WARNINGS]],
        n_warned=len(warned),
        n_tensors=n_tensors(found),
        left=_left(found),
        subsets=[_subset_table(found, one.name, one.findings) for one in found.candidates if one.findings],
    )


def clipped(text: str, n: int = MAX_TEXT) -> str:
    """Not longer than a page can bear."""
    return text if len(text) <= n else text[: n - 1] + "…"


def listed(words: Sequence[str]) -> str:
    """E.g. "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sorts "layers.2" before "layers.10"."""
    parts = re.split(r"([0-9]{1,18})", text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def plain(value: float) -> str:
    """A number as somebody wrote it: "0.005"."""
    return f"{value:g}".replace("-", "−")


def decimals(value: float) -> str:
    """A small number with two digits that say something: "0.0010", "0.31"; never an exponent."""
    if not math.isfinite(value) or abs(value) >= 1e15:
        return "–" if not math.isfinite(value) else f"{value:.1e}".replace("-", "−")
    if value == 0 or abs(value) < 5e-7:
        return "0"
    digits = min(6, max(2, 1 - math.floor(math.log10(abs(value)))))
    return number(value, digits)


# --- what it is ----------------------------------------------------------------------------------


def _about(found: BundleEvidence) -> list[tuple[str, str]]:
    rows = [
        ("Model", f"{found.model}: {found.title}"),
        ("Bundle", found.bundle_id),
        ("Weights", found.weights),
        ("Made by", "; ".join(found.made_by)),
        ("Candidates", ", ".join(one.name for one in found.candidates)),
    ]
    return [(word, clipped(text, 600)) for word, text in rows]


def _set_of(found: BundleEvidence) -> list[tuple[str, str]]:
    """What was calibrated on, line by line."""
    if (made := found.calibration) is None:
        return []
    rows = [("Windows", plural(made.n_windows, "window")), ("Sessions", _sources(made.source))]
    if made.people:
        least, most = min(made.people), max(made.people)
        each = plural(most, "window") if least == most else f"{least} to {plural(most, 'window')}"
        rows.append(("People", f"{plural(len(made.people), 'person', 'people')}, {each} each"))
    if made.cells:
        cells = ", ".join(f"{cell} {n:,}" for cell, n in made.cells.items())
        rows.append(("By range of the labels", cells))
    if made.without:
        without = [f"{plural(n, 'window')} without {_thing(name)}" for name, n in made.without.items()]
        rows.append(("With something missing", ", ".join(without)))
    rows.append(("Budget", _budget(made.limits)))
    return [(word, clipped(text, 600)) for word, text in rows]


def _thing(modality: str) -> str:
    return modality_in_words(modality).partition(" (")[0]


def _sources(source: Sequence[str]) -> str:
    simulated = [one for one in source if one.startswith("sim:")]
    if simulated and len(simulated) == len(source):
        return f"{plural(len(source), 'session')} of simulated people, {source[0]}" + (
            " and others" if len(source) > 1 else ""
        )
    return (
        f"{plural(len(source), 'source')}: {', '.join(source[:3])}{' and others' if len(source) > 3 else ''}"
    )


def _budget(limits: Limits | None) -> str:
    if limits is None:
        return "not on record"
    parts = [f"concordance with FP32 lost by the worst output: at most {plain(limits.ccc)}"]
    if limits.points is not None:
        parts.append(f"points lost against labels: at most {plain(limits.points)}")
    if limits.latency_ms is not None:
        parts.append(f"ms for a prediction on the workbench: at most {plain(limits.latency_ms)}")
    return "; ".join(parts)


# --- verdicts ------------------------------------------------------------------------------------


def limits_of(found: BundleEvidence, one: CandidateEvidence) -> list[LimitCell]:
    """The limits of the budget, as far as there are numbers to hold against them."""
    limits = found.calibration.limits if found.calibration else None
    if limits is None or one.name == "fp32":
        return []
    cells = []
    if one.worst:
        drop = one.worst[1]
        cells.append(LimitCell(f"CCC {decimals(drop)} of {plain(limits.ccc)}", drop <= limits.ccc))
    if limits.points is not None and one.points is not None:
        text = f"points {decimals(one.points)} of {plain(limits.points)}"
        cells.append(LimitCell(text, one.points <= limits.points))
    if limits.latency_ms is not None and one.ms is not None:
        text = f"ms {three_digits(one.ms)} of {plain(limits.latency_ms)}"
        cells.append(LimitCell(text, one.ms <= limits.latency_ms))
    return cells


def _state(found: BundleEvidence, one: CandidateEvidence) -> str:
    cells = limits_of(found, one)
    if one.worst is None:
        return "unknown"
    if one.refused:
        return "refused"
    if not cells:
        return "unlimited"
    return "good" if all(cell.is_kept for cell in cells) else "over"


def _verdict(found: BundleEvidence, one: CandidateEvidence) -> Verdict:
    state = _state(found, one)
    return Verdict(one.name, state, _sentence(found, one), clipped(one.note or ""))


def _sentence(found: BundleEvidence, one: CandidateEvidence) -> str:
    """One sentence: what it loses, what it wins, and why it may not serve."""
    if one.worst is None:
        return "Nobody measured what it costs, so there is nothing to trust it by."
    output, drop = one.worst
    limits = found.calibration.limits if found.calibration else None
    allowed = "" if limits is None else f" ({plain(limits.ccc)} allowed)"
    parts = [f"Its worst output, {output}, lost {decimals(drop)} of its concordance with FP32{allowed}"]
    if one.points is not None:
        parts.append(f"against labels {decimals(abs(one.points))} points were {_way(one.points)}")
    parts.append(f"it has {_percent(one.n_bytes, _whole(found).n_bytes)} of FP32's size{_speed(found, one)}")
    if one.refused:
        parts.append(f"no device will choose it: {one.refused}")
    return clipped("; ".join(parts), 600) + "."


def _way(points: float) -> str:
    return "gained" if points < 0 else "lost"


def _speed(found: BundleEvidence, one: CandidateEvidence) -> str:
    reference = _whole(found).ms
    if one.ms is None or reference is None or min(one.ms, reference) <= 0:
        return ""
    faster = reference / one.ms
    if 1 / SAME_SPEED < faster < SAME_SPEED:
        return " and is about as fast here"
    if faster > 1:
        return f" and is {faster:.1f} times as fast here"
    return f" and takes {1 / faster:.1f} times as long here"


def _whole(found: BundleEvidence) -> CandidateEvidence:
    """FP32, or what stands first."""
    return next((one for one in found.candidates if one.name == "fp32"), found.candidates[0])


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f}\u00a0%"


def _cautions(found: BundleEvidence, n_warned: int) -> list[str]:
    """What a reader must not conclude."""
    made, said = found.calibration, []
    if made and made.source and all(one.startswith("sim:") for one in made.source):
        said.append(
            "Ranges come from simulated people only. What real people give can be wider, and is then clipped."
        )
    if made and made.people and len(made.people) == 1:
        said.append("All windows come from one person.")
    if made and (empty := [cell for cell, n in (made.cells or {}).items() if n == 0]):
        said.append(clipped(f"No window lies in {listed(empty)}."))
    if not any(one.findings for one in found.candidates):
        said.append(
            "Nobody evaluated this bundle on people with labels: the page says how near candidates are to "
            "FP32, not how right any of them is. edge-mer evaluate adds that."
        )
    if n_warned:
        said.append(
            f"{plural(n_warned, 'tensor')} of {n_tensors(found):,} went out of the calibrated range by more "
            f"than {_percent(BEYOND, 1)} of it on windows that it was not taken from; see Ranges."
        )
    if found.made and found.ranges is None:
        said.append("The bundle holds no file of ranges, so whether they are wide enough is not known.")
    if any(not one.is_for_cpu for one in found.made):
        said.append(
            "Candidates for TensorRT were judged as their graph is written. What a GPU makes of it is "
            "measured where its engine is built."
        )
    return said


def n_tensors(found: BundleEvidence) -> int:
    """Tensors with a range that products read."""
    return len(_read(found))


# --- the table beside the charts -----------------------------------------------------------------


def _row(found: BundleEvidence, one: CandidateEvidence) -> CandidateRow:
    fidelity = one.fidelity or {}
    return CandidateRow(
        name=one.name,
        size=f"{one.n_bytes / 1e6:,.2f}",
        part=_percent(one.n_bytes, _whole(found).n_bytes),
        ms="–" if one.ms is None else three_digits(one.ms),
        ccc=[_ccc(fidelity[name].ccc) if name in fidelity else "–" for name in found.outputs],
        rms=[decimals(fidelity[name].rms) if name in fidelity else "–" for name in found.outputs],
        points="–" if one.points is None else decimals(one.points),
        limits=limits_of(found, one),
    )


def _ccc(value: float | None) -> str:
    """Never rounded up to one."""
    if value is None:
        return "–"
    digits = next((d for d in (4, 5, 6) if value >= 1 or round(value, d) < 1), 6)
    return number(value, digits)


def _times(found: BundleEvidence) -> str:
    """A sentence on where times come from, and whose are not there."""
    others = [one.name for one in found.candidates if not one.is_for_cpu]
    said = f" Not timed: {listed(others)}, which TensorRT runs and a processor does not." if others else ""
    if found.processor is None:
        return "Times were not measured." + said
    return (
        "Times are the best of three medians of one prediction, on the machine that made this page: "
        f"{clipped(found.processor)}.{said}"
    )


# --- where few bits harm -------------------------------------------------------------------------


def _harm(found: BundleEvidence) -> list[CandidateBars]:
    """Candidates of which no block was tried are told together."""
    told, untried = [], defaultdict(list)
    for one in found.made:
        if any(how.blocks for how in one.stages.values()):
            told.append(_block_lists(found, one))
        elif one.stages:
            is_good = _state(found, one) == "good"
            remark = "All of every stage was good enough in few bits. " if is_good else ""
            untried[f"{remark}No block was tried alone."].append(one.name)
    return [*(CandidateBars(listed(names), [], remark) for remark, names in untried.items()), *told]


def _block_lists(found: BundleEvidence, one: CandidateEvidence) -> CandidateBars:
    most = max(block.drop for how in one.stages.values() for block in how.blocks.values())
    return CandidateBars(one.name, [_block_bars(found, s, one.stages[s], most) for s in _stages(found, one)])


def _stages(found: BundleEvidence, one: CandidateEvidence) -> list[str]:
    return [stage for stage in found.stages if stage in one.stages]


def _block_bars(found: BundleEvidence, stage: str, how: StageHow, most: float) -> BarList:
    if not how.blocks:
        all_of_it = "" if how.alone is None else f" All of it costs {number(how.alone, 4)}, next to nothing."
        return BarList(stage, [], f"No block of it was tried alone.{all_of_it}")
    names, is_order_known = in_network_order(found, stage, how)
    digits = _digits(most)
    bars = []
    for name in names[:MAX_BARS]:
        block = how.blocks[name]
        points = "" if block.points is None else f"{decimals(block.points)} points"
        parts = ["in float" if block.is_float else "", plural(block.n_nodes, "product"), points]
        bars.append(
            Bar(
                name=clipped(name) or "outside of modules",
                value=number(block.drop, digits),
                percent=_length(block.drop, most),
                remark=", ".join(filter(None, parts)),
                is_marked=block.is_float,
            )
        )
    n_float = sum(block.is_float for block in how.blocks.values())
    more = f" {len(names) - MAX_BARS} more are not shown." if len(names) > MAX_BARS else ""
    order = "the network" if is_order_known else "their names; the bundle does not tell the network's"
    remark = f"{n_float} of {plural(len(names), 'block')} stay in float.{more} In the order of {order}."
    return BarList(stage, bars, remark)


def _digits(most: float) -> int:
    """Enough for two of the largest number, and one more for the others."""
    return min(7, max(3, 2 - math.floor(math.log10(most)))) if 0 < most < 1e15 else 3


def _length(value: float, most: float) -> float:
    return round(100 * max(value, 0.0) / most, 2) if most > 0 else 0.0


def in_network_order(found: BundleEvidence, stage: str, how: StageHow) -> tuple[list[str], bool]:
    """Blocks as the network runs them, by the numbers in their nodes' names; else by their own names.

    Returns:
        The blocks, and whether the order is the network's.
    """
    tensors = (found.ranges or {}).get(stage, [])
    nodes = [*(node for one in tensors for node in (*(one.reads or ()), *one.writes))]
    nodes += [node for names in (how.in_float or {}).values() for node in names]
    first: dict[str, int] = {}
    for node in nodes:
        scope, _, operator = node.rpartition("/")
        if match := re.search(r"_([0-9]{1,9})$", operator):
            for block in _blocks_of(scope, how.blocks):
                first[block] = min(first.get(block, int(match[1])), int(match[1]))
    if len(first) < len(how.blocks):
        return sorted(how.blocks, key=natural), False
    return sorted(how.blocks, key=lambda block: first[block]), True


def _blocks_of(scope: str, blocks: Mapping[str, object]) -> Iterable[str]:
    """The block that a module lies in: the longest path that it begins with."""
    parts = scope.split(".") if scope else []
    for n in range(len(parts), -1, -1):
        if (path := ".".join(parts[:n])) in blocks:
            yield path
            return


# --- methods -------------------------------------------------------------------------------------


def _methods(found: BundleEvidence) -> list[CandidateBars]:
    """Candidates that were made in the same way are told together."""
    told: list[tuple[list[str], list[BarList]]] = []
    for one in (one for one in found.made if one.stages):
        lists = [_method_bars(stage, one.stages[stage]) for stage in _stages(found, one)]
        same = next((names for names, others in told if others == lists), None)
        if same is None:
            told.append(([one.name], lists))
        else:
            same.append(one.name)
    return [CandidateBars(listed(names), lists) for names, lists in told]


def _method_bars(stage: str, how: StageHow) -> BarList:
    most = max(how.tried.values(), default=0.0)
    ranked = sorted(how.tried.items(), key=lambda item: item[1])[:MAX_BARS]
    bars = [
        Bar(
            clipped(name),
            decimals(error),
            _length(error, most),
            "taken" if name == how.method else "",
            name == how.method,
        )
        for name, error in ranked
    ]
    return BarList(f"{stage}: {clipped(how.method)}", bars, "" if bars else "Nothing else was tried.")


# --- ranges --------------------------------------------------------------------------------------


def _read(found: BundleEvidence) -> list[tuple[str, TensorRange]]:
    """Tensors that products read, with their stages."""
    return [(s, one) for s, tensors in (found.ranges or {}).items() for one in tensors if one.is_read]


def beyond_range(found: BundleEvidence) -> list[tuple[str, TensorRange]]:
    """Tensors that went out of their range by more than `BEYOND` of it, the farthest first."""
    far = [(stage, one) for stage, one in _read(found) if one.beyond > BEYOND]
    return sorted(far, key=lambda item: (-item[1].beyond, item[0], natural(item[1].name)))


def _warned(stage: str, one: TensorRange) -> Warned:
    beyond = "a single value was calibrated" if math.isinf(one.beyond) else f"{100 * one.beyond:,.0f}\u00a0%"
    return Warned(
        clipped(stage),
        clipped(one.name),
        span(one.low, one.high),
        span(one.held_low, one.held_high),
        beyond,
        clipped(", ".join(one.reads or ())),
    )


def span(low: float, high: float) -> str:
    """E.g. "−1.2 to 3.4"."""
    return f"{short(low)} to {short(high)}"


def short(value: float) -> str:
    """Three digits, with an exponent only where it must be."""
    return plain(float(f"{value:.3g}"))


# --- what stayed in float ------------------------------------------------------------------------


def _left(found: BundleEvidence) -> list[StageLeft]:
    """By stage; candidates of which the same stayed in float are told together."""
    told: list[StageLeft] = []
    for stage in found.stages:
        groups: list[tuple[list[str], StageLeft]] = []
        for one in found.made:
            if stage not in one.stages:
                continue
            left = _left_in(stage, one.stages[stage])
            same = next((names for names, other in groups if other == left), None)
            if same is None:
                groups.append(([one.name], left))
            else:
                same.append(one.name)
        told += [replace(left, candidates=listed(names)) for names, left in groups]
    return told


def _left_in(stage: str, how: StageHow) -> StageLeft:
    left = [_left_for(reason, nodes) for reason, nodes in sorted(_reasons(how).items())]
    remark = "" if left else "Nothing: all of it that can be is in few bits."
    if how.in_float is None:
        remark = "The bundle does not say what else stayed." if left else "The bundle does not say."
    return StageLeft("", clipped(stage), left, remark)


def _reasons(how: StageHow) -> dict[str, tuple[str, ...]]:
    reasons = {reason: nodes for reason, nodes in (how.in_float or {}).items() if nodes}
    if blocks := [name or "outside of modules" for name, block in how.blocks.items() if block.is_float]:
        reasons[_HARMFUL] = tuple(f"{name}/" for name in blocks)
    return reasons


def _left_for(reason: str, nodes: Sequence[str]) -> Left:
    modules = Counter(node.rpartition("/")[0] or node for node in nodes)
    ordered = sorted(modules.items(), key=lambda item: natural(item[0]))
    return Left(
        clipped(reason),
        plural(len(nodes), "block" if reason == _HARMFUL else "node"),
        [(clipped(module), n) for module, n in ordered[:MAX_NAMES]],
        max(0, len(ordered) - MAX_NAMES),
    )


# --- findings ------------------------------------------------------------------------------------


def leading(scores: Mapping[str, Measured]) -> str:
    """The measure that an output is judged by first."""
    return next((name for name in _LEADING if name in scores), next(iter(scores), ""))


def _subset_table(found: BundleEvidence, name: str, findings: Findings) -> SubsetTable:
    measures = _measures(findings)
    rows = [
        _subset_row(subset, output, measures)
        for subset in findings.subsets
        for output in sorted(subset.scores, key=lambda one: _place(found.outputs, one))
    ]
    people = (
        f"{clipped(findings.people)}; {plural(findings.n_people, 'person', 'people')}, "
        f"{plural(findings.n_steps, 'step')} with everything there"
    )
    return SubsetTable(name, people, measures, rows[:MAX_ROWS])


def _place(outputs: Sequence[str], output: str) -> int:
    return outputs.index(output) if output in outputs else len(outputs)


def _measures(findings: Findings) -> list[str]:
    """All that any output was measured by, the leading ones first and errors last."""
    names = {m for subset in findings.subsets for scores in subset.scores.values() for m in scores}
    order = sorted(names, key=lambda one: (one not in _LEADING, one in _LOWER_IS_BETTER, one))
    return order[:12]


def _subset_row(subset: SubsetFindings, output: str, measures: Sequence[str]) -> SubsetRow:
    scores = subset.scores[output]
    interval, sharpness = subset.interval.get(output), subset.sharpness.get(output)
    stand_in = {"zero_feature": ", rest zero", "blank_input": ", rest blank"}.get(str(subset.stand_in), "")
    return SubsetRow(
        there=" + ".join(subset.modalities) + stand_in,
        output=clipped(output),
        scores=[measured(scores[one]) if one in scores else "–" for one in measures],
        interval=f"±{number(interval.half_width)} ({_percent(interval.coverage, 1)})" if interval else "–",
        sharpness=f"{number(sharpness.temperature)} ({number(sharpness.ece, 3)})" if sharpness else "–",
    )


def measured(one: Measured) -> str:
    """E.g. "0.812 [0.77, 0.84]"."""
    return f"{number(one.value, 3)} [{number(one.low)}, {number(one.high)}]"


def heading(found: BundleEvidence) -> str:
    """The page's heading where nobody gave one."""
    return f"Quantization of {clipped(found.model, 80)}"


def subtitle(found: BundleEvidence) -> str:
    """Which bundle, in short."""
    return f"bundle {short_id(found.bundle_id)}"

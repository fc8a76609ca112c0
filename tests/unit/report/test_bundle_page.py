"""The page of a bundle: verdicts, numbers, charts, and what it refuses to run."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from typing import Any

import pytest

from edge_mer.errors import DataError
from edge_mer.report.bundle_facts import beyond_range, collect, decimals, in_network_order, leading, short
from edge_mer.report.bundle_figures import _PLOT_HIGH_PX, _PLOT_PX, interval_charts, range_charts, scatters
from edge_mer.report.bundle_page import render_bundle
from edge_mer.report.evidence import Fidelity, Limits, read_ranges
from tests.helpers.evidence import (
    block,
    calibration,
    candidate,
    evidence,
    findings,
    fp32,
    how,
    ranges_json,
    tensor,
)
from tests.unit.report.test_page import Tree


def text_of(*made: Any, **changes: Any) -> str:
    return Tree(render_bundle(evidence(*made, **changes))).text


# --- verdicts ------------------------------------------------------------------------------------


def test_a_verdict_says_what_is_lost_and_won() -> None:
    found = evidence(candidate(ms=2.0, points=0.5), candidates=(fp32(ms=5.0), candidate(ms=2.0, points=0.5)))
    (verdict,) = collect(found).verdicts
    assert verdict.word == "within the budget"
    assert verdict.sentence == (
        "Its worst output, arousal, lost 0.0020 of its concordance with FP32 (0.005 allowed); "
        "against labels 0.50 points were lost; it has 25\u00a0% of FP32's size and is 2.5 times as fast here."
    )


@pytest.mark.parametrize(
    ("one", "limits", "word"),
    [
        (candidate(arousal=0.9949), Limits(0.005), "over the budget"),
        (candidate(points=1.1), Limits(0.005, points=1.0), "over the budget"),
        (candidate(points=-3.0), Limits(0.005, points=1.0), "within the budget"),
        (candidate(ms=31.0), Limits(0.005, latency_ms=30.0), "over the budget"),
        (candidate(fidelity=None), Limits(0.005), "not measured"),
        (candidate(fidelity={"valence": Fidelity(0.1, None)}), Limits(0.005), "over the budget"),
        (candidate(refused="no concordance"), Limits(0.5), "too coarse"),
        (candidate(), None, "no budget known"),
    ],
)
def test_a_verdict_follows_the_budget(one: Any, limits: Limits | None, word: str) -> None:
    found = evidence(one, calibration=calibration(limits=limits))
    assert [verdict.word for verdict in collect(found).verdicts] == [word]
    assert word in Tree(render_bundle(found)).text


def test_what_took_as_long_is_not_called_faster() -> None:
    for ms, words in ((5.2, "about as fast"), (10.0, "takes 2.0 times as long"), (2.5, "2.0 times as fast")):
        found = evidence(candidates=(fp32(ms=5.0), candidate(ms=ms)))
        assert words in collect(found).verdicts[0].sentence


def test_nothing_calibrated_is_said() -> None:
    text = text_of()
    assert "Nothing was calibrated yet." in text
    assert "edge-mer calibrate" in text
    assert "Where few bits harm" not in text


def test_cautions_are_those_that_hold() -> None:
    text = text_of(candidate())
    assert "simulated people only" not in text
    assert "Nobody evaluated this bundle" in text
    text = text_of(
        candidate("int8-trt", findings=findings()),
        calibration=calibration(source=("sim:seed=1",), people=(8,), cells={"valence low": 0, "pain 3": 2}),
        ranges={"visual": [tensor(held_low=-1.3)]},
    )
    assert "simulated people only" in text
    assert "one person" in text
    assert "No window lies in valence low." in text
    assert "1 tensor of 1 went out" in text
    assert "judged as their graph is written" in text
    assert "Nobody evaluated" not in text


# --- the trade-off -------------------------------------------------------------------------------


def test_points_lie_where_their_numbers_say() -> None:
    found = evidence(candidates=(fp32(ms=4.0), candidate(ms=1.0), candidate("int8-trt")), processor="CPU 1")
    time, size = scatters(found)
    assert [point.name for point in time.points] == ["fp32", "int8-cpu"]
    assert "Not in it: int8-trt" in time.note
    whole, few = time.points
    assert whole.x == pytest.approx(4 * few.x, abs=0.05)
    assert time.limit is not None
    heights = {label.text: label.at for label in time.y_labels}
    assert heights["1.000"] == whole.y < few.y == heights["0.998"] < time.limit == heights["0.995"]
    assert [point.name for point in size.points] == ["fp32", "int8-cpu", "int8-trt"]
    text = Tree(render_bundle(found)).text
    assert "best of three medians of one prediction, on the machine that made this page: CPU 1." in text
    assert "Not timed: int8-trt" in text


def test_the_name_of_the_budget_makes_room_for_a_candidate() -> None:
    for n_bytes, is_left in ((1_000_000, False), (4_000_000, True)):
        (chart,) = scatters(evidence(candidate(n_bytes=n_bytes, arousal=0.9951)))
        assert chart.is_limit_left is is_left


def test_without_times_there_is_no_chart_of_them() -> None:
    found = evidence(candidate())
    assert [chart.name for chart in scatters(found)] == ["near-size"]
    assert "Times were not measured." in Tree(render_bundle(found)).text


def test_names_of_near_candidates_do_not_cover_each_other() -> None:
    made = [
        candidate(f"int8-cpu+c{i}", arousal=0.998 + i * 1e-5, n_bytes=1_000_000 + i * 20_000)
        for i in range(4)
    ]
    (chart,) = scatters(evidence(*made))
    boxes = []
    for point in chart.points:
        x, y = point.x * _PLOT_PX / 100 + point.dx, point.y * _PLOT_HIGH_PX / 100 + point.dy
        width = 6.8 * len(point.name)
        left = x - {"start": 0, "middle": width / 2, "end": width}[point.anchor]
        boxes.append((left, y - 12, left + width, y + 3))
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


def test_labels_of_people_are_shown_with_their_intervals() -> None:
    found = evidence(
        candidate(findings=findings(0.6)),
        candidates=(fp32(findings=findings(0.7)), candidate(findings=findings(0.6))),
    )
    valence, arousal = interval_charts(found)
    assert valence.title == "CCC of valence against labels"
    assert arousal.title == "CCC of arousal against labels"
    whole, few = valence.rows
    assert few.left < few.at < few.right
    assert few.at < whole.at
    assert whole.value == "0.700 [0.65, 0.75]"
    assert (whole.right - whole.left) == pytest.approx(few.right - few.left, abs=0.05)


def test_the_leading_measure_does_not_depend_on_the_order_of_json() -> None:
    scores = findings().subsets[0].scores["valence"]
    assert list(scores) == ["MAE", "CCC"]
    assert leading(scores) == "CCC"
    assert leading({}) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.000287, "0.00029"),
        (0.5, "0.50"),
        (12.345, "12.35"),
        (-0.31, "−0.31"),
        (0.0, "0"),
        (1e300, "1.0e+300"),
    ],
)
def test_small_numbers_keep_digits_that_say_something(value: float, text: str) -> None:
    assert decimals(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123456, "0.0123"), (-3.456, "−3.46"), (1000, "1000"), (12345.6, "12300"), (0, "0")],
)
def test_ends_of_axes_have_three_digits(value: float, text: str) -> None:
    assert short(value) == text


# --- where few bits harm, and what stayed --------------------------------------------------------


def test_blocks_stand_in_the_order_of_the_network() -> None:
    stage = how(
        blocks={"a": block(0.001), "net.2": block(0.002, is_float=True), "net.10": block(0.004)},
        in_float={"multiplies": ("net.2.x/MatMul_3",)},
    )
    ranges = {"visual": [tensor(reads=("net.10/Conv_1",), writes=("a.b/Conv_9", "net.2/Conv_4"))]}
    found = evidence(candidate(stages={"visual": stage}), ranges=ranges)
    assert in_network_order(found, "visual", stage) == (["net.10", "net.2", "a"], True)
    (one,) = collect(found).harm
    (bars,) = one.lists
    assert [(bar.name, bar.value, bar.percent) for bar in bars.bars] == [
        ("net.10", "0.00400", 100.0),
        ("net.2", "0.00200", 50.0),
        ("a", "0.00100", 25.0),
    ]
    assert bars.remark == "1 of 3 blocks stay in float. In the order of the network."
    assert [bar.is_marked for bar in bars.bars] == [False, True, False]


def test_without_numbers_blocks_stand_by_name() -> None:
    stage = how(blocks={name: block(0.001) for name in ("net.10", "net.2", "")})
    found = evidence(candidate(stages={"visual": stage}))
    assert in_network_order(found, "visual", stage) == (["", "net.2", "net.10"], False)
    assert "outside of modules" in Tree(render_bundle(found)).text


def test_a_stage_that_costs_next_to_nothing_says_so() -> None:
    text = text_of(candidate(stages={"visual": how(blocks={"a": block(0.1)}), "fusion": how(alone=0.0003)}))
    assert "No block of it was tried alone. All of it costs 0.0003, next to nothing." in text


def test_candidates_that_were_made_alike_are_told_together() -> None:
    found = evidence(candidate(), candidate("int8-trt"))
    assert (
        "int8-cpu and int8-trt All of every stage was good enough in few bits."
        in Tree(render_bundle(found)).text
    )
    facts = collect(found)
    assert [one.name for one in facts.methods] == ["int8-cpu and int8-trt"]
    assert [one.candidates for one in facts.left] == ["int8-cpu and int8-trt"] * 2


def test_what_was_not_tried_is_not_called_good() -> None:
    text = text_of(candidate(arousal=0.5))
    assert "int8-cpu No block was tried alone." in text
    assert "good enough" not in text


def test_what_an_older_bundle_does_not_say_is_not_taken_as_nothing() -> None:
    blocks = {"net": block(0.1, is_float=True)}
    found = evidence(
        candidate(stages={"visual": how(in_float=None), "fusion": how(in_float=None, blocks=blocks)})
    )
    assert [one.remark for one in collect(found).left] == [
        "The bundle does not say.",
        "The bundle does not say what else stayed.",
    ]
    assert "Nothing: all" not in Tree(render_bundle(found)).text
    assert "Nothing: all of it that can be is in few bits." in text_of(candidate())


def test_the_method_that_was_taken_stands_out() -> None:
    (one,) = collect(evidence(candidate())).methods
    mse, min_max = one.lists[0].bars
    assert (mse.name, mse.value, mse.percent, mse.remark) == ("mse", "0.10", 25.0, "taken")
    assert (min_max.name, min_max.percent, min_max.remark) == ("min-max", 100.0, "")


def test_what_stayed_in_float_is_grouped_by_reason_and_module() -> None:
    stage = how(
        blocks={"net.a": block(0.1, is_float=True), "net.b": block(0.0)},
        in_float={"multiplies two activations": ("att/MatMul_4", "att/MatMul_5", "out/MatMul_9")},
    )
    cpu, trt = candidate(stages={"fusion": stage}), candidate("int8-trt", stages={"fusion": stage})
    (told,) = collect(evidence(cpu, trt)).left
    assert (told.candidates, told.stage) == ("int8-cpu and int8-trt", "fusion")
    harmful, products = told.left
    assert (harmful.what, harmful.modules) == ("1 block", [("net.a", 1)])
    assert (products.what, products.modules) == ("3 nodes", [("att", 2), ("out", 1)])


# --- ranges --------------------------------------------------------------------------------------


def test_a_range_is_warned_of_beyond_a_tenth_of_it() -> None:
    tensors = [
        tensor("near", held_high=1.19),
        tensor("far", held_high=1.3),
        tensor("farther", held_low=-2.0),
        tensor("one", low=1.0, high=1.0, held_low=1.0, held_high=2.0),
        tensor("unread", held_high=9.0, reads=()),
    ]
    found = evidence(candidate(), ranges={"visual": tensors})
    assert [one.name for _, one in beyond_range(found)] == ["one", "farther", "far"]
    rows = {row.tensor: row.beyond for row in collect(found).warnings}
    assert rows == {"one": "a single value was calibrated", "farther": "50\u00a0%", "far": "15\u00a0%"}


def test_a_histogram_spans_everything_that_is_marked_on_it() -> None:
    found = evidence(
        candidate(), ranges={"visual": [tensor(held_high=3.0, reads=("a/Conv_1",)), tensor("x", reads=())]}
    )
    (stage,) = range_charts(found)
    (one,) = stage.histograms
    assert one.ends == ("−1", "3")
    held, cpu = one.reaches
    assert (held.left, held.width, held.css) == (12.5, 87.5, "held-beyond")
    assert (cpu.left, cpu.width, cpu.name) == (12.5, 25.0, "int8-cpu")
    # four bins from 0 to 50 % of the width; the roots of 1, 4, 9 and 0 are 1, 2, 3 and 0 thirds of the height
    assert one.area == "M0.0 100V67H12.5V33H25.0V0H37.5V100H50.0V100Z"


def test_a_tensor_of_one_value_has_a_histogram() -> None:
    lone = tensor(low=0.0, high=0.0, held_low=0.0, held_high=0.0, counts=(5.0, 0.0), levels={})
    html = render_bundle(evidence(candidate(), ranges={"visual": [lone]}))
    assert "nan" not in Tree(html).text
    assert 'd="M0.0 100V0H1.0V100Z"' in html


def test_many_tensors_stay_within_a_page() -> None:
    tensors = [tensor(f"t{i}", counts=(1.0,) * 32, held_high=1.5 if i == 777 else 0.5) for i in range(2000)]
    found = evidence(candidate(), ranges={"visual": tensors})
    html = render_bundle(found)
    assert len(html) < 300_000
    assert "1,880 more" in Tree(html).text
    assert "t777" in Tree(html).text


def test_ranges_are_read_with_and_without_readers() -> None:
    plain = {key: value for key, value in ranges_json().items() if key not in ("reads", "writes")}
    raw = {"stages": {"visual": {"a": ranges_json(), "b": plain}}}
    a, b = read_ranges(json.dumps(raw).encode(), "x")["visual"]
    assert a.reads == ("net.conv/Conv_3",)
    assert b.reads is None
    assert b.is_read
    assert a.beyond == 0.5
    assert a.levels == {"int8-cpu": (-0.5, 0.5)}


@pytest.mark.parametrize(
    "changes",
    [
        {"low": "x"},
        {"low": True},
        {"low": float("nan")},
        {"low": float("inf")},
        {"low": 2.0},
        {"held_low": 1.0},
        {"counts": []},
        {"counts": [-1]},
        {"counts": [0] * 2000},
        {"counts": 3},
        {"levels": {"int8-cpu": [1.0, 0.0]}},
        {"levels": {"int8-cpu": [1.0]}},
        {"levels": []},
        {"reads": [1]},
    ],
)
def test_ranges_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    raw = {"stages": {"visual": {"a": ranges_json(**changes)}}}
    with pytest.raises(DataError, match=r"here holds no ranges.*calibrate"):
        read_ranges(json.dumps(raw).encode(), "here")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"stages": {"a": {"b": {}}}}',
        b"\xff",
        b"[" * 100_000,
        b'{"stages": {"\\ud800": {}}}',
    ],
)
def test_what_is_no_file_of_ranges_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="holds no ranges"):
        read_ranges(data, "here")


# --- evaluation ----------------------------------------------------------------------------------


def test_findings_are_a_table_by_what_is_there() -> None:
    text = text_of(candidate(findings=findings(0.7)))
    assert "the split test; 2 people, 1,200 steps with everything there." in text
    assert "visual + audio valence 0.700 [0.65, 0.75] 0.200 [0.10, 0.30] ±0.41 (91\u00a0%) –" in text.replace(
        " %", "\u00a0%"
    )
    assert "visual, rest zero arousal 0.500 [0.45, 0.55] 0.200 [0.10, 0.30] – 1.25 (0.034)" in text


# --- safety and looks ----------------------------------------------------------------------------

EVIL = '</style></script><script>alert(1)</script><img src=x onerror="alert(2)">\'"&'


def evil_page() -> str:
    stage = how(
        method=EVIL, tried={EVIL: 0.1}, blocks={EVIL: block(0.1, is_float=True)}, in_float={EVIL: (EVIL,)}
    )
    found = evidence(
        dataclasses.replace(candidate(stages={EVIL: stage}, note=EVIL, refused=EVIL), name=EVIL),
        model=EVIL,
        title=EVIL,
        weights=EVIL,
        made_by=(EVIL,),
        stages=(EVIL,),
        calibration=calibration(source=(EVIL,), cells={EVIL: 1}, without={EVIL: 1}),
        ranges={EVIL: [tensor(EVIL, held_high=3.0, levels={EVIL: (0.0, 1.0)}, reads=(EVIL,))]},
        processor=EVIL,
    )
    return render_bundle(found, title=EVIL)


def test_nothing_of_a_bundle_is_run() -> None:
    html = evil_page()
    tree = Tree(html)
    assert not tree.named("script")
    assert not tree.named("img")
    assert "<script" not in html
    assert not any(
        key.startswith("on") or key == "style" for _, attributes in tree.elements for key in attributes
    )
    assert tree.text.count("alert(1)") >= 12, "it is shown, as text"


def test_the_policy_lets_only_our_style_in() -> None:
    for html in (evil_page(), render_bundle(evidence(candidate()))):
        style = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)[0]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        (policy,) = [a["content"] for a in Tree(html).named("meta") if "http-equiv" in a]
        assert f"style-src 'sha256-{digest}'" in policy
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"https?:|@import|url\(", html)


def test_charts_have_words_for_readers_that_do_not_see() -> None:
    found = evidence(candidate(ms=1.0), candidates=(fp32(ms=4.0), candidate(ms=1.0)), processor="CPU")
    tree = Tree(render_bundle(found))
    ids = [a["id"] for _, a in tree.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for svg in (a for a in tree.named("svg") if "role" in a):
        assert svg.get("aria-label") or svg["aria-labelledby"] in ids
    assert "int8-cpu: lost 0.0020 of its concordance with FP32, 1.0 ms per prediction" in tree.text


def test_the_same_evidence_gives_the_same_page() -> None:
    assert render_bundle(evidence(candidate())) == render_bundle(evidence(candidate()))

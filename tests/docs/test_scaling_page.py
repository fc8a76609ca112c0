"""The page on scaling is of what was measured, its sums add up, and its arithmetic is right."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.scaling import arithmetic, beds, corpus, hardware, measured_page
from benchmarks.scaling.__main__ import MEASURES
from benchmarks.scaling.hardware_page import BEDS, HOURS, LIMITS, beds_by
from benchmarks.scaling.kept import TINY, kept
from benchmarks.scaling.knobs_page import saved_by_bits
from benchmarks.scaling.network_page import ways_of
from benchmarks.scaling.page import PAGE, page
from benchmarks.scaling.shares import BITS, FP32, PARTS, SERVED, left, shares, shares_of

MEASURED = {name: kept(name) for name in MEASURES}
SYSTEMS = list(MEASURED["bed"]["systems"])
TEXT = PAGE.read_text(encoding="utf-8")


def rows_under(title: str) -> list[list[str]]:
    """Cells of the first table under a title, without its head."""
    part = re.split(rf"^## {re.escape(title)}.*$", TEXT, flags=re.MULTILINE)[1].split("\n## ")[0]
    lines = part[part.index("| ---") :].splitlines()[1:]
    end = next((k for k, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return [[cell.strip(" *`") for cell in line.strip("|").split("|")] for line in lines[:end]]


def test_the_page_is_of_what_was_measured() -> None:
    assert page(MEASURED) == TEXT, "run make scaling"


def test_parts_of_a_bed_add_up() -> None:
    rows = rows_under("One bed")
    assert len(rows) == 2 * len(SYSTEMS)
    for row in rows:
        *parts, whole = (float(cell) for cell in row[2 : 3 + len(PARTS)])
        assert sum(parts) == pytest.approx(whole, abs=0.05 * (len(parts) + 1))


@pytest.mark.parametrize("way", [FP32, BITS])
@pytest.mark.parametrize("system", SYSTEMS)
def test_parts_are_all_that_was_measured(system: str, way: str) -> None:
    one = MEASURED["bed"]["systems"][system]["ways"][way]
    of_model = sum(one["parts_ms"].values()) / one["hop_ms"]
    parts = shares_of(MEASURED["bed"], system, way)
    assert sum(parts.values()) == pytest.approx(of_model + MEASURED["bed"]["decode"]["640x480"]["cpu_share"])
    assert "1 thread" in one["label"]
    assert one["n_processors"] == 1
    assert one["n_predictions"] >= 2


@pytest.mark.parametrize("way", [FP32, BITS])
@pytest.mark.parametrize("system", SYSTEMS)
def test_what_limits_is_the_largest_part(system: str, way: str) -> None:
    parts = shares_of(MEASURED["bed"], system, way)
    (named,) = re.findall(rf"^\| `{system}` \| {way} \| ([a-z ]+) \|", TEXT, re.MULTILINE)
    assert parts[named] == max(parts.values())


@pytest.mark.parametrize("accelerator", hardware.ACCELERATORS, ids=lambda one: f"{one.name} {one.precision}")
def test_what_limits_an_accelerator_allows_the_fewest_beds(accelerator: hardware.Accelerator) -> None:
    rows = rows_under(f"{BEDS} beds and {HOURS:,} hours with")
    rows = [row for row in rows if row[0] == f"{accelerator.name}, {accelerator.precision}"]
    assert [row[1] for row in rows] == [one for one in SYSTEMS if one != TINY]
    for row in rows:
        by = dict(zip(LIMITS, (int(cell.replace(",", "")) for cell in row[2:5]), strict=True))
        worth = arithmetic.efficiency(MEASURED["corpus"]["speed_up"]["mean"])
        assert by == beds_by(accelerator, MEASURED["bed"], MEASURED["network"], row[1], worth)
        assert by[row[5]] == min(by.values())


def test_tables_were_the_same_in_all_turns() -> None:
    found = MEASURED["corpus"]
    assert [one["n_workers"] for one in found["turns"]] == list(corpus.TURNS)
    assert len({one["sha256"] for one in (*found["turns"], found["alone"])}) == 1
    assert found["speed_up"] == corpus.speed_up(found["turns"])
    assert found["others_share"] == corpus.others_share([*found["turns"], found["alone"]])


def test_numbers_of_beds_follow_from_the_cost_of_one() -> None:
    found = MEASURED["beds"]
    worth = found["n_processors"] * arithmetic.efficiency(MEASURED["corpus"]["speed_up"]["mean"])
    assert found["fits"]["n"] == max(1, arithmetic.beds_of(worth, found["cost"]))
    assert found["twice"]["n"] == arithmetic.beds_of(worth, found["cost"], beds.FULL)


def test_a_server_that_keeps_the_window_gets_no_more_than_one_that_does_not() -> None:
    for system in SYSTEMS:
        ways = ways_of(MEASURED["network"], MEASURED["bed"], system)
        assert 0 < ways["streamed"] <= ways["stages"]


def test_what_is_left_and_what_is_served_is_the_bed() -> None:
    parts = dict(zip(PARTS, (0.1, 0.2, 0.03, 0.4, 0.05, 0.006), strict=True))
    assert left(parts) == pytest.approx(0.336)
    assert left(parts) + sum(parts[one] for one in SERVED) == pytest.approx(sum(parts.values()))


def test_stages_are_encoders_but_for_the_fusion() -> None:
    ms = {
        "visual": 20.0,
        "eda": 5.0,
        "fusion": 10.0,
        "face detector": 30.0,
        "face tracker": 2.0,
        "runtime": 1.0,
    }
    found = shares({"cpu_share": 0.03}, {"hop_ms": 100.0, "parts_ms": ms})
    assert found == pytest.approx(
        {
            "decoding": 0.03,
            "faces": 0.32,
            "step tensors": 0.0,
            "encoders": 0.25,
            "fusion": 0.1,
            "runtime": 0.01,
        }
    )


def test_arithmetic_of_beds() -> None:
    assert arithmetic.beds_of(2, 0.2) == 7
    assert arithmetic.beds_of(2, 0.2, load=2.0) == 20
    assert arithmetic.beds_of(64, 0.7, load=0.7) == 64, "no bed is lost to rounding"
    assert arithmetic.beds_of(2, 1.5) == 0
    assert arithmetic.servers_for(100, 7) == 15
    assert arithmetic.servers_for(100, 100) == 1
    assert arithmetic.servers_for(100, 0) is None


def test_arithmetic_of_hours() -> None:
    assert arithmetic.core_hours(10_000, 0.24) == pytest.approx(2400)
    assert arithmetic.days(10_000, 0.24, 2) == pytest.approx(50)
    assert arithmetic.days(10_000, 0.24, 64, efficiency=0.5) == pytest.approx(3.125)
    assert arithmetic.efficiency(1.8) == 0.9
    assert arithmetic.efficiency(2.1) == 1.0


def test_arithmetic_of_links_and_accelerators() -> None:
    assert arithmetic.beds_per_link(1.0, 875_000) == 100
    assert arithmetic.beds_per_link(10.0, 875_000, load=1.0) == 1428
    assert arithmetic.beds_per_accelerator(100.0, 0.3, 15.0) == 1000
    assert arithmetic.limit({"a": 3, "b": 2, "c": 2}) == ("b", 2)
    assert arithmetic.largest({"a": 1.0, "b": 3.0}) == ("b", 0.75)


def told(t_end_s: float, end_to_end_ms: float, *reasons: str) -> dict[str, Any]:
    """A record, as far as lateness needs it."""
    end_ns = round(t_end_s * 1e9)
    return {"t_end_ns": end_ns, "latency_ms": {"end_to_end": end_to_end_ms}, "reasons": list(reasons)}


def test_late_and_dropped_predictions_count() -> None:
    first = [told(9.9, 999.0), told(10.0, 20.0), told(12.0, 267.0), told(20.0, 999.0)]
    second = [told(11.0, 30.0), told(13.0, 0.0, "overloaded")]
    found = beds.judged([first, second], hop_ms=266.0)
    assert found == {"n_predictions": 4, "n_dropped": 1, "late": 0.5, "p50_ms": 30.0, "p95_ms": 243.3}


def test_speed_up_is_between_turns() -> None:
    turns = [{"n_workers": n, "wall_s": s} for n, s in ((1, 40.0), (2, 20.0), (2, 25.0), (1, 50.0))]
    assert corpus.speed_up(turns) == {"mean": 2.0, "low": 1.6, "high": 2.5}


def test_time_of_children_is_that_of_the_family() -> None:
    before_s = corpus.family_seconds()
    spin = "import time\nwhile time.process_time() < 0.5: pass\nprint(1, flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert corpus.family_seconds() - before_s >= 0.45
        child.communicate("\n")
    assert corpus.others_share([{"others_s": s, "processors_s": 20.0} for s in (1.0, 3.0)]) == 0.1


def test_what_was_not_reached_is_told() -> None:
    slow = {"speed_up": {"mean": 1.6, "low": 1.5, "high": 1.7}}
    assert "**not reached**" in measured_page.corpus_verdict(slow)
    wrong = {"fits": {"late": 0.02}, "twice": {"late": 0.4}}
    told_of = measured_page.beds_verdict(wrong)
    assert "**did not keep time**" in told_of
    assert "**kept it too**" in told_of


def test_eight_bits_save_what_is_gone() -> None:
    one = {"hop_ms": 100.0, "parts_ms": {"visual": 30.0}}
    few = {"hop_ms": 100.0, "parts_ms": {"visual": 10.0}}
    bed = {"decode": {"640x480": {"cpu_share": 0.1}}, "systems": {"a": {"ways": {FP32: one, BITS: few}}}}
    assert saved_by_bits(bed) == pytest.approx({"a": 0.5})

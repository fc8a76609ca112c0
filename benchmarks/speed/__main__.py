"""Writes docs/benchmarks.md: what a prediction costs here, and in what one would use without edge-mer.

    make bench                           jmt, jmt-pain and jmt-tiny
    make bench-all                       all
    python -m benchmarks.speed jca       one of them; what was measured of others stays on the page
    python -m benchmarks.speed --page    the page alone, from what was measured

Bundles and whatever else is measured on is made once, in build/bench; everything is measured anew each time,
and kept in benchmarks/measured/speed.
"""

from __future__ import annotations

import argparse
import os
import time

from benchmarks.speed.chart import chart
from benchmarks.speed.kept import ROOT, SESSIONS, Found, file_of, keep, kept, say
from benchmarks.speed.machine import Others, machine
from benchmarks.speed.made import facts, make, make_bundles, took_in
from benchmarks.speed.page import CHART, PAGE, README, in_readme, page
from benchmarks.speed.phases import PHASES, PLANS, in_process, plan_of

USUAL = ("jmt", "jmt-pain", "jmt-tiny")


def main() -> None:
    """Measure, and write the page of all that was ever measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed")
    parser.add_argument("systems", nargs="*", choices=[*PLANS, []], help=f"default: {' '.join(USUAL)}")
    parser.add_argument("--page", action="store_true", help="measure nothing, and write the page")
    parser.add_argument("--quick", action="store_true", help="two rounds only, to see that all works")
    asked = parser.parse_args()
    if asked.quick:
        os.environ["EDGE_MER_BENCH_QUICK"] = "1"
    names = () if asked.page else asked.systems or USUAL
    make_bundles({name: PLANS[name].n_windows for name in names})
    for name in names:
        keep(name, measure(name))
    found = {name: kept(name) for name in PLANS if file_of(name).exists()}
    sessions = SESSIONS.kept("sessions") if SESSIONS.file_of("sessions").exists() else None
    PAGE.write_text(page(found, sessions), encoding="utf-8")
    CHART.write_text(chart(found), encoding="utf-8")
    README.write_text(in_readme(README.read_text(encoding="utf-8"), found), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)} and {CHART.relative_to(ROOT)}")


def measure(name: str) -> Found:
    """One system."""
    began = time.monotonic()
    here = machine()
    folder = make(name, PLANS[name].n_windows)
    made_s = time.monotonic() - began
    found: Found = {"machine": here, "date": time.strftime("%Y-%m-%d", time.gmtime())}
    others = Others()
    found |= {phase: in_process(name, phase) for phase in PHASES}
    found["others_share"] = others.share()
    took_s = time.monotonic() - began
    say(name, f"took {took_s:.0f} s, of which {made_s:.0f} s to make what is measured on")
    found["n_rounds"] = plan_of(name).n_rounds
    return found | {"model": facts(folder), "made_s": took_in(folder), "took_s": round(took_s - made_s)}


if __name__ == "__main__":
    main()

"""Writes docs/scaling.md: what a bed and a corpus cost here, and the arithmetic for many of them.

    make scaling
    python -m benchmarks.scaling bed     one part; what was measured of others stays on the page
    python -m benchmarks.scaling --page  the page alone, from what was measured

Takes less than 15 minutes on a machine that does nothing else. Of systems whose bundles `make bench-all` left
in build/bench (`EDGE_MER_BENCH_WORK` names another place), the cost of a bed is measured; YuNet's file is
taken from `EDGE_MER_TEST_DATA`. What was measured is kept in benchmarks/measured/scaling.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from benchmarks.scaling.bed import bed
from benchmarks.scaling.beds import beds
from benchmarks.scaling.corpus import corpus
from benchmarks.scaling.kept import ROOT, Found, keep, kept, say
from benchmarks.scaling.network import network
from benchmarks.scaling.page import PAGE, page

MEASURES: dict[str, Callable[[], Found]] = {
    "bed": bed,
    "network": network,
    "corpus": corpus,
    "beds": beds,
}
"""In this order: `beds` needs what `bed` and `corpus` found."""


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling")
    parser.add_argument("parts", nargs="*", choices=[*MEASURES, []], help="default: all")
    parser.add_argument("--page", action="store_true", help="measure nothing, and write the page")
    asked = parser.parse_args()
    for name in () if asked.page else asked.parts or MEASURES:
        began_s = time.monotonic()
        keep(name, MEASURES[name]())
        say(name, f"took {time.monotonic() - began_s:.0f} s")
    PAGE.write_text(page({name: kept(name) for name in MEASURES}), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

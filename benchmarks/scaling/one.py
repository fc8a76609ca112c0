"""The cost of one bed, in a process of its own whose engines have one thread.

    python -m benchmarks.scaling.one BUNDLE ENGINE PRECISION SECONDS DETECTOR URI...

prints one line of JSON. Times are the process' own processor time, so what else runs does not count.
DETECTOR is YuNet's file, or "-". Bind the process to one processor before it starts: NumPy's library for
products looks then how many threads it may have, and those that have nothing to do spin.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import cv2

from benchmarks.kept import Found
from edge_mer.clock import MonotonicClock
from edge_mer.engine.threads import limit_threads
from edge_mer.runtime.bench import Bench, Hop, from_sources, run
from edge_mer.runtime.start_up import measure_start_up
from edge_mer.runtime.ways import Way, open_way


class CpuClock(MonotonicClock):
    """Time that this process spent computing."""

    def now_ns(self) -> int:
        """All its threads together."""
        return time.process_time_ns()


def main(bundle: str, engine: str, precision: str, seconds: str, detector: str, *uris: str) -> None:
    """Measure, and tell."""
    limit_threads(1)
    cv2.setNumThreads(1)
    way = Way(Path(bundle), precision, engine, None if detector == "-" else Path(detector), uris)
    opened = open_way(way)
    with closing(Bench(opened.setup, from_sources(uris), CpuClock())) as bench:
        run([bench], float(seconds), MonotonicClock())
        hops = [hop for one in bench.rounds for hop in one if hop.status != "withheld"]
        cost = bench.cost()
    opened.setup.close()
    found: Found = {
        "label": str(opened.choice),
        "n_processors": len(os.sched_getaffinity(0)),
        "detector": None if opened.setup.detector is None else opened.setup.detector.name,
        "hop_ms": cost.hop_ms,
        "n_predictions": len(hops),
        "n_by_status": cost.n_by_status,
        "parts_ms": means_ms(hops, list(cost.parts)),
        "start_up": asdict(measure_start_up(way)),
    }
    print(json.dumps(found))


def means_ms(hops: Sequence[Hop], parts: Sequence[str]) -> dict[str, float]:
    """Part -> mean per prediction; they add up, which medians do not."""
    return {
        part: round(statistics.fmean(hop.parts_ns.get(part, 0) for hop in hops) / 1e6, 4) for part in parts
    }


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Beds beside each other at real pace: as many as should fit, and twice as many as the processors can do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scaling.arithmetic import LOAD, beds_of, efficiency
from benchmarks.scaling.clips import clip
from benchmarks.scaling.kept import ROOT, TINY, Found, bundle_path, here, kept, say
from benchmarks.scaling.shares import FP32, shares_of
from benchmarks.speed.machine import Others
from edge_mer.clock import NS_PER_S

JUDGED_S = (10, 20)
"""Of each session: all have started, and none has ended."""

FULL = 2.0
"""Load at which not all can keep time."""

_LIMIT_S = 300
_SETTLE_S, _WATCH_S = 3, 6


def beds() -> Found:
    """Both numbers of beds; needs what `bed` and `corpus` measured."""
    cost = sum(shares_of(kept("bed"), TINY, FP32).values())
    worth = len(os.sched_getaffinity(0)) * efficiency(kept("corpus")["speed_up"]["mean"])
    numbers = {"fits": max(1, beds_of(worth, cost, LOAD)), "twice": beds_of(worth, cost, FULL)}
    others = Others()
    found = {name: together(n) for name, n in numbers.items()}
    return here() | {"cost": round(cost, 5), "hop_ms": _hop_ms(), **found, "others_share": others.share()}


def together(n: int) -> Found:
    """So many sessions, each a process that is bound to one processor."""
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / f"{number}.jsonl" for number in range(n)]
        with ExitStack() as stack:
            started = [stack.enter_context(_session(number, out)) for number, out in enumerate(outs)]
            share = _share(started, outs)
            ended = [one.wait(timeout=_LIMIT_S) for one in started]
        if any(ended):
            failed = outs[ended.index(max(ended, key=abs))]
            raise SystemExit(f"a session failed: {_log_of(failed).read_text(encoding='utf-8')[-500:]}")
        records = [_records(path) for path in outs]
    found = judged(records, _hop_ms()) | {"n": n, "cpu_share": share}
    say("beds", f"{n}: {found}")
    return found


def judged(records: list[list[Mapping[str, Any]]], hop_ms: float) -> Found:
    """How late predictions were.

    Args:
        records: Of each session.
        hop_ms: Time between two predictions.

    Returns:
        "late": share of the predictions that came later than one hop after the end of their step, or were
        dropped for want of time; "p50_ms", "p95_ms" of those that were not dropped.
    """
    begin_ns, end_ns = (second * NS_PER_S for second in JUDGED_S)
    taken = [one for session in records for one in session if begin_ns <= one["t_end_ns"] < end_ns]
    made = [one["latency_ms"]["end_to_end"] for one in taken if "overloaded" not in one["reasons"]]
    n_late = len(taken) - len(made) + sum(ms > hop_ms for ms in made)
    p50, p95 = np.percentile(made, (50, 95)) if made else (None, None)
    return {
        "n_predictions": len(taken),
        "n_dropped": len(taken) - len(made),
        "late": round(n_late / len(taken), 4),
        "p50_ms": None if p50 is None else round(float(p50), 1),
        "p95_ms": None if p95 is None else round(float(p95), 1),
    }


@contextmanager
def _session(number: int, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A session, which is ended if anything fails."""
    processors = sorted(os.sched_getaffinity(0))
    call = "import sys; from edge_mer.cli.main import main; sys.exit(main())"
    where = ["--source", f"file:{clip()}", "--sink", f"jsonl:{out}"]
    bound = ["taskset", "-c", str(processors[number % len(processors)])]
    with _log_of(out).open("wb") as log:
        process = subprocess.Popen(
            [*bound, sys.executable, "-c", call, "run", str(bundle_path()), *where],
            cwd=ROOT,
            env=os.environ | {"XDG_CACHE_HOME": str(out.parent)},  # nothing was built: FP32 in ONNX Runtime
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _log_of(out: Path) -> Path:
    return out.with_suffix(".txt")


def _share(started: Sequence[subprocess.Popen[bytes]], outs: Sequence[Path]) -> float:
    """Processors that a bed took, once all predict, over some seconds; 0.0 if one ended before."""
    parts = [path.with_name(f"{path.name}.part") for path in outs]
    while not all(part.exists() and part.stat().st_size for part in parts):
        if any(one.poll() is not None for one in started):
            return 0.0
        time.sleep(0.1)
    time.sleep(_SETTLE_S)
    began_s, began = time.monotonic(), sum(_spent_s(one.pid) for one in started)
    time.sleep(_WATCH_S)
    spent_s = sum(_spent_s(one.pid) for one in started) - began
    return round(spent_s / (time.monotonic() - began_s) / len(started), 4)


def _spent_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _records(path: Path) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _hop_ms() -> float:
    return float(kept("bed")["systems"][TINY]["ways"][FP32]["hop_ms"])

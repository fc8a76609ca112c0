"""The same corpus by one worker and by two, by turns, and by this process alone."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.scaling.kept import ROOT, Found, bundle_path, here, say
from benchmarks.speed.machine import busy_seconds
from edge_mer.bundle.read import open_bundle
from edge_mer.corpus.crew import Alone
from edge_mer.corpus.player import Playing
from edge_mer.corpus.playing import play_corpus
from edge_mer.corpus.ray_crew import RayCrew
from edge_mer.labels.manifest import Recording

N_RECORDINGS, SECONDS = 40, 12
TURNS = (1, 2, 2, 1)
"""Workers of each turn."""


def recordings() -> list[Recording]:
    """Simulated people, all different."""
    n = int(os.environ.get("EDGE_MER_SCALING_RECORDINGS", N_RECORDINGS))
    return [
        Recording(
            f"r{number}", f"p{number}", (f"sim:seed={number}&person={number}&duration_s={SECONDS}",), None
        )
        for number in range(n)
    ]


def corpus() -> Found:
    """All turns, each in a process of its own; what they wrote must be the same to the last byte."""
    with tempfile.TemporaryDirectory() as folder:
        turns = [_in_process(n, Path(folder) / f"turn-{number}") for number, n in enumerate(TURNS)]
        alone = _in_process(0, Path(folder) / "alone")
    if len({one["sha256"] for one in (*turns, alone)}) != 1:
        raise SystemExit("the crews did not write the same tables")
    return here() | {
        "n_recordings": len(recordings()),
        "seconds": SECONDS,
        "turns": turns,
        "alone": alone,
        "speed_up": speed_up(turns),
        "others_share": others_share([*turns, alone]),
    }


def others_share(turns: list[Found]) -> float:
    """What others took of all processors while the turns went on, 0 to 1."""
    share = sum(one["others_s"] for one in turns) / sum(one["processors_s"] for one in turns)
    return round(float(share), 3)


def speed_up(turns: list[Found]) -> Found:
    """How many times as fast two workers are as one: of the means, and between single turns."""
    one, two = ([turn["wall_s"] for turn in turns if turn["n_workers"] == n] for n in (1, 2))
    return {
        "mean": round(statistics.fmean(one) / statistics.fmean(two), 3),
        "low": round(min(one) / max(two), 3),
        "high": round(max(one) / min(two), 3),
    }


def _in_process(n_workers: int, out: Path) -> Found:
    command = [sys.executable, "-m", "benchmarks.scaling.corpus", str(n_workers), str(out)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: Found = json.loads(done.stdout.splitlines()[-1])
    say("corpus", f"{n_workers or 'no'} workers: {found['wall_s']:.1f} s")
    return found


def turn(n_workers: int, out: Path) -> Found:
    """Play the corpus once, by so many workers of a cluster that is started for it, or by none."""
    playing, people = Playing(open_bundle(bundle_path())), recordings()
    began_s, busy_s, own_s = time.monotonic(), busy_seconds(), family_seconds()
    with RayCrew("local", n_workers) if n_workers else Alone() as crew:
        started_s = time.monotonic() - began_s
        played = play_corpus(playing, people, out, crew, lambda *_: None)
        took_s = (
            time.monotonic() - began_s
        )  # here Ray is alive; nobody counts its workers when they have ended
        others_s = busy_seconds() - busy_s - (family_seconds() - own_s)
    wall_s = time.monotonic() - began_s
    if played.failed or crew.n_replaced:
        raise SystemExit(f"failed: {played.failed}; workers that died: {crew.n_replaced}")
    return {
        "n_workers": n_workers,
        "wall_s": round(wall_s, 2),
        "start_s": round(started_s, 2),
        "others_s": round(max(0.0, others_s), 2),
        "processors_s": round(took_s * (os.cpu_count() or 1), 2),
        "n_predictions": played.n_predictions,
        "sha256": sha256_of(out),
    }


def family_seconds() -> float:
    """Processor time of this process, of all that it started, and of all that those did."""
    spent_s, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        pid = int(path.parent.name)
        parents[pid] = int(fields[1])
        spent_s[pid] = sum(map(int, fields[11:15])) / os.sysconf(
            "SC_CLK_TCK"
        )  # with children that have ended
    return sum(taken for pid, taken in spent_s.items() if _is_of(pid, os.getpid(), parents))


def _is_of(pid: int, ancestor: int, parents: Mapping[int, int]) -> bool:
    while pid in parents and pid != ancestor:
        pid = parents[pid]
    return pid == ancestor


def sha256_of(folder: Path) -> str:
    """Of all files' names and bytes."""
    digest = hashlib.sha256()
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        digest.update(f"{path.relative_to(folder)}\n{path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    print(json.dumps(turn(int(sys.argv[1]), Path(sys.argv[2]))))

"""The same corpus by one worker and by two, by turns, and by this process alone."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.scaling.kept import ROOT, Found, bundle_path, here, say
from benchmarks.speed.machine import Others
from edge_mer.bundle.read import open_bundle
from edge_mer.corpus.crew import Alone
from edge_mer.corpus.player import Playing
from edge_mer.corpus.playing import play_corpus
from edge_mer.corpus.ray_crew import RayCrew
from edge_mer.labels.manifest import Recording

N_RECORDINGS, SECONDS = 40, 12
TURNS = (1, 2, 2, 1)
"""Workers of each turn."""

_PR_SET_CHILD_SUBREAPER = 36
_ORPHANS_S = 30


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
    _adopt_orphans()
    others = Others()
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
        "others_share": others.share(),
    }


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
    _reap_orphans()
    found: Found = json.loads(done.stdout.splitlines()[-1])
    say("corpus", f"{n_workers or 'no'} workers: {found['wall_s']:.1f} s")
    return found


def _adopt_orphans() -> None:
    """Ray's workers outlive who started them; as children of this process they are not taken for others."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap_orphans() -> None:
    until_s = time.monotonic() + _ORPHANS_S
    while time.monotonic() < until_s:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:  # there are none
            return
        if ended == 0:
            time.sleep(0.1)
    raise SystemExit("what Ray started did not end")


def turn(n_workers: int, out: Path) -> Found:
    """Play the corpus once, by so many workers of a cluster that is started for it, or by none."""
    playing, people = Playing(open_bundle(bundle_path())), recordings()
    began_s = time.monotonic()
    with RayCrew("local", n_workers) if n_workers else Alone() as crew:
        started_s = time.monotonic() - began_s
        played = play_corpus(playing, people, out, crew, lambda *_: None)
    wall_s = time.monotonic() - began_s
    if played.failed or played.n_replaced:
        raise SystemExit(f"failed: {played.failed}; workers that died: {played.n_replaced}")
    return {
        "n_workers": n_workers,
        "wall_s": round(wall_s, 2),
        "start_s": round(started_s, 2),
        "n_predictions": played.n_predictions,
        "sha256": sha256_of(out),
    }


def sha256_of(folder: Path) -> str:
    """Of all files' names and bytes."""
    digest = hashlib.sha256()
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        digest.update(f"{path.relative_to(folder)}\n{path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    print(json.dumps(turn(int(sys.argv[1]), Path(sys.argv[2]))))

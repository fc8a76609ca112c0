"""Many sessions in one process: what they give and how late, as batches and each for itself, by their number.

.venv/bin/python -m benchmarks.sessions

First the engines alone, by threads that want step after step of each stage. Then whole sessions of a
simulated person at real pace, whose pictures, sounds and found faces lie in memory: cropping and spectrograms
are in, cameras and the search for faces are not. Ways take turns. Last, the memory of sessions that share
engines and of sessions that each open their own. Writes benchmarks/measured/sessions.json, for
docs/benchmarks.md. The machine should be idle otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import edge_mer
from benchmarks.speed.kept import SESSIONS
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.clock import MonotonicClock
from edge_mer.engine.base import Array, Engine
from edge_mer.engine.cache import processor
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.build import build
from edge_mer.runtime.golden import PlaybackDetector, RecordingDetector
from edge_mer.runtime.live_session import Session
from edge_mer.runtime.opening import Opened, open_chosen
from edge_mer.runtime.shared_model import SharedModel
from edge_mer.runtime.target_cpu import CpuTarget
from edge_mer.sources.registry import open_source
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk, StreamSpec
from tests.helpers.bundle import ensure_bundle
from tests.helpers.process import rss_bytes

NUMBERS = (1, 2, 4, 8, 16, 32)
MAX_BATCH = 8
BOTH = (1, MAX_BATCH)
"""Largest batches that are compared: none, and all that were proven, also where they do not pay."""

N_RSS = (1, 4, 16)
SIM = "sim:seed=1&person=2&duration_s=8"
_LASTING_S = {1: 8.0, 2: 8.0, 4: 6.0, 8: 4.0, 16: 3.0, 32: 2.5}
"""How much of it each session plays, by their number: in the end there are predictions enough."""

_ENGINES_S = 1.0
_WARM_UP = 3
"""Predictions of each session that do not count."""


class InMemory:
    """A recording that is in memory already.

    Args:
        specs: Its streams.
        chunks: What it gives.
    """

    uri = "memory:"
    is_live = False

    def __init__(self, specs: tuple[StreamSpec, ...], chunks: Sequence[Chunk]) -> None:
        self.specs = specs
        self._chunks, self._n_given = chunks, 0

    @property
    def ended(self) -> bool:
        """Whether all of it was given."""
        return self._n_given == len(self._chunks)

    def ensure_ready(self) -> None:
        """It is."""

    def start(self) -> None:
        """Nothing to do."""

    def read(self, timeout_ms: int) -> Chunk | None:
        """The next chunk."""
        if self.ended:
            return None
        self._n_given += 1
        return self._chunks[self._n_given - 1]

    def ensure_stopped(self) -> None:
        """Nothing to do."""


def main() -> int:
    """The exit code."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--bundle", type=Path, help="a bundle of your own")
    arguments.add_argument("--rss", help=argparse.SUPPRESS)  # of a process of its own
    given = arguments.parse_args()
    path = given.bundle or ensure_bundle()
    if given.rss is not None:
        print(rss_mb(path, given.rss))
        return 0
    with tempfile.TemporaryDirectory() as cache:
        os.environ["EDGE_MER_CACHE"] = cache
        found = measured(path)
    SESSIONS.keep("sessions", found)
    print("python -m benchmarks.speed --page puts it on the page")
    return 0


def measured(path: Path) -> dict[str, Any]:
    """All of it."""
    load, bundle = os.getloadavg()[0], edge_mer.load_bundle(path)
    trials = list(build(bundle, MonotonicClock(), CpuTarget(MAX_BATCH)))
    chosen = trials[-1]
    print(f"{chosen.choice}; batches: { ({stage: times.best for stage, times in chosen.batches.items()}) }")
    stage_ms = {stage: times.as_json() for stage, times in chosen.batches.items()}
    engines, sessions = [], []
    for n in NUMBERS:
        for most in BOTH if n % 2 else BOTH[::-1]:
            engines.append(told(engine_steps(bundle, n, most)))
    played = Played()
    for n in NUMBERS:
        for most in BOTH if n % 2 else BOTH[::-1]:
            sessions.append(told(whole_sessions(bundle, played, n, most)))
    memory = [told(memory_of(path, n)) for n in N_RSS]
    return {
        "processor": processor(),
        "n_cores": os.cpu_count(),
        "load_before": round(load, 2),
        "bundle": bundle.name,
        "choice": str(chosen.choice),
        "batches": stage_ms,
        "engines": engines,
        "sessions": sessions,
        "rss_mb": memory,
    }


def told(found: dict[str, Any]) -> dict[str, Any]:
    """The same, printed."""
    print(json.dumps(found), flush=True)
    return found


# -- engines alone ---------------------------------------------------------------------------------


def engine_steps(bundle: Bundle, n: int, max_batch: int) -> dict[str, Any]:
    """`n` threads, each of which runs a step's stages one after the other, as often as it can."""
    clock, stages = MonotonicClock(), bundle.manifest.model.stages
    with edge_mer.open_model(bundle, max_batch=max_batch) as model, ThreadPoolExecutor(n) as threads:
        lent = [model.lend()[0] for _ in range(n)]
        for setup in lent:
            fill(bundle, setup.engines)
            one_step(setup.engines, stages)
        began_ns = clock.now_ns()
        until_ns = began_ns + int(_ENGINES_S * 1e9)

        def work(engines: Mapping[str, Engine]) -> list[int]:
            took_ns = []
            while (start_ns := clock.now_ns()) < until_ns:
                one_step(engines, stages)
                took_ns.append(clock.now_ns() - start_ns)
            return took_ns

        took_ms = np.concatenate(list(threads.map(work, [setup.engines for setup in lent]))) / 1e6
        wall_s = (clock.now_ns() - began_ns) / 1e9
        for setup in lent:
            setup.close()
    return {
        "n": n,
        "max_batch": max_batch,
        "steps_per_s": round(len(took_ms) / wall_s, 1),
        **percentiles("step_ms", took_ms),
    }


def fill(bundle: Bundle, engines: Mapping[str, Engine]) -> None:
    """What a golden session has, into the encoders."""
    golden = bundle.read_arrays(bundle.manifest.golden.sessions[0])
    for encoder in bundle.manifest.model.encoders:
        engines[encoder.stage].inputs[encoder.input.name][...] = golden[f"input.{encoder.stage}"][:1]


def one_step(engines: Mapping[str, Engine], stages: Sequence[str]) -> list[dict[str, Array]]:
    """Every stage once."""
    return [engines[stage].infer() for stage in stages]


# -- whole sessions --------------------------------------------------------------------------------


class Played:
    """A simulated person, and where their face was found."""

    def __init__(self) -> None:
        source, self.chunks = open_source(SIM), []
        source.ensure_ready()
        source.start()
        while not source.ended:
            if (chunk := source.read(10)) is not None:
                self.chunks.append(chunk)
        self.specs = tuple(source.specs)
        detector = RecordingDetector(open_face_detector(None))
        for chunk in self.chunks:
            if chunk.modality == "visual":
                detector.detect(chunk.data)
        self.faces = detector.arrays()


def whole_sessions(bundle: Bundle, played: Played, n: int, max_batch: int) -> dict[str, Any]:
    """`n` sessions at real pace, which begin evenly within one step."""
    with edge_mer.open_model(bundle, max_batch=max_batch) as model, ThreadPoolExecutor(n) as threads:
        sessions = [session_on(model, played, _LASTING_S[n]) for _ in range(n)]
        began_s = time.monotonic()
        starts_s = [began_s + i * bundle.step_s / n for i in range(n)]
        found = list(threads.map(played_from, sessions, starts_s))
        wall_s = time.monotonic() - began_s
    counted = [prediction for one in found for prediction in one[_WARM_UP:]]
    spent = {
        stage: round(float(np.median([getattr(p.latency_ms, stage) for p in counted])), 2)
        for stage in ("preprocess", "infer", "postprocess")
    }
    return {
        "n": n,
        "max_batch": max_batch,
        "predictions_per_s": round(sum(map(len, found)) / wall_s, 2),
        "asked_per_s": round(n / bundle.hop_s, 2),
        "n_counted": len(counted),
        **percentiles("end_to_end_ms", [p.latency_ms.end_to_end for p in counted]),
        "median_ms": spent,
    }


def session_on(model: SharedModel, played: Played, lasting_s: float) -> Session:
    """A session whose faces are found already."""
    setup, choice, _ = model.lend()
    setup = replace(setup, detector=PlaybackDetector(played.faces))
    chunks = [chunk for chunk in played.chunks if chunk.t_ns < lasting_s * 1e9]
    source = InMemory(played.specs, chunks)
    session = Session(Opened(model.bundle, setup, (source,), (), choice), MonotonicClock())
    model.close_with(session)
    return session


def played_from(session: Session, start_s: float) -> list[Prediction]:
    """All that it says."""
    time.sleep(max(0.0, start_s - time.monotonic()))
    with session:
        return list(session)


# -- memory ----------------------------------------------------------------------------------------


def memory_of(path: Path, n: int) -> dict[str, Any]:
    """Of `n` sessions' engines that were run, each way in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sessions", "--bundle", str(path), "--rss"]
    ways = {way: [*command, f"{way} {n}"] for way in ("shared", "apart")}
    found = {
        way: subprocess.run(one, check=True, capture_output=True, text=True) for way, one in ways.items()
    }
    return {"n": n, **{way: float(done.stdout) for way, done in found.items()}}


def rss_mb(path: Path, what: str) -> float:
    """Of this process, once so many sessions' engines were opened and run, at once."""
    way, number = what.split()
    bundle, n = open_bundle(path), int(number)
    model = edge_mer.open_model(bundle) if way == "shared" else None
    open_one = partial(open_chosen, bundle, None) if model is None else model.lend
    lent = [open_one()[0] for _ in range(n)]
    with ThreadPoolExecutor(n) as threads:
        list(threads.map(lambda setup: one_step(setup.engines, bundle.manifest.model.stages), lent))
    return round(rss_bytes(os.getpid()) / 1e6, 1)


def percentiles(name: str, values: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    return {f"{name}_p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 99)}


if __name__ == "__main__":
    sys.exit(main())

"""How long a session takes to start, and what memory it holds, in a process that does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_mer.clock import NS_PER_S, MonotonicClock
from edge_mer.errors import DataError, EdgeMerError
from edge_mer.runtime.bench import Recording, from_golden, from_sources
from edge_mer.runtime.pipeline import Pipeline
from edge_mer.runtime.pipeline_setup import PipelineSetup
from edge_mer.runtime.ways import Way, open_way
from edge_mer.types.predictions import Prediction

_GO_ON_NS = 2 * NS_PER_S
"""How long it predicts before its memory is read."""

_LIMIT_S = 300


@dataclass(frozen=True)
class StartUp:
    """How a session starts.

    Attributes:
        import_s: From the start of its process to when all of edge-mer that it needs is loaded.
        first_record_s: From there, the bundle not yet opened, to the first record, withheld or not; the data
            for it is there at once.
        memory_bytes: Resident memory after some seconds of predictions.
        peak_memory_bytes: The most that there was until then.
    """

    import_s: float
    first_record_s: float
    memory_bytes: int
    peak_memory_bytes: int


def measure_start_up(way: Way) -> StartUp:
    """Start a session in a process of its own.

    Raises:
        DataError: It failed; says why.
    """
    asked = asdict(way) | {"began_ns": time.monotonic_ns()}
    command = [sys.executable, "-m", "edge_mer.runtime.start_up", json.dumps(asked, default=str)]
    try:
        done = subprocess.run(  # noqa: S603 (this file)
            command, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"no first record within {_LIMIT_S} s") from error
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise DataError("the process that starts a session failed", found=last[0])
    return StartUp(**json.loads(done.stdout))


def _main(text: str) -> int:
    loaded_ns = time.monotonic_ns()
    asked: dict[str, Any] = json.loads(text)
    import_s = (loaded_ns - asked.pop("began_ns")) / NS_PER_S
    try:
        print(json.dumps(asdict(_start(_way(asked), import_s))))  # noqa: T201 -- who started it reads it
    except EdgeMerError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


def _way(asked: dict[str, Any]) -> Way:
    detector = asked["face_detector"]
    return Way(
        bundle=Path(asked["bundle"]),
        precision=asked["precision"],
        engine=asked["engine"],
        face_detector=None if detector is None else Path(detector),
        sources=tuple(asked["sources"]),
    )


def _start(way: Way, import_s: float) -> StartUp:
    clock = MonotonicClock()
    began_ns = clock.now_ns()
    opened = open_way(way)
    open_ns = clock.now_ns() - began_ns
    play = from_sources(way.sources) if way.sources else from_golden(opened.bundle, 1)
    began_ns = clock.now_ns()
    for recording in play():
        records = _records(recording, opened.setup)
        if next(records, None) is None:
            break
        first_ns = open_ns + clock.now_ns() - began_ns
        until_ns = clock.now_ns() + _GO_ON_NS
        while clock.now_ns() < until_ns and next(records, None) is not None:
            pass
        memory, peak = _memory_bytes("VmRSS"), _memory_bytes("VmHWM")
        return StartUp(import_s, first_ns / NS_PER_S, memory, peak)
    raise DataError("the recording ended before its first prediction", hint="play a longer one")


def _records(recording: Recording, setup: PipelineSetup) -> Iterator[Prediction]:
    pipeline = Pipeline(setup, recording.specs, MonotonicClock())
    for chunk in recording.chunks:
        yield from pipeline.push(chunk)


def _memory_bytes(name: str) -> int:
    """What the kernel says of this process; the most that `getrusage` knows may be its parent's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))

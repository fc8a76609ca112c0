"""What is measured of a system, each part in a process of its own, so that none holds the memory of another.

    python -m benchmarks.speed.phases NAME PHASE

writes build/bench/NAME/PHASE.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.speed.kept import ROOT, Found, folder_of, say
from benchmarks.speed.made import load
from benchmarks.speed.rivals.base import Rival
from benchmarks.speed.rivals.registry import NAIVE, REFERENCE, RIVALS, open_rival
from benchmarks.speed.rivals.whole import last_line, refused_in
from benchmarks.speed.turns import Player, by_turns, deviation, told
from edge_mer.types.model import ModelSpec


@dataclass(frozen=True)
class Plan:
    """How much of everything a system gets.

    Attributes:
        n_rounds: Rounds by turns.
        per_round: Windows of a round.
    """

    n_rounds: int
    per_round: int

    @property
    def n_windows(self) -> int:
        """Of all rounds."""
        return self.n_rounds * self.per_round


PLANS = {
    "jmt": Plan(4, 3),
    "jmt-pain": Plan(5, 2),
    "jmt-tiny": Plan(15, 10),
    "jca": Plan(5, 3),
    "rjcma": Plan(4, 2),
    "group": Plan(6, 3),
}
QUICK = Plan(2, 2)
"""Of every system with `--quick`, to see that all works."""

AGAINST = (NAIVE, "whole-ov", "ort", "ov")
"""Whose time is divided by everybody's."""

ISA = ("AVX512_CORE_VNNI", "AVX512_CORE", "AVX2")
"""To less than these oneDNN, in OpenVINO and in PyTorch, is held in turn."""
ISA_RIVALS = (NAIVE, "ov", "ov-int8")
ISA_PLAN = Plan(2, 2)


def plan_of(name: str) -> Plan:
    """How much a system gets; less where the environment has `EDGE_MER_BENCH_QUICK`."""
    return QUICK if os.environ.get("EDGE_MER_BENCH_QUICK") else PLANS[name]


def turns(name: str) -> Found:
    """All rivals, by turns."""
    folder = folder_of(name)
    spec, steps = load(folder)
    refused = refused_in(folder)
    rivals = {key: open_rival(key, folder, spec, steps) for key in RIVALS if key not in refused}
    return _played(name, spec, rivals, plan_of(name))


def one_isa(name: str) -> Found:
    """Some rivals, with what oneDNN may use as this process was told."""
    from benchmarks.speed.rivals.edge_mer import kernels

    folder = folder_of(name)
    spec, steps = load(folder)
    rivals, refused = dict[str, Rival](), dict[str, str]()
    for key in ISA_RIVALS:
        try:
            rivals[key] = open_rival(key, folder, spec, steps)
            rivals[key].warm_up([0])
        except Exception as error:  # whatever a user would see
            rivals.pop(key, None)
            refused[key] = last_line(error)
            say(name, f"{key} does not run: {refused[key]}")
    played = _played(name, spec, rivals, ISA_PLAN, NAIVE)
    return played | {"kernels": kernels(folder), "refused": refused}


def _played(
    name: str, spec: ModelSpec, rivals: Mapping[str, Rival], plan: Plan, reference: str = REFERENCE
) -> Found:
    players = {key: Player(rival) for key, rival in rivals.items()}
    by_turns(players, plan.n_windows, plan.n_rounds, lambda text: say(name, text))
    return {
        "rivals": told(spec, players, AGAINST, reference),
        "deviation": deviation(spec, players[reference].found),
    }


def isa(name: str) -> Found:
    """Each instruction set up to that of this processor, in a process that may not use more."""
    found: Found = {}
    for level in (one for one in ISA if one == "AVX2" or "avx512f" in _flags()):
        held = {"ONEDNN_MAX_CPU_ISA": level}
        if level == "AVX2":
            held["ATEN_CPU_CAPABILITY"] = "avx2"
        say(name, f"at most {level}")
        found[level] = in_process(name, "one_isa", held)
    return found


def starts(name: str) -> Found:
    """Start-up and memory of every rival."""
    refused = refused_in(folder_of(name))
    return {key: _started(name, key) for key in RIVALS if key not in refused}


def _started(name: str, key: str) -> Found:
    command = [sys.executable, "-m", "benchmarks.speed.start", name, key]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: Found = json.loads(done.stdout.splitlines()[-1])
    say(name, f"{key}: ready after {found['start_s']} s, {found['peak_mb']} MB")
    return found


def live(name: str) -> Found:
    """A prediction of a live session in edge-mer, preprocessing and all, by faces."""
    from benchmarks.speed.growth import costs_by_faces

    return {str(n): asdict(cost) for n, cost in costs_by_faces(folder_of(name))}


def lengths(name: str) -> Found:
    """Cost by the length of the window, where the fusion takes any."""
    from benchmarks.speed.growth import costs_by_length

    return costs_by_length(folder_of(name))


PHASES: dict[str, Callable[[str], Found]] = {
    "turns": turns,
    "starts": starts,
    "isa": isa,
    "live": live,
    "lengths": lengths,
}
INNER: dict[str, Callable[[str], Found]] = {"one_isa": one_isa}


def in_process(name: str, phase: str, environment: dict[str, str] | None = None) -> Found:
    """One phase in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed.phases", name, phase]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | (environment or {}))
    found: Found = json.loads(_file(name, phase).read_text(encoding="utf-8"))
    return found


def _file(name: str, phase: str) -> Path:
    return folder_of(name) / f"{phase}.json"


def _flags() -> Iterator[str]:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    yield from set(text.split())


def main(name: str, phase: str) -> None:
    """Measure one."""
    found = (PHASES | INNER)[phase](name)
    _file(name, phase).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Rivals by turns in one process: what each takes for the same windows, and what it says of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from benchmarks.speed.kept import Found
from benchmarks.speed.rivals.base import Rival, Values
from benchmarks.speed.steps import Array
from edge_mer.postprocess.decode import expected
from edge_mer.runtime.bench import spread, trimmed_median
from edge_mer.runtime.proof import concordance
from edge_mer.types.model import AffectOutput, ModelSpec, Output

ENOUGH_MS = 1000.0
"""A rival that takes longer for a round's first windows leaves out the others, unless it keeps features."""

SLOW_S, SLOW_EVERY = 20.0, 4
"""One that warmed up for longer plays in so many rounds once, unless it keeps features."""


MIN_WINDOWS = 3
"""Of fewer there is no concordance."""


@dataclass(frozen=True)
class Ratio:
    """How many times as long one takes as another.

    Attributes:
        median: Over the rounds.
        low: Of the round in which it was least.
        high: Of the round in which it was most.
    """

    median: float
    low: float
    high: float


@dataclass
class Player:
    """A rival and what it did.

    Attributes:
        rival: Loaded and ready.
        rounds_ms: Of each round, what each prediction took; nothing of a round that it left out.
        found: Window -> its outputs.
    """

    rival: Rival
    rounds_ms: list[list[float]] = field(default_factory=list)
    found: dict[int, Values] = field(default_factory=dict)

    def play(self, windows: Sequence[int]) -> None:
        """One round."""
        times_ms: list[float] = []
        for window in windows:
            if times_ms and sum(times_ms) > ENOUGH_MS and not self.rival.is_streaming:
                break
            began_ns = time.perf_counter_ns()
            values = self.rival.predict(window)
            times_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
            self.found[window] = values
        self.rounds_ms.append(times_ms)

    def medians_ms(self) -> list[float]:
        """Of each round that it played."""
        return [trimmed_median(one) for one in self.rounds_ms if one]


def by_turns(
    players: Mapping[str, Player], n_windows: int, n_rounds: int, say: Callable[[str], None]
) -> None:
    """Let all play all windows, one round after the other, every other round in the opposite order.

    Args:
        players: By name.
        n_windows: That there are.
        n_rounds: By which they are divided.
        say: Told what goes on.
    """
    slow = set()
    for name, one in players.items():
        began = time.monotonic()
        one.rival.warm_up(range(n_windows))
        took_s = time.monotonic() - began
        say(f"{name} is warm after {took_s:.1f} s")
        if took_s > SLOW_S and not one.rival.is_streaming:
            slow.add(name)
    gc.collect()
    for number, windows in enumerate(np.array_split(np.arange(n_windows), n_rounds)):
        order = list(players)
        for name in order if number % 2 == 0 else reversed(order):
            is_out = name in slow and number % SLOW_EVERY
            players[name].play([] if is_out else windows.tolist())
        say(f"round {number + 1} of {n_rounds}")


def told(
    spec: ModelSpec, players: Mapping[str, Player], against: Sequence[str], reference: str
) -> dict[str, Found]:
    """What each took, how many times as long others took, and how far its outputs agree.

    Args:
        spec: The model's declaration.
        players: By name, all of which played the same rounds.
        against: Names of those whose time is divided by each one's.
        reference: Name of the one whose outputs are held for right.
    """
    return {name: _told(spec, one, players, against, reference) for name, one in players.items()}


def _told(
    spec: ModelSpec, one: Player, players: Mapping[str, Player], against: Sequence[str], reference: str
) -> Found:
    times = spread([ms for ms_of_round in one.rounds_ms for ms in ms_of_round])
    ratios = {name: _ratio(players[name], one) for name in against if name in players}
    return {
        "ms": {"p50": _short(times.p50), "p95": _short(times.p95), "n": times.n},
        "rounds_ms": [_short(ms) for ms in one.medians_ms()],
        "ratio": {
            name: {"median": _short(of.median), "low": _short(of.low), "high": _short(of.high)}
            for name, of in ratios.items()
        },
        "ccc": agreement(spec, one.found, players[reference].found),
        "off": off(spec, one.found, players[reference].found),
        "n_windows": len(one.found.keys() & players[reference].found.keys()),
        "executed": one.rival.executed(),
    }


def _ratio(slow: Player, fast: Player) -> Ratio:
    """How many times as long one takes as the other, round against round."""
    pairs = zip(slow.rounds_ms, fast.rounds_ms, strict=True)
    found = sorted(trimmed_median(a) / trimmed_median(b) for a, b in pairs if a and b)
    return Ratio(median(found), found[0], found[-1])


def agreement(spec: ModelSpec, found: Mapping[int, Values], right: Mapping[int, Values]) -> Found:
    """Output -> concordance of what a record would show with the reference's; classes together.

    Over the windows that both saw. None where these are fewer than three, or nothing varied.
    """
    windows = sorted(found.keys() & right.keys())
    if len(windows) < MIN_WINDOWS:
        return {output.name: None for output in spec.outputs}
    ccc: Found = {}
    for output in spec.outputs:
        pairs = [(found[i][output.name], right[i][output.name]) for i in windows]
        a, b = (shown(output, np.stack(values)).ravel() for values in zip(*pairs, strict=True))
        value = concordance(a, b)
        ccc[output.name] = None if value is None else round(value, 5)
    return ccc


def off(spec: ModelSpec, found: Mapping[int, Values], right: Mapping[int, Values]) -> Found:
    """Output -> root mean square error, in standard deviations of the reference over all its windows."""
    rms: Found = {}
    unit = deviation(spec, right)
    for output in spec.outputs:
        both = found.keys() & right.keys()
        errors = [shown(output, found[i][output.name]) - shown(output, right[i][output.name]) for i in both]
        rms[output.name] = _short(float(np.sqrt(np.mean(np.square(errors)))) / max(unit[output.name], 1e-9))
    return rms


def deviation(spec: ModelSpec, found: Mapping[int, Values]) -> Found:
    """Output -> standard deviation of what a record would show, over all windows."""
    values = {
        output.name: shown(output, np.stack([found[i][output.name] for i in sorted(found)]))
        for output in spec.outputs
    }
    return {name: round(float(np.mean(np.std(one, axis=0))), 4) for name, one in values.items()}


def shown(output: Output, raw: Array) -> Array:
    """What a record would show, but for the limits of affect, behind which an error would not be seen."""
    return np.asarray(raw, np.float64) if isinstance(output, AffectOutput) else expected(output, raw)


def _short(value: float) -> float:
    """Four digits that count."""
    return float(f"{value:.4g}")

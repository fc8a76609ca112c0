"""Prints how well clocks and rates are known: the tables of docs/how-time-works.md.

    .venv/bin/python -m benchmarks.clocks

Every clock and sensor is simulated, so that the truth is known; the code that follows them is the one that
runs in a session. Takes half a minute at most. Seeds are fixed: the same figures come out each time, but for
the last table, which is of time.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edge_mer.sync.regular import RegularStream
from edge_mer.sync.remote_clock import RemoteClock
from edge_mer.sync.resampler import GridResampler
from tests.helpers.simulated_clocks import MS, NS, SimulatedClock, Way
from tests.helpers.simulated_sensor import Sensor, at_times, hardly, placed

N_CLOCKS = 30
LOOKED_AT_S = 300

WAYS = {
    "cable: 0.4 ms, jitter up to 0.4 ms one way": Way(200_000, 400_000),
    "radio: 2 ms, a third of questions up to 20 ms": Way(MS, 18 * MS, heavy=0.33),
    "asymmetric: 0.4 ms, questions up to 20 ms longer": Way(200_000, 20 * MS),
    "busy: 0.4 ms, both ways up to 10 ms longer": Way(200_000, 10 * MS, answers_jitter=True),
    "far: 8 ms, jitter up to 2 ms one way": Way(4 * MS, 2 * MS),
}

SENSORS = {
    "250 Hz that gives 250.1, stamped by a driver": Sensor(250, 400, 25, hardly),
    "250 Hz that gives 249.9, stamped on arrival": Sensor(250, -400, 25, at_times, "arrival"),
    "sound at 16 kHz, 80 ppm fast, stamped on arrival": Sensor(16_000, 80, 320, at_times, "arrival"),
    "EDA at 4 Hz, 250 ppm fast, stamped on arrival": Sensor(4, 250, 1, at_times, "arrival"),
    "64 Hz in bursts up to 200 ms late, 100 ppm slow": Sensor(
        64, -100, 64, lambda random: float(random.uniform(0, 0.2)), "arrival"
    ),
}

TONES_HZ = {
    16_000: (440, 3_000, 6_000, 7_500),
    44_100: (1_000, 10_000, 18_000),
    250: (10, 40, 100),
    64: (1, 3),
    4: (0.05,),
}
DRIFT = 4e-4


def main() -> None:
    """Print all tables."""
    print("Remote clocks\n")
    rows = [clocks_row(name, way, every_s) for name, way in WAYS.items() for every_s in (1, 5)]
    table("way there and back", "looked at", "warm after", "then off by at most", "and known to", rows=rows)
    print("\nRates\n")
    heads = "sensor", "off by, 20 s on", "gaps", "found", "untreated, after an hour"
    table(*heads, rows=[rate_row(name, sensor) for name, sensor in SENSORS.items()])
    print("\nTones\n")
    table("rate", "error below the tone", rows=[tones_row(rate_hz) for rate_hz in TONES_HZ])
    print("\nCost\n")
    table("what", "of one core", rows=costs())


def table(*heads: str, rows: Sequence[Sequence[str]]) -> None:
    """Print rows as Markdown."""
    for cells in (heads, ["---"] * len(heads), *rows):
        print(f"| {' | '.join(cells)} |")


def clocks_row(name: str, way: Way, every_s: int) -> list[str]:
    """Many clocks, hours away and drifting by up to 200 ppm, each looked at every so many seconds."""
    warm_s, off_ms, known_ms = [], [], []
    for seed in range(N_CLOCKS):
        random = np.random.default_rng(seed)
        clock = SimulatedClock(
            int(random.integers(-(10**14), 10**14)), int(random.integers(-200_000, 200_001))
        )
        found, became_warm_s = RemoteClock(), None
        for second in range(LOOKED_AT_S):
            if second % every_s == 0:
                found.push(clock.look(second * NS, *way.delays_ns(random)))
            if not found.is_warm:
                continue
            became_warm_s = second if became_warm_s is None else became_warm_s
            host_ns = second * NS + NS // 2
            converted, within_ns = (
                found.to_host_ns(clock.at(host_ns)),
                found.uncertainty_ns(clock.at(host_ns)),
            )
            if converted is not None and within_ns is not None:
                off_ms.append(abs(converted - host_ns) / MS)
                known_ms.append(within_ns / MS)
        warm_s.append(LOOKED_AT_S if became_warm_s is None else became_warm_s)
    n_cold = sum(second == LOOKED_AT_S for second in warm_s)
    slowest = f"{n_cold} of {N_CLOCKS} not in {LOOKED_AT_S} s" if n_cold else f"slowest {max(warm_s)} s"
    return [
        name,
        f"every {every_s} s",
        f"{statistics.median(warm_s):.0f} s, {slowest}",
        f"{max(off_ms):.1f} ms",
        f"{statistics.median(known_ms):.1f} ms",
    ]


def rate_row(name: str, sensor: Sensor) -> list[str]:
    """Two minutes of a sensor."""
    found = placed(sensor.chunks(120), sensor.rate_hz)
    errors_ms = found.errors_ms(from_s=20)
    return [
        name,
        f"{np.median(errors_ms):.1f} ms, at most {errors_ms.max():.1f} ms",
        str(found.stream.n_gaps),
        f"{found.stream.drift_ppm:.0f} ppm",
        f"{abs(sensor.ppm) * 1e-6 * 3_600:.2f} s",
    ]


def tones_row(rate_hz: int) -> list[str]:
    """How far the error of tones lies below them."""
    return [f"{rate_hz} Hz", ", ".join(f"{below_db(rate_hz, f):.0f} dB at {f} Hz" for f in TONES_HZ[rate_hz])]


def below_db(rate_hz: int, tone_hz: float) -> float:
    """Of a tone whose samples come 400 ppm too slowly; its phase counts."""

    def tone(times_s: np.ndarray) -> np.ndarray:
        return np.asarray(np.sin(2 * np.pi * tone_hz * times_s))

    size = max(1, rate_hz // 20)
    n, start_ns, resampler = max(40 * rate_hz, 200), 12_500_000, GridResampler(rate_hz)
    signal = tone(start_ns / NS + np.arange(n) * (1 + DRIFT) / rate_hz).astype(np.float32)[:, np.newaxis]
    resampler.start(start_ns)
    begins_ns, out = resampler.next_ns, []
    for at in range(0, n, size):
        first_ns = start_ns + round(at * (1 + DRIFT) * NS / rate_hz)
        out.append(resampler.push(signal[at : at + size], first_ns, DRIFT))
    samples = np.concatenate(out)[:, 0]
    settled = slice(int(0.9 * len(samples)), None)
    error = (samples - tone(begins_ns / NS + np.arange(len(samples)) / rate_hz))[settled]
    return float(-10 * np.log10(np.mean(error**2) / 0.5))


def costs() -> list[list[str]]:
    """What following takes of a processor's core."""
    clock, random = SimulatedClock(10**12, 50_000), np.random.default_rng(0)
    looks = [clock.look(second * NS, *Way().delays_ns(random)) for second in range(300)]
    found = RemoteClock()
    look_s = timed(lambda: [found.push(look) for look in looks]) / len(looks)
    times = [clock.at(300 * NS + i * MS) for i in range(2_000)]
    convert_s = timed(lambda: [found.to_host_ns(remote_ns) for remote_ns in times]) / len(times)
    made = [[f"one look at a remote clock, {LOOKED_AT_S} s on", f"{look_s * 1e6:.0f} us"]]
    made.append(["one time converted", f"{convert_s * 1e6:.0f} us"])
    for rate_hz, size in ((250, 1), (16_000, 320), (44_100, 1_024)):
        sensor = dataclasses.replace(Sensor(rate_hz, 400, size, hardly))
        chunks, stream = list(sensor.chunks(20)), RegularStream(rate_hz)
        took_s = timed(lambda s=stream, cs=chunks: [s.push(chunk) for chunk in cs])
        made.append([f"a stream of {rate_hz} Hz, {size} a chunk, resampled", f"{took_s / 20:.1%}"])
    return made


def timed(work: Callable[[], Any]) -> float:
    """Seconds of a processor that it took."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()

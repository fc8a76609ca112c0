"""Writes docs/soak.md: what live sessions hold after hours, while their sensors break and come back.

    make soak

Takes 30 minutes at real pace, with two processes more beside it that play simulated hours. What was measured
is kept in benchmarks/measured/soak, and is measured anew when its file is deleted.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import edge_mer
from edge_mer.clock import NS_PER_S
from edge_mer.engine.onnxruntime import available_threads
from edge_mer.runtime.live_session import Session
from edge_mer.runtime.opening import Opened, open_all
from tests.helpers.bundle import ensure_bundle
from tests.helpers.long_session import (
    MINUTE_NS,
    MS,
    Census,
    TickingClock,
    devices,
    growth_per_hour,
    n_open_files,
    play,
    rss_bytes,
    slow_session,
)
from tests.helpers.senses_world import SensesWorld
from tests.helpers.tiny_session import SquareDetector

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "benchmarks" / "measured" / "soak"
PAGE = ROOT / "docs" / "soak.md"

MAX_MB_PER_HOUR = 1.0
"""A session may not grow faster."""

HOURS, BUNDLE_HOURS = 24, 3
CENSUS_EVERY_NS = 15 * MINUTE_NS
WARM_AFTER_H = {"simulated": 2.0, "bundle": 0.5, "live": 10 / 60}
"""Hours after which a session should have all that it needs."""

LIVE_S, SAMPLE_EVERY_S, OUTAGES_EVERY_S = 30 * 60, 10, 5 * 60
OUTAGES_S = {"audio": (60, 63), "visual": (120, 123), "eda": (180, 183), "lsl": (240, 246)}
"""Sensor -> when it is killed, and when it is started again, within each `OUTAGES_EVERY_S`."""

SCHEMES = {"audio": "mic", "visual": "rtsp", "eda": "serial", "lsl": "lsl"}

Found = dict[str, Any]


def main(names: list[str]) -> None:
    """Measure what is missing, each in a process of its own, or `names` in this one; then write the page."""
    for name in names:
        keep(name, MEASURES[name]())
    if names:
        return
    missing = [name for name in MEASURES if not file_of(name).exists()]
    started = {
        name: subprocess.Popen([*nice(name), sys.executable, "-m", "benchmarks.soak", name])
        for name in missing
    }
    failed = [name for name, process in started.items() if process.wait()]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    PAGE.write_text(page({name: kept(name) for name in MEASURES}), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def nice(name: str) -> list[str]:
    """What plays simulated time has all the time in the world."""
    return [] if name == "live" else ["nice", "-n", "10"]


def say(name: str, text: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {name}: {text}", flush=True)


def machine() -> str:
    """What it was measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{available_threads()} threads of {names[0] if names else platform.machine()}"


def file_of(name: str) -> Path:
    """Where a measurement is kept."""
    return MEASURED / f"{name}.json"


def keep(name: str, found: Found) -> None:
    """Write a measurement."""
    MEASURED.mkdir(parents=True, exist_ok=True)
    file_of(name).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def kept(name: str) -> Found:
    """Read it again."""
    found: Found = json.loads(file_of(name).read_text(encoding="utf-8"))
    return found


# -- what is measured ----------------------------------------------------------------------------


@dataclass
class Samples:
    """What the process held, over hours."""

    hours: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    n_threads: list[int] = field(default_factory=list)
    n_fds: list[int] = field(default_factory=list)

    def take(self, hours: float, rss: int, n_threads: int, n_open: int) -> None:
        """Note one."""
        self.hours.append(round(hours, 4))
        self.rss_mb.append(round(rss / 1e6, 3))
        self.n_threads.append(n_threads)
        self.n_fds.append(n_open)

    def found(self, warm_after_h: float) -> Found:
        """All of them, and how fast memory grew after the warm-up."""
        samples = vars(self)
        return {
            "warm_after_h": warm_after_h,
            "mb_per_hour": slope_of(samples, warm_after_h),
            "samples": samples,
        }


def slope_of(samples: Found, warm_after_h: float) -> float:
    """Growth of memory after the warm-up, MB an hour."""
    warm = [n for n, hours in enumerate(samples["hours"]) if hours >= warm_after_h]
    hours, held = ([samples[name][n] for n in warm] for name in ("hours", "rss_mb"))
    return round(growth_per_hour(hours, held), 4)


def simulated(name: str, opened: Opened, clock: TickingClock, hours: int) -> Found:
    """Hours under a clock of their own."""
    samples, began_s = Samples(), time.process_time()

    def take(census: Census) -> None:
        at_h = census.t_ns / NS_PER_S / 3_600
        samples.take(at_h, census.rss_bytes, census.n_threads, census.n_fds)
        say(name, f"{at_h:.2f} h, {census.rss_bytes / 1e6:.1f} MB")

    duration_ns = hours * 60 * MINUTE_NS
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.jsonl"
        played = play(
            opened, clock, out, duration_ns, range(CENSUS_EVERY_NS, duration_ns + 1, CENSUS_EVERY_NS), take
        )
    first, last = played.censuses
    return {
        "hours": hours,
        "n_predictions": played.n_predictions,
        "n_ok": played.n_by_status["ok"],
        "n_by_reason": dict(played.n_by_reason.most_common()),
        "n_dropped_windows": played.n_by_reason["overloaded"],
        "n_unread": played.n_unread,
        "n_restarts": {source.uri: source.n_restarts for source in played.sources},
        "n_objects": [sum(census.n_by_type.values()) for census in (first, last)],
        "cpu_s": round(time.process_time() - began_s, 1),
        "machine": machine(),
        **samples.found(WARM_AFTER_H[name]),
    }


def a_day() -> Found:
    """24 hours of a small model, as its one hour in the tests."""
    clock = TickingClock()
    return simulated("simulated", slow_session(clock), clock, HOURS)


def bundle_hours() -> Found:
    """Hours of the model that comes along, in ONNX Runtime; its faces are found by a simpler detector."""
    clock = TickingClock(100 * MS)
    opened = open_all(bundle_path(), devices(clock, fps=15, audio_hz=44_100, audio_samples=4_410))
    opened = replace(opened, setup=replace(opened.setup, detector=SquareDetector()))
    return simulated("bundle", opened, clock, BUNDLE_HOURS)


def bundle_path() -> Path:
    """The calibrated jmt-tiny."""
    return Path(os.environ.get("EDGE_MER_TEST_BUNDLE") or ensure_bundle())


# -- at real pace --------------------------------------------------------------------------------


def live() -> Found:
    """Half an hour with every kind of sensor, four of which are killed and started again in turn."""
    with tempfile.TemporaryDirectory() as folder:
        world = SensesWorld(Path(folder))
        os.environ.update(world.sound.environment)
        world.start()
        try:
            return _live(world, Path(folder) / "out.jsonl")
        finally:
            world.end()


def _live(world: SensesWorld, out: Path) -> Found:
    samples, back_s = Samples(), {name: list[float]() for name in OUTAGES_S}
    with edge_mer.open_session(bundle_path(), sources=world.sources, sinks=[f"jsonl:{out}"]) as session:
        n_read: list[int] = []
        reader = threading.Thread(target=lambda: n_read.append(sum(1 for _ in session)))
        reader.start()
        began_s, cpu_began_s = time.monotonic(), time.process_time()
        events, waiting, next_sample_s = plan(), dict[str, float](), 0.0
        while (now_s := time.monotonic() - began_s) < LIVE_S:
            while events and events[0][0] <= now_s:
                _, act, name = events.pop(0)
                act(world, name)
                if act is SensesWorld.turn_on:
                    waiting[name] = time.monotonic()
            for name in [name for name in waiting if is_well(session, name)]:
                back_s[name].append(round(time.monotonic() - waiting.pop(name), 2))
                say("live", f"{name} is back after {back_s[name][-1]} s")
            if now_s >= next_sample_s:
                next_sample_s += SAMPLE_EVERY_S
                samples.take(now_s / 3_600, rss_bytes(), threading.active_count(), n_open_files())
                if len(samples.hours) % 6 == 1:
                    say(
                        "live",
                        f"{now_s / 60:.0f} min, {samples.rss_mb[-1]} MB, {dict(session.report.n_by_status)}",
                    )
            threading.Event().wait(0.1)
        cpu_share = (time.process_time() - cpu_began_s) / LIVE_S
        session.stop()
        reader.join()
        report, unread = session.report, session.n_dropped
        sources = report.sources()
    return {
        "hours": LIVE_S / 3_600,
        "n_predictions": report.n_predictions,
        "n_ok": report.n_by_status["ok"],
        "n_by_reason": dict(report.n_by_reason.most_common()),
        "n_dropped_windows": report.n_by_reason["overloaded"],
        "n_unread": unread,
        "n_read": n_read[0],
        "n_restarts": {source.uri.partition(":")[0]: source.n_restarts for source in sources},
        "n_killed": {name: len(found) for name, found in back_s.items()},
        "back_s": back_s,
        "n_waited_for": len(waiting),
        "cpu_share": round(cpu_share, 3),
        "machine": machine(),
        **samples.found(WARM_AFTER_H["live"]),
    }


Act = Callable[[SensesWorld, str], None]


def plan() -> list[tuple[float, Act, str]]:
    """When which sensor is killed or started again; none in the last minute."""
    acts = (SensesWorld.turn_off, SensesWorld.turn_on)
    return sorted(
        (
            (start_s + at_s, act, name)
            for start_s in range(0, LIVE_S, OUTAGES_EVERY_S)
            for name, times in OUTAGES_S.items()
            for act, at_s in zip(acts, times, strict=True)
        ),
        key=lambda one: one[0],
    )


def is_well(session: Session, name: str) -> bool:
    """Whether a sensor's streams come as they should."""
    (source,) = (one for one in session.report.sources() if one.uri.startswith(f"{SCHEMES[name]}:"))
    return set(source.states.values()) == {"ok"}


MEASURES: dict[str, Callable[[], Found]] = {"simulated": a_day, "bundle": bundle_hours, "live": live}


# -- the page ------------------------------------------------------------------------------------

HEAD = """\
# Long runs

Made by `make soak`; do not edit. What sessions hold and lose over hours in which their sensors break and
come back.

- **Simulated**: {day} hours of a whole session of face, voice and skin, under a clock that jumps. In
  every ten minutes the camera comes loose and the skin sensor is unplugged, each for 6 s; the microphone
  gives nothing for 6 s; something else has the processor for 12 s; the clock of the skin sensor is set
  anew; another person sits down, twice; and whoever reads predictions pauses until some are lost. Of the
  chunks, one in 200 never comes, and one in 200 comes twice. One hour of the same is among the tests.
- **Bundle**: {hours} hours of the same with `jmt-tiny` in ONNX Runtime, at 15 pictures a second and sound
  at 44.1 kHz. A simpler detector finds its faces.
- **Real pace**: {minutes} minutes of `jmt-tiny` with an RTSP camera, a microphone of a sound server, a
  sensor on a serial line, BrainFlow's synthetic board, and a stream of the Lab Streaming Layer from
  another process. In every five minutes the sound server, the camera's server, the serial line and the
  stream's process are killed in turn, and started again after 3 s, the last one after 6 s.

Growth is the slope of the line that fits resident memory best. What a session comes to need in its first
minutes does not count: the line begins after {warm}.
The aim is less than {most:g} MB an hour. {verdict}
"""


def page(found: dict[str, Found]) -> str:
    """The page's text."""
    rows = [
        ["", *TITLES.values()],
        ["---"] * 4,
        *([what, *(show(found[name]) for name in MEASURES)] for what, show in ROWS.items()),
    ]
    table = [f"| {' | '.join(cells)} |" for cells in rows]
    day, some, pace = (found[name] for name in MEASURES)
    head = HEAD.format(
        day=day["hours"],
        hours=some["hours"],
        minutes=round(60 * pace["hours"]),
        warm=", ".join(f"{60 * one['warm_after_h']:.0f} min ({TITLES[n]})" for n, one in found.items()),
        most=MAX_MB_PER_HOUR,
        verdict=verdict(found),
    )
    return "\n".join([head, *table, "", *back(pace), "", *where(found), ""])


def verdict(found: dict[str, Found]) -> str:
    """Which sessions grew too fast."""
    grew = [TITLES[name] for name, one in found.items() if one["mb_per_hour"] >= MAX_MB_PER_HOUR]
    return f"**Not reached**: {', '.join(grew)}." if grew else "All reached it."


def back(live: Found) -> list[str]:
    """How soon killed sensors deliver again."""
    cells = {
        name: [len(times), f"{statistics.median(times):.1f} s", f"{max(times):.1f} s"]
        for name, times in live["back_s"].items()
    }
    lines = ["| killed | times | well again after, median | at most |", "| --- | --- | --- | --- |"]
    lines += [f"| {KILLED[name]} | {' | '.join(map(str, row))} |" for name, row in cells.items()]
    return [
        *lines,
        "",
        "Counted from when its other end answers again, until all its streams come at their rate.",
    ]


def where(found: dict[str, Found]) -> list[str]:
    """What it was measured on."""
    machines = list(dict.fromkeys(one["machine"] for one in found.values()))
    return [f"Measured on {' and '.join(machines)}, all three at a time, beside other work."]


def of_samples(one: Found, name: str) -> list[float]:
    """Those after the warm-up."""
    samples, warm_h = one["samples"], one["warm_after_h"]
    return [value for hours, value in zip(samples["hours"], samples[name], strict=True) if hours >= warm_h]


def span(values: list[float]) -> str:
    """The least and the most."""
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def cpu(one: Found) -> str:
    """Of the session's process, feeding the sensors included."""
    share = one.get("cpu_share")
    return (
        f"{100 * share:.0f} % of one core"
        if share is not None
        else f"{one['cpu_s'] / one['hours']:.0f} s per hour"
    )


TITLES = {"simulated": "simulated", "bundle": "bundle", "live": "real pace"}

KILLED = {
    "audio": "sound server",
    "visual": "camera's server",
    "eda": "serial line",
    "lsl": "stream's process",
}

ROWS: dict[str, Callable[[Found], str]] = {
    "growth of memory, MB an hour": lambda one: f"{one['mb_per_hour']:+.3f}",
    "memory at first, MB": lambda one: f"{one['samples']['rss_mb'][0]:.1f}",
    "memory after the warm-up, MB": lambda one: f"{of_samples(one, 'rss_mb')[0]:.1f}",
    "at the end, MB": lambda one: f"{of_samples(one, 'rss_mb')[-1]:.1f}",
    "threads": lambda one: span(of_samples(one, "n_threads")),
    "open files": lambda one: span(of_samples(one, "n_fds")),
    "predictions": lambda one: str(one["n_predictions"]),
    "`ok`": lambda one: f"{100 * one['n_ok'] / one['n_predictions']:.1f} %",
    "dropped for want of time": lambda one: str(one["n_dropped_windows"]),
    "not read in time": lambda one: str(one["n_unread"]),
    "sensors opened again": lambda one: str(sum(one["n_restarts"].values())),
    "processor": cpu,
}


if __name__ == "__main__":
    main(sys.argv[1:])

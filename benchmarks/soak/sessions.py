"""Live sessions of hours, while their sensors break and come back: simulated, and at real pace."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import edge_mer
from benchmarks.soak.kept import Found, bundle_path, machine, say
from edge_mer.clock import NS_PER_S
from edge_mer.runtime.live_session import Session
from edge_mer.runtime.opening import Opened, open_all
from tests.helpers.long_session import (
    MINUTE_NS,
    MS,
    Census,
    TickingClock,
    devices,
    growth_per_hour,
    play,
    slow_session,
)
from tests.helpers.process import n_open_files, rss_bytes
from tests.helpers.senses_world import SensesWorld
from tests.helpers.tiny_session import SquareDetector

HOURS, BUNDLE_HOURS = 24, 3
CENSUS_EVERY_NS = 15 * MINUTE_NS
WARM_AFTER_H = {"simulated": 2.0, "bundle": 0.5, "live": 10 / 60}
"""Hours after which a session should have all that it needs."""

LIVE_S, SAMPLE_EVERY_S, OUTAGES_EVERY_S = 30 * 60, 10, 5 * 60
OUTAGES_S = {"audio": (60, 63), "visual": (120, 123), "eda": (180, 183), "lsl": (240, 246)}
"""Sensor -> when it is killed, and when it is started again, within each `OUTAGES_EVERY_S`."""

SCHEMES = {"audio": "mic", "visual": "rtsp", "eda": "serial", "lsl": "lsl"}


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

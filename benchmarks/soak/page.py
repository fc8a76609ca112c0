"""docs/soak.md, from what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks.soak.daemon_page import kills_part, swaps_part, table
from benchmarks.soak.kept import ROOT, Found, span

PAGE = ROOT / "docs" / "soak.md"

MAX_MB_PER_HOUR = 1.0
"""A session may not grow faster."""

HEAD = """\
# Long runs

Made by `make soak`; do not edit. What sessions hold and lose over hours in which their sensors break and
come back, and what the [daemon](how-to-daemon.md) does when its bundle is changed a hundred times and its
processes are killed a hundred times.

## Hours with sensors that break

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
    rows = ([what, *(show(found[name]) for name in TITLES)] for what, show in ROWS.items())
    lines = table(["", *TITLES.values()], rows)
    sessions = {name: found[name] for name in TITLES}
    day, some, pace = sessions.values()
    head = HEAD.format(
        day=day["hours"],
        hours=some["hours"],
        minutes=round(60 * pace["hours"]),
        warm=", ".join(f"{60 * one['warm_after_h']:.0f} min ({TITLES[n]})" for n, one in sessions.items()),
        most=MAX_MB_PER_HOUR,
        verdict=verdict(sessions),
    )
    of_sessions = [head, *lines, "", *back(pace), "", *where(sessions), ""]
    of_daemon = [*swaps_part(found["swaps"]), "", *kills_part(found["kills"]), ""]
    return "\n".join([*of_sessions, *of_daemon])


def verdict(found: dict[str, Found]) -> str:
    """Which sessions grew too fast."""
    grew = [TITLES[name] for name, one in found.items() if one["mb_per_hour"] >= MAX_MB_PER_HOUR]
    return f"**Not reached**: {', '.join(grew)}." if grew else "All reached it."


def back(live: Found) -> list[str]:
    """How soon killed sensors deliver again."""
    cells = {
        name: [str(len(times)), f"{statistics.median(times):.1f} s", f"{max(times):.1f} s"]
        for name, times in live["back_s"].items()
    }
    return [
        *table(
            ["killed", "times", "well again after, median", "at most"],
            ([KILLED[name], *row] for name, row in cells.items()),
        ),
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

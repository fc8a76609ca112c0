"""The parts of docs/soak.md that are about the daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.soak.kept import Found, span
from benchmarks.soak.swaps import MAX_MB_PER_100, NEW_EVERY

SWAPS = """\
## A hundred changes of bundle

The daemon, as its two processes, predicts on a [simulated person](how-to-simulate.md) at real pace with
`jmt-tiny`, every {hop_ms:.0f} ms, and changes its bundle {n_kept} times, one change after the other, as
fast as that goes. Every {nth}th change brings a bundle that was never here, over HTTP; the others go back
to the one before. Relief is off, so that every hop is owed. Somebody listens at the link, and somebody over
HTTP. A change took {back_s} (median), one with a new bundle, which is proven first, {new_s}.{refused}

- **Hops lost**: {n_lost} of {n_predictions} at the link, {n_lost_http} of {n_http} over HTTP.
- **Files of bundles that were replaced**: {n_held} were open or mapped after a change, {n_left} were left
  on the disk.
"""

GREW = """\
Growth is the slope of the line that fits the last {n_late} changes best, with its standard error. The aim
is less than {most:g} MB per 100 changes. {verdict} Engines have threads of their
own where two are faster than one, which is tried anew with each bundle that comes; the gateway begins its
few workers when they are first needed.
"""

LATENCY = """\
From the end of a hop to its prediction, in milliseconds, without and with a change under way. While it
changes, a second model runs beside the one that serves, on the same two threads.
"""

KILLS = """\
## A hundred kills

Each process of the daemon is killed (`SIGKILL`) {n} times, at random moments (seed {seed}), while all that
writes to a disk is on: a recording with pictures and sound, a log of predictions, {n_rules} alarms, the
audit log. A supervisor begins it again whenever it ends, as `Restart=always` has systemd do, after
{pause_s:g} s instead of the 5 s and 2 s of the [units](how-to-systemd.md). A process counts as serving with
its first prediction, and the gateway once it is ready.
"""

ON_DISK = """\
After each kill of inference, before it is begun again, all that is on its disk is checked:

- **Bundles**: the one that serves and the one before are whole, and the one that is to serve next does so.
  {phases}
- **Alarms** can be loaded. {n_acknowledged} acknowledgements were answered before the kill, and each of them
  is there.
- **Audit log**: {n_audit} records vouch for each other, each of those acknowledgements is in it, and
  {n_audit_torn} lines are unfinished.
- **Log**: {n_lines} predictions, {n_lines_torn} unfinished lines.
- **Recordings**: each of {n_recordings} lost {lost_s[p50]:.2f} s at its end (median), {lost_s[max]:.2f} s at
  most; up to a second is what is [promised](how-to-record.md#when-something-goes-wrong). Nothing is missing
  before that, and mended, all are read by MCAP's own reader: {n_recorded} messages. {n_begun} were so young
  that they had nothing yet.

{faults}

While the gateway was killed, inference went on: {n_lost} of {n_meanwhile} hops were lost. {otherwise}
"""


def swaps_part(found: Found) -> list[str]:
    """About changes of bundle."""
    came_to, took = dict(found["came_to"]), found["took_s"]
    n_kept = came_to.pop("kept")
    others = ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in came_to.items())
    told = SWAPS.format(
        hop_ms=1000 * found["hop_s"],
        n_kept=n_kept,
        nth=NEW_EVERY,
        back_s=f"{took['back']['p50']:.1f} s",
        new_s=f"{took['new']['p50']:.1f} s",
        refused=f" The machine was busy: {others}." if others else "",
        n_lost=found["n_lost"],
        n_predictions=found["n_predictions"],
        n_lost_http=found["n_lost_http"],
        n_http=found["n_http"],
        n_held=len(found["held"]),
        n_left=len(found["left"]) + len(found["stray"]),
    )
    grew = GREW.format(n_late=n_late(found), most=MAX_MB_PER_100, verdict=verdict(found["growth"]))
    names = list(found["samples"])
    held = table(["", *names], ([what, *(show(found, one) for one in names)] for what, show in HELD.items()))
    took_rows = [
        [what, *(f"{found[when][key]:.0f}" for when in ("quiet_ms", "changing_ms"))]
        for what, key in SPREAD.items()
    ]
    latency = table(["", "no change", "while it changes"], took_rows)
    return [told, *held, "", grew, LATENCY, *latency, "", where(found)]


def n_late(found: Found) -> int:
    """Changes that growth is told of."""
    n_samples = len(found["samples"]["inference"]["rss_mb"])
    return n_samples - n_samples // 2


def verdict(growth: Found) -> str:
    """Which processes grew too fast."""
    grew = [name for name, one in growth.items() if one["mb_per_100"] >= MAX_MB_PER_100]
    return f"**Not reached**: {', '.join(grew)}." if grew else "Both processes reached it."


def _grew(found: Found, name: str) -> str:
    one = found["growth"][name]
    return f"{one['mb_per_100']:+.2f} ± {one['error']:.2f}"


def _at(key: str, number: int, digits: int = 0) -> Callable[[Found, str], str]:
    return lambda found, name: f"{found['samples'][name][key][number]:.{digits}f}"


def _span(key: str) -> Callable[[Found, str], str]:
    """The least and the most after a change."""
    return lambda found, name: span(found["samples"][name][key][1:])


HELD: dict[str, Callable[[Found, str], str]] = {
    "growth of memory, MB per 100 changes": _grew,
    "memory before the first change, MB": _at("rss_mb", 0, 1),
    "after the tenth, MB": _at("rss_mb", 10, 1),
    "after the last, MB": _at("rss_mb", -1, 1),
    "threads before the first change": _at("n_threads", 0),
    "after each of the others": _span("n_threads"),
    "open files before the first change": _at("n_fds", 0),
    "after each of the others, too": _span("n_fds"),
}

SPREAD = {"predictions": "n", "median": "p50", "95 of 100": "p95", "longest": "max"}


def kills_part(found: Found) -> list[str]:
    """About kills."""
    processes = [found["inference"], found["gateway"]]
    rows = [
        ["killed", *(str(one["n_kills"]) for one in processes)],
        *([what, *(_doing(one, names) for one in processes)] for what, names in DOING.items()),
        ["serves again after, median", *(f"{one['took_s']['p50']:.1f} s" for one in processes)],
        ["at most", *(f"{one['took_s']['max']:.1f} s" for one in processes)],
        ["waited for", *(f"{one['took_s']['n']} times" for one in processes)],
    ]
    told = KILLS.format(
        n=processes[0]["n_kills"],
        seed=found["seed"],
        n_rules=found["n_rules"],
        pause_s=found["pause_s"],
    )
    otherwise = sum(one["n_ended_otherwise"] for one in processes)
    on_disk = ON_DISK.format(
        phases=_phases(found["phases"]),
        n_recordings=found["recordings_lost_s"]["n"],
        lost_s=found["recordings_lost_s"],
        faults=_faults(found),
        n_lost=found["n_lost_meanwhile"],
        otherwise=f"**{otherwise} processes ended by themselves.**"
        if otherwise
        else "No process ended by itself.",
        **{
            name: found[name]
            for name in (
                "n_acknowledged",
                "n_audit",
                "n_audit_torn",
                "n_lines",
                "n_lines_torn",
                "n_recorded",
                "n_begun",
                "n_meanwhile",
            )
        },
    )
    return [
        told,
        *table(["", "inference", "gateway"], rows),
        "",
        "Counted from the begin of the process, without the supervisor's pause. One that was killed while it "
        "started was not waited for.",
        "",
        on_disk,
        where(found),
    ]


DOING = {
    "while it starts": ("starting",),
    "while it predicts, or somebody reads predictions": ("predicting", "streaming"),
    "while a bundle is brought or changed": ("changing", "bringing"),
    "while an alarm is acknowledged": ("acknowledging",),
}


def _doing(process: Found, names: Iterable[str]) -> str:
    return str(sum(process["n_doing"].get(name, 0) for name in names))


def _phases(phases: dict[str, int]) -> str:
    words = {"none": "not begun", "kept": "just over"}
    told = ", ".join(f"{words.get(name, name.replace('_', ' '))} {n}" for name, n in phases.items())
    return f"How far changes were when they were cut off, and how often: {told}."


def _faults(found: Found) -> str:
    wrong = [*found["faults"], *(f"{one} is left" for one in found["stray"])]
    lines = [f"- {one}" for one in wrong]
    if wrong:
        return "\n".join(["**What was wrong:**", "", *lines])
    return "Nothing was wrong, and once the daemon was stopped, no file was left that nobody needs."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def where(found: Found) -> str:
    """What it was measured on, and beside what."""
    load = found["load"]
    return (
        f"Measured in {found['duration_s'] / 60:.0f} min on {found['machine']}, beside other work: the load "
        f"average was {load['p50']:.1f} (median), {load['max']:.1f} at most."
    )

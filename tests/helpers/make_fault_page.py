"""Writes docs/faults.md from the faults that the tests try: python tests/helpers/make_fault_page.py."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "faults.md"
sys.path.insert(0, str(ROOT))

from tests.helpers.live_faults import FAULTS, Fault  # noqa: E402

HEAD = """\
# What goes wrong, and what predictions show of it

The first lines befall a session of camera, microphone and skin conductance from its fifth hop on, mostly for
two hops; each is a test, and predictions keep coming in all of them. The last five stop or starve what a
session runs on, and are tests too; the very last one with real components, five sensors at once for a minute.
"Seen" is the number of hops until the predictions show it, 0 = in the prediction of the hop in which it
happens; "over" is the number of hops, from the fault's begin, after which all is well again.

Where a prediction shows it: `reasons` say why its status is not `ok`; `modalities` holds for each modality
whether it was `present`, its `coverage`, how its `source` is (`ok`, `starting`, `stalled`, `wrong_rate`,
`restarting`) and what was wrong with its `quality`.

| fault | what happens | what predictions show | seen | over |
| --- | --- | --- | --- | --- |
"""

OTHERS = (
    (
        "overload",
        "something else has the processor for four hops",
        "`withheld`, `overloaded`, for whole windows, until it has caught up; counted",
        "0",
        "5",
    ),
    (
        "slow sink",
        "a sink hangs",
        "nothing; it gets later what fits into its queue, the rest is counted and told",
        "-",
        "-",
    ),
    (
        "disk full",
        "a sink's or a recording's disk is full",
        "nothing; that file ends, one message says so",
        "-",
        "-",
    ),
    (
        "kill -9 while recording",
        "the process is killed",
        "they end; the recording is whole but for its last second",
        "-",
        "-",
    ),
    (
        "device vanishes and returns",
        "a sound server, a camera's server, a serial port is killed, and started again after two seconds",
        "`audio_missing` or `visual_missing` with `_restarting`; it is there again within 5 s of its return",
        "1",
        "-",
    ),
)


def page() -> str:
    """The page's text."""
    rows = [_row(fault) for fault in FAULTS]
    rows += [" | ".join(row) for row in OTHERS]
    return HEAD + "".join(f"| {row} |\n" for row in rows)


def _row(fault: Fault) -> str:
    seen = "-" if fault.is_shown is None else str(fault.within)
    over = "-" if fault.is_shown is None or fault.is_well_from is None else str(fault.is_well_from - 4)
    return " | ".join((fault.name, fault.what, fault.shows, seen, over))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

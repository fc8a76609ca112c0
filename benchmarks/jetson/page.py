"""docs/jetson-check.md from what was found."""

from __future__ import annotations

import textwrap
from typing import Any

HEAD = """\
# Numbers and wheels on aarch64

Made by `make jetson-check`; do not edit. It holds edge-mer on aarch64, the architecture of Jetsons, against
x86-64, and asks pip for the wheels of JetPack's Pythons.

**What it shows.** The wheel of this project and the packages that it needs were installed for aarch64 and ran
there under qemu, which carries out the instructions of an Arm processor in software. Debian's Python and all
packages have the same versions on both sides, so that nothing differs but the processor.

**What it does not show.** No speed: an emulated processor says nothing about a board's time. No GPU and no
TensorRT, no camera, no JetPack. Python is 3.11 here, because Debian 12 has it; that 3.10 and 3.12 find their
wheels is what pip says, and nothing ran on them. ONNX Runtime is the version that Python 3.10 gets; newer
ones do not start under this qemu. No board has computed any of this yet.
"""

RUN = """\
Run on {date} with a `{model}` bundle, in {minutes:.0f} minutes. Emulated: qemu {qemu}, Debian
{debian}, Python {python}, {libc}. The x86-64 side ran on {processor}.
"""

NUMBERS = """\
Equal tensors, those of the bundle's golden sessions, go through each stage. Differences are given in the
output's own unit, and in deviations: how much that output varies from step to step. Pictures of the same
sessions go through the face detector. `run` plays the same source on both sides, through everything.
"""

BITS = """\
## Why 8 bits differ in a few windows

A stage in 8 bits rounds between its layers. Where a value lies on the border of two steps, the last bit of a
float decides to which side it goes, and everything after it differs by that step. Floats differ in their last
bit between processors, which add in another order. So a window in 8 bits is equal, or differs by about as
much as 8 bits cost anyway: {max_stage:g} can hold for nearly all windows, not for every one. A kernel that
computed something else would show in all of them, and fail.

One processor does the same to itself. On x86-64, with nothing changed but the last bit of the fusion's
inputs, its outputs change so:
"""

VERSIONS = """\
Another version of ONNX Runtime can change more than another processor. On one and the same x86-64,
{workbench}, which the workbench has, differs from {device}, which both sides above have:
"""


TITLES = ["check", "largest difference", "must be", "verdict"]


def page(found: dict[str, Any]) -> str:
    """The whole page."""
    about = found["about"]
    lines = [
        HEAD,
        RUN.format(**{**found, **found["about"]}),
        f"**{_verdict(found)}**\n",
        "## Numbers\n",
        NUMBERS,
        *_numbers(found),
        BITS.format(max_stage=found["max_stage"]),
        *(f"- {line}" for line in found["shaken"]),
        "",
        VERSIONS.format(workbench=found["workbench"], device=about["packages"]["onnxruntime"]),
        *(f"- {line}" for line in found["versions"]),
        "",
        "## Wheels\n",
        table(TITLES, rows(found["checks"]["wheels"])),
        "",
        *_wheels(found["wheels"]),
        "## Versions on both sides\n",
        wrapped(", ".join(f"{name} {version}" for name, version in sorted(about["packages"].items())) + "."),
    ]
    return "\n".join([*lines, ""])


def _verdict(found: dict[str, Any]) -> str:
    failed = [
        f"{part}: {one['name']}"
        for part, checks in found["checks"].items()
        for one in checks
        if not one["passed"]
    ]
    n = sum(len(checks) for checks in found["checks"].values())
    return (
        f"All {n} checks passed."
        if not failed
        else f"{len(failed)} of {n} checks failed: {'; '.join(failed)}."
    )


def _numbers(found: dict[str, Any]) -> list[str]:
    lines = []
    for processor, what in found["processors"].items():
        lines += [f"### {processor}\n", f"{what[0].upper()}{what[1:]}.\n"]
        lines += [table(TITLES, rows(found["checks"][processor])), ""]
    return lines


def rows(checks: list[dict[str, Any]]) -> list[list[str]]:
    """A row per check."""
    return [[one["name"], one["found"], one["must_be"], verdict(one)] for one in checks]


def verdict(check: dict[str, Any]) -> str:
    """In a word."""
    return "pass" if check["passed"] else "FAIL"


def _wheels(wheels: dict[str, Any]) -> list[str]:
    """Versions per Python, the core first."""
    text = (
        "What pip takes for this project's wheel on aarch64, and with its extra `text`, from wheels alone: "
        + " and ".join(
            f"Python {one['python']} with glibc 2.{one['glibc']} ({one['where']})" for one in wheels.values()
        )
        + "."
    )
    names = sorted({name for one in wheels.values() for name in one["text"]})
    in_core = {name for one in wheels.values() for name in one["core"]}
    versions = [
        [
            name,
            "core" if name in in_core else "text",
            *(one["text"].get(name, "-") for one in wheels.values()),
        ]
        for name in sorted(names, key=lambda name: (name not in in_core, name))
    ]
    return [
        wrapped(text),
        "",
        table(["package", "for", *(f"Python {python}" for python in wheels)], versions),
        "",
    ]


def wrapped(text: str) -> str:
    """In lines of the width of all pages."""
    return textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False)


def table(titles: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), *rows))

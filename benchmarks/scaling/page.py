"""docs/scaling.md, from what was measured."""

from __future__ import annotations

from benchmarks.scaling.arithmetic import efficiency
from benchmarks.scaling.hardware_page import accelerators_part, processors_part
from benchmarks.scaling.kept import ROOT, Found
from benchmarks.scaling.knobs_page import knobs_part
from benchmarks.scaling.measured_page import bed_part, beds_part, corpus_part
from benchmarks.scaling.network_page import network_part
from benchmarks.scaling.summary import summary

PAGE = ROOT / "docs" / "scaling.md"

HEAD = """\
# Scaling

Made by `make scaling`; do not edit. What one bed costs, what limits it, and the arithmetic for many beds and
for many hours of recordings. **Measured** is what ran here, on {n} processors of {name}, on {date}.
**Arithmetic** is what follows from it; it ran nowhere.

A bed is one person before one camera: 640x480, 30 pictures a second, H.264 with sound as AAC. The recording
is of a simulated person; words and skin conductance, where a model needs them, are simulated as the session
runs, and what reading those takes is left out. Meanwhile others took of the processors {others}.

## In short
"""


def page(measured: Found) -> str:
    """The page's text."""
    bed, corpus, network = measured["bed"], measured["corpus"], measured["network"]
    worth = efficiency(corpus["speed_up"]["mean"])
    head = HEAD.format(
        n=bed["n_processors"], name=bed["processor"], date=bed["date"], others=_others(measured)
    )
    lines = [
        head,
        *summary(measured),
        *bed_part(bed),
        *beds_part(measured["beds"]),
        *corpus_part(corpus),
        *network_part(network, bed),
        *processors_part(bed, worth),
        *accelerators_part(bed, network, worth),
        *knobs_part(bed, corpus, network),
    ]
    return "\n".join(lines)


def _others(measured: Found) -> str:
    shares = {name: found["others_share"] for name, found in measured.items() if "others_share" in found}
    return ", ".join(f"{100 * share:.0f} % (`{name}`)" for name, share in shares.items())

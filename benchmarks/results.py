"""Writes docs/results.md: how right the tiny models are about simulated people that they never saw.

    make results

Exports and calibrates both models with the weights that come along, and evaluates every precision that a
processor runs, with every subset of modalities, on the same unseen people; holds what it then says of its own
certainty against people whom that does not come from; and plays streams that lie apart. Bundles lie in
build/results; what was measured is kept in benchmarks/measured/results, and is measured anew when its file is
deleted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_mer.bundle.read import open_bundle
from edge_mer.runtime.simulated import n_lead_in, simulated
from edge_mer.types.model import ModelSpec

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "results"
MEASURED = ROOT / "benchmarks" / "measured" / "results"
MODELS = ("jmt-tiny", "pain-tiny")
N_PEOPLE = 100
N_STEPS = 75
FIRST_OTHER = 60_000
"""People from here on are those against whom a bundle's own certainty is held."""

SKEWS_MS = (50, 100, 200, 500)
N_SKEWED = 16
"""People before whom streams lie apart: each is played once per stream and skew."""

HEAD = f"""\
# Results on simulated people

Made by `make results`; do not edit. Measured on {N_PEOPLE} simulated people, {N_STEPS} steps each, from whom
no recipe learned.

A number is the concordance (CCC, 1 = equal) of the model's estimates with what the simulated people felt,
over all their steps. In brackets stands its 95 % interval: people are drawn again with replacement, 2000
times, and never single steps, since the steps of one person are alike. "Fusion minus best single" is the CCC
of all modalities minus that of the best single one, taken anew in each draw; where its interval excludes
zero, the fusion is better than any of its modalities alone. "Minus fp32" is what 8 bits changed, within each
draw of the same people. A modality that is not there is masked, as the runtime does with the policy `mask`.

These people are simulated: the tables say that training, quantization and masks work, and nothing about
real people. See [How each number is proven](how-numbers-are-proven.md).
"""


def main() -> None:
    """Measure both models and write the page."""
    pages = [HEAD]
    for model in MODELS:
        pages.append(section(model, **measure(model)))
    page = ROOT / "docs" / "results.md"
    page.write_text("\n".join(pages), encoding="utf-8")
    print(f"wrote {page.relative_to(ROOT)}")


Numbers = dict[str, Any]
"""As `evaluate --json` writes them."""


def measure(model: str) -> dict[str, Numbers]:
    """Export, calibrate and evaluate one model: on people, on others, and with streams that lie apart."""
    folder, kept = WORK / model, MEASURED / model
    exported, bundle, sure, skewed = (folder / name for name in ("exported", "bundle", "sure", "skewed"))
    steps = ["--steps", str(N_STEPS)]

    def evaluated(name: str, evaluate: Callable[[Path], None]) -> Numbers:
        """What was kept, or is measured now."""
        file = kept / f"{name}.json"
        if not file.exists():
            kept.mkdir(parents=True, exist_ok=True)
            folder.mkdir(parents=True, exist_ok=True)
            numbers = folder / file.name
            evaluate(numbers)
            numbers.replace(file)
        found: Numbers = json.loads(file.read_text(encoding="utf-8"))
        return found

    def calibrated() -> None:
        if not bundle.exists():
            run("export", model, "--out", str(exported), "--replace")
            run("calibrate", str(exported), "--out", str(bundle))

    def people(file: Path) -> None:
        calibrated()
        out = ["--json", str(file), "--out", str(sure), "--replace"]
        run("evaluate", str(bundle), "--people", str(N_PEOPLE), *steps, *out)

    def others(file: Path) -> None:
        if not sure.exists():
            people(folder / "people.json")
        manifest = write_others(open_bundle(sure).manifest.model, folder / "others.csv")
        run("evaluate", str(sure), "--data", str(manifest), "--json", str(file))

    def apart(file: Path) -> None:
        calibrated()
        modalities = open_bundle(bundle).manifest.model.modalities
        late = [word for one in modalities for ms in SKEWS_MS for word in ("--corrupt", f"skew={one}:{ms}")]
        out = ["--precision", "fp32", "--json", str(file), "--out", str(skewed), "--replace"]
        run("evaluate", str(bundle), "--people", str(N_SKEWED), *steps, *late, *out)
        found = json.loads(file.read_text(encoding="utf-8"))
        grounded = open_bundle(skewed).manifest.model.max_skew_ms
        file.write_text(json.dumps({**found, "max_skew_ms": grounded}, indent=1) + "\n", encoding="utf-8")

    steps_of = {"people": people, "others": others, "apart": apart}
    return {name: evaluated(name, evaluate) for name, evaluate in steps_of.items()}


def write_others(spec: ModelSpec, file: Path) -> Path:
    """A manifest of simulated people whom nobody learned from, and nobody was judged by."""
    lines = ["person,sources,labels"]
    for person in range(FIRST_OTHER, FIRST_OTHER + N_PEOPLE):
        uri = simulated(spec, seed=98, person=person, n_steps=N_STEPS + n_lead_in(spec))
        lines.append(f"{person},{uri},")
    file.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return file


def run(*arguments: str) -> None:
    """One verb, in a process of its own."""
    subprocess.run([sys.executable, "-m", "edge_mer.cli.main", *arguments], check=True)


def section(model: str, people: Numbers, others: Numbers, apart: Numbers) -> str:
    """One model's tables."""
    names = list(people["rows"][0]["scores"])
    titles = ["precision", "what is there", *(f"CCC {name}" for name in names)]
    lines = [f"## {model}", "", row(titles), row(["---"] * len(titles))]
    for precision in people["gain"]:
        for one in people["rows"]:
            if one["precision"] == precision:
                what = " + ".join(one["modalities"])
                lines.append(row([precision, what, *(written(one["scores"][name]["CCC"]) for name in names)]))
        gains = people["gain"][precision]
        lines.append(row([precision, "fusion minus best single", *(written(gains[n], "+") for n in names)]))
    for one in people["differences"]:
        changes = [written(one["change"][name]["CCC"], "+", 4) for name in names]
        lines.append(row([one["precision"], "minus fp32, same people", *changes]))
    steps = people["rows"][0]["n_steps"]
    lines += ["", f"{people['n_people']} people, {steps} steps.", ""]
    lines += certainty(people, others)
    lines += late(apart, names)
    return "\n".join([*lines, ""])


def certainty(people: Numbers, others: Numbers) -> list[str]:
    """How sure the model may be, on whom that was taken from, and on others."""
    first = people["rows"][0]
    names = [name for name in first["scores"] if name in first["interval"] or name in first["sharpness"]]
    titles = ["precision", "what is there"]
    titles += [f"{name}, {who}" for name in names for who in ("each left out", "others")]
    lines = ["### How sure", "", row(titles), row(["---"] * len(titles))]
    for one, other in zip(people["rows"], others["rows"], strict=True):
        cells = [one["precision"], " + ".join(one["modalities"])]
        for name in names:
            if name in one["interval"]:
                width, coverage = one["interval"][name]["half_width"], one["interval"][name]["coverage"]
                cells += [f"±{width:.3f}: {100 * coverage:.1f} %", f"{100 * other['held'][name]:.1f} %"]
            else:
                cells += [f"{one['sharpness'][name]['ece']:.3f}", f"{other['held'][name]:.3f}"]
        lines.append(row(cells))
    n = others["n_people"]
    what = (
        "Share of labels inside the 90 % intervals; of levels and classes the expected calibration error of\n"
        f"the likeliest one's calibrated probability. First each of {people['n_people']} people by what was\n"
        f"taken from the others; then {n} other people by what the bundle holds."
    )
    return [*lines, "", what, ""]


def late(apart: Numbers, names: list[str]) -> list[str]:
    """What streams cost that lie apart."""
    titles = ["what is late", *(f"change of CCC {name}" for name in names)]
    lines = ["### Streams that lie apart", "", row(titles), row(["---"] * len(titles))]
    for one in apart["corrupted"]:
        stream, _, ms = one["corruption"].removeprefix("skew=").partition(":")
        lines.append(row([f"{stream} by {ms} ms", *(written(one["change"][name], "+") for name in names)]))
    most = "unknown" if apart["max_skew_ms"] is None else f"{apart['max_skew_ms']:g} ms"
    return [*lines, "", f"{apart['n_people']} people, fp32. `max_skew_ms` that this grounds: {most}."]


def row(cells: list[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def written(one: dict[str, float], sign: str = "", digits: int = 3) -> str:
    """A number with its interval."""
    value, low, high = (f"{one[key]:{sign}.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    main()

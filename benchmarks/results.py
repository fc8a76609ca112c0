"""Writes docs/results.md: how right the tiny models are about simulated people that they never saw.

    make results

Exports and calibrates both models with the weights that come along, and evaluates every precision that a
processor runs, with every subset of modalities, on the same unseen people.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("jmt-tiny", "pain-tiny")
N_PEOPLE = 40
N_STEPS = 75

HEAD = f"""\
# Results on simulated people

Made by `make results`; do not edit. Measured on {N_PEOPLE} simulated people, {N_STEPS} steps each, from whom
no recipe learned.

A number is the concordance (CCC, 1 = equal) of the model's estimates with what the simulated people felt,
over all their steps. In brackets stands its 95 % interval: people are drawn again with replacement, 2000
times, and never single steps, since the steps of one person are alike. "Fusion minus best single" is the CCC
of all modalities minus that of the best single one, taken anew in each draw; where its interval excludes
zero, the fusion is better than any of its modalities alone. A modality that is not there is masked, as the
runtime does with the policy `mask`.

These people are simulated: the tables say that training, quantization and masks work, and nothing about
real people. See [How each number is proven](how-numbers-are-proven.md).
"""


def main() -> None:
    """Measure both models and write the page."""
    pages = [HEAD]
    for model in MODELS:
        pages.append(section(model, measure(model)))
    page = ROOT / "docs" / "results.md"
    page.write_text("\n".join(pages), encoding="utf-8")
    print(f"wrote {page.relative_to(ROOT)}")


def measure(model: str) -> dict[str, Any]:
    """Export, calibrate and evaluate one model."""
    folder = ROOT / "build" / "results" / model
    folder.mkdir(parents=True, exist_ok=True)
    exported, bundle, numbers = folder / "exported", folder / "bundle", folder / "evaluation.json"
    run("export", model, "--out", str(exported), "--replace")
    run("calibrate", str(exported), "--out", str(bundle), "--replace")
    size = ["--people", str(N_PEOPLE), "--steps", str(N_STEPS)]
    run("evaluate", str(bundle), *size, "--json", str(numbers))
    found: dict[str, Any] = json.loads(numbers.read_text(encoding="utf-8"))
    return found


def run(*arguments: str) -> None:
    """One verb, in a process of its own."""
    subprocess.run([sys.executable, "-m", "edge_mer.cli.main", *arguments], check=True)


def section(model: str, found: dict[str, Any]) -> str:
    """One model's table."""
    names = list(found["rows"][0]["scores"])
    titles = ["precision", "what is there", *(f"CCC {name}" for name in names)]
    lines = [f"## {model}", "", row(titles), row(["---"] * len(titles))]
    for precision in found["gain"]:
        for one in found["rows"]:
            if one["precision"] == precision:
                what = " + ".join(one["modalities"])
                lines.append(row([precision, what, *(written(one["scores"][name]["CCC"]) for name in names)]))
        gains = found["gain"][precision]
        lines.append(row([precision, "fusion minus best single", *(written(gains[n], "+") for n in names)]))
    steps = found["rows"][0]["n_steps"]
    return "\n".join([*lines, "", f"{found['n_people']} people, {steps} steps.", ""])


def row(cells: list[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def written(one: dict[str, float], sign: str = "") -> str:
    """A number with its interval."""
    return f"{one['value']:{sign}.3f} [{one['low']:{sign}.3f}, {one['high']:{sign}.3f}]"


if __name__ == "__main__":
    main()

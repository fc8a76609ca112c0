"""What is measured on: a system's weights, bundle, joined graphs, build and windows, once in build/bench.

`make systems` trains heads for an hour; here weights are random ones whose outputs vary, and only a few
windows are calibrated on. What `make systems` left is taken instead, if it is there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.speed.kept import ROOT, Found, folder_of, say
from benchmarks.speed.rivals.edge_mer import BUNDLE, CACHE, open_built
from benchmarks.speed.rivals.registry import RIVALS
from benchmarks.speed.rivals.whole import DYNAMIC, FP32, STATIC, WHOLE, WINDOW, last_line, open_whole
from benchmarks.speed.steps import Steps, is_encoded, n_people_of, share_of, steps_of
from edge_mer.bundle.read import open_bundle
from edge_mer.runtime.simulated import n_lead_in, simulated
from edge_mer.types.model import ModelSpec, Words

STEPS, TOOK, WEIGHTS = "steps.npz", "took.json", "weights.safetensors"
WEIGHTS_FROM = "weights.txt"
FIRST_PERSON = 70_000
N_PEOPLE, N_JUDGED, N_WINDOWS = 8, 4, 16
"""People to calibrate on, of whom two windows each are taken, and to judge on; two people were too few."""
MAX_CCC_DROP = 0.02
"""What a candidate may lose of its concordance with FP32."""


def make(name: str, n_windows: int) -> Path:
    """Everything that is missing in a system's folder.

    Args:
        name: Of a system in the zoo.
        n_windows: That rivals will be shown.
    """
    folder = make_bundle(name, n_windows)
    spec, _ = load(folder)
    took = _Took(folder)
    took("whole ONNX", folder / WHOLE, lambda: _whole(folder, spec))
    took("build-engine", folder / CACHE, lambda: _build(folder))
    return folder


def make_bundle(name: str, n_windows: int) -> Path:
    """The same without what takes much memory, or is timed: several of these may run at once."""
    folder = folder_of(name)
    folder.mkdir(parents=True, exist_ok=True)
    took = _Took(folder)
    took("weights", folder / WEIGHTS, lambda: _weights(name, folder))
    took("export and calibrate", folder / BUNDLE, lambda: _bundle(name, folder))
    spec = open_bundle(folder / BUNDLE).manifest.model
    took("windows", folder / STEPS, lambda: _steps(folder, spec, n_windows))
    return folder


def make_bundles(n_windows: Mapping[str, int]) -> None:
    """Those of several systems at once: much of it is done by one thread."""
    commands = (
        [sys.executable, "-m", "benchmarks.speed.made", name, str(n)] for name, n in n_windows.items()
    )
    started = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    if any([one.wait() for one in started]):
        sys.exit("not everything could be made")


def load(folder: Path) -> tuple[ModelSpec, Steps]:
    """The model's declaration, and what all look at."""
    return open_bundle(folder / BUNDLE).manifest.model, Steps.load(folder / STEPS)


def facts(folder: Path) -> Found:
    """What the page says of a system."""
    spec, _ = load(folder)
    weights = (folder / WEIGHTS_FROM).read_text(encoding="utf-8")
    told = json.loads((folder / WHOLE).read_text(encoding="utf-8"))
    return {
        "n_steps": spec.fusion.n_steps,
        "hop_steps": spec.fusion.hop,
        "hop_s": float(spec.step * spec.fusion.hop),
        "clips": {
            encoder.stage: {
                "window": spec.fusion.n_steps // encoder.repeat,
                "hop": spec.fusion.hop // encoder.repeat,
            }
            for encoder in spec.encoders
            if is_encoded(encoder)
        },
        "given": [encoder.stage for encoder in spec.encoders if not is_encoded(encoder)],
        "weights": weights,
        "candidates": list(open_bundle(folder / BUNDLE).manifest.candidates),
        "chosen": _chosen(folder),
        "refused": told["refused"],
    }


def _chosen(folder: Path) -> str:
    setup, choice = open_built(folder)
    setup.close()
    return str(choice)


def took_in(folder: Path) -> Found:
    """How long everything took to make, in seconds."""
    found: Found = json.loads((folder / TOOK).read_text(encoding="utf-8"))
    return found


class _Took:
    """Makes what is not there, and remembers how long that took."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, folder / TOOK

    def __call__(self, what: str, made: Path, work: Callable[[], None]) -> None:
        if made.exists():
            return
        say(self._folder.name, what)
        began = time.monotonic()
        work()
        found = took_in(self._folder) if self._file.exists() else {}
        found[what] = round(time.monotonic() - began, 1)
        self._file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        say(self._folder.name, f"{what} took {found[what]:.0f} s")


def _weights(name: str, folder: Path) -> None:
    import safetensors.torch

    from benchmarks.speed.weights import random_model
    from edge_mer_export.models.zoo import shipped_weights, system

    studied = _studied(name)
    if (trained := shipped_weights(system(name))) is not None:
        shutil.copy(trained, folder / WEIGHTS)
        source = "trained on simulated people"
    elif studied is not None:
        shutil.copy(studied / WEIGHTS, folder / WEIGHTS)
        source = "random encoders, and a fusion that was trained on simulated people"
    else:
        state = {key: value.contiguous() for key, value in random_model(name).state_dict().items()}
        safetensors.torch.save_file(state, folder / "weights.part")
        (folder / "weights.part").replace(folder / WEIGHTS)
        source = "random, and looking where simulated people differ most"
    (folder / WEIGHTS_FROM).write_text(source, encoding="utf-8")


def _studied(name: str) -> Path | None:
    """What `make systems` left of a system, with trained heads."""
    folder = ROOT / "build" / "systems" / name
    return folder if (folder / WEIGHTS).is_file() and (folder / BUNDLE).is_dir() else None


def _bundle(name: str, folder: Path) -> None:
    from edge_mer_export.models.zoo import build

    if (studied := _studied(name)) is not None:
        shutil.copytree(studied / BUNDLE, folder / BUNDLE)
        return
    model = build(name)
    options = ["--checkpoint", str(folder / WEIGHTS)]
    for path, data in model.assets.items():
        asset = folder / Path(path).name
        asset.write_bytes(data)
        options += ["--checkpoint", f"vocabulary={asset}"]
    if any(isinstance(encoder.preprocess, Words) for encoder in model.spec.encoders):
        options += ["--set", "text_mean=0", "--set", "text_std=1"]  # its fusion never saw other word vectors
    exported = folder / "exported"
    if not exported.exists():
        verb(folder, "export", name, *options, "--out", str(exported))
    asked = ["--windows", str(N_WINDOWS), "--max-ccc-drop", str(MAX_CCC_DROP), "--precision", "int8-cpu"]
    for option, first, n_people in (("--data", 0, N_PEOPLE), ("--check", 100, N_JUDGED)):
        for person in range(n_people):
            asked += [option, _session(model.spec, first + person)]
    verb(folder, "calibrate", str(exported), "--out", str(folder / BUNDLE), *asked)


def _session(spec: ModelSpec, person: int) -> str:
    n_steps = spec.fusion.n_steps + n_lead_in(spec) + N_WINDOWS // N_PEOPLE * spec.fusion.hop
    return simulated(spec, seed=5, person=FIRST_PERSON + person, n_steps=n_steps)


def _steps(folder: Path, spec: ModelSpec, n_windows: int) -> None:
    from benchmarks.speed.rivals.pytorch import model_in
    from edge_mer_export.meaningful import sessions

    share = share_of(spec, n_windows)
    n_steps = share + spec.fusion.hop
    played = sessions(model_in(folder), n_people_of(n_windows), n_steps, FIRST_PERSON + 200)
    steps_of(spec, played, share).save(folder / STEPS)


def _whole(folder: Path, spec: ModelSpec) -> None:
    import onnx

    from benchmarks.speed.whole import N_CALIBRATION, feed_of, join, output_names, quantize

    bundle, steps = open_bundle(folder / BUNDLE), Steps.load(folder / STEPS)
    stages = {stage: bundle.read_stage("fp32", stage) for stage in spec.stages}
    onnx.save(join(spec, stages), folder / FP32)
    feeds = [feed_of(spec, steps, window) for window in range(N_CALIBRATION)]
    np.savez(folder / WINDOW, **feeds[0])
    why = quantize(folder, feeds)
    keys = {STATIC: ("whole-ort-static", "whole-ov-static"), DYNAMIC: ("whole-ort-dynamic",)}
    refused = {key: text for file, text in why.items() for key in keys[file]}
    outputs = output_names(spec)
    for key in (key for key, entry in RIVALS.items() if entry.family == "whole" and key not in refused):
        try:
            open_whole(key, folder)
        except Exception as error:  # whatever a user would see
            refused[key] = last_line(error)
    told = {"outputs": outputs, "refused": refused}
    (folder / WHOLE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _build(folder: Path) -> None:
    part = folder / "cache.part"
    verb(folder, "build-engine", str(folder / BUNDLE), cache=part)
    part.rename(folder / CACHE)


def verb(folder: Path, *arguments: str, cache: Path | None = None) -> None:
    """One verb of edge-mer in a process of its own; what it printed lies in the folder."""
    environment = os.environ | ({} if cache is None else {"EDGE_MER_CACHE": str(cache)})
    command = [sys.executable, "-m", "edge_mer.cli.main", *arguments]
    with (folder / f"{arguments[0]}.txt").open("w", encoding="utf-8") as out:
        subprocess.run(command, check=True, stdout=out, env=environment)


if __name__ == "__main__":
    make_bundle(sys.argv[1], int(sys.argv[2]))

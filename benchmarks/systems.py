"""Writes docs/systems.md: five systems at full size, exported, quantized, run and judged.

Four are published; `group` is of edge-mer's own design.

    make systems                                  all of them
    .venv/bin/python benchmarks/systems.py jca    one of them

Nobody publishes weights that could come along, so backbones are random, their batch norms fitted to simulated
people, and frozen; the fusion, and where one is cheap an encoder, is trained for minutes on simulated people.
The page says so. What is made on the way is kept in build/systems, so that a stopped run goes on; what was
measured of a system is kept in benchmarks/measured/systems, and is measured anew when its file is deleted.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edge_mer.bundle.manifest import kind_of
from edge_mer.engine.base import Array, Engine
from edge_mer.engine.threads import available_threads
from edge_mer.labels.manifest import Recording
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.labelled import collect_labelled
from edge_mer.runtime.offline import presence
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.simulated import n_lead_in, simulated
from edge_mer.types.model import Encoder, ModelSpec, Words
from edge_mer_export.engines import as_tuple, torch_engines, zero_engines
from edge_mer_export.meaningful import make_meaningful
from edge_mer_export.models.zoo import ZooModel, build
from edge_mer_export.onnx_stage import random_feed
from edge_mer_export.training.losses import loss_of

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "systems"
MEASURED = ROOT / "benchmarks" / "measured" / "systems"
PAGE = ROOT / "docs" / "systems.md"
FIRST_PERSON = 90_000
"""Nobody else learns from these people, and `evaluate` judges by others."""

Floats = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Study:
    """How much of everything a system gets.

    Attributes:
        n_people: Simulated people to learn from.
        n_hops: Hops of each, after the first whole window.
        n_judged: Other people to judge by.
        n_updates: Of the fusion's weights.
        rate: Learning rate.
        lessons: Encoders that learn first, each alone with a head that is thrown away, from so many people.
        n_heard: More people to learn from, of whom only some encoders notice anything: what the others would
            make of them is taken from whole windows of other people.
        heard: Those encoders.
        max_ccc_drop: What a candidate may lose of its concordance with FP32; where a whole model in 8 bits
            loses more, it is prepared or mixed.
        n_windows: Windows of an update.
    """

    n_people: int
    n_hops: int
    n_judged: int
    n_updates: int
    rate: float
    lessons: dict[str, int] = dataclasses.field(default_factory=dict)
    n_heard: int = 0
    heard: tuple[str, ...] = ()
    max_ccc_drop: float = 0.02
    n_windows: int = 16


STUDIES = {
    "jmt": Study(20, 10, 12, 600, 1e-4, {"audio": 150}, n_heard=150, heard=("audio",)),
    "jca": Study(24, 10, 16, 400, 3e-4),
    "rjcma": Study(
        10, 12, 8, 150, 3e-4, n_heard=100, heard=("audio", "text"), max_ccc_drop=0.05, n_windows=6
    ),
    "jmt-pain": Study(17, 16, 16, 200, 1e-4, {"eda": 200}, n_heard=150, heard=("eda",), max_ccc_drop=0.05),
    "group": Study(100, 4, 40, 200, 1e-4, {"audio": 250}),
}


@dataclasses.dataclass(frozen=True)
class Learned:
    """One person's features and labels.

    Attributes:
        features: Stage -> (steps, feature).
        there: Stage -> (steps,).
        labels: Output -> (steps,).
    """

    features: dict[str, Floats]
    there: dict[str, NDArray[np.bool_]]
    labels: dict[str, Floats]


def main(names: Sequence[str]) -> None:
    """Measure what is not measured yet, and write the page of all that is."""
    for name in names or STUDIES:
        file = MEASURED / f"{name}.json"
        if not file.exists():
            measured = measure(name, STUDIES[name])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page(), encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}")


def measure(name: str, study: Study) -> dict[str, Any]:
    """One system through every verb."""
    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = build(name)
    weights, constants = folder / "weights.safetensors", folder / "constants.json"
    if not weights.exists():
        prepare(name, model, study)
        people = [learn(name, model, study, i) for i in range(study.n_people + study.n_heard)]
        settings = standardise_words(model, people)
        say(name, "training the fusion")
        train(model, people, study)
        constants.write_text(json.dumps(settings), encoding="utf-8")
        save(model, weights)
    bundle, whole = folder / "exported", folder / "bundle"
    options = [word for one in json.loads(constants.read_text()) for word in ("--set", one)]
    for path, data in model.assets.items():
        asset = folder / Path(path).name
        asset.write_bytes(data)
        options += ["--checkpoint", f"vocabulary={asset}"]
    if not bundle.exists():
        verb("export", name, "--checkpoint", str(weights), *options, "--out", str(bundle))
    if not whole.exists():
        words = [("--data", one) for one in sessions(model.spec, 700)]
        words += [("--check", one) for one in sessions(model.spec, 800)]
        asked = ["--windows", "32", "--max-ccc-drop", str(study.max_ccc_drop)]
        words += [("--precision", kind) for kind in ("int8-cpu", "int8-trt")]
        verb("calibrate", str(bundle), "--out", str(whole), *asked, *itertools.chain(*words))
    proof = folder / "verified.txt"
    if not proof.exists():
        proof.write_text(verb("verify", str(whole)), encoding="utf-8")
    steps = model.spec.fusion.n_steps + study.n_hops * model.spec.fusion.hop
    numbers = folder / "evaluation.json"
    people = ["--people", str(study.n_judged), "--steps", str(steps)]
    if not numbers.exists():
        verb("evaluate", str(whole), *people, "--json", str(numbers))
    manifest = json.loads((whole / "manifest.json").read_text())
    names = {kind_of(one): one for one in manifest["candidates"]}
    runs = {kind: streamed(whole, model.spec, names[kind]) for kind in ("fp32", "int8-cpu")}
    evaluation = json.loads(numbers.read_text())
    for row in evaluation["rows"]:
        row["precision"] = kind_of(row["precision"])
    return {
        "title": model.spec.title,
        "stages": {
            stage: {"params": n_params(module), "macs": macs(model, stage)}
            for stage, module in model.stages.items()
        },
        "steps_per_run": steps_per_run(model.spec),
        "machine": machine(),
        "candidates": names,
        "bytes": {kind_of(one): found["n_bytes"] for one, found in manifest["candidates"].items()},
        "fidelity": {kind_of(one): found.get("fidelity") for one, found in manifest["candidates"].items()},
        "verified": proof.read_text(encoding="utf-8"),
        "evaluation": evaluation,
        "runs": runs,
        "hop_s": float(model.spec.step * model.spec.fusion.hop),
        "latency_s": float(model.spec.latency),
        "window_s": float(model.spec.step * model.spec.fusion.n_steps),
        "study": dataclasses.asdict(study),
    }


def sessions(spec: ModelSpec, first_person: int) -> list[str]:
    """A few people, each for eight hops after the first whole window."""
    steps = spec.fusion.n_steps + n_lead_in(spec) + 8 * spec.fusion.hop
    return [simulated(spec, seed=5, person=first_person + i, n_steps=steps) for i in range(5)]


# -- learning ------------------------------------------------------------------------------------------


def prepare(name: str, model: ZooModel, study: Study) -> None:
    """Random encoders made meaningful, and taught where that is cheap; in place, and kept on disk."""
    kept = WORK / name / "prepared.safetensors"
    if not kept.exists():
        say(name, "fitting batch norms")
        make_meaningful(model)
        for stage, n_people in study.lessons.items():
            teach(model, stage, n_people)
        save(model, kept)
    model.load_state_dict(safetensors.torch.load_file(kept))


def save(model: ZooModel, file: Path) -> None:
    """Write all weights."""
    part = file.with_suffix(".part")
    safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, part)
    part.replace(file)


FIRST_PUPIL = 100_000
LESSON_STEPS = 48
N_LESSONS, LESSON_SIZE, LESSON_RATE = 500, 32, 1e-3


def teach(model: ZooModel, stage: str, n_people: int) -> None:
    """Train one encoder alone on single steps; in place."""
    spec = model.spec
    say(spec.name, f"teaching {stage} on {n_people} people")
    encoder = next(one for one in spec.encoders if one.stage == stage)
    played = [lesson(spec, encoder, FIRST_PUPIL + i) for i in range(n_people)]
    steps = np.concatenate([one[0] for one in played])
    labels = {output.name: np.concatenate([one[1][output.name] for one in played]) for output in spec.outputs}
    torch.manual_seed(1)
    sizes = {output.name: int(np.prod(output.value_shape)) for output in spec.outputs}
    heads = nn.ModuleDict({name: nn.Linear(encoder.feature, size) for name, size in sizes.items()})
    module = model.stages[stage].requires_grad_(True).train()
    weights = [*module.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(weights, LESSON_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LESSON_RATE, total_steps=N_LESSONS)
    rng = np.random.default_rng(0)
    for update in range(N_LESSONS):
        chosen = rng.choice(len(steps), LESSON_SIZE, replace=False)
        feature = as_tuple(module(torch.from_numpy(steps[chosen])))[0]
        losses = [
            loss_of(
                output,
                heads[output.name](feature).reshape(LESSON_SIZE, *output.value_shape),
                torch.from_numpy(labels[output.name][chosen]),
            )
            for output in spec.outputs
        ]
        loss = torch.stack(losses).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if update % 100 == 0:
            say(spec.name, f"{stage}, update {update} on {len(steps)} steps: loss {loss.item():.3f}")
    module.requires_grad_(False).eval()
    spread(module, torch.from_numpy(steps))


def spread(module: nn.Module, steps: Tensor) -> None:
    """Where a linear layer is last, give each of its features mean 0 and deviation 1; in place.

    A lesson leaves most of them nearly constant, and a fusion does not see what hardly varies.
    """
    last = list(module.modules())[-1]
    if not isinstance(last, nn.Linear):
        return
    with torch.no_grad():
        features = torch.cat([as_tuple(module(part))[0] for part in steps.split(256)])  # (N, D)
        mean, deviation = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
        last.weight /= deviation[:, None]
        last.bias.sub_(mean).div_(deviation)


def lesson(spec: ModelSpec, encoder: Encoder, person: int) -> tuple[Floats, dict[str, Floats]]:
    """Step tensors and labels of one simulated person whose other streams are not looked at."""
    uri = simulated(spec, seed=18, person=person, n_steps=LESSON_STEPS * encoder.repeat)
    recording = Recording(str(person), str(person), (only(uri, [encoder.modality]),), None, None, None)
    played = collect_labelled(PipelineSetup(spec, zero_engines(spec), open_face_detector()), recording)
    ends = [
        index
        for index, trace in enumerate(played.traces)
        if encoder.stage in trace.inputs and (trace.index + 1) % encoder.repeat == 0
    ]
    steps = np.concatenate([played.traces[index].inputs[encoder.stage] for index in ends])
    return steps, {name: values[ends] for name, values in played.labels.items()}


def only(uri: str, modalities: Sequence[str]) -> str:
    """A simulated person with these streams."""
    keys = [key for key in uri.split("&") if not key.startswith("streams=")]
    keys = [key for key in keys if not re.match("[a-z]+_hz=", key) or any(one in key for one in modalities)]
    return "&".join([*keys, f"streams={'+'.join(modalities)}"])


def learn(name: str, model: ZooModel, study: Study, index: int) -> Learned:
    """Features of one simulated person by the frozen encoders, kept on disk; some are only heard."""
    file = WORK / name / "people" / f"{index}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        say(name, f"playing person {index + 1} of {study.n_people + study.n_heard}")
        is_whole = index < study.n_people
        stages = set(model.spec.stages if is_whole else study.heard)
        np.savez(file, **play(model, study, FIRST_PERSON + index, stages, 0 if is_whole else HEARD_EVERY_S))
    with np.load(file) as held:
        parts: dict[str, dict[str, Any]] = {"features": {}, "there": {}, "labels": {}}
        for key in held.files:
            kind, _, what = key.partition(".")
            parts[kind][what] = held[key]
    return Learned(**parts)


HEARD_EVERY_S = 0.2
"""So often the encoders of people who are only heard run; steps in between have the feature before."""


class Held(Engine):
    """Another engine that runs every so many times, and gives in between what it gave last.

    Args:
        engine: The other one.
        sizes: Sizes of free axes of the input buffers.
        stride: Times.
    """

    def __init__(self, engine: Engine, sizes: dict[str, int], stride: int) -> None:
        super().__init__(engine.stage, engine.input_specs, engine.output_specs, sizes)
        self._engine, self._stride = engine, stride
        self._last: dict[str, Array] = {}

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        if (self.n_runs - 1) % self._stride == 0:
            self._last = self._engine.run(feed)
        return self._last


def play(model: ZooModel, study: Study, person: int, stages: set[str], every_s: float = 0) -> dict[str, Any]:
    """The same, played; of the stages that notice the person, which run at most once in so many seconds."""
    spec = model.spec
    steps = spec.fusion.n_steps + n_lead_in(spec) + study.n_hops * spec.fusion.hop
    uri = simulated(spec, seed=17, person=person, n_steps=steps)
    encoders = [encoder for encoder in spec.encoders if encoder.stage in stages]
    if len(encoders) < len(spec.encoders):
        uri = only(uri, [encoder.modality for encoder in encoders])
    engines = dict(zero_engines(spec))
    own = torch_engines(spec, model.stages)
    stride = max(1, int(every_s / spec.step))
    sizes = {"batch": 1, "steps": spec.fusion.n_steps, "token": 1}
    for encoder in encoders:
        is_held = stride > 1 and not isinstance(encoder.preprocess, Words)
        engine = own[encoder.stage]
        engines[encoder.stage] = Held(engine, sizes, stride) if is_held else engine
    setup = PipelineSetup(spec, engines, open_face_detector(), assets=model.assets)
    played = collect_labelled(setup, Recording(str(person), str(person), (uri,), None, None, None))
    there = presence(spec, played.traces)
    kept: dict[str, Any] = {}
    for encoder in encoders:
        rows = np.stack([trace.features[encoder.stage][0, -1] for trace in played.traces])
        kept[f"features.{encoder.stage}"] = rows.astype(np.float32)
        kept[f"there.{encoder.stage}"] = there[encoder.stage]
    return kept | {f"labels.{output}": values for output, values in played.labels.items()}


def standardise_words(model: ZooModel, people: list[Learned]) -> list[str]:
    """Mean and deviation of the word vectors, as settings of the export; features are changed in place."""
    settings: list[str] = []
    for encoder in model.spec.encoders:
        if isinstance(encoder.preprocess, Words):
            rows = np.concatenate([one.features[encoder.stage] for one in people])
            mean, std = float(rows.mean()), float(rows.std())
            for one in people:
                one.features[encoder.stage] -= mean
                one.features[encoder.stage] /= std
            settings += [f"text_mean={mean!r}", f"text_std={std!r}"]
    return settings


def train(model: ZooModel, people: list[Learned], study: Study) -> None:
    """Train the fusion on windows of the features; in place."""
    spec = model.spec
    fusion = model.stages[spec.fusion.stage]
    windows = [window for one in people for window in windows_of(spec, one)]
    whole = [window for window in windows if all(rows is not None for rows in window[0])]
    rng = np.random.default_rng(0)
    optimiser = torch.optim.Adam(fusion.parameters(), lr=study.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, study.rate, total_steps=study.n_updates)
    fusion.train()
    for update in range(study.n_updates):
        chosen = [windows[i] for i in rng.choice(len(windows), study.n_windows, replace=False)]
        parts = zip(*(_filled(one[0], whole[rng.integers(len(whole))][0]) for one in chosen), strict=True)
        features = [torch.from_numpy(np.stack(rows)) for rows in parts]
        found = as_tuple(fusion(*features))
        losses = []
        for output, tensor, values in zip(spec.outputs, spec.fusion.outputs, found, strict=True):
            truth = torch.from_numpy(np.stack([one[1][output.name] for one in chosen]))  # (B, L)
            truth = truth if "steps" in tensor.axes else truth[:, -1]
            losses.append(loss_of(output, values.reshape(truth.numel(), *output.value_shape), truth.ravel()))
        loss: Tensor = torch.stack(losses).sum()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(fusion.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if update % 50 == 0:
            say(spec.name, f"update {update}: loss {loss.item():.3f}")
    fusion.eval()


Rows = list[Floats | None]
"""By modality (L, D); None of one that nobody noticed."""


def _filled(rows: Rows, whole: Rows) -> Rows:
    """A window in which somebody else stands for what nobody noticed.

    Beside an encoder that was taught, one of random weights tells the fusion who somebody is, and little of
    what they feel: of few people it would know everybody by heart.
    """
    return [other if one is None else one for one, other in zip(rows, whole, strict=True)]


def windows_of(spec: ModelSpec, one: Learned) -> list[tuple[Rows, dict[str, Floats]]]:
    """Every whole window that ends with a hop: features by modality, labels by output."""
    size, hop = spec.fusion.n_steps, spec.fusion.hop
    whole = np.stack(list(one.there.values())).all(axis=0)
    found = []
    for stop in range(size, len(whole) + 1):
        part = slice(stop - size, stop)
        if stop % hop == 0 and whole[part].all():
            rows = [one.features[e.stage][part] if e.stage in one.features else None for e in spec.encoders]
            found.append((rows, {name: values[part] for name, values in one.labels.items()}))
    return found


# -- measuring -----------------------------------------------------------------------------------------


def verb(*arguments: str) -> str:
    """One verb in a process of its own; what it printed."""
    say(arguments[0], " ".join(arguments[1:]))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "edge_mer.cli.main", *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    say(arguments[0], f"took {time.monotonic() - began:.0f} s")
    return done.stdout


def streamed(bundle: Path, spec: ModelSpec, precision: str) -> dict[str, Any]:
    """A run over a simulated person that nobody learned from."""
    steps = spec.fusion.n_steps + n_lead_in(spec) + 6 * spec.fusion.hop
    source = simulated(spec, seed=3, person=95_000, n_steps=steps)
    file = bundle.parent / f"run.{precision}.jsonl"
    file.unlink(missing_ok=True)
    words = ("--precision", precision, "--source", source, "--sink", f"jsonl:{file}")
    verb("run", str(bundle), "--fast", *words)
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    whole = [one for one in records if one["status"] == "ok"]
    return {
        "n_by_status": Counter(one["status"] for one in records),
        "infer_ms": statistics.median(one["latency_ms"]["infer"] for one in whole),
        "preprocess_ms": statistics.median(one["latency_ms"]["preprocess"] for one in whole),
    }


def n_params(module: nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def macs(model: ZooModel, stage: str) -> int:
    """Multiplications of one run at batch 1."""
    one = model.bundle_stage(stage)
    one.module.requires_grad_(False)  # the counter asks inputs for gradients, which an LSTM's first state has
    feed = random_feed(one.inputs, model.spec.fusion.n_steps, 0)
    counter = FlopCounterMode(display=False)
    hooks, recurrent = [], [0]

    def count(module: nn.Module, inputs: Any, _output: Any) -> None:
        recurrent[0] += lstm_macs(module, inputs[0].shape[1])  # type: ignore[arg-type]

    for part in one.module.modules():
        if isinstance(part, nn.LSTM):
            hooks.append(part.register_forward_hook(count))
    with torch.inference_mode(), counter:
        one.module(*(torch.from_numpy(feed[spec.name]) for spec in one.inputs))
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() // 2 + recurrent[0]


def lstm_macs(lstm: nn.LSTM, n_steps: int) -> int:
    """The flop counter does not see into LSTMs."""
    n_directions = 2 if lstm.bidirectional else 1
    sizes = [lstm.input_size] + [lstm.hidden_size * n_directions] * (lstm.num_layers - 1)
    return sum(n_directions * n_steps * 4 * lstm.hidden_size * (n + lstm.hidden_size) for n in sizes)


def steps_per_run(spec: ModelSpec) -> dict[str, int | None]:
    """Stage of an encoder -> steps that share one run of it; None where it runs once per utterance."""
    return {e.stage: None if isinstance(e.preprocess, Words) else e.repeat for e in spec.encoders}


def machine() -> dict[str, Any]:
    """What a run is measured on."""
    return {"processor": processor(), "threads": available_threads()}


def say(what: str, text: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {what}: {text}", flush=True)


HEAD = """\
# Systems at full size

Made by `make systems`; do not edit. Each system at its full size went through every verb: `export`,
`calibrate`, `verify` (with both negative controls), `evaluate` and a streamed `run` over a simulated session.
Four of them are published; `group` is of edge-mer's own design.

Nobody publishes weights that could come along. Here backbones are random, fitted to simulated people in their
batch norms alone, and frozen; only the fusion was trained, for minutes, on simulated people, and before it an
encoder where one is cheap (the sound of `jmt` and `group`, the skin of `jmt-pain`). Most people from whom the
fusions of `jmt`, `rjcma` and `jmt-pain` learned had somebody else's face: else they know so few faces by
heart. What stands under "held out" says that a system learns and that quantization keeps what it learned. It
says nothing about real people, and is not what the papers report.

"""

PRUNED = {
    "jmt": ("52.1 M", "11.2 M"),
    "jca": ("8.6 M", "8.6 M"),
    "rjcma": ("8.3 M", "7.7 M"),
    "jmt-pain": ("94.2 M", "53.2 M"),
}
"""Fusion of a published checkpoint, and what of it reaches an output; RJCMA's of one target."""

N_TOKENS = 12
"""Length of the utterance by which an encoder of text is counted, as `random_feed` makes it."""


def page() -> str:
    """The page from everything that was measured."""
    files = {name: MEASURED / f"{name}.json" for name in STUDIES}
    found = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    parts = [HEAD]
    if missing := [name for name in STUDIES if name not in found]:
        parts.append(f"Not measured yet: {', '.join(missing)}.\n")
    parts.append("## Size and cost\n")
    parts.append(
        table(
            [
                "system",
                "parameters",
                "published fusion, live",
                "MB fp32",
                "int8-cpu",
                "int8-trt",
                "GMACs, step",
                "GMACs, text",
                "GMACs, fusion",
            ],
            [size_row(name, one) for name, one in found.items()],
        )
    )
    parts.append(
        "\nParameters are those of a bundle. A step is encoded once; what is encoded once for several steps\n"
        f"counts in each with its share. Text is encoded once per utterance, here of {N_TOKENS} tokens. The\n"
        "fusion runs once per hop.\n\n"
        "## Time\n"
    )
    parts.append(
        table(
            [
                "system",
                "window, s",
                "hop, s",
                "looks ahead, s",
                "fp32, ms per hop",
                "int8-cpu, ms per hop",
                "preprocessing, ms per hop",
            ],
            [time_row(name, one) for name, one in found.items()],
        )
    )
    parts.append(
        "\nA window ends with its newest step; the model looks so far beyond it before it estimates, as for\n"
        "words whose utterance has not ended.\n\n"
        f"Medians of a streamed run on {machines(found)}.\n"
    )
    parts.append("\n## Held out\n")
    parts.append(
        table(
            ["system", "agreement", "fp32", "int8-cpu", "people", "steps", "learned from"],
            [row for name, one in found.items() for row in judged_rows(name, one)],
        )
    )
    parts.append(
        "\nConcordance (CCC), of classes Cohen's kappa; both are 0 by chance. In brackets stands the 95 %\n"
        "interval by person.\n\nFidelity (CCC of int8-cpu with fp32, no label involved): "
        + "; ".join(f"{name} {fidelity(one)}" for name, one in found.items())
        + f".\nA candidate was allowed to lose {allowed(found)} of it.\n"
    )
    return "\n".join(parts)


def size_row(name: str, one: dict[str, Any]) -> list[str]:
    """Parameters, bytes and multiplications."""
    stages = dict(one["stages"])
    fusion = stages.pop("fusion")
    n = sum(stage["params"] for stage in one["stages"].values())
    kinds = ("fp32", "int8-cpu", "int8-trt")
    sizes = [f"{one['bytes'][kind] / 1e6:.0f}" if kind in one["bytes"] else "-" for kind in kinds]
    shared = one["steps_per_run"]
    per_step = sum(stage["macs"] / n_steps for key, stage in stages.items() if (n_steps := shared[key]))
    texts = [stage["macs"] for key, stage in stages.items() if shared[key] is None]
    pruned = " to ".join(PRUNED[name]) if name in PRUNED else "-"
    per_utterance = giga(sum(texts)) if texts else "-"
    return [name, f"{n / 1e6:.1f} M", pruned, *sizes, giga(per_step), per_utterance, giga(fusion["macs"])]


def time_row(name: str, one: dict[str, Any]) -> list[str]:
    """Window, hop, inherent latency and work."""
    runs = one["runs"]
    return [
        name,
        f"{one['window_s']:.2f}",
        f"{one['hop_s']:.2f}",
        f"{one['latency_s']:.2f}",
        *(f"{runs[precision]['infer_ms']:.0f}" for precision in ("fp32", "int8-cpu")),
        f"{runs['fp32']['preprocess_ms']:.0f}",
    ]


def judged_rows(name: str, one: dict[str, Any]) -> list[list[str]]:
    """One row per output."""
    full = max(len(row["modalities"]) for row in one["evaluation"]["rows"])
    rows = {r["precision"]: r for r in one["evaluation"]["rows"] if len(r["modalities"]) == full}
    scores = {
        precision: {name: next(iter(one.values())) for name, one in row["scores"].items()}
        for precision, row in rows.items()
    }
    people, study = one["evaluation"]["n_people"], one["study"]
    others = f", and {study['n_heard']} with somebody else's face" if study["n_heard"] else ""
    return [
        [
            name,
            output,
            *(written(scores[precision][output]) for precision in ("fp32", "int8-cpu")),
            str(people),
            str(rows["fp32"]["n_steps"]),
            f"{study['n_people']} people{others}",
        ]
        for output in scores["fp32"]
    ]


def allowed(found: dict[str, dict[str, Any]]) -> str:
    """What candidates may lose, with the systems' names."""
    names: dict[float, list[str]] = {}
    for name, one in found.items():
        names.setdefault(one["study"]["max_ccc_drop"], []).append(name)
    return ", ".join(f"{limit:g} ({', '.join(of)})" for limit, of in sorted(names.items()))


def fidelity(one: dict[str, Any]) -> str:
    """Of every output."""
    return ", ".join(f"{output} {error['ccc']:.3f}" for output, error in one["fidelity"]["int8-cpu"].items())


def written(one: dict[str, float]) -> str:
    """A number with its interval."""
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def machines(found: dict[str, dict[str, Any]]) -> str:
    """What the runs were measured on; with the systems' names where not all were on the same machine."""
    names: dict[str, list[str]] = {}
    for name, one in found.items():
        held = one["machine"]
        names.setdefault(f"{held['threads']} threads of {held['processor']}", []).append(name)
    if len(names) == 1:
        return next(iter(names))
    return "; ".join(f"{text} ({', '.join(of)})" for text, of in names.items())


def giga(n: float) -> str:
    """Multiplications, in thousands of millions."""
    return f"{n / 1e9:.2f}"


def processor() -> str:
    """Its name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())  # Arm's list has numbers only


def table(titles: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), *rows))


if __name__ == "__main__":
    main(sys.argv[1:])

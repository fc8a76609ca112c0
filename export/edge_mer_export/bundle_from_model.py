"""From a model to a proven bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

import edge_mer
from edge_mer.bundle.manifest import Candidate, FileEntry, Golden, Lineage, Manifest
from edge_mer.bundle.write import check_free, pack_arrays, write_bundle
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.engine.threads import available_threads
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.proof import Proof, compare
from edge_mer.runtime.setup import open_engines
from edge_mer.types.model import Encoder, ModelSpec, Words
from edge_mer_export.checkpoint import import_model
from edge_mer_export.golden import GoldenSession, describe, make_sessions
from edge_mer_export.meaningful import make_meaningful
from edge_mer_export.models.zoo import Found, System, ZooModel, shipped_weights
from edge_mer_export.onnx_stage import Arrays, check_values, export_stage, n_weights, random_feed

Say = Callable[[str], None]


@dataclass(frozen=True)
class StageReport:
    """What became of one stage.

    Attributes:
        n_params: Parameters in PyTorch.
        n_weights: Numbers in the ONNX file (batch norms are folded).
        n_bytes: Size of the file.
        error: Largest difference to PyTorch, in the output's standard deviation.
    """

    n_params: int
    n_weights: int
    n_bytes: int
    error: float


@dataclass(frozen=True)
class ExportReport:
    """What an export came to."""

    manifest: Manifest
    stages: dict[str, StageReport]
    proof: Proof


@dataclass(frozen=True)
class Checkpoint:
    """Which weights a model takes.

    Attributes:
        files: "part=path" or paths (see `import_model`); without any: those that come with the package.
        settings: "name=value" of what shapes cannot tell.
        random: Take random weights made meaningful, whatever there is.
    """

    files: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    random: bool = False


def load_weights(system: System, checkpoint: Checkpoint, seed: int, say: Say) -> tuple[ZooModel, Lineage]:
    """A model with weights.

    Args:
        system: In the zoo, or the user's own.
        checkpoint: Which weights.
        seed: Of random weights.
        say: Told what is being done.

    Raises:
        UsageError: No such part or setting.
        DataError: The checkpoint cannot be used, or the stages do not fit each other.
    """
    torch.manual_seed(seed)
    if checkpoint.files:
        return _trained(system, checkpoint, say)
    shipped = None if checkpoint.random else shipped_weights(system)
    if shipped is not None:
        own, lineage = _trained(system, Checkpoint((str(shipped),)), say)
        weights = f"{lineage.weights}, which come with edge-mer: trained on {system.learned_from}"
        return _measured(own), lineage.model_copy(update={"weights": weights})
    say("making random weights meaningful on simulated people")
    model = system.build(Found({}, system.read_settings(checkpoint.settings))).eval()
    model.check_sizes()
    make_meaningful(model)
    n_params = sum(_n_params(module) for module in model.stages.values())
    weights = f"random, seed {seed}, batch norms and heads fitted to simulated people: means nothing"
    return model, Lineage(made_by=_versions(), weights=weights, n_params=n_params, n_params_pruned=0)


def _trained(system: System, checkpoint: Checkpoint, say: Say) -> tuple[ZooModel, Lineage]:
    say(f"reading {', '.join(checkpoint.files)}")
    imported = import_model(system, checkpoint.files, checkpoint.settings)
    report = imported.report
    lineage = Lineage(
        made_by=_versions(),
        weights=", ".join(file.name for file in report.files),
        checkpoint_sha256=report.sha256,
        n_params=report.n_params,
        n_params_pruned=report.n_params_dead,
    )
    return imported.model, lineage


def _versions() -> tuple[str, ...]:
    return (f"edge-mer export {edge_mer.__version__}, torch {torch.__version__}, onnx {onnx.__version__}",)


def _measured(model: ZooModel) -> ZooModel:
    """Shipped weights with a mask were measured with each modality missing: better so than withheld."""
    if not model.spec.fusion.has_present_input:
        return model
    encoders = tuple(one.model_copy(update={"missing": "mask"}) for one in model.spec.encoders)
    return dataclasses.replace(model, spec=model.spec.model_copy(update={"encoders": encoders}))


def export_bundle(model: ZooModel, lineage: Lineage, out: Path, say: Say, *, replace: bool) -> ExportReport:
    """Export every stage, prove it, and write the bundle.

    Raises:
        ParityError: Names the first stage and tensor that differ, and by how much.
        UsageError: The place is taken.
    """
    check_free(out, replace=replace)
    spec = model.spec
    say("recording golden sessions")
    sessions = make_sessions(model)
    golden = describe(model, sessions)
    files: dict[str, bytes] = {}
    reports: dict[str, StageReport] = {}
    for stage, module in model.stages.items():
        say(f"exporting stage {stage}")
        data, error = _export_one(model, stage, sessions)
        files[f"stages/{stage}.fp32.onnx"] = data
        reports[stage] = StageReport(_n_params(module), n_weights(data), len(data), error)
    say("proving streaming against offline and against PyTorch")
    proof = _prove(model, files, sessions, golden)
    proof.demand(f"model {spec.name}")
    stages = {stage: f"stages/{stage}.fp32.onnx" for stage in spec.stages}
    candidate = Candidate(
        stages=stages, n_bytes=sum(len(files[p]) for p in stages.values()), golden=proof.outputs
    )
    files |= dict(model.assets)
    files |= {name: pack_arrays(one.arrays) for name, one in zip(golden.sessions, sessions, strict=True)}

    def manifest(table: dict[str, FileEntry]) -> Manifest:
        return Manifest(
            model=spec, candidates={"fp32": candidate}, golden=golden, lineage=lineage, files=table
        )

    say(f"writing {out}")
    return ExportReport(write_bundle(out, files, manifest, replace=replace), reports, proof)


def _export_one(model: ZooModel, stage: str, sessions: list[GoldenSession]) -> tuple[bytes, float]:
    spec, one = model.spec, model.stage(stage)
    data = export_stage(stage, one.module, one.inputs, one.outputs, spec.fusion.n_steps)
    feeds = (
        _fusion_feeds(spec, sessions)
        if stage == spec.fusion.stage
        else _encoder_feeds(model, stage, sessions)
    )
    return data, check_values(stage, data, one.module, one.inputs, one.outputs, feeds, spec.tolerances.parity)


def _encoder(spec: ModelSpec, stage: str) -> Encoder:
    return next(encoder for encoder in spec.encoders if encoder.stage == stage)


def _encoder_feeds(model: ZooModel, stage: str, sessions: list[GoldenSession]) -> list[Arrays]:
    """Batches of 1 and 3 steps of every person."""
    encoder = _encoder(model.spec, stage)
    if isinstance(encoder.preprocess, Words):
        n_steps, n_tokens = model.spec.fusion.n_steps, model.n_tokens(stage)
        return [random_feed((encoder.input,), n_steps, seed, n_tokens) for seed in range(3)]
    name = encoder.input.name
    steps = [one.cut.tensors[stage][one.cut.present[stage]] for one in sessions]
    return [{name: one[part]} for one in steps for part in (slice(0, 1), slice(2, 5))]


def _fusion_feeds(spec: ModelSpec, sessions: list[GoldenSession]) -> list[Arrays]:
    """Batches of 1 and 2 windows, shorter ones where L is free, and with steps missing."""
    full = spec.fusion.n_steps
    is_free = "steps" in spec.fusion.inputs[0].shape
    feeds = []
    for size in (full, max(1, full // 3), 1) if is_free else (full,):
        for first in (0, 2):
            windows = [_window(spec, one, first, size) for one in sessions]
            feeds += [windows[0], {key: np.concatenate([w[key] for w in windows]) for key in windows[0]}]
    return feeds


def _window(spec: ModelSpec, session: GoldenSession, first: int, size: int) -> Arrays:
    feed: Arrays = {
        tensor.name: np.ascontiguousarray(
            session.arrays[f"feature.{e.stage}"][np.newaxis, first : first + size]
        )
        for e, tensor in zip(spec.encoders, spec.fusion.inputs, strict=False)
    }
    if spec.fusion.has_present_input:
        present: NDArray[np.bool_] = np.ones((1, len(spec.encoders), size), np.bool_)
        present[0, first % len(spec.encoders), :first] = False
        feed[spec.fusion.inputs[-1].name] = present
    return feed


def _prove(model: ZooModel, files: dict[str, bytes], sessions: list[GoldenSession], golden: Golden) -> Proof:
    spec = model.spec
    stages = {stage: files[f"stages/{stage}.fp32.onnx"] for stage in spec.stages}
    engines = open_engines(spec, stages, OrtOptions(threads=available_threads()))
    setup = PipelineSetup(spec, engines, None, assets=model.assets)
    return compare(setup, golden, [one.arrays for one in sessions], None)


def _n_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

"""One stage as an ONNX file, where the weights of the others are not at hand."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_mer.bundle.onnx_guard import inspect_onnx
from edge_mer.bundle.read import MANIFEST_NAME
from edge_mer.errors import UsageError
from edge_mer.types.model import TensorSpec
from edge_mer_export.bundle_from_model import Checkpoint, Say
from edge_mer_export.checkpoint import CheckpointReport, import_model
from edge_mer_export.models.zoo import System
from edge_mer_export.onnx_stage import check_values, export_stage, n_weights, random_feed

_N_ROWS = 3


@dataclass(frozen=True)
class SingleStage:
    """What an export of one stage came to.

    Attributes:
        path: The ONNX file.
        report: What was read.
        inputs: Its tensors.
        outputs: Its tensors.
        n_weights: Numbers in the file.
        n_bytes: Its size.
        error: Largest difference to PyTorch, row by row, in the output's standard deviation.
    """

    path: Path
    report: CheckpointReport
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    n_weights: int
    n_bytes: int
    error: float


def export_single(
    system: System, checkpoint: Checkpoint, stage: str, out: Path, say: Say, *, replace: bool
) -> SingleStage:
    """Export `stage` to `out/stages/<stage>.fp32.onnx`, proven against PyTorch on random numbers.

    Raises:
        UsageError: No such stage, part or setting, no weights given, or the place is taken.
        DataError: The checkpoint cannot be used.
        ParityError: The file does not compute what PyTorch does.
    """
    path = out / "stages" / f"{stage}.fp32.onnx"
    _check_free(out, path, replace=replace)
    if not checkpoint.files:
        raise UsageError(f"--only {stage} needs weights", hint="add --checkpoint")
    say(f"reading {', '.join(checkpoint.files)}")
    imported = import_model(system, checkpoint.files, checkpoint.settings, only=stage)
    model = imported.model
    one = model.stage(stage)
    say(f"exporting stage {stage}")
    n_steps = model.spec.fusion.n_steps
    data = export_stage(stage, one.module, one.inputs, one.outputs, n_steps)
    rows = [random_feed(one.inputs, n_steps, seed, model.n_tokens(stage)) for seed in range(_N_ROWS)]
    together = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    feeds = [*rows, together]
    error = check_values(
        stage, data, one.module, one.inputs, one.outputs, feeds, model.spec.tolerances.parity
    )
    inspect_onnx(data, path.name)
    try:
        _write(path, data)
    except OSError as reason:
        raise UsageError(
            f"cannot write {path}", found=reason.strerror or str(reason), hint="give another --out"
        ) from reason
    return SingleStage(path, imported.report, one.inputs, one.outputs, n_weights(data), len(data), error)


def _check_free(out: Path, path: Path, *, replace: bool) -> None:
    if not out.parent.is_dir():
        raise UsageError(f"cannot write {out}", found=f"no folder {out.parent}", hint="create it first")
    if (out / MANIFEST_NAME).exists():
        raise UsageError(f"{out} is a bundle, which is whole as it is", hint="give another --out")
    if out.exists() and not out.is_dir():
        raise UsageError(f"cannot write into {out}", expected="a folder", found="a file")
    if path.exists() and not replace:
        raise UsageError(f"{path} exists already", hint="give another --out or add --replace")


def _write(path: Path, data: bytes) -> None:
    """The file appears under its name once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

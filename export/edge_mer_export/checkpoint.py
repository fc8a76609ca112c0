"""Import of trained weights.

Two forms are read: one .safetensors file with this project's own keys, and the folder in which the
published code leaves one pickle per part. A pickle is read with PyTorch's restricted unpickler, which
builds tensors and plain containers and runs nothing; it is refused if it needs more.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from edge_mer.errors import DataError
from edge_mer_export.models.zoo import ZooModel

MAX_FILE_BYTES = 2 << 30
"""Largest checkpoint file, packed or unpacked; the paper's largest is 0.2 GiB."""

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_WRAPPERS = ("net", "state_dict", "model_state_dict")
_RESAVE = (
    "where it was trained, re-save it as a plain state_dict: "
    "torch.save({key: value.cpu() for key, value in model.state_dict().items()}, path)"
)
_make_scalar: Any = np.float64(0).__reduce__()[0]
# training scripts save their best score, a NumPy scalar, beside the weights
_NUMPY_SCALARS: list[Any] = [
    (_make_scalar, "numpy._core.multiarray.scalar"),  # NumPy 2's name of it
    (_make_scalar, "numpy.core.multiarray.scalar"),  # NumPy 1's
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
]


@dataclass(frozen=True)
class CheckpointFile:
    """One file that weights came from.

    Attributes:
        name: File name.
        sha256: Hash of its bytes.
        n_params: Trainable numbers in it.
        n_params_dead: Those of them that reach no output and were dropped.
        dropped: Patterns of the dropped keys.
    """

    name: str
    sha256: str
    n_params: int
    n_params_dead: int
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class CheckpointReport:
    """What an import read.

    Attributes:
        files: The files, in the order of the model's stages.
    """

    files: tuple[CheckpointFile, ...]

    @property
    def n_params(self) -> int:
        """Trainable numbers in all files."""
        return sum(file.n_params for file in self.files)

    @property
    def n_params_dead(self) -> int:
        """Those of them that reach no output and were dropped."""
        return sum(file.n_params_dead for file in self.files)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Patterns of the dropped keys."""
        return tuple(pattern for file in self.files for pattern in file.dropped)

    @property
    def sha256(self) -> dict[str, str]:
        """Hash by file name."""
        return {file.name: file.sha256 for file in self.files}


def load_checkpoint(model: ZooModel, path: Path) -> CheckpointReport:
    """Load trained weights into `model`; either all of them or, after an error, none.

    Args:
        model: Takes the weights.
        path: A .safetensors file with keys "<stage>.<key>", or the folder of the published code's
            own files (for JMT `fusion_w.pt`, `vision_r2d1.pt`, `audio_resnet18.pt`).

    Raises:
        DataError: A file is absent, too large, unreadable or unsafe, or does not fit; the message
            then lists every key that is missing, unexpected, mis-shaped or not finite.
    """
    state: dict[str, Tensor] = {}
    problems: list[str] = []
    files = []
    for part in _parts(model, path):
        state |= part.fitting(problems)
        files.append(part.report())
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise DataError(
            f"checkpoint {path} does not fit model {model.spec.name}; problems: {len(problems)}{listed}",
            hint="check that the checkpoint was trained with this architecture and these sizes",
        )
    model.load_state_dict(state)
    return CheckpointReport(tuple(files))


@dataclass(frozen=True)
class _Part:
    """One file's content against what the model expects of it."""

    name: str
    prefix: str
    sha256: str
    found: dict[str, Any]
    expected: dict[str, Tensor]
    dropped: dict[str, dict[str, Any]]

    def report(self) -> CheckpointFile:
        n_dead = sum(_n_params(values) for values in self.dropped.values())
        n_live = _n_params(self.found)
        return CheckpointFile(self.name, self.sha256, n_live + n_dead, n_dead, tuple(self.dropped))

    def fitting(self, problems: list[str]) -> dict[str, Tensor]:
        """The tensors that fit, as float32 by the model's keys; adds to `problems` what does not."""
        state = {}
        for key, want in self.expected.items():
            # an absent count of training batches keeps the model's own: no output depends on it
            default = want if key.endswith("num_batches_tracked") else None
            value: Any = self.found.get(key, default)
            problem = _problem(value, want)
            if problem is None:
                state[self.prefix + key] = value.to(want.dtype)
            else:
                problems.append(f"{self.name}: {key}: expected {_shape(want)}, found {problem}")
        for key in sorted(self.found.keys() - self.expected.keys()):
            problems.append(f"{self.name}: {key!r}: expected no such key, found {_shape(self.found[key])}")
        return state


def _problem(value: Any, want: Tensor) -> str | None:
    """What is wrong with `value` where a tensor like `want` belongs; None if nothing is."""
    if value is None:
        return "nothing"
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.device.type != "cpu":
        return _shape(value)
    if value.shape != want.shape or value.is_floating_point() != want.is_floating_point():
        return _shape(value)
    value = value.to(want.dtype)
    if all(torch.isfinite(extreme) for extreme in torch.aminmax(value)):  # a NaN would be both
        return None
    n_bad = value.numel() - int(torch.isfinite(value).sum())
    return f"{n_bad} of {value.numel()} numbers NaN, infinite or beyond float32"


def _shape(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    text = f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return text if value.layout is torch.strided else f"{text}, {value.layout}"


def _n_params(values: Mapping[str, Any]) -> int:
    """Trainable numbers: BatchNorm's running statistics are none."""
    return sum(
        value.numel()
        for key, value in values.items()
        if isinstance(value, Tensor) and not key.endswith(_BUFFERS)
    )


def _parts(model: ZooModel, path: Path) -> list[_Part]:
    try:
        return _read_folder(model, path) if path.is_dir() else [_read_own(model, path)]
    except OSError as error:
        raise DataError(f"cannot read {path}", found=str(error)) from error


def _read_own(model: ZooModel, path: Path) -> _Part:
    if path.suffix != ".safetensors" or not path.is_file():
        expected = "a .safetensors file"
        if model.reference:
            expected += f", or a folder with {', '.join(file.name for file in model.reference.values())}"
        found = f"a file named {path.name}" if path.exists() else "no such file"
        raise DataError(f"cannot read weights from {path}", expected=expected, found=found)
    data = _read(path)
    try:
        found_tensors: dict[str, Any] = safetensors.torch.load(data)
    except Exception as error:  # a broken file raises SafetensorError, or what its Python side stumbles over
        raise DataError(f"{path} is not a whole safetensors file", found=str(error)) from error
    return _Part(path.name, "", hashlib.sha256(data).hexdigest(), found_tensors, model.state_dict(), {})


def _read_folder(model: ZooModel, folder: Path) -> list[_Part]:
    """One part per stage, from the published code's own files."""
    if not model.reference:
        raise DataError(
            f"model {model.spec.name} has no published checkpoint layout",
            expected="a .safetensors file",
            found=f"the folder {folder}",
        )
    if absent := [file.name for file in model.reference.values() if not (folder / file.name).is_file()]:
        raise DataError(
            f"checkpoint folder {folder} is incomplete",
            expected=", ".join(file.name for file in model.reference.values()),
            found=f"no {', '.join(absent)}",
        )
    parts = []
    for stage, file in model.reference.items():
        data = _read(folder / file.name)
        values = _state_dict(_unpickle(data, folder / file.name), folder / file.name)
        dropped = {
            pattern: {key: values.pop(key) for key in list(values) if fnmatchcase(key, pattern)}
            for pattern in file.dead_keys
        }
        dropped = {pattern: dead for pattern, dead in dropped.items() if dead}
        expected = model.stages[stage].state_dict()
        digest = hashlib.sha256(data).hexdigest()
        parts.append(_Part(file.name, f"{stage}.", digest, values, expected, dropped))
    return parts


def _read(path: Path) -> bytes:
    n_bytes = path.stat().st_size
    _check_size(path, n_bytes)
    with path.open("rb") as file:
        return file.read(n_bytes)


def _check_size(path: Path, n_bytes: int) -> None:
    if n_bytes > MAX_FILE_BYTES:
        raise DataError(
            f"{path} is too large for a checkpoint",
            expected=f"at most {MAX_FILE_BYTES} bytes, unpacked",
            found=f"{n_bytes} bytes",
        )


def _unpickle(data: bytes, path: Path) -> Any:
    """What a torch.save file holds, without running any of it."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                _check_size(path, sum(entry.file_size for entry in archive.infolist()))
        except (zipfile.BadZipFile, ValueError, OverflowError) as error:
            raise DataError(f"{path} is not a whole torch.save file", found=str(error)) from error
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} holds more than tensors and was refused; nothing in it was executed", hint=_RESAVE
        ) from error
    except Exception as error:  # a broken file makes torch.load raise almost anything
        raise DataError(
            f"{path} is not a whole torch.save file", found=type(error).__name__, hint="copy it again"
        ) from error


def _state_dict(loaded: Any, path: Path) -> dict[str, Any]:
    """The state_dict in what was loaded, without the `module.` of DataParallel."""
    if isinstance(loaded, dict):
        loaded = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), dict)), loaded)
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise DataError(
            f"{path} holds no state_dict", expected="tensors by name", found=_shape(loaded), hint=_RESAVE
        )
    stripped = {key.removeprefix("module."): value for key, value in loaded.items()}
    if len(stripped) != len(loaded):
        raise DataError(f"{path} holds some keys both with and without `module.`", hint=_RESAVE)
    return stripped

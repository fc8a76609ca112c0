"""Reads files of weights without running anything in them.

A pickle is read with PyTorch's restricted unpickler, which builds tensors and plain containers; it is
refused if it needs more.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import stat
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from edge_mer.errors import DataError

MAX_FILE_BYTES = 2 << 30
"""Largest checkpoint file, packed or unpacked; the published systems' largest is 0.5 GiB."""

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_WRAPPERS = ("net", "state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "module.")
"""What DataParallel and torch.compile put before every key, in either order."""

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
class WeightFile:
    """What a file of weights holds.

    Attributes:
        name: File name.
        sha256: Hash of its bytes.
        values: Key -> tensor (or what else stands there), without what stands before every key because of
            DataParallel or torch.compile; of published code also without aliases of a temporal block's
            convolutions and weight norms, and with today's names of old layer norms.
        n_params: Key -> trainable numbers that it was made of.
    """

    name: str
    sha256: str
    values: dict[str, Any]
    n_params: dict[str, int]


def read_weights(path: Path, *, published: bool = False) -> WeightFile:
    """Read a .safetensors file or what `torch.save` wrote.

    Args:
        path: The file.
        published: It is of published code, whose ways of saving are undone; of any other file every key
            stays what it is, since a module may well be called `module`, and hold a weight norm.

    Raises:
        DataError: It is absent, too large, broken, holds more than tensors, or no state_dict.
    """
    data = read_bytes(path)
    loaded = _safetensors(data, path) if path.suffix == ".safetensors" else _unpickle(data, path)
    values = _state_dict(loaded, path)
    if published:
        values = _with_modern_keys(values, path)
    # a tensor may repeat a few stored numbers, or zero, without end
    tensors = [value for value in values.values() if isinstance(value, Tensor)]
    _check_size(path, sum(value.numel() * value.element_size() for value in tensors))
    n_params = {key: _n_params(key, value) for key, value in values.items()}
    if published:
        _drop_aliases(values, n_params, path)
        _fold_weight_norms(values, n_params)
    return WeightFile(path.name, hashlib.sha256(data).hexdigest(), values, n_params)


def read_bytes(path: Path) -> bytes:
    """All of a file that is not larger than a checkpoint may be.

    Raises:
        DataError: It is larger, a folder, a pipe or a device, or cannot be read.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # a pipe would be waited for without end
            kind = "folder" if stat.S_ISDIR(state.st_mode) else "pipe or a device"
            raise DataError(f"{path} is a {kind}", expected="a file of weights")
        n_bytes = state.st_size
        _check_size(path, n_bytes)
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError as error:
        raise DataError(
            f"cannot read {path}",
            expected="a file that you may read",
            found=error.strerror or str(error),
            hint="check the path and its permissions",
        ) from error


def _check_size(path: Path, n_bytes: int) -> None:
    if n_bytes > MAX_FILE_BYTES:
        raise DataError(
            f"{path} is too large for a checkpoint",
            expected=f"at most {MAX_FILE_BYTES} bytes, unpacked",
            found=f"{n_bytes} bytes",
        )


def _safetensors(data: bytes, path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = safetensors.torch.load(data)
    except Exception as error:  # a broken file raises SafetensorError, or what its Python side stumbles over
        raise DataError(
            f"{path} is not a whole safetensors file",
            found=_torn(data) or str(error),
            hint="copy it again; a file that torch.save wrote is named .pt or .pth",
        ) from error
    return found


def _unpickle(data: bytes, path: Path) -> Any:
    """What a torch.save file holds, without running any of it."""
    if not data.startswith(_TORCH_BEGINNINGS):
        raise DataError(
            f"{path} is no file of weights",
            expected="what torch.save wrote, or a .safetensors file of that ending",
            found="a safetensors file" if data[8:9] == b"{" else _torn(data) or "neither",
            hint="copy or download it again",
        )
    if zipfile.is_zipfile(io.BytesIO(data)):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                _check_size(path, sum(entry.file_size for entry in archive.infolist()))
        except (zipfile.BadZipFile, ValueError, OverflowError) as error:
            raise DataError(f"{path} is not a whole torch.save file", found=str(error)) from error
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other versions of pickle
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needed = _NEEDED.search(str(error))
        raise DataError(
            f"{path} holds more than tensors and was refused; nothing in it was executed",
            expected="tensors by name",
            found=needed[1] if needed else "a pickle that is no state_dict",
            hint=_RESAVE,
        ) from error
    except Exception as error:  # a broken file makes torch.load raise almost anything
        why = str(error).partition(". ")[0] or type(error).__name__
        raise DataError(
            f"{path} is not a whole torch.save file",
            found=f"{len(data)} bytes ({why})",
            hint="copy it again, or re-save it as a plain state_dict",
        ) from error


_TORCH_BEGINNINGS = (b"PK\x03\x04", b"PK\x05\x06", b"\x80")  # a zip archive, an empty one, a pickle
_NEEDED = re.compile(r"GLOBAL (\S+)")
_N_SHOWN = 60


def _torn(data: bytes) -> str | None:
    """What stands in a file that holds no weights; None if it may hold some."""
    if not data:
        return "an empty file"
    if data.startswith(_TORCH_BEGINNINGS):
        return "a pickle or a zip archive, as torch.save writes it"
    line = data[:_N_SHOWN].partition(b"\n")[0].decode("ascii", "replace")
    return f"text, {line!r}" if line.strip() and line.strip().isprintable() and line.isascii() else None


def _state_dict(loaded: Any, path: Path) -> dict[str, Any]:
    """The state_dict in what was loaded, without what stands before every key."""
    if isinstance(loaded, dict):
        loaded = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), dict)), loaded)
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise DataError(
            f"{path} holds no state_dict", expected="tensors by name", found=shape_of(loaded), hint=_RESAVE
        )
    found = dict(loaded)
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in found):
            found = {key.removeprefix(prefix): value for key, value in found.items()}
    return found


def _with_modern_keys(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Without the `module.` of single parts in DataParallel, layer norms by today's names."""
    modern = {_modern(key.removeprefix("module.")): value for key, value in values.items()}
    if len(modern) != len(values):
        raise DataError(f"{path} holds some keys both with and without `module.`", hint=_RESAVE)
    return modern


def _modern(key: str) -> str:
    """Old files of BERT call a layer norm's scale gamma and its shift beta."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if key.endswith(f"LayerNorm{old}"):
            return key.removesuffix(old) + new
    return key


def shape_of(value: Any) -> str:
    """Shape and type of a tensor, or the type of anything else."""
    if not isinstance(value, Tensor):
        name = type(value).__name__
        return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"
    text = f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    layout = "" if value.layout is torch.strided else f", {value.layout}"
    return f"{text}{layout}{', without numbers' if value.is_meta else ''}"


def _n_params(key: str, value: Any) -> int:
    """Trainable numbers: BatchNorm's running statistics are none."""
    return value.numel() if isinstance(value, Tensor) and not key.endswith(BUFFERS) else 0


_ALIAS = re.compile(r"(?P<block>.*\.network\.[0-9]+)\.net\.(?P<place>[04])\.(?P<rest>.+)")


def _drop_aliases(values: dict[str, Any], n_params: dict[str, int], path: Path) -> None:
    """A temporal block holds its two convolutions twice: by name, and in the list of its layers."""
    for key in list(values):
        match = _ALIAS.fullmatch(key)
        if match is None:
            continue
        name = f"{match['block']}.conv{1 if match['place'] == '0' else 2}.{match['rest']}"
        alias, n = values.pop(key), n_params.pop(key)
        if name not in values:
            values[name], n_params[name] = alias, n
        elif not _same(values[name], alias):
            raise DataError(f"{path}: {key} differs from {name}", expected="the same tensor twice")


def _same(a: Any, b: Any) -> bool:
    return _is_plain(a) and _is_plain(b) and a.shape == b.shape and torch.equal(a, b)


def _is_plain(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta


_HALVES = (
    (".weight_g", ".weight_v"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
)


def _fold_weight_norms(values: dict[str, Any], n_params: dict[str, int]) -> None:
    """A weight is g v / |v|, the norm taken per output channel (Salimans and Kingma 2016, eq. 2)."""
    for g_end, v_end in _HALVES:
        for g_key in [key for key in values if key.endswith(g_end)]:
            stem = g_key.removesuffix(g_end)
            g, v = values[g_key], values.get(stem + v_end)
            if not (_is_plain(v) and _is_plain(g)) or not _fits(g, v):
                continue  # the comparison with the model names both keys
            norm = torch.linalg.vector_norm(v.float(), dim=tuple(range(1, v.ndim)), keepdim=True)
            values[f"{stem}.weight"] = g.float() * v.float() / norm
            n_params[f"{stem}.weight"] = n_params.pop(g_key) + n_params.pop(stem + v_end)
            del values[g_key], values[stem + v_end]


def _fits(g: Tensor, v: Tensor) -> bool:
    return v.ndim > 1 and tuple(g.shape) == (v.shape[0], *(1,) * (v.ndim - 1))

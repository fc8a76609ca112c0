"""Opens a bundle without trusting it: every byte is hashed before any of it is used."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edge_mer.bundle.manifest import SCHEMA_VERSION, Manifest, pretty
from edge_mer.bundle.onnx_guard import inspect_onnx
from edge_mer.errors import BundleError
from edge_mer.types.signals import Modality

MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "signature.json"
MAX_MANIFEST_BYTES = 4 << 20
MAX_SIGNATURE_BYTES = 4 << 10
MAX_FILE_BYTES = 2 << 30
MAX_ARRAYS_BYTES = 2 << 30


class Bundle:
    """A bundle on disk, with its manifest read and checked.

    Attributes:
        path: The folder.
        manifest: What it says about itself.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"<Bundle {self.name} at {self.path}>"

    @property
    def name(self) -> str:
        """The model's name, e.g. "jmt-tiny"."""
        return self.manifest.model.name

    @property
    def bundle_id(self) -> str:
        """What stands for all of it: "sha256:" and the hash of the manifest."""
        return self.manifest.bundle_id

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the model looks at, e.g. ("visual", "audio")."""
        return self.manifest.model.modalities

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the model estimates, e.g. ("valence", "arousal")."""
        return tuple(output.name for output in self.manifest.model.outputs)

    @property
    def precisions(self) -> tuple[str, ...]:
        """The candidates, e.g. ("fp32", "int8-cpu"); not each of them runs on each device."""
        return tuple(self.manifest.candidates)

    @property
    def step_s(self) -> float:
        """Seconds between two steps of the grid."""
        return float(self.manifest.model.step)

    @property
    def hop_s(self) -> float:
        """Seconds between two predictions."""
        return float(self.manifest.model.step * self.manifest.model.fusion.hop)

    @property
    def window_s(self) -> float:
        """Seconds that the model looks at for one prediction."""
        return float(self.manifest.model.step * self.manifest.model.fusion.n_steps)

    @property
    def latency_s(self) -> float:
        """Seconds past the end of a step that the model must see before it can say anything of it."""
        return float(self.manifest.model.latency)

    def read(self, name: str) -> bytes:
        """The bytes of one file, once their hash was found right.

        Raises:
            BundleError: Not listed, missing, not a plain file inside the bundle, or altered.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"bundle {self.path}: {name} is not listed in the manifest")
        data = _read_plain(self.path, name, min(entry.n_bytes, MAX_FILE_BYTES))
        found = hashlib.sha256(data).hexdigest()
        if len(data) != entry.n_bytes or found != entry.sha256:
            raise BundleError(
                f"bundle {self.path}: {name} was altered",
                expected=f"sha256 {entry.sha256[:16]}…, {entry.n_bytes} bytes",
                found=f"sha256 {found[:16]}…, {len(data)} bytes",
                hint="copy the bundle again from where it was made",
            )
        return data

    def read_signature(self) -> bytes | None:
        """The bytes of `signature.json`, of which nothing is known yet; None where there is no such file.

        Raises:
            BundleError: It is not a plain file inside the bundle, or too long.
        """
        if not os.path.lexists(self.path / SIGNATURE_NAME):
            return None
        return _read_plain(self.path, SIGNATURE_NAME, MAX_SIGNATURE_BYTES)

    def read_stage(self, precision: str, stage: str) -> bytes:
        """The ONNX of a stage: hash right, weights inside, of a version that every target reads."""
        candidates = self.manifest.candidates
        if precision not in candidates:
            raise BundleError(
                f"bundle {self.path} has no precision {precision!r}",
                expected=f"one of {', '.join(candidates)}",
                hint="run edge-mer calibrate to add one",
            )
        name = candidates[precision].stages[stage]
        data = self.read(name)
        inspect_onnx(data, name)
        return data

    def read_arrays(self, name: str) -> dict[str, NDArray[np.generic]]:
        """The arrays of an `.npz`; nothing in it is unpickled, and its unpacked size is bounded."""
        data = self.read(name)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                n_bytes = sum(entry.file_size for entry in archive.infolist())
            if n_bytes > MAX_ARRAYS_BYTES:
                raise ValueError(f"it unpacks to {n_bytes} bytes, more than {MAX_ARRAYS_BYTES}")
            with np.load(io.BytesIO(data), allow_pickle=False) as packed:
                arrays = {key: packed[key] for key in packed.files}
            if strangers := [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]:
                raise ValueError(f"{strangers[0]} is no array")
        except Exception as error:  # zipfile, zlib and NumPy raise a dozen unrelated types
            raise BundleError(f"bundle {self.path}: {name} holds no arrays", found=str(error)) from error
        return arrays

    def check_files(self) -> int:
        """Hash every listed file and refuse any that is not listed; returns how many there are."""
        for name in self.manifest.files:
            self.read(name)
        listed = {MANIFEST_NAME, SIGNATURE_NAME, *self.manifest.files}
        found = [p for p in self.path.rglob("*") if p.is_symlink() or not p.is_dir()]
        present = {p.relative_to(self.path).as_posix() for p in found}
        if strangers := sorted(present - listed):
            raise BundleError(
                f"bundle {self.path} holds files that its manifest does not list",
                found=", ".join(strangers[:5]),
                hint="remove them or copy the bundle again",
            )
        return len(self.manifest.files)


def open_bundle(path: Path) -> Bundle:
    """Read and check a bundle's manifest; no other file is opened yet.

    Raises:
        BundleError: No bundle, a broken manifest, or paths that leave the bundle.
    """
    try:
        found = "a folder" if path.is_dir() else "a file" if path.exists() else "nothing"
    except OSError as error:
        found = error.strerror or str(error)
    if found != "a folder":
        raise BundleError(
            f"{path} is not a bundle",
            expected=f"a folder with {MANIFEST_NAME}",
            found=found,
            hint="make one with edge-mer export",
        )
    data = _read_plain(path, MANIFEST_NAME, MAX_MANIFEST_BYTES)
    raw = _parse_json(path, data)
    declared_id = raw.pop("bundle_id", None)
    manifest = _parse_manifest(path, raw)
    _check_paths(path, manifest)
    if declared_id != manifest.bundle_id or data != pretty({**raw, "bundle_id": declared_id}):
        raise BundleError(
            f"bundle {path}: {MANIFEST_NAME} was altered",
            expected=f"bundle_id {manifest.bundle_id[:23]}…, as it is written",
            found=f"bundle_id {str(declared_id)[:23]}…",
            hint="copy the bundle again from where it was made",
        )
    return Bundle(path, manifest)


def _parse_json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(data)
        # Python reads NaN, infinities and halves of characters, which could not be written again.
        json.dumps(raw, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise BundleError(f"bundle {path}: {MANIFEST_NAME} is not JSON", found=str(error)) from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"bundle {path}: unknown manifest version",
            expected=str(SCHEMA_VERSION),
            found=repr(version),
            hint="use the edge-mer that made the bundle, or export again",
        )
    content: dict[str, Any] = raw
    return content


def _parse_manifest(path: Path, raw: dict[str, Any]) -> Manifest:
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5]]
        raise BundleError(
            f"bundle {path}: {MANIFEST_NAME} is broken",
            found="; ".join(problems),
            hint="copy the bundle again or export anew",
        ) from error


def _check_paths(path: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        _check_name(path, name)
    needed = {name for candidate in manifest.candidates.values() for name in candidate.stages.values()}
    needed |= set(manifest.golden.sessions)
    if absent := sorted(needed - manifest.files.keys()):
        raise BundleError(f"bundle {path}: files are used but not listed", found=", ".join(absent))
    for precision, candidate in manifest.candidates.items():
        if set(candidate.stages) != set(manifest.model.stages):
            raise BundleError(
                f"bundle {path}: {precision} does not have the model's stages",
                expected=", ".join(manifest.model.stages),
                found=", ".join(candidate.stages),
            )


def is_plain_name(name: str) -> bool:
    """Whether a path inside a bundle is relative, stays there, and is written in its only form."""
    pure = PurePosixPath(name)
    return not (
        pure.is_absolute()
        or not pure.parts
        or ".." in pure.parts
        or "\\" in name
        or not name.isprintable()
        or name != str(pure)
    )


def _check_name(path: Path, name: str) -> None:
    if not is_plain_name(name):
        raise BundleError(
            f"bundle {path}: the manifest names a path that leaves the bundle",
            expected="a plain relative path",
            found=repr(name),
        )


def _read_plain(root: Path, name: str, max_bytes: int) -> bytes:
    """Read a file that lies in `root` itself: no link on the way, no device, not too long."""
    _check_name(root, name)
    try:
        file = _open_inside(root, PurePosixPath(name))
    except OSError as error:
        what = (
            "is missing" if isinstance(error, FileNotFoundError) else "is not a plain file inside the bundle"
        )
        raise BundleError(f"bundle {root}: {name} {what}", found=error.strerror) from error
    try:
        state = os.fstat(file)
        if not stat.S_ISREG(state.st_mode) or state.st_nlink > 1 or state.st_size > max_bytes:
            raise BundleError(
                f"bundle {root}: {name} was altered or replaced",
                expected=f"a plain file of at most {max_bytes} bytes, linked once",
                found=f"{state.st_size} bytes, {state.st_nlink} links, mode {stat.filemode(state.st_mode)}",
            )
        with os.fdopen(file, "rb", closefd=False) as stream:
            return stream.read(max_bytes + 1)
    finally:
        os.close(file)


def _open_inside(root: Path, name: PurePosixPath) -> int:
    """A descriptor of `name`, reached from `root` without following a link."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        *parents, last = name.parts
        for parent in parents:
            inner = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)

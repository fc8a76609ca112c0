"""Writes a bundle into a new folder, which appears under its name once it is whole."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_mer.bundle.manifest import FileEntry, Manifest
from edge_mer.bundle.onnx_guard import inspect_onnx
from edge_mer.bundle.read import MANIFEST_NAME
from edge_mer.errors import UsageError
from edge_mer.files import write_folder


def check_free(path: Path, *, replace: bool) -> None:
    """Refuse early to write over something that is no bundle, or a bundle when not asked to.

    Raises:
        UsageError: The place is taken, or its parent folder is missing.
    """
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}", found=f"no folder {path.parent}", hint="create it first")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    is_bundle = path.is_dir() and (path / MANIFEST_NAME).is_file()
    if not (replace and is_bundle):
        raise UsageError(
            f"{path} exists already",
            hint="give another --out"
            + (" or add --replace" if is_bundle else "; it is no bundle, so it is not replaced"),
        )


def write_bundle(
    path: Path,
    files: Mapping[str, bytes],
    manifest: Callable[[dict[str, FileEntry]], Manifest],
    *,
    replace: bool = False,
) -> Manifest:
    """Write all files and the manifest, then move the folder into place in one step.

    Args:
        path: The bundle's folder.
        files: Path inside the bundle -> content; every `.onnx` is checked.
        manifest: Makes the manifest, given the table of files.
        replace: Whether a bundle of that name may be replaced.

    Returns:
        The manifest as written.

    Raises:
        UsageError: The place is taken.
        BundleError: An ONNX that not every target could read.
    """
    check_free(path, replace=replace)
    for name, data in files.items():
        if name.endswith(".onnx"):
            inspect_onnx(data, name)
    made = manifest(
        {name: FileEntry(sha256=hashlib.sha256(d).hexdigest(), n_bytes=len(d)) for name, d in files.items()}
    )
    write_folder(path, {**files, MANIFEST_NAME: made.file_text()})
    return made


def pack_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """An `.npz` with the given arrays, the same bytes each time."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **dict(arrays))  # type: ignore[arg-type]
    return stream.getvalue()

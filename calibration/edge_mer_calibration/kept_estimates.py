"""What recordings came to, in a folder: an evaluation that was stopped goes on from it.

Estimates and labels are kept, by step; nothing that a sensor gave is.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import edge_mer
from edge_mer.bundle.read import Bundle
from edge_mer.corpus.keys import files_of
from edge_mer.errors import UsageError
from edge_mer.files import remove_unfinished, write_atomically
from edge_mer.labels.manifest import Recording
from edge_mer_calibration.corruption import Corruption
from edge_mer_calibration.estimating import Estimated

_MARK = "estimates.json"


class KeptEstimates:
    """A folder of recordings that are done.

    Args:
        folder: It is made where it is not there.
        bundle: What judges.
        precisions: Its candidates that are judged.
        face_detector: YuNet's ONNX file.

    Raises:
        UsageError: Something else is in the folder, or it cannot be written.
    """

    def __init__(
        self, folder: Path, bundle: Bundle, precisions: Sequence[str], face_detector: Path | None
    ) -> None:
        self._folder, self._face_detector = folder, face_detector
        self._way = [
            edge_mer.__version__,
            onnxruntime.__version__,
            bundle.manifest.bundle_id,
            list(precisions),
            None if face_detector is None else str(face_detector),
        ]
        try:
            if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARK).is_file():
                raise UsageError(
                    f"{folder} holds something else",
                    expected="a new folder, or one that --keep made",
                    hint="give another folder to --keep",
                )
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(folder / _MARK, b"{}\n")
        except OSError as error:
            raise _unwritable(folder, error) from error

    def read(self, recording: Recording, corruption: Corruption | None) -> Estimated | None:
        """What a recording came to; None where it is not known, or its files have changed since."""
        try:
            held = np.load(io.BytesIO(self._path(recording, corruption).read_bytes()))
            return _estimated({name: held[name] for name in held.files})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
            return None

    def write(self, recording: Recording, corruption: Corruption | None, estimated: Estimated) -> None:
        """Keep what a recording came to.

        Raises:
            UsageError: It cannot be written.
        """
        path = self._path(recording, corruption)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **_arrays(estimated))
        try:
            remove_unfinished(path)
            write_atomically(path, buffer.getvalue())
        except OSError as error:
            raise _unwritable(path, error) from error

    def _path(self, recording: Recording, corruption: Corruption | None) -> Path:
        others = [one for one in (recording.labels, self._face_detector) if one is not None]
        parts = [
            self._way,
            None if corruption is None else corruption.text,
            [recording.name, recording.person, recording.sources, str(recording.label_rate_hz)],
            files_of(recording.sources, others),
        ]
        return self._folder / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.npz"


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot write {path}", found=error.strerror or str(error))


def _arrays(one: Estimated) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {"person": np.array(one.person), "steps": one.steps}
    arrays |= {f"labels/{name}": values for name, values in one.labels.items()}
    for precision, tried in one.found.items():
        for (subset, policy), found in tried.items():
            key = f"found/{precision}/{'+'.join(subset)}/{policy or ''}"
            arrays |= {f"{key}/{name}": values for name, values in found.items()}
    return arrays


def _estimated(arrays: dict[str, NDArray[Any]]) -> Estimated:
    found: dict[str, Any] = {}
    for key, values in arrays.items():
        if key.startswith("found/"):
            _, precision, subset, policy, name = key.split("/")
            attempt = (tuple(subset.split("+")), policy or None)
            found.setdefault(precision, {}).setdefault(attempt, {})[name] = values
    labels = {k.removeprefix("labels/"): v for k, v in arrays.items() if k.startswith("labels/")}
    return Estimated(str(arrays["person"]), arrays["steps"], labels, found)

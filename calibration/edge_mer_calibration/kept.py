"""Parts of a calibration that are done, so that one that was interrupted goes on where it was.

They lie beside the bundle that is being made, in a folder that only this user reads, and go when it is there.
Ranges, errors and simulated people's sessions are kept; what was seen of real people never is.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.runtime.labelled import LabelledSession
from edge_mer.runtime.pipeline import StepTrace
from edge_mer_calibration.ranges import Histogram

Arrays = dict[str, NDArray[Any]]


class Kept:
    """A folder of finished parts.

    Args:
        folder: Where they lie.
        key: What they depend on; parts of another key are thrown away.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._mark = folder, ""
        mark = folder / "key"
        with contextlib.suppress(OSError):
            if folder.is_dir() and mark.read_text(encoding="utf-8") == key:
                return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        mark.write_text(key, encoding="utf-8")

    def of(self, what: str) -> Kept:
        """The same folder, for parts that depend on something more, such as what was played."""
        made = copy.copy(self)
        made._mark = f"{what}."
        return made

    def numbers(self, name: str, make: Callable[[], Any]) -> Any:
        """What JSON can hold: read, or made and kept."""
        path = self._numbers(name)
        with contextlib.suppress(OSError, ValueError):
            return json.loads(path.read_text(encoding="utf-8"))
        made = make()
        with _written(path) as part:
            part.write_text(json.dumps(made), encoding="utf-8")
        return made

    def has_numbers(self, name: str) -> bool:
        """Whether they were made."""
        return self._numbers(name).is_file()

    def _numbers(self, name: str) -> Path:
        return self._folder / f"{self._mark}{name}.json"

    def arrays(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """Arrays by name: read, or made and kept."""
        path = self._folder / f"{self._mark}{name}.npz"
        with contextlib.suppress(OSError, ValueError, zipfile.BadZipFile, EOFError):
            held = np.load(io.BytesIO(path.read_bytes()))
            return {key: held[key] for key in held.files}
        made = make()
        with _written(path) as part, part.open("wb") as file:
            np.savez(file, allow_pickle=False, **made)
        return made

    def session(self, name: str, make: Callable[[], LabelledSession]) -> LabelledSession:
        """A simulated person's played session. One with words is played again: utterances are not kept."""
        if not self.has_session(name):
            made = make()
            if not any(trace.spoken for trace in made.traces):
                self.arrays(name, lambda: dict(_flat(made)))
            return made
        return _session(self.arrays(name, dict))

    def has_session(self, name: str) -> bool:
        """Whether it was kept."""
        return (self._folder / f"{self._mark}{name}.npz").exists()

    def histograms(self, name: str, make: Callable[[], dict[str, Histogram]]) -> dict[str, Histogram]:
        """Histograms of a stage's tensors."""
        flat = self.arrays(
            name,
            lambda: {
                f"{tensor}/{part}": np.asarray(values)
                for tensor, one in make().items()
                for part, values in vars(one).items()
            },
        )
        tensors: dict[str, Arrays] = {}
        for key, values in flat.items():
            tensor, _, part = key.rpartition("/")
            tensors.setdefault(tensor, {})[part] = values
        return {tensor: _histogram(parts) for tensor, parts in tensors.items()}

    def finish(self) -> None:
        """Throw everything away."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _histogram(parts: Mapping[str, Any]) -> Histogram:
    return Histogram(**{name: array if array.ndim else array.item() for name, array in parts.items()})


@contextlib.contextmanager
def _written(path: Path) -> Iterator[Path]:
    """A file that is there whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _flat(session: LabelledSession) -> Iterator[tuple[str, NDArray[Any]]]:
    yield "person", np.array(session.person)
    yield "n", np.array(len(session.traces))
    for name, values in session.labels.items():
        yield f"labels/{name}", values
    for number, trace in enumerate(session.traces):
        yield f"{number}/present", trace.present
        yield f"{number}/facts", np.array([trace.index, trace.n_used, trace.is_real], np.int64)
        for kind, arrays in (("inputs", trace.inputs), ("features", trace.features), ("raw", trace.raw)):
            for name, array in arrays.items():
                yield f"{number}/{kind}/{name}", np.asarray(array)


def _session(arrays: Mapping[str, NDArray[Any]]) -> LabelledSession:
    parts: dict[str, Arrays] = {}
    for name, array in arrays.items():
        head, _, tail = name.rpartition("/")
        parts.setdefault(head, {})[tail] = array
    traces = []
    for number in range(int(arrays["n"])):
        index, n_used, is_real = (int(value) for value in arrays[f"{number}/facts"])
        traces.append(
            StepTrace(
                index=index,
                inputs=parts.get(f"{number}/inputs", {}),
                features=parts.get(f"{number}/features", {}),
                present=arrays[f"{number}/present"],
                n_used=n_used,
                raw=parts.get(f"{number}/raw", {}),
                is_real=bool(is_real),
            )
        )
    return LabelledSession(str(arrays["person"]), traces, parts.get("labels", {}))

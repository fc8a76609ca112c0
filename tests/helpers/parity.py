"""Recorded cases of the published modules: their state_dicts, their inputs and their outputs.

Those in `tests/parity/cases` come with the tests; EDGE_MER_TEST_PARITY names a folder of more.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

ROOT = Path(__file__).parents[2]
OWN_FOLDER = ROOT / "tests" / "parity"
OTHER_FOLDER = Path(os.environ.get("EDGE_MER_TEST_PARITY", ROOT.parent / "shared" / "parity"))


def cases() -> tuple[str, ...]:
    """Names of all recorded cases that are here."""
    files = (file for folder in (OWN_FOLDER, OTHER_FOLDER) for file in (folder / "cases").glob("*.json"))
    return tuple(sorted({file.stem for file in files}))


def description(name: str) -> dict[str, Any]:
    """What is recorded about a case; a test whose case is absent is skipped."""
    content: dict[str, Any] = json.loads(_file(f"cases/{name}.json").read_text())
    return content


def shapes(name: str, dead: tuple[str, ...] = ()) -> dict[str, tuple[int, ...]]:
    """Shape of every key of a case's state_dict, without those that match a pattern of `dead`."""
    return {
        key: tuple(tensor["shape"])
        for key, tensor in description(name)["keys"].items()
        if not any(fnmatchcase(key, pattern) for pattern in dead)
    }


def state(name: str, dead: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The state_dict of a case, without the keys that match a pattern of `dead`."""
    content = description(name)
    return {key: _tensor(key, content["keys"][key], content["gain"]) for key in shapes(name, dead)}


def arrays(name: str) -> dict[str, Tensor]:
    """Inputs `in_*` and outputs `out_*` of a case; a large input is recorded by its seed."""
    content = description(name)
    with np.load(_file(f"cases/{name}.npz")) as file:
        found = {key: torch.from_numpy(file[key]) for key in file.files}
    for key, seed in content.get("input_seeds", {}).items():
        generator = np.random.Generator(np.random.Philox(seed))
        noise = generator.standard_normal(content["inputs"][key], dtype=np.float32)
        found[f"in_{key}"] = torch.from_numpy(noise)
    return found


def deviation_error(found: Any, right: Any) -> float:
    """Largest error in units of the right values' own standard deviation."""
    found, right = np.asarray(found), np.asarray(right)
    assert found.shape == right.shape
    return float(np.abs(found - right).max() / right.std())


def weight(key: str, shape: tuple[int, ...], gain: float = 1.0) -> NDArray[np.float32]:
    """The made-up value of one key of a state_dict: always the same for the same key and shape.

    Args:
        key: Seeds the random numbers.
        shape: Of the tensor.
        gain: How much a matrix or a kernel stretches its input.

    Returns:
        float32 of that shape: variances and the lengths of weight norm from 0.5 up, scales of norms around
        1, matrices and kernels with a deviation of gain / sqrt(inputs), everything else small.
    """
    first_bytes = hashlib.sha256(key.encode()).digest()[:8]
    generator = np.random.Generator(np.random.Philox(int.from_bytes(first_bytes, "little")))
    noise = generator.standard_normal(shape).astype(np.float32)
    if key.endswith(("running_var", "weight_g")):
        return np.abs(noise) + np.float32(0.5)
    if key.endswith("running_mean"):
        return noise * np.float32(0.2)
    if len(shape) > 1:
        return noise * np.float32(gain / math.sqrt(math.prod(shape[1:])))
    if key.endswith("weight") and shape:
        return noise * np.float32(0.1) + np.float32(1.0)
    return noise * np.float32(0.1)


def _file(name: str) -> Path:
    for folder in (OWN_FOLDER, OTHER_FOLDER):
        if (path := folder / name).is_file():
            return path
    pytest.skip(f"no recorded case {OTHER_FOLDER / name} (set EDGE_MER_TEST_PARITY)")


def _tensor(key: str, declared: dict[str, Any], gain: float) -> Tensor:
    shape = tuple(declared["shape"])
    if declared["dtype"] == "int64":  # counts of training batches
        return torch.zeros(shape, dtype=torch.int64)
    return torch.from_numpy(np.asarray(weight(declared["same_as"] or key, shape, gain)))

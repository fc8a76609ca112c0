"""Recorded cases of the published modules: their state_dicts, their inputs and their outputs."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("EDGE_MER_TEST_PARITY", ROOT.parent / "shared" / "parity"))


def cases() -> tuple[str, ...]:
    """Names of the recorded cases; none where there is no folder of them."""
    return tuple(sorted(file.stem for file in (FOLDER / "cases").glob("*.json")))


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


def _file(name: str) -> Path:
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"no recorded case {path} (set EDGE_MER_TEST_PARITY)")
    return path


def _tensor(key: str, declared: dict[str, Any], gain: float) -> Tensor:
    shape = tuple(declared["shape"])
    if declared["dtype"] == "int64":  # counts of training batches
        return torch.zeros(shape, dtype=torch.int64)
    values: Tensor = torch.from_numpy(np.asarray(_weights().tensor(declared["same_as"] or key, shape, gain)))
    return values


@functools.cache
def _weights() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity_weights", _file("weights.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

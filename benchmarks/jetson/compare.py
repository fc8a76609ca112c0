"""What two machines found, held against each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.bundle.manifest import Manifest

MAX_STAGE = 1e-4
"""Of a stage's outputs from equal tensors: in their own unit, and in their deviations."""

MAX_RUN = 1e-2
"""Of a prediction's numbers after the whole way from a source."""

MIN_EQUAL = 0.9
"""Part of the tensors or windows of a stage in 8 bits that must be within `MAX_STAGE`.

A stage in 8 bits rounds between its layers. Where a value lies on the border between two steps, the last bit
of a float decides, and what follows differs by a step: an output then differs by far more than floats do. It
happens in few windows; a kernel that computed something else would show in all.
"""

Found = dict[str, NDArray[Any]]
"""As the probe writes it."""


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: What was compared.
        found: The largest difference, in words.
        must_be: What was demanded.
        passed: Whether it was kept.
    """

    name: str
    found: str
    must_be: str
    passed: bool


def read(file: Path) -> Found:
    """The arrays of a probe."""
    with np.load(file) as held:
        return {name: held[name] for name in held.files}


def tensors(found: Found, manifest: Manifest) -> Iterator[tuple[str, str, list[str]]]:
    """Of everything that was probed: candidate, stage, and names of its arrays."""
    stages: dict[tuple[str, str], list[str]] = {}
    for name in found:
        precision, _, rest = name.partition("/")
        stage = rest.partition("/")[0]
        if precision in manifest.candidates and stage in manifest.model.stages:
            stages.setdefault((precision, stage), []).append(name)
    for (precision, stage), names in stages.items():
        yield precision, stage, names


@dataclass(frozen=True)
class Differences:
    """Of one stage's outputs.

    Attributes:
        absolute: The largest.
        relative: The largest in deviations of the tensor that it is in.
        n_beyond: Tensors or windows with one of more than `MAX_STAGE`.
        n: All of them.
    """

    absolute: float
    relative: float
    n_beyond: int
    n: int


def differences(here: Found, there: Found, names: list[str], deviation: dict[str, float]) -> Differences:
    """Between two probes, of these arrays; infinite where NaNs or shapes differ."""
    absolute, relative, beyond = 0.0, 0.0, np.zeros(len(here[names[0]]), np.bool_)
    for name in names:
        a, b = here[name].astype(np.float64), there[name].astype(np.float64)
        unit = deviation[name.rpartition("/")[2]]
        if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
            return Differences(np.inf, np.inf, len(a), len(a))
        rows = np.nan_to_num(np.abs(a - b)).reshape(len(a), -1).max(axis=1)
        absolute, relative = max(absolute, rows.max()), max(relative, rows.max() / unit)
        beyond |= np.maximum(rows, rows / unit) > MAX_STAGE
    return Differences(float(absolute), float(relative), int(beyond.sum()), len(beyond))


def stage_checks(here: Found, there: Found, manifest: Manifest) -> list[Check]:
    """Every stage of every candidate, from equal tensors."""
    checks = []
    for precision, stage, names in tensors(here, manifest):
        one = differences(here, there, names, manifest.golden.deviation)
        found = f"{one.absolute:.2g}, or {one.relative:.2g} deviations"
        if precision == "fp32":
            must_be = f"at most {MAX_STAGE:g}, also in deviations"
            passed = max(one.absolute, one.relative) <= MAX_STAGE
        else:
            drift, what = manifest.model.tolerances.int8_drift, _what(stage, manifest)
            found += f"; {one.n_beyond} of {one.n} {what} beyond {MAX_STAGE:g}"
            must_be = f"at most {MAX_STAGE:g} in {MIN_EQUAL:.0%} of {what}, {drift:g} deviations in all"
            passed = one.n - one.n_beyond >= MIN_EQUAL * one.n and one.relative <= drift
        checks.append(Check(f"{precision}, {stage}", found, must_be, passed))
    return checks


def _what(stage: str, manifest: Manifest) -> str:
    return "windows" if stage == manifest.model.fusion.stage else "tensors"


def face_check(here: Found, there: Found) -> list[Check]:
    """Boxes and eyes in equal pictures; none of a model that looks at no faces."""
    if "faces/box_px" not in here:
        return []
    names, n = ("faces/box_px", "faces/eyes_px"), len(here["faces/box_px"])
    if any(not np.array_equal(np.isnan(here[name]), np.isnan(there[name])) for name in names):
        return [Check("faces and eyes", "found in other pictures", "0 px", passed=False)]
    worst = max(float(np.nanmax(np.abs(here[name] - there[name]), initial=0.0)) for name in names)
    n_eyes = int(np.isfinite(here["faces/eyes_px"]).all(axis=1).sum())
    found = f"{worst:.2g} px; eyes in {n_eyes} of {n} pictures"
    return [Check("faces and eyes", found, "0 px", passed=worst == 0 and n_eyes > 0)]


def run_check(name: str, here: Path, there: Path) -> Check:
    """Two files of predictions: equal in status and reasons, near in numbers."""
    a, b = (
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in (here, there)
    )
    must_be = f"at most {MAX_RUN:g}; everything else equal"
    if [_frame(one) for one in a] != [_frame(one) for one in b]:
        return Check(name, "other statuses, reasons or coverage", must_be, passed=False)
    pairs = [(_numbers(one), _numbers(two)) for one, two in zip(a, b, strict=True)]
    worst = max((abs(one[key] - two[key]) for one, two in pairs for key in one), default=np.inf)
    n_given = sum(bool(one) for one, _ in pairs)
    return Check(name, f"{worst:.2g} in {n_given} predictions", must_be, passed=worst <= MAX_RUN)


def _frame(prediction: dict[str, Any]) -> dict[str, Any]:
    """What must be equal: everything but estimates and what a clock measured."""
    other = {"affect", "pain", "emotion", "confidence", "utc", "utc_synchronised", "latency_ms"}
    held = {key: value for key, value in prediction.items() if key not in other}
    return held | {"numbers": sorted(_numbers(prediction))}


def _numbers(prediction: dict[str, Any]) -> dict[str, float]:
    """The estimate's numbers by their paths."""
    left: list[tuple[str, Any]] = [(key, prediction[key]) for key in ("affect", "pain", "emotion")]
    found = {}
    while left:
        path, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{path}.{key}", inner) for key, inner in value.items()]
        elif isinstance(value, int | float):
            found[path] = float(value)
    return found


def shaken(found: Found, precision: str, fusion: str, deviation: dict[str, float]) -> Differences:
    """What a last bit in its inputs changes in a fusion's outputs on one machine."""
    outputs = [name for name in found if name.startswith(f"{precision}/{fusion}/")]
    shaken = {name: found[f"{precision}/shaken/{name.rpartition('/')[2]}"] for name in outputs}
    n = len(next(iter(shaken.values())))
    here = {name: np.concatenate([found[name]] * n) for name in outputs}
    there = {name: np.concatenate(list(values)) for name, values in shaken.items()}
    return differences(here, there, outputs, deviation)

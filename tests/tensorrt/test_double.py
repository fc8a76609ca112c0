"""The double has nothing that the vendor's own bindings lack, and calls everything as they do."""

from __future__ import annotations

import enum
import inspect
import re
from types import ModuleType
from typing import Any

import pytest

from tests.helpers.tensorrt_bindings import listed
from tests.tensorrt.conftest import VERSIONS, Load

_SIGNATURE = re.compile(r"^(?:\d+\. )?\w+\((?P<arguments>.*)\)(?: ->|$)", re.MULTILINE)
_ATTRIBUTE = re.compile(r"\bself\.([a-z]\w*)(?:,| =|:)")


def classes(double: ModuleType) -> dict[str, type]:
    own = {name: one for name, one in vars(double).items() if isinstance(one, type)}
    return {n: c for n, c in own.items() if c.__module__ == double.__name__ and n not in ("Faults",)}


def public(one: type) -> dict[str, Any]:
    """Members, and what its methods set on an instance."""
    source = "" if issubclass(one, enum.Enum) else inspect.getsource(one)
    set_there = dict.fromkeys(_ATTRIBUTE.findall(source))
    members = {name: value for name, value in vars(one).items() if not name.startswith("_")}
    return {**set_there, **members}


def arguments(text: str) -> list[list[str]]:
    """Names of the arguments of each overload, as the bindings' own docstrings have them."""
    found = []
    for match in _SIGNATURE.finditer(text):
        parts = re.split(r",\s*(?![^\[(]*[\])])", match["arguments"])
        found.append([part.split(":")[0].strip() for part in parts if part.strip()])
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_every_class_method_and_enum_is_the_vendors(version: str, tensorrt: Load) -> None:
    vendor, double = listed(version), tensorrt(version)
    n_compared = 0
    for name, one in classes(double).items():
        if name == "Builder" or not name.startswith("_"):
            assert name in vendor, f"{name} is not in TensorRT {version}"
        members = vendor[name]
        if issubclass(one, enum.Enum):
            for member in one.__members__:
                assert member in members, f"{name}.{member} is not in TensorRT {version}"
                n_compared += 1
            continue
        for member in public(one):
            assert member in members, f"{name}.{member} is not in TensorRT {version}"
            n_compared += 1
    assert n_compared > 100


@pytest.mark.parametrize("version", VERSIONS)
def test_every_argument_is_called_as_the_vendor_calls_it(version: str, tensorrt: Load) -> None:
    vendor, double = listed(version), tensorrt(version)
    n_compared = 0
    for name, one in classes(double).items():
        for member, value in public(one).items():
            if not inspect.isfunction(value):
                continue
            own = list(inspect.signature(value).parameters)[1:]
            theirs = [given[1:] for given in arguments(str(vendor[name][member]))]
            assert any(own == given[: len(own)] for given in theirs), f"{name}.{member}{own}: {theirs}"
            n_compared += 1
    assert n_compared >= 40


@pytest.mark.parametrize("version", VERSIONS)
def test_it_has_all_that_edge_mer_asks_for_by_name(version: str, tensorrt: Load) -> None:
    vendor, double = listed(version), tensorrt(version)
    for flag in ("EDITABLE_TIMING_CACHE", "MONITOR_MEMORY"):
        assert (flag in vendor["BuilderFlag"]) == (flag in double.BuilderFlag.__members__)
    assert ("INT8" in vendor["BuilderFlag"]) == ("INT8" in double.BuilderFlag.__members__)


def test_what_no_version_has_would_be_found(tensorrt: Load) -> None:
    vendor, double = listed("11.4.0"), tensorrt("10.3.0")
    missing = set(double.BuilderFlag.__members__) - set(vendor["BuilderFlag"])
    assert missing == {"FP16", "INT8", "BF16"}

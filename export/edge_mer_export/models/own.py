"""A user's own model, from a file outside the project.

The file holds a `torch.nn.Module` class that declares itself:

- `spec`, an `edge_mer.types.model.ModelSpec`: streams, geometry, preprocessing, outputs;
- one submodule per encoder, named as its stage: the tensor of one step (batch, …) -> feature (batch, D);
- `fuse`, a method: one tensor of features (batch, L, D) per modality in the order of the encoders, and
  (batch, modality, L) of bool if the fusion declares a `present` input -> the declared outputs;
- optionally `last_layers`: output -> name of the linear layer that it comes out of, for `--random`.

Its checkpoint is its plain state_dict.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from edge_mer.errors import DataError, UsageError
from edge_mer.types.model import ModelSpec
from edge_mer_export.engines import as_tuple
from edge_mer_export.models.zoo import Found, LooseStage, Part, Route, System, ZooModel
from edge_mer_export.onnx_stage import random_feed

_HINT = "the documentation's page on models of your own has a complete example"


def own_system(name: str) -> System:
    """The model in a user's file; the file is run.

    Args:
        name: "path/to/file.py:Name".

    Raises:
        UsageError: No such file or class, or it does not declare what it must.
        DataError: The file cannot be run.
    """
    text, _, attribute = name.rpartition(":")
    path = Path(text)
    found = getattr(_run(path), attribute, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        what = "nothing of that name" if found is None else f"something of type {type(found).__name__}"
        if isinstance(found, type):
            what = f"a class derived from {', '.join(base.__name__ for base in found.__bases__)}"
        raise UsageError(
            f"{path} has no model {attribute!r}",
            expected="a class derived from torch.nn.Module",
            found=what,
            hint="name it as path/to/file.py:Name",
        )
    model_class: Any = found
    spec = getattr(model_class, "spec", None)
    if not isinstance(spec, ModelSpec):
        kind = "none" if spec is None else f"one of type {type(spec).__name__}"
        raise _incomplete(name, "`spec`, an edge_mer.types.model.ModelSpec", kind)
    if not callable(getattr(model_class, "fuse", None)):
        raise _incomplete(name, "a method `fuse`, from the features of a window to the outputs", "none")
    encoders = spec.stages[:-1]
    routes = (*(Route(f"{stage}.", stage) for stage in encoders), Route("", spec.fusion.stage))
    weights = Part("weights", "", f"the state_dict of {attribute}", routes=routes)

    def build(_found: Found) -> ZooModel:
        return _built(name, model_class, spec)

    return System(spec.name, spec.stages, build, (weights,))


def _incomplete(name: str, expected: str, found: str) -> UsageError:
    return UsageError(f"model {name} does not declare itself", expected=expected, found=found, hint=_HINT)


def _run(path: Path) -> ModuleType:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UsageError(
            f"cannot read {path}",
            expected="a Python file",
            found=found,
            hint="check the path before the colon",
        )
    folder = path.parent.resolve()
    # files beside it can be imported: by their names, as in a script, or with a dot, as in a package
    package = ModuleType(f"_own_{hashlib.sha256(bytes(folder)).hexdigest()[:16]}")
    package.__path__ = [str(folder)]
    loader = importlib.util.spec_from_file_location(f"{package.__name__}.{path.stem}", path)
    if loader is None or loader.loader is None:
        raise UsageError(f"{path} is no Python file", expected="a name that ends with .py")
    module = importlib.util.module_from_spec(loader)
    sys.modules[package.__name__], sys.modules[loader.name] = package, module  # as dataclasses expect it
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        loader.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise DataError(
            f"{path} cannot be run",
            found=f"{type(error).__name__}: {error}",
            hint=f"correct it until it runs: python {path}",
        ) from error
    finally:
        sys.path[:] = before
    return module


def _built(name: str, model_class: Any, spec: ModelSpec) -> ZooModel:
    try:
        with torch.device("cpu"):  # what it computes when it is made needs numbers
            whole: nn.Module = model_class()
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        raise DataError(f"model {name} cannot be built without arguments", found=found, hint=_HINT) from error
    children = dict(whole.named_children())
    if lacking := [stage for stage in spec.stages[:-1] if stage not in children]:
        found = ", ".join(children) or "no submodule"
        raise _incomplete(name, f"a submodule for each encoder: {', '.join(lacking)}", found)
    stages = {stage: children[stage] for stage in spec.stages[:-1]}
    stages[spec.fusion.stage] = _fusion_of(whole, stages)
    last_layers = dict(getattr(model_class, "last_layers", {}))
    linear = [key for key, part in whole.named_modules() if isinstance(part, nn.Linear)]
    for output, layer in last_layers.items():
        if layer not in linear:
            found = f"{layer!r} of {output}; linear layers are {', '.join(linear) or 'none'}"
            raise _incomplete(name, "in `last_layers`, for each output the name of a linear layer", found)
    model = ZooModel(spec, stages, last_layers).eval()
    for stage in spec.stages:
        what = "fuse" if stage == spec.fusion.stage else stage
        _try(f"model {name}: {what}", model.stage(stage), spec.fusion.n_steps)
    return model


def _try(what: str, stage: LooseStage, n_steps: int) -> None:
    """Run a stage once on random numbers: does it give what is declared?"""
    feed = random_feed(stage.inputs, n_steps, 0)
    try:
        with torch.inference_mode():
            found = as_tuple(stage.module(*(torch.from_numpy(feed[spec.name]) for spec in stage.inputs)))
    except Exception as error:
        taken = ", ".join(f"{spec.name} {feed[spec.name].shape}" for spec in stage.inputs)
        raise DataError(
            f"{what} fails on random numbers of the declared inputs: {taken}",
            found=f"{type(error).__name__}: {error}",
            hint=_HINT,
        ) from error
    sizes = {
        axis: size
        for spec in stage.inputs
        for axis, size in zip(spec.axes, feed[spec.name].shape, strict=True)
    }
    expected = [f"{one.dtype} {one.concrete(**sizes)}" for one in stage.outputs]
    given = [_kind(one) for one in found]
    if given != expected:
        names = ", ".join(one.name for one in stage.outputs)
        raise DataError(
            f"{what} does not give the declared {names}",
            expected=", ".join(expected),
            found=", ".join(given),
            hint=_HINT,
        )


def _kind(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _fusion_of(whole: nn.Module, encoders: dict[str, nn.Module]) -> nn.Module:
    """The same module without its encoders, of which `fuse` is the forward pass."""
    fusion = copy.copy(whole)
    fusion._modules = {name: part for name, part in whole._modules.items() if name not in encoders}
    kind: Any = type(whole)
    fusion.__class__ = type(f"{kind.__name__}Fusion", (kind,), {"forward": kind.fuse})
    return fusion

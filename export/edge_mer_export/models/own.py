"""A user's own model, from a file outside the project.

The file holds a `torch.nn.Module` class that declares itself:

- `spec`, an `edge_mer.types.model.ModelSpec`: streams, geometry, preprocessing, outputs;
- one submodule per encoder, named as its stage: the tensor of one step (batch, …) -> feature (batch, D);
- `fuse`, a method: one tensor of features (batch, L, D) per modality in the order of the encoders, and
  (batch, modality, L) of bool if the fusion declares a `present` input -> the declared outputs;
- optionally `last_layers`: output -> name of the fusion's linear layer that it comes out of, for `--random`.

Its checkpoint is its plain state_dict. A model that reads words takes their tokenizer as a part of its own.
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
from pydantic import ValidationError
from torch import nn

from edge_mer.errors import DataError, UsageError
from edge_mer.types.model import ModelSpec, Words
from edge_mer_export.engines import as_tuple
from edge_mer_export.models.own_checks import (
    HINT,
    check_repeatable,
    check_streams,
    incomplete,
    read_last_layers,
)
from edge_mer_export.models.vocabulary import simulated_words, tokenizer_of
from edge_mer_export.models.zoo import Found, LooseStage, Part, Route, System, ZooModel
from edge_mer_export.onnx_stage import random_feed

VOCABULARY = Part(
    "vocabulary",
    "",
    "the tokenizer of its words (vocab.txt of BERT, or tokenizer.json)",
    is_asset=True,
)


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
        raise incomplete(name, "`spec`, an edge_mer.types.model.ModelSpec", kind)
    if not callable(getattr(model_class, "fuse", None)):
        raise incomplete(name, "a method `fuse`, from the features of a window to the outputs", "none")
    check_streams(name, spec)
    encoders = spec.stages[:-1]
    routes = (*(Route(f"{stage}.", stage) for stage in encoders), Route("", spec.fusion.stage))
    weights = Part("weights", "", f"the state_dict of {attribute}", routes=routes)

    def build(found: Found) -> ZooModel:
        return _built(name, model_class, spec, found)

    reads = any(isinstance(encoder.preprocess, Words) for encoder in spec.encoders)
    return System(spec.name, spec.stages, build, (weights, VOCABULARY) if reads else (weights,))


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
            found=_said(error),
            hint=f"correct it until it runs: python {path}",
        ) from error
    finally:
        sys.path[:] = before
    return module


def _said(error: BaseException) -> str:
    """An error's type and text; of a declaration, each contradiction in it."""
    if not isinstance(error, ValidationError):
        return f"{type(error).__name__}: {error}"
    places = [(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()]
    said = [f"{place}: {text}" if place else text.removeprefix("Value error, ") for place, text in places]
    return f"ValidationError of {error.title}: {'; '.join(said)}"


def _built(name: str, model_class: Any, spec: ModelSpec, found: Found) -> ZooModel:
    whole = _made(name, model_class)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((torch.initial_seed() + 1) % 2**32)
        again = _made(name, model_class)
    check_repeatable(name, whole, again)
    children = dict(whole.named_children())
    if lacking := [stage for stage in spec.stages[:-1] if stage not in children]:
        held = ", ".join(children) or "no submodule"
        raise incomplete(name, f"a submodule for each encoder: {', '.join(lacking)}", held)
    stages = {stage: children[stage] for stage in spec.stages[:-1]}
    stages[spec.fusion.stage] = fusion = _fusion_of(whole, stages)
    last_layers = read_last_layers(name, getattr(model_class, "last_layers", {}), spec, fusion)
    model = ZooModel(spec, stages, last_layers, assets=_assets(name, spec, found)).eval()
    for stage in (found.only,) if found.only else spec.stages:
        what = "fuse" if stage == spec.fusion.stage else stage
        _try(f"model {name}: {what}", model.stage(stage), spec.fusion.n_steps, model.n_tokens(stage))
    return model


def _made(name: str, model_class: Any) -> nn.Module:
    try:
        with torch.device("cpu"):  # what it computes when it is made needs numbers
            made: nn.Module = model_class()
    except Exception as error:
        raise DataError(
            f"model {name} cannot be built without arguments", found=_said(error), hint=HINT
        ) from error
    return made


def _assets(name: str, spec: ModelSpec, found: Found) -> dict[str, bytes]:
    """The tokenizer of a model that reads words; of random weights, that of simulated people's words.

    Raises:
        DataError: There are weights of a text encoder, and no tokenizer.
    """
    for encoder in spec.encoders:
        if not isinstance(encoder.preprocess, Words):
            continue
        if VOCABULARY.name in found.assets:
            return {encoder.preprocess.tokenizer: tokenizer_of(found.assets[VOCABULARY.name])}
        if found.shapes and found.only in (None, encoder.stage):
            raise DataError(
                f"model {name} reads words, and its tokenizer is missing",
                expected=f"--checkpoint {VOCABULARY.name}=FILE: {VOCABULARY.about}",
                found="its weights alone",
            )
        return {encoder.preprocess.tokenizer: simulated_words()}
    return {}


def _try(what: str, stage: LooseStage, n_steps: int, n_tokens: int | None) -> None:
    """Run a stage once on random numbers: does it give what is declared?"""
    feed = random_feed(stage.inputs, n_steps, 0, n_tokens)
    if n_tokens is not None:
        feed[stage.inputs[0].name][..., -1] = n_tokens - 1  # an encoder of fewer tokens fails here
    try:
        with torch.inference_mode():
            found = as_tuple(stage.module(*(torch.from_numpy(feed[spec.name]) for spec in stage.inputs)))
    except Exception as error:
        taken = ", ".join(f"{spec.name} {feed[spec.name].shape}" for spec in stage.inputs)
        taken += "" if n_tokens is None else f", of the vocabulary's {n_tokens} tokens"
        raise DataError(
            f"{what} fails on random numbers of the declared inputs: {taken}",
            found=f"{type(error).__name__}: {error}",
            hint=HINT,
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
            hint=HINT,
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

"""What can be wrong with a user's own model beside its sizes: its streams, its last layers, its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edge_mer.errors import DataError, UsageError
from edge_mer.sources.sim_settings import STREAMS
from edge_mer.types.model import Clip, LogMel, ModelSpec, Signal, VggishLogMel, Words
from edge_mer.types.signals import UNITS

HINT = "the documentation's page on models of your own has a complete example"

_N_SHOWN = 8
_READS: dict[str, tuple[type, ...]] = {"visual": (Clip,), "audio": (LogMel, VggishLogMel), "text": (Words,)}
_BODY = (Signal,)
_WORDS: dict[type, str] = {Clip: "FaceClip or SceneClip"}


def incomplete(name: str, expected: str, found: str) -> UsageError:
    """What to say of a class that does not say what it must."""
    return UsageError(f"model {name} does not declare itself", expected=expected, found=found, hint=HINT)


def check_streams(name: str, spec: ModelSpec) -> None:
    """Refuse encoders of streams on which nothing could be proven, or read as what they are not.

    Raises:
        UsageError: Names the encoder, and what it may be.
    """
    for encoder in spec.encoders:
        modality, preprocess = encoder.modality, encoder.preprocess
        if modality not in STREAMS:
            raise UsageError(
                f"model {name}: encoder {encoder.stage} cannot be proven, because simulated people have no "
                f"{modality}",
                expected=f"a modality among {', '.join(STREAMS)}",
                found=modality,
                hint=HINT,
            )
        kinds = _READS.get(modality, _BODY)
        if not isinstance(preprocess, kinds):
            raise UsageError(
                f"model {name}: encoder {encoder.stage} cannot read {modality} so",
                expected=f"preprocess = {' or '.join(_WORDS.get(kind, kind.__name__) for kind in kinds)}",
                found=type(preprocess).__name__,
                hint=HINT,
            )
        if isinstance(preprocess, Signal) and preprocess.unit != UNITS[modality]:
            raise UsageError(
                f"model {name}: encoder {encoder.stage} reads {modality} in another unit than it comes in",
                expected=f"unit={UNITS[modality]!r}",
                found=repr(preprocess.unit),
                hint="put the factor into mean and std",
            )


def read_last_layers(name: str, declared: object, spec: ModelSpec, fusion: nn.Module) -> dict[str, str]:
    """Output -> the fusion's linear layer that it comes out of.

    Raises:
        UsageError: It says something else.
    """
    what = "in `last_layers`, for each output the name of a linear layer of the fusion"
    if not isinstance(declared, Mapping):
        raise incomplete(name, f"{what}, e.g. {{'arousal': 'head'}}", f"something of type {_type(declared)}")
    outputs = [output.name for output in spec.outputs]
    linear = [key for key, part in fusion.named_modules() if isinstance(part, nn.Linear)]
    for output, layer in declared.items():
        if output not in outputs:
            raise incomplete(name, what, f"{output!r}, which is no output; outputs are {', '.join(outputs)}")
        if layer not in linear:
            found = f"{layer!r} of {output}; linear layers are {', '.join(linear) or 'none'}"
            raise incomplete(name, what, found)
    return dict(declared)


def _type(value: object) -> str:
    return type(value).__name__


# -- numbers that no checkpoint holds ------------------------------------------------------------------


def check_repeatable(name: str, whole: nn.Module, again: nn.Module) -> None:
    """Refuse a model that draws numbers which its state_dict does not hold.

    Args:
        name: Of the model.
        whole: It.
        again: Built once more, from another seed.

    Raises:
        DataError: Names them.
    """
    first, second = (dict(_loose_numbers(one)) for one in (whole, again))
    differing = [key for key in first.keys() & second.keys() if not _same(first[key], second[key])]
    differing += first.keys() ^ second.keys()
    if differing:
        more = ", …" if len(differing) > _N_SHOWN else ""
        raise DataError(
            f"model {name} computes with random numbers that no checkpoint holds",
            expected="everything random in its state_dict",
            found=f"other numbers each time it is built in {', '.join(sorted(differing)[:_N_SHOWN])}{more}",
            hint="make them parameters, buffers that are persistent, or modules in an nn.ModuleList",
        )


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def _loose_numbers(whole: nn.Module) -> Iterator[tuple[str, Any]]:
    """Tensors, arrays and fractions that a module holds beside its state_dict, by name."""
    kept = {_place(value) for value in whole.state_dict(keep_vars=True).values() if isinstance(value, Tensor)}
    for path, part in whole.named_modules():
        # what old-style weight norms compute anew in each forward pass
        recomputed = {getattr(hook, "name", None) for hook in part._forward_pre_hooks.values()}
        held = {key: value for key, value in vars(part).items() if key not in _OF_EVERY_MODULE | recomputed}
        held |= {key: part._buffers[key] for key in part._non_persistent_buffers_set}
        for key, value in held.items():
            name = f"{path}.{key}" if path else key
            for inner, number in _numbers(name, value, set()):
                if not (isinstance(number, Tensor) and _place(number) in kept):
                    yield inner, number


def _place(tensor: Tensor) -> int:
    """Where its numbers lie, which tells a view of a weight from a copy."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else id(tensor)


def _numbers(name: str, value: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """The numbers in an attribute, also in the containers and modules that it holds."""
    if isinstance(value, (Tensor, np.ndarray, float, np.floating)):
        yield name, value
    elif id(value) in seen:
        return
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _numbers(f"{name}[{index}]", inner, seen | {id(value)})
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(f"{name}[{key!r}]", inner, seen | {id(value)})
    elif isinstance(value, nn.Module):
        yield from ((f"{name}.{key}", inner) for key, inner in value.state_dict(keep_vars=True).items())


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and _same_tensors(a.detach(), b.detach())
    if type(a) is not type(b):
        return False
    return np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind in "fc")


def _same_tensors(a: Tensor, b: Tensor) -> bool:
    a, b = (one if one.layout is torch.strided else one.to_dense() for one in (a, b))
    return bool(((a == b) | ((a != a) & (b != b))).all())

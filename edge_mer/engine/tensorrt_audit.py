"""Did an engine compute in the precision that its ONNX asks for? Read from what the engine inspector tells.

TensorRT may run a product in another precision than it was asked for, and says nothing of it. So every
convolution and matrix product of the network is looked for in the engine:

- *asked*: of a product with inputs from DequantizeLinear, 8 bits; else the type of its output.
- *used*: what the engine's layer that holds it takes in, or what its kernel is called by.
- *hidden*: it lies inside a layer that the compiler fused and that does not show it.

TensorRT 10 writes `Format/Datatype` per tensor and lists `Bindings`; TensorRT 11 writes `Format` and
`DataType`, and lists `I/O Tensors`. Both are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edge_mer.errors import ParityError

Precision = Literal["fp32", "fp16", "int8"]

_ONNX_NAMES = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_TYPES: tuple[tuple[Precision, re.Pattern[str]], ...] = (
    ("int8", re.compile(r"\bint8\b", re.IGNORECASE)),
    ("fp16", re.compile(r"\b(half|fp16|float16)\b", re.IGNORECASE)),
    ("fp32", re.compile(r"\b(float|fp32|float32)\b", re.IGNORECASE)),
)
_KERNELS: tuple[tuple[Precision, re.Pattern[str]], ...] = (
    ("int8", re.compile(r"i8i8|int8|_i8_|imma", re.IGNORECASE)),
    ("fp16", re.compile(r"f16f16|h884|h1688|h16816|hmma|fp16", re.IGNORECASE)),
    ("fp32", re.compile(r"f32f32|sgemm|s1688|tf32|ffma|fp32", re.IGNORECASE)),
)
_N_NAMED = 8


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine.

    Attributes:
        name: As the engine calls it; of fused ones, all their names.
        kind: E.g. "CaskConvolution", "gemm", "Reformat".
        products: Names that may be those of the network's layers in it.
        inputs: Types of what it takes in, as far as they can be read.
        kernel: Name of the chosen tactic.
        weights: Type of its weights.
    """

    name: str
    kind: str
    products: tuple[str, ...]
    inputs: tuple[Precision, ...]
    kernel: str
    weights: Precision | None

    @property
    def used(self) -> Precision | None:
        """The precision that it computes in; None where nothing tells, as of what the compiler made one."""
        if "ForeignNode" in self.name or self.kind.lower().startswith("myelin"):
            return None
        if "int8" in (self.weights, *self.inputs):
            return "int8"
        return _first(_KERNELS, self.kernel) or (self.inputs[0] if self.inputs else self.weights)


@dataclass(frozen=True)
class Audit:
    """What was asked for and what is used, by product.

    Attributes:
        asked: Node -> precision.
        used: Node -> precision; without those that are hidden.
    """

    asked: dict[str, Precision]
    used: dict[str, Precision]

    @property
    def hidden(self) -> tuple[str, ...]:
        """Products that the engine does not show."""
        return tuple(name for name in self.asked if name not in self.used)

    @property
    def wider(self) -> tuple[str, ...]:
        """Products that run in more bits than they were asked for."""
        return tuple(name for name, used in self.used.items() if _BITS[used] > _BITS[self.asked[name]])

    @property
    def narrower(self) -> tuple[str, ...]:
        """Products that run in fewer bits than they were asked for."""
        return tuple(name for name, used in self.used.items() if _BITS[used] < _BITS[self.asked[name]])

    def summary(self) -> dict[str, Any]:
        """For `build.json`: counts by precision, and the names of what differs."""
        return {
            "asked": _counts(self.asked.values()),
            "used": _counts(self.used.values()),
            "n_hidden": len(self.hidden),
            "wider": list(self.wider),
            "narrower": list(self.narrower),
        }

    def demand(self, stage: str) -> None:
        """Refuse an engine that does not compute as it was asked to.

        Raises:
            ParityError: Names the products, and what they were asked for and run in.
        """
        wrong = (*self.wider, *self.narrower)
        if not wrong:
            return
        named = [f"{name} ({self.asked[name]} asked, {self.used[name]} used)" for name in wrong[:_N_NAMED]]
        more = f" and {len(wrong) - _N_NAMED} more" if len(wrong) > _N_NAMED else ""
        raise ParityError(
            f"stage {stage}: the engine does not use the precision that was asked for",
            expected=f"all of {len(self.asked)} products as the ONNX says",
            found="; ".join(named) + more,
            hint="take another candidate of the bundle; this TensorRT has no kernel for it on this GPU",
        )


_BITS: dict[Precision, int] = {"int8": 8, "fp16": 16, "fp32": 32}


def read_layers(inspected: str) -> list[EngineLayer]:
    """The layers of an engine from the inspector's JSON, of TensorRT 10 or 11.

    Raises:
        ParityError: It is no such JSON, or it names layers without their details.
    """
    try:
        layers = json.loads(inspected)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise ParityError(
            "the engine inspector gave nothing that can be read", found=f"{inspected[:200]!r}"
        ) from error
    if any(not isinstance(layer, Mapping) for layer in layers):
        raise ParityError(
            "the engine inspector names layers without details",
            hint="build with detailed profiling information",
        )
    return [_layer(layer) for layer in layers]


def _layer(raw: Mapping[str, Any]) -> EngineLayer:
    name = str(raw.get("Name", ""))
    named = _ONNX_NAMES.findall(str(raw.get("Metadata", "")))
    weights = raw.get("Weights")
    return EngineLayer(
        name=name,
        kind=str(raw.get("LayerType", "")),
        products=(*named, *(part.strip() for part in name.split(" + "))),
        inputs=tuple(kind for tensor in raw.get("Inputs", ()) if (kind := _type_of(tensor))),
        kernel=str(raw.get("TacticName", "")),
        weights=_first(_TYPES, str(weights.get("Type", ""))) if isinstance(weights, Mapping) else None,
    )


def _type_of(tensor: Mapping[str, Any]) -> Precision | None:
    """A tensor's type: in a field of its own from TensorRT 11 on, before it within the format."""
    fields = (tensor.get(key) for key in ("DataType", "Datatype", "Format/Datatype", "Format/DataType"))
    return next((found for text in fields if text and (found := _first(_TYPES, str(text)))), None)


def _first(patterns: Iterable[tuple[Precision, re.Pattern[str]]], text: str) -> Precision | None:
    return next((precision for precision, pattern in patterns if pattern.search(text)), None)


def _counts(precisions: Iterable[Precision]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in precisions:
        counts[one] = counts.get(one, 0) + 1
    return dict(sorted(counts.items()))


def audit(asked: Mapping[str, Precision], layers: Iterable[EngineLayer]) -> Audit:
    """Hold an engine against its network.

    Args:
        asked: Name of each convolution and matrix product -> its precision in the ONNX.
        layers: The engine's.
    """
    used: dict[str, Precision] = {}
    for layer in layers:
        if layer.kind.lower() in ("reformat", "constant", "shuffle") or layer.used is None:
            continue
        for name in layer.products:
            if name in asked:
                used[name] = layer.used
    return Audit(dict(asked), used)

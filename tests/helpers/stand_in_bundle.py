"""Bundles of any declared model whose stages are small graphs of the declared inputs and outputs.

Sizes, names, warm-up rules and labels are the model's; the arithmetic is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_mer.bundle.manifest import Candidate, FileEntry, Golden, Lineage, Manifest, OutputError
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.bundle.write import pack_arrays, write_bundle
from edge_mer.types.model import ModelSpec, TensorSpec, Words

SESSIONS = ("golden/first.npz", "golden/second.npz")
_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
_RNG_SEED = 7


def published(name: str) -> ModelSpec:
    """What a model of the zoo declares, without any of its weights."""
    import torch

    from edge_mer_export.models.zoo import system

    with torch.device("meta"):
        return system(name).default().spec


def write_stand_in(path: Path, model: ModelSpec, tokenizer: bytes = b"") -> Bundle:
    """Write it to `path`; `tokenizer` is that of a model which reads words."""
    files = {f"stages/{stage}.fp32.onnx": graph for stage, graph in stages(model).items()}
    files |= {name: pack_arrays(session(model, seed)) for seed, name in enumerate(SESSIONS)}
    words = [one.preprocess for one in model.encoders if isinstance(one.preprocess, Words)]
    files |= {spec.tokenizer: tokenizer for spec in words}
    names = [output.name for output in model.outputs]
    perfect = OutputError(max=0.0, rms=0.0, ccc=1.0)

    def manifest(table: dict[str, FileEntry]) -> Manifest:
        paths = {stage: f"stages/{stage}.fp32.onnx" for stage in model.stages}
        candidate = Candidate(stages=paths, n_bytes=1, golden=dict.fromkeys(names, perfect))
        return Manifest(
            model=model,
            candidates={"fp32": candidate},
            golden=Golden(
                sessions=SESSIONS, n_steps=model.fusion.n_steps + 3, deviation=dict.fromkeys(names, 0.3)
            ),
            lineage=Lineage(made_by=("tests",), weights="none", n_params=3, n_params_pruned=0),
            files=table,
        )

    write_bundle(path, files, manifest)
    return open_bundle(path)


def session(model: ModelSpec, seed: int, more: int = 3) -> dict[str, Any]:
    """The arrays of a golden session that a server is fed with, so many steps longer than a window."""
    rng = np.random.default_rng(seed)
    n_steps = model.fusion.n_steps + max(more, 3)
    found: dict[str, Any] = {}
    for encoder in model.encoders:
        found[f"feature.{encoder.stage}"] = rng.normal(size=(n_steps, encoder.feature)).astype(np.float32)
        found[f"present.{encoder.stage}"] = np.ones(n_steps, bool)
        if isinstance(encoder.preprocess, Words):
            found["text.data"] = np.array([["it", "0", "1"], ["hurts", "1", "2"]])
            found["text.n_words"] = np.array([2])
        else:
            shape = (2, *encoder.input.concrete(batch=1)[1:])
            found[f"input.{encoder.stage}"] = rng.normal(size=shape).astype(np.float32)
    return found


def stages(model: ModelSpec) -> dict[str, bytes]:
    """Stage -> ONNX."""
    rng = np.random.default_rng(_RNG_SEED)
    found = {}
    for encoder in model.encoders:
        weights = rng.normal(size=(1, encoder.feature)).astype(np.float32)
        is_text = isinstance(encoder.preprocess, Words)
        axes = [2] if is_text else list(range(1, len(encoder.input.shape)))
        first = "Unsqueeze" if is_text else "ReduceMean"
        attributes: dict[str, Any] = {} if is_text else {"keepdims": 0}
        nodes = [
            helper.make_node("Cast", [encoder.input.name], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node(first, ["numbers", "axes"], ["mean"], **attributes),
        ]
        constants: dict[str, Any] = {"axes": np.array(axes), "weights": weights}
        column = "mean"
        if not is_text:
            constants["one"] = np.array([1])
            nodes.append(helper.make_node("Unsqueeze", ["mean", "one"], ["column"]))
            column = "column"
        nodes.append(helper.make_node("MatMul", [column, "weights"], [encoder.output.name]))
        found[encoder.stage] = _graph(nodes, (encoder.input,), (encoder.output,), constants)
    found[model.fusion.stage] = _fusion(model, rng)
    return found


def _fusion(model: ModelSpec, rng: np.random.Generator) -> bytes:
    """A weighted sum over each step and all before it; the newest step counts twice."""
    fusion = model.fusion
    constants: dict[str, Any] = {"one": np.array(1), "two": np.array([2])}
    nodes, sums = [], []
    for index, encoder in enumerate(model.encoders):
        name = fusion.inputs[index].name
        constants[f"w{index}"] = (rng.normal(size=(encoder.feature, 1)) / encoder.feature).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [name, f"w{index}"], [f"p{index}"]))
        nodes.append(helper.make_node("Squeeze", [f"p{index}", "two"], [f"s{index}"]))
        sums.append(f"s{index}")
        if fusion.has_present_input:
            constants[f"i{index}"] = np.array(index)
            constants["absent"] = np.array([-0.25], np.float32)
            nodes.append(
                helper.make_node("Gather", [fusion.inputs[-1].name, f"i{index}"], [f"m{index}"], axis=1)
            )
            nodes.append(helper.make_node("Where", [f"m{index}", f"s{index}", "absent"], [f"t{index}"]))
            sums[-1] = f"t{index}"
    nodes.append(helper.make_node("Sum", sums, ["step"]))
    nodes.append(helper.make_node("CumSum", ["step", "one"], ["past"]))
    nodes.append(helper.make_node("Add", ["past", "step"], ["told"]))
    for index, spec in enumerate(fusion.outputs):
        constants[f"scale{index}"] = np.float32(index + 1)
        value = f"scaled{index}"
        nodes.append(helper.make_node("Mul", ["told", f"scale{index}"], [value]))
        if "steps" not in spec.axes:
            constants["last"] = np.array(-1)
            nodes.append(helper.make_node("Gather", [value, "last"], [f"newest{index}"], axis=1))
            value = f"newest{index}"
        n_axes = 2 if "steps" in spec.axes else 1
        if len(spec.shape) > n_axes:
            constants["minus"] = np.array([-1])
            constants[f"class{index}"] = rng.normal(size=spec.shape[-1]).astype(np.float32)
            nodes.append(helper.make_node("Unsqueeze", [value, "minus"], [f"wide{index}"]))
            nodes.append(helper.make_node("Mul", [f"wide{index}", f"class{index}"], [spec.name]))
        else:
            nodes.append(helper.make_node("Identity", [value], [spec.name]))
    return _graph(nodes, fusion.inputs, fusion.outputs, constants)


def _graph(
    nodes: list[Any],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    constants: dict[str, Any],
) -> bytes:
    def declared(spec: TensorSpec) -> Any:
        return helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], list(spec.shape))

    graph = helper.make_graph(
        nodes,
        "stand_in",
        [declared(spec) for spec in inputs],
        [declared(spec) for spec in outputs],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())

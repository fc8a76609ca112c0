"""One stage from PyTorch to an ONNX file with everything inside, and back to see that it is the same."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from edge_mer.bundle.onnx_guard import MAX_IR_VERSION
from edge_mer.engine.onnxruntime import OrtEngine, OrtOptions
from edge_mer.engine.threads import available_threads
from edge_mer.errors import DataError, ParityError
from edge_mer.types.model import TensorSpec
from edge_mer_export.engines import as_tuple
from edge_mer_export.models.batchnorm import fold_batchnorm

OPSET = 20
BATCH_LIMIT = 256
_SCOPES = "pkg.torch.onnx.name_scopes"
TOKEN_LIMIT = 512
"""Places that a BERT encoder knows."""
MAX_RANDOM_TOKEN = 100
_MAX_REASON = 300
Arrays = dict[str, NDArray[np.generic]]


def export_stage(
    stage: str,
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    n_steps: int,
) -> bytes:
    """A stage as an ONNX file: opset 20, weights inside, batch norms folded, nothing that no one reads.

    Args:
        stage: Name of the stage.
        module: In evaluation mode.
        inputs: Declared inputs; sizes given as axis names stay free.
        outputs: Declared outputs.
        n_steps: Largest size of the axis "steps".

    Raises:
        DataError: PyTorch cannot express the stage in ONNX.
        ParityError: The file does not have the declared version, names or axes.
    """
    sizes = {"batch": 2, "steps": max(2, n_steps // 2), "token": 12}
    limits = {"batch": BATCH_LIMIT, "steps": max(2, n_steps), "token": TOKEN_LIMIT}
    free = {axis: torch.export.Dim(axis, min=1, max=limits[axis]) for axis in sizes}
    examples = tuple(_example(spec, sizes) for spec in inputs)
    shapes = tuple(
        {i: free[size] for i, size in enumerate(spec.shape) if isinstance(size, str)} or None
        for spec in inputs
    )
    with _quiet(), _said_plainly(stage):
        program = torch.onnx.export(
            fold_batchnorm(module),
            examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in inputs],
            output_names=[spec.name for spec in outputs],
            dynamic_shapes=shapes,
            verbose=False,
        )
    if program is None:
        raise ParityError(f"stage {stage}: PyTorch exported nothing")
    model = clean(program.model_proto, stage)
    _check_declared(stage, model, inputs, outputs)
    with _said_plainly(stage):
        onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _example(spec: TensorSpec, sizes: dict[str, int]) -> torch.Tensor:
    shape = spec.concrete(**sizes)
    if spec.dtype == "float32":
        return torch.randn(shape)
    return torch.ones(shape, dtype=getattr(torch, spec.dtype))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's progress and its remarks on packages that are not needed stay off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _said_plainly(stage: str) -> Iterator[None]:
    """An exporter's pages on what it cannot express become one line.

    Raises:
        DataError: It could not.
    """
    try:
        yield
    except Exception as error:  # the exporter raises a dozen types of its own
        raise DataError(
            f"stage {stage} cannot be written as ONNX opset {OPSET}",
            expected="a forward pass of standard operators on named arguments (no *args), the same for "
            "whatever numbers come in",
            found=_reason(error),
            hint="write the named place otherwise, e.g. torch.where in the place of `if`; --debug shows all",
        ) from error


def _reason(error: BaseException) -> str:
    """Type and first line of what an error goes back to."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'nothing more'}"[:_MAX_REASON]


def clean(model: onnx.ModelProto, stage: str) -> onnx.ModelProto:
    """Strip what no one reads, and name nodes by module and operator: "resnet.layer1.0.conv1/Conv_3"."""
    model.ir_version = MAX_IR_VERSION
    model.producer_name, model.producer_version, model.doc_string = "edge-mer", "", ""
    del model.metadata_props[:]
    del model.functions[:]
    standard = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(standard)
    graph = model.graph
    graph.name, graph.doc_string = stage, ""
    del graph.value_info[:]
    del graph.metadata_props[:]
    counts: Counter[str] = Counter()
    for node in graph.node:
        name = f"{node.op_type}_{counts[node.op_type]}"
        scope = _module_of(node)
        node.name, node.doc_string = f"{scope}/{name}" if scope else name, ""
        counts[node.op_type] += 1
        del node.metadata_props[:]
    for tensor in (*graph.initializer, *graph.input, *graph.output):
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    return model


def _module_of(node: onnx.NodeProto) -> str:
    """Path of the PyTorch module that a node comes from, as the exporter noted it; "" if it did not."""
    scopes = next((one.value for one in node.metadata_props if one.key == _SCOPES), "[]")
    path = ast.literal_eval(scopes)[:-1]  # the last one is the node's own name
    return str(path[-1]) if path else ""


def _check_declared(
    stage: str, model: onnx.ModelProto, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """Version, then names, then axes."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions != {"": OPSET}:
        raise ParityError(f"stage {stage}: wrong opset", expected=str({"": OPSET}), found=str(versions))
    for kind, specs, values in (
        ("inputs", inputs, model.graph.input),
        ("outputs", outputs, model.graph.output),
    ):
        names = [value.name for value in values]
        if names != [spec.name for spec in specs]:
            raise ParityError(
                f"stage {stage}: wrong {kind}", expected=str([s.name for s in specs]), found=str(names)
            )
        for spec, value in zip(specs, values, strict=True):
            dims = value.type.tensor_type.shape.dim
            found = tuple(dim.dim_param if dim.HasField("dim_param") else dim.dim_value for dim in dims)
            if found != spec.shape:
                raise ParityError(
                    f"stage {stage}: {spec.name} has wrong axes",
                    expected=str(spec.shape),
                    found=str(found),
                    hint="a loop over an axis, or its size taken as a number, fixes it",
                )


def check_values(
    stage: str,
    model: bytes,
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    feeds: list[Arrays],
    tolerance: float,
) -> float:
    """Run a stage in ONNX Runtime on batches, and in PyTorch on each of their rows alone.

    Args:
        stage: Name of the stage.
        model: Its ONNX.
        module: It in PyTorch.
        inputs: Declared inputs.
        outputs: Declared outputs.
        feeds: Input name -> array.
        tolerance: Largest difference, in the standard deviation of the output over all feeds.

    Returns:
        The largest difference found.

    Raises:
        ParityError: Names the tensor that differs, and by how much.
    """
    engine = OrtEngine(
        stage, model, inputs, outputs, {"batch": 1, "steps": 1, "token": 1}, OrtOptions(available_threads())
    )
    differences: dict[str, list[NDArray[np.floating]]] = {spec.name: [] for spec in outputs}
    values: dict[str, list[NDArray[np.floating]]] = {spec.name: [] for spec in outputs}
    for feed in feeds:
        found = engine.run(feed)
        for spec, tensor in zip(outputs, _row_by_row(module, inputs, feed), strict=True):
            expected = tensor.numpy()
            if found[spec.name].shape != expected.shape:
                raise ParityError(
                    f"stage {stage}: {spec.name} has another shape than in PyTorch",
                    expected=str(expected.shape),
                    found=str(found[spec.name].shape),
                )
            differences[spec.name].append((found[spec.name] - expected).ravel())
            values[spec.name].append(expected.ravel())
    worst = 0.0
    for name, parts in differences.items():
        # Over all values, not from row to row: noise looks alike to a deep encoder, and rounding would count.
        deviation = max(float(np.concatenate(values[name]).std()), 1e-12)
        error = float(np.abs(np.concatenate(parts)).max()) / deviation
        if not error <= tolerance:
            raise ParityError(
                f"stage {stage}: {name} differs between PyTorch and ONNX Runtime",
                expected=f"at most {tolerance:.2g} of its standard deviation",
                found=f"{error:.3g}",
            )
        worst = max(worst, error)
    return worst


def _row_by_row(module: nn.Module, inputs: tuple[TensorSpec, ...], feed: Arrays) -> tuple[torch.Tensor, ...]:
    """The stage in PyTorch with each row of a batch alone: no row may know of another."""
    tensors = [torch.from_numpy(np.array(feed[spec.name])) for spec in inputs]
    with torch.inference_mode():
        rows = [as_tuple(module(*(one[i : i + 1] for one in tensors))) for i in range(len(tensors[0]))]
    return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))


def random_feed(
    inputs: tuple[TensorSpec, ...], n_steps: int, seed: int, n_tokens: int | None = None
) -> Arrays:
    """Random numbers for one row of a stage: standard normal, small counts, or all True.

    Args:
        inputs: Its declared inputs.
        n_steps: Size of the axis "steps".
        seed: Of the numbers.
        n_tokens: How many tokens its vocabulary has; None of a stage that reads no words.
    """
    high = min(MAX_RANDOM_TOKEN, n_tokens or MAX_RANDOM_TOKEN)
    low = min(1, high - 1)
    rng = np.random.default_rng(seed)
    feed: Arrays = {}
    for spec in inputs:
        shape = spec.concrete(batch=1, steps=n_steps, token=12)
        if spec.dtype == "float32":
            feed[spec.name] = rng.standard_normal(shape, np.float32)
        else:
            feed[spec.name] = rng.integers(*((1, 2) if spec.dtype == "bool" else (low, high)), shape).astype(
                spec.dtype
            )
    return feed


def n_weights(model: bytes) -> int:
    """Numbers in the floating-point initializers of an ONNX file."""
    graph = onnx.load_model_from_string(model).graph
    return sum(int(np.prod(t.dims)) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT)

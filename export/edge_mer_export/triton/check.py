"""Holds a model repository against its bundle and against the files that lie in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from edge_mer.bundle.manifest import FileEntry
from edge_mer.bundle.onnx_guard import inspect_onnx
from edge_mer.bundle.read import Bundle
from edge_mer.errors import BundleError, EdgeMerError
from edge_mer.runtime.target_tensorrt import stage_tensors
from edge_mer_export.triton.configs import NUMPY_OF, TYPES, Config, dims_of, labels
from edge_mer_export.triton.names import (
    CONFIG,
    N_STEPS,
    N_STEPS_SEEN,
    PARAMETER,
    RING,
    START,
    STREAM,
    VERSION,
    warm_up_file,
)
from edge_mer_export.triton.stream_graph import next_name, stream_edges
from edge_mer_export.triton.warm_up import golden_inputs, n_bytes

MAX_CONFIG_BYTES = 1 << 20
_FILES = {"onnxruntime_onnx": "model.onnx", "tensorrt_plan": "model.plan"}
_ONNX_TYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.BOOL: "bool",
}
Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""Name -> type, and sizes without the batch axis; -1 where they are free."""


@dataclass
class _Findings:
    """What was looked at, and what is wrong."""

    n_checks: int = 0
    problems: list[str] = field(default_factory=list)

    def same(self, where: str, expected: object, found: object) -> bool:
        """Whether two things are equal; a problem if not."""
        self.n_checks += 1
        if expected != found:
            self.problems.append(f"{where} is {_told(found)}, not {_told(expected)}")
        return expected == found


def _told(value: object) -> str:
    return str(value) if value not in ("", None, [], {}) else "nothing"


def check_repository(bundle: Bundle, folder: Path) -> int:
    """Parse every configuration with Triton's own schema and hold it against the bundle and the files.

    Names, types, shapes, states, labels, sizes of what is warmed up with; of ONNX files also that they are
    the bundle's, that the batch axis is free, and that the streaming model gives what the fusion gives of
    the same window.

    Args:
        bundle: What is served.
        folder: The repository.

    Returns:
        How many things were held against each other.

    Raises:
        BundleError: Names every one that does not fit.
    """
    findings = _Findings()
    configs = dict(_configs(folder, findings))
    by_stage = {_parameter(config, "stage"): config for config in configs.values()}
    findings.same("the models' stages", {*bundle.manifest.model.stages, STREAM}, set(by_stage))
    findings.same("the number of models", len(by_stage), len(configs))
    for name, config in configs.items():
        if _parameter(config, "stage") in (*bundle.manifest.model.stages, STREAM):
            _check_model(bundle, folder / name, config, findings)
    if not findings.problems:
        _check_numbers(bundle, folder, by_stage, findings)
    if findings.problems:
        raise BundleError(
            f"the model repository {folder} does not fit bundle {bundle.path}",
            found="; ".join(findings.problems),
            hint="write it again with edge-mer bundle triton",
        )
    return findings.n_checks


def _configs(folder: Path, findings: _Findings) -> Iterator[tuple[str, Config]]:
    for one in sorted(path for path in folder.iterdir() if path.is_dir()):
        file = one / CONFIG
        try:
            if file.stat().st_size > MAX_CONFIG_BYTES:
                raise ValueError(f"larger than {MAX_CONFIG_BYTES} bytes")
            config = text_format.Parse(file.read_text(encoding="utf-8"), pb.ModelConfig())
        except (OSError, ValueError, text_format.ParseError) as error:
            findings.problems.append(f"{one.name}/{CONFIG} cannot be read: {error}")
            continue
        findings.same(f"{one.name}: its name", one.name, config.name)
        yield one.name, config


def _parameter(config: Config, key: str) -> str:
    name = f"{PARAMETER}{key}"
    return str(config.parameters[name].string_value) if name in config.parameters else ""


def _check_model(bundle: Bundle, folder: Path, config: Config, findings: _Findings) -> None:
    where, stage = config.name, _parameter(config, "stage")
    findings.same(f"{where}: its bundle", bundle.bundle_id, _parameter(config, "bundle_id"))
    findings.same(f"{where}: its step", str(bundle.manifest.model.step), _parameter(config, "step_s"))
    findings.same(f"{where}: a platform that is known", True, config.platform in _FILES)
    findings.same(f"{where}: a batch of one or more", True, config.max_batch_size >= 1)
    findings.same(f"{where}: instances", True, sum(one.count for one in config.instance_group) >= 1)
    batching = config.sequence_batching.oldest if stage == STREAM else config.dynamic_batching
    preferred = list(batching.preferred_batch_size)
    findings.same(
        f"{where}: preferred batches fit", True, all(0 < n <= config.max_batch_size for n in preferred)
    )
    if stage == STREAM:
        _check_stream(bundle, config, findings)
    else:
        _check_stage(bundle, config, stage, findings)
        _check_warm_up(bundle, folder, config, stage, findings)
    _check_labels(bundle, folder, config, stage, findings)
    file = folder / VERSION / _FILES.get(config.platform, config.default_model_filename)
    findings.same(f"{where}: its file", file.name, config.default_model_filename)
    if findings.same(f"{where}: {VERSION}/{file.name} is there", True, file.is_file()):
        _check_file(bundle, file, config, stage, findings)


# -- what the configuration says -------------------------------------------------------------------


def _check_stage(bundle: Bundle, config: Config, stage: str, findings: _Findings) -> None:
    inputs, outputs = stage_tensors(bundle.manifest.model)[stage]
    for what, specs, tensors in (("inputs", inputs, config.input), ("outputs", outputs, config.output)):
        expected = {spec.name: (spec.dtype, dims_of(spec)) for spec in specs}
        _compare(f"{config.name}: {what}", expected, _declared(tensors), findings)
    findings.same(f"{config.name}: memory of sequences", False, config.HasField("sequence_batching"))


def _check_stream(bundle: Bundle, config: Config, findings: _Findings) -> None:
    edges, where = stream_edges(bundle.manifest.model), config.name
    for what, wanted, tensors in (
        ("inputs", edges.inputs, config.input),
        ("outputs", edges.outputs, config.output),
    ):
        expected = {edge.name: (edge.dtype, edge.dims) for edge in wanted}
        _compare(f"{where}: {what}", expected, _declared(tensors), findings)
    batching = config.sequence_batching
    found = {one.input_name: (NUMPY_OF.get(one.data_type, ""), tuple(one.dims)) for one in batching.state}
    _compare(f"{where}: states", {e.name: (e.dtype, e.dims) for e in edges.states}, found, findings)
    for state in batching.state:
        name = f"{where}: state {state.input_name}"
        findings.same(f"{name}: where it comes out", next_name(state.input_name), state.output_name)
        starts = [
            (one.zero_data, NUMPY_OF.get(one.data_type, ""), tuple(one.dims)) for one in state.initial_state
        ]
        findings.same(f"{name}: what it starts as", [(True, *found[state.input_name])], starts)
    control = pb.ModelSequenceBatching.Control
    kinds = {
        one.name: [(kind.kind, list(kind.bool_false_true)) for kind in one.control]
        for one in batching.control_input
    }
    expected_kinds = {START: [(control.CONTROL_SEQUENCE_START, [False, True])]}
    findings.same(f"{where}: what tells that a sequence starts", expected_kinds, kinds)
    findings.same(
        f"{where}: sequences that are carried along", True, batching.oldest.max_candidate_sequences >= 1
    )
    findings.same(
        f"{where}: a time after which a sequence is forgotten",
        True,
        batching.max_sequence_idle_microseconds > 0,
    )


def _declared(tensors: Sequence[Any]) -> Shapes:
    """What the model sees: a reshape to nothing undoes the one number that Triton's shapes must have."""
    return {
        one.name: (
            NUMPY_OF.get(one.data_type, ""),
            tuple(one.reshape.shape) if one.HasField("reshape") else tuple(one.dims),
        )
        for one in tensors
    }


def _compare(
    where: str, expected: Mapping[str, object], found: Mapping[str, object], findings: _Findings
) -> None:
    if findings.same(where, list(expected), list(found)):
        for name in expected:
            findings.same(f"{where}: {name}", expected[name], found[name])


def _check_labels(bundle: Bundle, folder: Path, config: Config, stage: str, findings: _Findings) -> None:
    model, named = bundle.manifest.model, labels(bundle)
    has_steps = {spec.name: "steps" in spec.axes and stage != STREAM for spec in model.fusion.outputs}
    for output in config.output:
        where = f"{config.name}: labels of {output.name}"
        is_fusion = stage in (STREAM, model.fusion.stage)
        expected = named.get(output.name) if is_fusion and not has_steps.get(output.name) else None
        if not findings.same(f"{where}: a file", expected is not None, bool(output.label_filename)):
            continue
        if expected is None:
            continue
        try:
            lines = (folder / output.label_filename).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            findings.problems.append(f"{where} cannot be read: {error}")
            continue
        findings.same(where, list(expected), lines)
        findings.same(f"{where}: how many numbers they name", len(lines), int(output.dims[-1]))


def _check_warm_up(bundle: Bundle, folder: Path, config: Config, stage: str, findings: _Findings) -> None:
    inputs, _ = stage_tensors(bundle.manifest.model)[stage]
    findings.same(f"{config.name}: samples to warm up with", 1, len(config.model_warmup))
    for sample in config.model_warmup:
        findings.same(f"{config.name}: batch of what is warmed up with", 1, sample.batch_size)
        findings.same(
            f"{config.name}: what is warmed up with", {spec.name for spec in inputs}, set(sample.inputs)
        )
        for spec in inputs:
            if spec.name not in sample.inputs:
                continue
            given, where = sample.inputs[spec.name], f"{config.name}: warm-up of {spec.name}"
            dims = tuple(given.dims)
            fits = len(dims) == len(dims_of(spec)) and all(
                n >= 1 and wanted in (-1, n) for n, wanted in zip(dims, dims_of(spec), strict=True)
            )
            findings.same(f"{where}: sizes that fit", True, fits)
            findings.same(f"{where}: type", TYPES[spec.dtype], given.data_type)
            findings.same(f"{where}: file", warm_up_file(spec.name), given.input_data_file)
            file = folder / "warmup" / warm_up_file(spec.name)
            size = file.stat().st_size if file.is_file() else None
            findings.same(f"{where}: bytes", n_bytes(spec.dtype, dims), size)


# -- what the files are ----------------------------------------------------------------------------


def _check_file(bundle: Bundle, file: Path, config: Config, stage: str, findings: _Findings) -> None:
    data, where = file.read_bytes(), f"{config.name}: {VERSION}/{file.name}"
    if config.platform != "onnxruntime_onnx":
        findings.same(f"{where}: not empty", True, bool(data))
        return
    entry = _entry(bundle, config, stage)
    if entry is not None:
        findings.same(f"{where}: sha256", entry.sha256, hashlib.sha256(data).hexdigest())
    elif stage != STREAM:
        findings.problems.append(f"{where}: the bundle has no precision {_parameter(config, 'precision')!r}")
    try:
        inspect_onnx(data, where)
        graph = onnx.load_from_string(data).graph
    except Exception as error:  # protobuf and onnx raise unrelated types
        findings.problems.append(f"{where} is no ONNX file that fits: {error}")
        return
    batching = config.sequence_batching
    inputs, outputs = _declared(config.input), _declared(config.output)
    for state in batching.state:
        kind = (NUMPY_OF.get(state.data_type, ""), tuple(state.dims))
        inputs[state.input_name], outputs[state.output_name] = kind, kind
    inputs |= {one.name: ("bool", (1,)) for one in batching.control_input}
    for what, values, expected in (("inputs", graph.input, inputs), ("outputs", graph.output, outputs)):
        _compare_graph(f"{where}: {what}", values, expected, findings)


def _entry(bundle: Bundle, config: Config, stage: str) -> FileEntry | None:
    candidate = bundle.manifest.candidates.get(_parameter(config, "precision"))
    if candidate is None or stage not in candidate.stages:
        return None
    return bundle.manifest.files[candidate.stages[stage]]


def _compare_graph(where: str, values: Sequence[Any], expected: Shapes, findings: _Findings) -> None:
    found: Shapes = {}
    for value in values:
        first, *sizes = value.type.tensor_type.shape.dim or [None]
        is_free = first is not None and bool(first.dim_param)
        findings.same(f"{where}: {value.name}: a free batch axis", True, is_free)
        kind = _ONNX_TYPES.get(value.type.tensor_type.elem_type, "")
        found[value.name] = (kind, tuple(-1 if one.dim_param else int(one.dim_value) for one in sizes))
    if findings.same(where, sorted(expected), sorted(found)):
        for name in expected:
            findings.same(f"{where}: {name}", expected[name], found[name])


# -- what the streaming model computes -------------------------------------------------------------


def _check_numbers(bundle: Bundle, folder: Path, by_stage: Mapping[str, Config], findings: _Findings) -> None:
    """On a full window, the streaming model against the fusion's own file of the same candidate.

    Only where a processor runs the candidate rightly.
    """
    config = by_stage[STREAM]
    precision = _parameter(config, "precision")
    if precision.partition("+")[0] not in ("fp32", "int8-cpu"):
        return
    model, fusion = bundle.manifest.model, bundle.manifest.model.fusion
    window = {name: np.asarray(values)[None] for name, values in golden_inputs(bundle)[fusion.stage].items()}
    try:
        stream = _session((folder / config.name / VERSION / "model.onnx").read_bytes())
        expected = _named(_session(bundle.read_stage(precision, fusion.stage)), window)
        found = _streamed(bundle, stream, window)
    except EdgeMerError:
        raise
    except Exception as error:  # ONNX Runtime raises a dozen unrelated types
        findings.problems.append(f"{config.name} does not run: {error}")
        return
    findings.same(
        f"{config.name}: steps that it counts",
        max(fusion.n_steps, fusion.hop),
        int(found[N_STEPS_SEEN].item()),
    )
    for spec, output in zip(fusion.outputs, model.outputs, strict=True):
        most = model.tolerances.parity * bundle.manifest.golden.deviation[output.name]
        value = np.asarray(spec.step_of(expected[spec.name][0], -1)).reshape(-1)
        off = float(np.abs(found[spec.name].reshape(-1) - value).max())
        findings.n_checks += 1
        if not off <= most:
            findings.problems.append(f"{config.name}: {spec.name} is off by {off:g}, {most:g} is allowed")


def _session(data: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _named(session: Any, feed: Mapping[str, Any]) -> dict[str, Any]:
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


def _streamed(bundle: Bundle, session: Any, window: Mapping[str, Any]) -> dict[str, Any]:
    """The last hop of a window, on rings that hold the window of one hop before, and are turned around.

    So each number must be moved to its place, and what is dropped is not what comes in by chance.
    """
    edges, fusion = stream_edges(bundle.manifest.model), bundle.manifest.model.fusion
    hop = min(fusion.hop, fusion.n_steps)
    states = {
        edge.name: np.roll(window[edge.name.removeprefix(RING)], hop, axis=_axis(edge.dtype))
        for edge in edges.states
        if edge.name != N_STEPS
    }
    states[N_STEPS] = np.array([[fusion.n_steps - hop]], np.int64)
    newest = {edge.name: _last(window[edge.name], fusion.hop, _axis(edge.dtype)) for edge in edges.inputs}
    return _named(session, {**newest, **states, START: np.array([[hop == fusion.n_steps]])})


def _last(values: Any, hop: int, axis: int) -> Any:
    """The last steps, without an axis for them where they are one; what a hop has more comes first."""
    places = np.arange(values.shape[axis] - hop, values.shape[axis])
    taken = np.take(values, np.maximum(places, 0), axis=axis)
    return taken if hop > 1 else np.squeeze(taken, axis=axis)


def _axis(dtype: str) -> int:
    """Along which the steps lie."""
    return 2 if dtype == "bool" else 1

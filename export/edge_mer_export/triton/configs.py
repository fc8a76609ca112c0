"""What `config.pbtxt` says of each model, as Triton's own messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

import edge_mer
from edge_mer.bundle.read import Bundle
from edge_mer.runtime.target_tensorrt import stage_tensors
from edge_mer.types.model import Encoder, TensorSpec
from edge_mer_export.triton.names import PARAMETER, START, STREAM, labels_file, model_name, warm_up_file
from edge_mer_export.triton.options import Options
from edge_mer_export.triton.stages import StageFile
from edge_mer_export.triton.stream_graph import Edge, is_withheld_early, next_name, stream_edges
from edge_mer_export.triton.warm_up import Array

Config = Any
"""`ModelConfig`; Triton's client ships no types."""

TYPES = {"float32": pb.TYPE_FP32, "int64": pb.TYPE_INT64, "bool": pb.TYPE_BOOL}
NUMPY_OF = {number: name for name, number in TYPES.items()}


def written(config: Config) -> str:
    """A configuration as the text that Triton reads."""
    return str(text_format.MessageToString(config))


def stage_config(
    bundle: Bundle, stage: str, file: StageFile, options: Options, golden: Mapping[str, Array]
) -> Config:
    """A stage without memory: requests are worked on together, and any instance takes them.

    Args:
        bundle: Declares the stage.
        stage: Its name.
        file: What runs.
        options: What a user said.
        golden: Input -> numbers to warm up with, without a batch axis.
    """
    model = bundle.manifest.model
    inputs, outputs = stage_tensors(model)[stage]
    config = _begun(bundle, stage, file, options)
    if file.profile is not None:
        for group in config.instance_group:
            group.profile.append(str(file.profile))
    for spec in inputs:
        _add(config.input, spec.name, spec.dtype, dims_of(spec))
    for spec in outputs:
        _add(config.output, spec.name, spec.dtype, dims_of(spec))
    if stage == model.fusion.stage:
        # Triton counts an output's numbers through: where it has several steps, names would not fit
        for spec, output in zip(outputs, config.output, strict=True):
            if spec.name in labels(bundle) and "steps" not in spec.axes:
                output.label_filename = labels_file(spec.name)
    if file.max_batch > 1:
        config.dynamic_batching.preferred_batch_size.extend(_preferred(file.max_batch))
        config.dynamic_batching.max_queue_delay_microseconds = options.max_queue_delay_us
    sample = config.model_warmup.add(name="golden", batch_size=1)
    for spec in inputs:
        given = sample.inputs[spec.name]
        given.data_type = TYPES[spec.dtype]
        given.dims.extend(golden[spec.name].shape)
        given.input_data_file = warm_up_file(spec.name)
    encoder = next((one for one in model.encoders if one.stage == stage), None)
    _tell(config, {} if encoder is None else _of_encoder(encoder))
    return config


def stream_config(bundle: Bundle, file: StageFile, options: Options) -> Config:
    """The streaming model: a sequence of requests is one person, and the server keeps their window.

    Requests of the sequences that are there are put into one batch ("oldest"): persons come at times of their
    own, and a slot per person ("direct") would compute empty slots and let those wait who are one too many.
    """
    config = _begun(bundle, STREAM, file, options)
    edges, named = stream_edges(bundle.manifest.model), labels(bundle)
    for edge in edges.inputs:
        _add(config.input, edge.name, edge.dtype, edge.dims)
    for edge in edges.outputs:
        _add(config.output, edge.name, edge.dtype, edge.dims)
        if edge.name in named:
            config.output[-1].label_filename = labels_file(edge.name)
    batching = config.sequence_batching
    batching.max_sequence_idle_microseconds = round(options.max_sequence_idle_s * 1e6)
    batching.oldest.max_candidate_sequences = options.max_sequences
    if file.max_batch > 1:
        batching.oldest.preferred_batch_size.extend(_preferred(file.max_batch))
        batching.oldest.max_queue_delay_microseconds = options.max_queue_delay_us
    control = batching.control_input.add(name=START).control.add()
    control.kind = pb.ModelSequenceBatching.Control.CONTROL_SEQUENCE_START
    control.bool_false_true.extend([False, True])
    for edge in edges.states:
        _add_state(batching, edge)
    _tell(config, _of_stream(bundle))
    return config


def labels(bundle: Bundle) -> dict[str, tuple[str, ...]]:
    """Output tensor -> names of its numbers, where they have names."""
    model = bundle.manifest.model
    found = {}
    for spec, output in zip(model.fusion.outputs, model.outputs, strict=True):
        if output.kind == "pain":
            found[spec.name] = output.levels
        elif output.kind == "emotion":
            found[spec.name] = output.labels
    return found


def dims_of(spec: TensorSpec) -> tuple[int, ...]:
    """Sizes without the batch axis; -1 where they are free."""
    return tuple(size if isinstance(size, int) else -1 for size in spec.shape[1:])


def _begun(bundle: Bundle, stage: str, file: StageFile, options: Options) -> Config:
    model = bundle.manifest.model
    config = pb.ModelConfig(
        name=model_name(options.name or model.name, stage),
        platform=file.platform,
        max_batch_size=file.max_batch,
        default_model_filename=file.file_name,
    )
    config.version_policy.latest.num_versions = 1
    # what ONNX Runtime runs beside TensorRT's plans may be on the GPU too
    for one in options.processors:
        kind = pb.ModelInstanceGroup.KIND_GPU if one.processor == "gpu" else pb.ModelInstanceGroup.KIND_CPU
        config.instance_group.add(kind=kind, count=one.count)
    fusion = model.fusion
    told = {
        "version": edge_mer.__version__,
        "bundle_id": bundle.bundle_id,
        "model": model.name,
        "stage": stage,
        "precision": file.precision,
        "step_s": str(model.step),
        "hop_steps": str(fusion.hop),
        "window_steps": str(fusion.n_steps),
        "latency_s": str(model.latency),
        "warm_up": fusion.warm_up,
    }
    for spec, output in zip(fusion.outputs, model.outputs, strict=True):
        told[f"output_{spec.name}"] = json.dumps(output.model_dump(mode="json"), sort_keys=True)
    _tell(config, told)
    return config


def _of_encoder(encoder: Encoder) -> dict[str, str]:
    return {
        "modality": encoder.modality,
        "period_s": str(encoder.period),
        "span_s": str(encoder.span),
        "offset_s": str(encoder.offset),
        "repeat": str(encoder.repeat),
    }


def _of_stream(bundle: Bundle) -> dict[str, str]:
    model = bundle.manifest.model
    told = {
        "modalities": " ".join(model.modalities),
        "before_full": "nan" if is_withheld_early(model) else model.fusion.warm_up,
    }
    for encoder in model.encoders:
        told[f"missing_{encoder.modality}"] = encoder.missing or "abstain"
        told[f"repeat_{encoder.modality}"] = str(encoder.repeat)
    return told


def _tell(config: Config, told: Mapping[str, str]) -> None:
    for key, value in told.items():
        config.parameters[f"{PARAMETER}{key}"].string_value = value


def _add(tensors: Any, name: str, dtype: str, dims: Sequence[int]) -> None:
    made = tensors.add(name=name, data_type=TYPES[dtype], dims=dims or (1,))
    if not dims:
        made.reshape.SetInParent()


def _add_state(batching: Any, edge: Edge) -> None:
    state = batching.state.add(
        input_name=edge.name, output_name=next_name(edge.name), data_type=TYPES[edge.dtype], dims=edge.dims
    )
    state.initial_state.add(name="zero", data_type=TYPES[edge.dtype], dims=edge.dims, zero_data=True)


def _preferred(max_batch: int) -> Iterable[int]:
    """Half and full: whatever waits longer than the delay goes as it is."""
    return sorted({max(1, max_batch // 2), max_batch})

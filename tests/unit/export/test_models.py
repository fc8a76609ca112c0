"""The model zoo: parity with the published modules, semantics of `present`, folding, export to ONNX."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
onnx = pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

import onnxruntime as ort
from torch import Tensor, nn

from edge_mer.errors import UsageError
from edge_mer.types.model import ModelSpec, TensorSpec
from edge_mer_export.checkpoint import CheckpointReport, import_model
from edge_mer_export.models.batchnorm import fold_batchnorm
from edge_mer_export.models.jmt import Attention, JointMultimodalTransformer
from edge_mer_export.models.zoo import ZooModel, build, system
from tests.helpers import parity as recorded
from tests.helpers.parity import deviation_error

pytestmark = pytest.mark.workbench

LIVE, DEAD = 11_170_818, 40_922_624
ENCODER_OPS = {"Conv", "Relu", "Add", "MaxPool", "ReduceMax", "ReduceMean"}
STAGES = [
    ("jmt-tiny", "visual"),
    ("jmt-tiny", "audio"),
    ("jmt-tiny", "fusion"),
    *(pytest.param("jmt", stage, marks=pytest.mark.slow) for stage in ("visual", "audio", "fusion")),
]
FUSION_OPS = {
    *("MatMul", "Softmax", "LayerNormalization", "Add", "Mul", "Div", "Relu", "ReduceL2", "Clip"),
    *("Concat", "Transpose", "Unsqueeze", "Squeeze", "Slice", "Gather", "Where"),
}


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


def vary(module: nn.Module, gain: float, seed: int = 0) -> nn.Module:
    """Give `module` weights with which its outputs depend on its inputs, as trained ones do."""
    generator = torch.Generator().manual_seed(seed)
    state = module.state_dict()
    for key, value in state.items():
        if not value.is_floating_point():
            state[key] = torch.zeros_like(value)
            continue
        noise = torch.randn(value.shape, generator=generator)
        if key.endswith("running_var"):
            noise = 0.5 + noise.abs()
        elif value.dim() >= 2:
            noise = noise * gain / value[0].numel() ** 0.5
        else:
            noise = 0.1 * noise + (1.0 if key.endswith("weight") else 0.0)
        state[key] = noise
    module.load_state_dict(state)
    return module.eval()


@functools.cache
def declared(name: str) -> ZooModel:
    """A model without numbers: its declaration, sizes and shapes."""
    with torch.device("meta"):
        return build(name)


@functools.cache
def varied(name: str, stage: str) -> nn.Module:
    """A stage whose outputs vary; shared by the tests, which leave it as it is."""
    with torch.device("meta"):
        module = build(name).stages[stage]
    return vary(module.to_empty(device="cpu"), gain=5.0 if stage == "fusion" else 1.0)


def inputs_of(spec: ModelSpec, stage: str) -> tuple[TensorSpec, ...]:
    by_stage = {encoder.stage: (encoder.input,) for encoder in spec.encoders}
    return by_stage.get(stage, spec.fusion.inputs)


def outputs_of(spec: ModelSpec, stage: str) -> tuple[TensorSpec, ...]:
    by_stage = {encoder.stage: (encoder.output,) for encoder in spec.encoders}
    return by_stage.get(stage, spec.fusion.outputs)


def random_inputs(spec: ModelSpec, stage: str, batch: int, seed: int = 1, steps: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for tensor in inputs_of(spec, stage):
        noise = torch.randn(tensor.concrete(batch=batch, steps=steps), generator=generator)
        tensors.append(noise > -0.5 if tensor.dtype == "bool" else noise)
    return tensors


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


# parity with the published modules


@pytest.fixture(scope="module")
def parity() -> Callable[[str], tuple[dict[str, Any], dict[str, Tensor]]]:
    """A parity case by name: its description and its arrays."""
    return lambda name: (recorded.description(name), recorded.arrays(name))


@pytest.fixture(scope="module")
def imported(
    parity: Callable[[str], tuple[dict[str, Any], dict[str, Tensor]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[ZooModel, CheckpointReport]:
    """The paper's model with the cases' weights, through files as a user would have them."""
    folder = tmp_path_factory.mktemp("SavedWeights")
    files = {
        "fusion_w.pt": ("jmt_self_atten", ""),
        "vision_r2d1.pt": ("bb_r2plus1d18_clip8x112", "module.r2plus1d."),
        "audio_resnet18.pt": ("bb_audio_resnet18_1ch", "resnet."),
    }
    for file, (name, prefix) in files.items():
        torch.save({prefix + key: value for key, value in recorded.state(name).items()}, folder / file)
    imported = import_model(system("jmt"), [folder])
    for file in files:
        (folder / file).unlink()
    return imported.model, imported.report


def test_fusion_computes_what_the_published_one_does(parity: Any, imported: Any) -> None:
    description, arrays = parity("jmt_self_atten")
    fusion = imported[0].stages["fusion"]
    with torch.inference_mode():
        valence, arousal = fusion(arrays["in_audio"], arrays["in_visual"])
        fused = fusion.fuse(arrays["in_audio"], arrays["in_visual"])
    tolerance = description["tolerance"]
    assert deviation_error(valence, arrays["out_valence"]) < tolerance
    assert deviation_error(arousal, arrays["out_arousal"]) < tolerance
    assert deviation_error(fused, arrays["out_fused"]) < tolerance


def test_a_wrong_fusion_is_seen(parity: Any, imported: Any) -> None:
    description, arrays = parity("jmt_self_atten")
    fusion, tolerance = imported[0].stages["fusion"], description["tolerance"]
    visual, audio = arrays["in_visual"], arrays["in_audio"]
    other_person = torch.cat([visual[:, :-1], visual[:, :1]], dim=1)
    wrong = {
        "modalities swapped": (visual, audio),
        "ring shifted by a step": (audio, visual.roll(1, dims=1)),
        "last step of another person": (audio, other_person),
    }
    for name, tensors in wrong.items():
        with torch.inference_mode():
            valence, arousal = fusion(*tensors)
        assert deviation_error(valence, arrays["out_valence"]) > 10 * tolerance, name
        assert deviation_error(arousal, arrays["out_arousal"]) > 10 * tolerance, name


def test_visual_encoder_computes_what_the_published_one_does(parity: Any, imported: Any) -> None:
    description, arrays = parity("bb_r2plus1d18_clip8x112")
    visual, maps = imported[0].stages["visual"], []
    hook = visual.r2d1.r2plus1d.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    with torch.inference_mode():
        feature = visual(arrays["in_clip"])
    hook.remove()
    assert deviation_error(maps[0], arrays["out_spatial"]) < description["tolerance"]
    assert deviation_error(feature, arrays["out_max512"]) < description["tolerance"]


def test_audio_encoder_computes_what_the_published_one_does(parity: Any, imported: Any) -> None:
    description, arrays = parity("bb_audio_resnet18_1ch")
    with torch.inference_mode():
        feature = imported[0].stages["audio"](arrays["in_logmel"])
    assert deviation_error(feature, arrays["out_feat512"]) < description["tolerance"]


def test_import_reports_what_it_dropped(parity: Any, imported: Any) -> None:
    _, report = imported
    fusion, visual, audio = report.files
    assert (fusion.n_params, fusion.n_params_dead) == (LIVE + DEAD, DEAD)
    assert (visual.n_params, visual.n_params_dead) == (31_505_325, 205_200)
    assert (audio.n_params, audio.n_params_dead) == (11_170_240, 0)
    assert report.dropped == ("mm_transformer.final_encoder.*", "r2plus1d.fc.*")


# sizes and declarations


def n_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_paper_model_has_the_papers_sizes() -> None:
    sizes = {stage: n_params(module) for stage, module in declared("jmt").stages.items()}
    assert sizes == {"visual": 31_505_325 - 205_200, "audio": 11_170_240, "fusion": LIVE}


def test_tiny_model_is_about_a_million() -> None:
    sizes = [n_params(module) for module in declared("jmt-tiny").stages.values()]
    assert 0.9e6 < sum(sizes) < 1.2e6
    assert min(sizes) > 0.1e6


@pytest.mark.parametrize("name", ["jmt", "jmt-tiny"])
def test_stages_return_what_their_spec_declares(name: str) -> None:
    model = declared(name)
    for stage, module in model.stages.items():
        inputs = [tensor.to("meta") for tensor in random_inputs(model.spec, stage, batch=1)]
        shapes = [tuple(output.shape) for output in as_tuple(module(*inputs))]
        assert shapes == [tensor.concrete(batch=1, steps=16) for tensor in outputs_of(model.spec, stage)], (
            stage
        )


@pytest.mark.parametrize("name", ["jmt", "jmt-tiny"])
def test_spectrogram_width_is_that_of_the_span(name: str) -> None:
    (encoder,) = (one for one in declared(name).spec.encoders if one.modality == "audio")
    front_end = encoder.preprocess
    assert front_end.width == int(encoder.span * front_end.rate_hz) // front_end.hop_samples + 1


def test_clip_lies_within_its_span() -> None:
    for name in ("jmt", "jmt-tiny"):
        (encoder,) = (one for one in declared(name).spec.encoders if one.modality == "visual")
        clip = encoder.preprocess
        first = encoder.span - clip.last_frame_before_end - (clip.n_frames - 1) * clip.frame_interval
        assert 0 <= first < clip.frame_interval


def test_unknown_model_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean jmt-tiny"):
        build("jmt-tny")


def test_state_dict_names_its_stages_and_comes_back() -> None:
    model, other = build("jmt-tiny"), build("jmt-tiny")
    for module in model.stages.values():
        vary(module, gain=1.0)
    state = model.state_dict()
    assert {"visual.r2plus1d.stem.0.weight", "audio.resnet.conv1.weight", "fusion.absent_tokens"} <= set(
        state
    )
    assert state["fusion.mm_transformer.cross_attention_v.in_proj_weight"].shape == (240, 80)
    other.load_state_dict(state)
    for key, value in other.state_dict().items():
        assert torch.equal(value, state[key]), key


# the computation


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_is_pytorchs(heads: int) -> None:
    reference = nn.MultiheadAttention(32, heads, batch_first=True).eval()
    ours = Attention(32, heads)
    ours.load_state_dict(vary(reference, gain=3.0).state_dict())
    query, memory = torch.randn(3, 5, 32), torch.randn(3, 7, 32)
    with torch.inference_mode():
        expected = reference(query, memory, memory, need_weights=False)[0]
        assert deviation_error(ours(query, memory), expected) < 1e-5
    assert set(ours.state_dict()) == set(reference.state_dict())


def test_heads_must_divide_the_feature() -> None:
    with pytest.raises(ValueError, match="do not divide"):
        Attention(32, 5)


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_rows_do_not_depend_on_their_batch(name: str, stage: str) -> None:
    module, inputs = varied(name, stage), random_inputs(declared(name).spec, stage, batch=3)
    with torch.inference_mode():
        together = as_tuple(module(*inputs))
        alone = as_tuple(module(*(tensor[1:2] for tensor in inputs)))
    for whole, row in zip(together, alone, strict=True):
        assert deviation_error(row, whole[1:2]) < 1e-4
        assert deviation_error(whole[:1], whole[1:2]) > 0.1, "outputs must depend on inputs"


def test_steps_are_free() -> None:
    for steps in (1, 5, 16):
        inputs = random_inputs(declared("jmt").spec, "fusion", batch=2, steps=steps)
        with torch.inference_mode():
            valence, arousal = varied("jmt", "fusion")(*inputs)
        assert valence.shape == arousal.shape == (2, steps)


# what is absent


def fuse_tiny(visual: Tensor, audio: Tensor, present: Tensor | None) -> Tensor:
    with torch.inference_mode():
        outputs: Tensor = torch.stack(varied("jmt-tiny", "fusion")(visual, audio, present))
    return outputs


@pytest.mark.parametrize(("row", "name"), [(0, "visual"), (1, "audio")])
def test_an_absent_steps_content_is_unseen(row: int, name: str) -> None:
    spec = declared("jmt-tiny").spec
    visual, audio, _ = random_inputs(spec, "fusion", batch=2)
    present = torch.ones(2, 2, 8, dtype=torch.bool)
    everything = fuse_tiny(visual, audio, present)
    assert torch.equal(everything, fuse_tiny(visual, audio, None))

    present[0, row, 3] = False
    before = fuse_tiny(visual, audio, present)
    changed = {"visual": visual, "audio": audio}
    changed[name] = changed[name].clone()
    changed[name][0, 3] = float("nan")
    after = fuse_tiny(changed["visual"], changed["audio"], present)
    assert torch.equal(before, after)
    assert deviation_error(before[0, 0], everything[0, 0]) > 0.1, "the token differs from the feature"
    assert deviation_error(before[:, 1:], everything[:, 1:]) < 1e-4, "another row keeps its own"


@pytest.mark.parametrize("name", ["visual", "audio"])
def test_a_present_steps_content_counts(name: str) -> None:
    spec = declared("jmt-tiny").spec
    visual, audio, _ = random_inputs(spec, "fusion", batch=1)
    present = torch.ones(1, 2, 8, dtype=torch.bool)
    changed = {"visual": visual, "audio": audio}
    changed[name] = changed[name].clone()
    changed[name][0, 3] = changed[name][0, 4]
    before = fuse_tiny(visual, audio, present)
    after = fuse_tiny(changed["visual"], changed["audio"], present)
    assert deviation_error(after[0], before[0]) > 0.1
    assert deviation_error(after[1], before[1]) > 0.1


def test_nothing_present_is_finite_and_alike_at_every_step() -> None:
    visual, audio, _ = random_inputs(declared("jmt-tiny").spec, "fusion", batch=1)
    outputs = fuse_tiny(visual, audio, torch.zeros(1, 2, 8, dtype=torch.bool))
    assert torch.isfinite(outputs).all()
    assert torch.allclose(outputs, outputs[..., :1].expand_as(outputs), rtol=1e-4)


def test_tokens_learn_only_where_something_is_absent() -> None:
    model = JointMultimodalTransformer(16, 16, head_width=8, present_input=True)
    present = torch.ones(1, 2, 4, dtype=torch.bool)
    present[0, 1, 2] = False  # of the visual modality, which is second here
    valence, arousal = model(torch.randn(1, 4, 16), torch.randn(1, 4, 16), present)
    (valence.sum() + arousal.sum()).backward()
    assert model.absent_tokens is not None
    assert model.absent_tokens.grad is not None
    audio_grad, visual_grad = model.absent_tokens.grad
    assert not audio_grad.any()
    assert visual_grad.any()


def test_present_is_refused_by_a_model_without_it() -> None:
    model = JointMultimodalTransformer(16, 16)
    with pytest.raises(ValueError, match="present_input=True"):
        model(torch.randn(1, 4, 16), torch.randn(1, 4, 16), torch.ones(1, 2, 4, dtype=torch.bool))


# folding


@pytest.mark.parametrize("stage", ["visual", "audio"])
def test_folded_batchnorm_gives_the_same_numbers(stage: str) -> None:
    module = varied("jmt-tiny", stage)
    inputs = random_inputs(declared("jmt-tiny").spec, stage, batch=4)
    folded = fold_batchnorm(module)
    norms = (nn.BatchNorm2d, nn.BatchNorm3d)
    assert not any(isinstance(part, norms) for part in folded.modules())
    assert any(isinstance(part, norms) for part in module.modules()), "the module itself is left as it is"
    with torch.inference_mode():
        assert deviation_error(folded(*inputs), module(*inputs)) < 1e-5


def test_folding_a_module_without_batchnorm_copies_it() -> None:
    fusion = varied("jmt-tiny", "fusion")
    inputs = random_inputs(declared("jmt-tiny").spec, "fusion", batch=2)
    folded = fold_batchnorm(fusion)
    with torch.inference_mode():
        before = fusion(*inputs)
        for parameter in folded.parameters():
            parameter.mul_(0)
        assert all(torch.equal(a, b) for a, b in zip(before, fusion(*inputs), strict=True))


def test_folding_needs_evaluation_mode() -> None:
    with pytest.raises(ValueError, match="evaluation mode"):
        fold_batchnorm(build("jmt-tiny").train().stages["audio"])


# export


def export(name: str, stage: str, path: Path) -> Any:
    spec = declared(name).spec
    dims = {
        "batch": torch.export.Dim("batch", min=1, max=64),
        "steps": torch.export.Dim("steps", min=1, max=64),
    }
    shapes = tuple(
        {axis: dims[size] for axis, size in enumerate(tensor.shape) if isinstance(size, str)}
        for tensor in inputs_of(spec, stage)
    )
    program = torch.onnx.export(
        fold_batchnorm(varied(name, stage)),
        tuple(random_inputs(spec, stage, batch=2)),
        dynamo=True,
        opset_version=20,
        dynamic_shapes=shapes,
        input_names=[tensor.name for tensor in inputs_of(spec, stage)],
        output_names=[tensor.name for tensor in outputs_of(spec, stage)],
        verbose=False,
    )
    program.save(path)
    return onnx.load(path)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_stage_exports_to_plain_onnx(name: str, stage: str, tmp_path: Path) -> None:
    spec, proto = declared(name).spec, export(name, stage, tmp_path / "stage.onnx")
    ops = Counter(node.op_type for node in proto.graph.node)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 20)]
    assert ops.keys() <= (FUSION_OPS if stage == "fusion" else ENCODER_OPS), ops
    constants = {tensor.name for tensor in proto.graph.initializer}
    products = [node for node in proto.graph.node if node.op_type in {"MatMul", "Conv"}]
    n_unweighted = sum(1 for node in products if node.input[1] not in constants)
    assert n_unweighted == 2 * ops["Softmax"], "only Q K^T and its product with V lack constant weights"

    batch, steps = 3, 5
    inputs = random_inputs(spec, stage, batch, steps=steps)
    session = ort.InferenceSession(tmp_path / "stage.onnx", providers=["CPUExecutionProvider"])
    feed = {tensor.name: value.numpy() for tensor, value in zip(inputs_of(spec, stage), inputs, strict=True)}
    with torch.inference_mode():
        right = as_tuple(varied(name, stage)(*inputs))
    for found, expected in zip(session.run(None, feed), right, strict=True):
        assert deviation_error(found, expected) < 1e-4

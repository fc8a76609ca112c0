"""Variants of the joint multimodal transformer: parity with the published ones, sizes, export."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from edge_mer_export.models.jmt import (
    DEAD_KEYS,
    VANILLA_DEAD_KEYS,
    AffectFusion,
    Attention,
    FeatureConcat,
    JointFcTransformer,
    JointMultimodalTransformer,
    VanillaTransformer,
    jmt_fusion_like,
)
from tests.helpers import parity
from tests.helpers.networks import check_export, check_rows, load_case, run, shapes_of, vary
from tests.helpers.parity import deviation_error

pytestmark = pytest.mark.workbench

CASES = {
    "jmt_self_atten_h4_l2": (JointMultimodalTransformer, DEAD_KEYS, 4),
    "jmt_fc": (JointFcTransformer, DEAD_KEYS, 1),
    "jmt_fc_h4": (JointFcTransformer, DEAD_KEYS, 4),
    "jmt_vanilla": (VanillaTransformer, VANILLA_DEAD_KEYS, 1),
    "jmt_concat": (FeatureConcat, (), 1),
}
KINDS = (JointMultimodalTransformer, JointFcTransformer, VanillaTransformer, FeatureConcat)
SIZES = {"d_model": 12, "d_ff": 20, "heads": 2, "head_width": 7}
VARIANTS = ("joint", "joint_fc", "vanilla", "concat", "narrowed")
RECORDED = ("joint", "joint_fc", "vanilla")
"""Published checkpoints of these go through the command line in tests/e2e, at full size."""


def build(variant: str, n_layers: int = 1) -> AffectFusion:
    """A small network of the variant."""
    torch.manual_seed(0)
    sizes = SIZES | {"n_layers": n_layers}
    match variant:
        case "joint":
            return JointMultimodalTransformer(**sizes).eval()
        case "joint_fc":
            return JointFcTransformer(**sizes, fused=18).eval()
        case "vanilla":
            return VanillaTransformer(**sizes).eval()
        case "concat":
            return FeatureConcat(12, 7).eval()
    return FeatureConcat(12, 7, visual_size=16).eval()


def inputs(variant: str, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(batch, 5, 12), torch.randn(batch, 5, 16 if variant == "narrowed" else 12)


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_the_published_one_does(name: str) -> None:
    kind, dead, heads = CASES[name]
    arrays, tolerance = parity.arrays(name), parity.description(name)["tolerance"]
    module = jmt_fusion_like(parity.shapes(name), heads)
    assert type(module) is kind
    load_case(module, name, dead)
    outputs = run(module, arrays["in_audio"], arrays["in_visual"])
    swapped = run(module, arrays["in_visual"], arrays["in_audio"])
    for i, key in enumerate(("out_valence", "out_arousal")):
        right = arrays[key]
        if kind is JointFcTransformer:
            right = right.transpose(0, 1)
        assert deviation_error(outputs[i], right) < tolerance
        assert deviation_error(swapped[i], right) > 10 * tolerance


@pytest.mark.parametrize("name", CASES)
def test_dead_keys_are_those_that_reach_no_output(name: str) -> None:
    content = parity.description(name)
    with torch.device("meta"):
        module = jmt_fusion_like(parity.shapes(name))
    live = sum(parameter.numel() for parameter in module.parameters())
    assert live == content["params"] - content["dead_params"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_come_from_shapes(variant: str) -> None:
    module = build(variant, n_layers=2)
    other = jmt_fusion_like(shapes_of(module), num_heads=2)
    assert type(other) is type(module)
    assert shapes_of(other) == shapes_of(module)


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrowing_layer_comes_from_shapes(kind: type[AffectFusion]) -> None:
    with torch.device("meta"):
        shapes = shapes_of(kind(visual_size=768))
        assert shapes["linear.weight"] == (512, 768)
        assert shapes_of(jmt_fusion_like(shapes)) == shapes


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_that_cannot_be_read_are_as_published(kind: type[AffectFusion]) -> None:
    with torch.device("meta"):
        published = shapes_of(kind())
        wrong = {key: (3,) for key in published}
        assert shapes_of(jmt_fusion_like(wrong)) == published
        assert shapes_of(kind.like({})) == published


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_do_not_depend_on_their_batch(variant: str) -> None:
    check_rows(vary(build(variant)), *inputs(variant, 3))


@pytest.mark.parametrize(
    "variant",
    [pytest.param(one, marks=pytest.mark.slow) if one in RECORDED else one for one in VARIANTS],
)
def test_export_computes_the_same(variant: str) -> None:
    visual_size = 16 if variant == "narrowed" else 12
    features = {"audio": ("batch", "steps", 12), "visual": ("batch", "steps", visual_size)}
    targets = {"valence": ("batch", "steps"), "arousal": ("batch", "steps")}
    operators = check_export(build(variant), features, targets)
    n_softmax = {"joint": 8, "joint_fc": 6, "vanilla": 2}.get(variant, 0)  # encoders and cross-attentions
    assert operators.count("Softmax") == n_softmax


def test_steps_see_each_other_in_the_cross_attentions_only() -> None:
    module = vary(build("vanilla"))
    audio, visual = inputs("vanilla", 1)
    other = audio.clone()
    other[:, 0] = torch.randn(12)
    assert (run(module, audio, visual)[0] != run(module, other, visual)[0]).all()
    encoder = module.mm_transformer.visual_encoder
    assert torch.allclose(run(encoder, visual)[0][:, :1], run(encoder, visual[:, :1])[0], atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_present_is_refused(variant: str) -> None:
    with pytest.raises(ValueError, match="no `present` input"):
        build(variant)(*inputs(variant, 1), torch.ones(1, 2, 5, dtype=torch.bool))


@pytest.mark.parametrize("heads", [1, 3])
def test_attention_to_one_key_ignores_the_query(heads: int) -> None:
    attention, memory = Attention(12, heads), torch.randn(4, 1, 12)
    assert torch.allclose(
        attention(torch.randn(4, 5, 12), memory)[:, 2:3], attention.alone(memory), atol=1e-6
    )


def test_narrowing_comes_after_unit_length() -> None:
    module = build("narrowed")
    audio, visual = inputs("narrowed", 2)
    assert deviation_error(run(module, audio, 7 * visual)[0], run(module, audio, visual)[0]) < 1e-4

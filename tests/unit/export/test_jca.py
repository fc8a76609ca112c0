"""Joint cross-attention: parity with the published heads, their sizes and their export."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from torch import Tensor

from edge_mer.types.model import TensorSpec
from edge_mer_export.models.jca import BOTH_HEAD_DEAD_KEYS, VISUAL_HEAD_DEAD_KEYS, JointCrossAttention
from edge_mer_export.onnx_stage import check_values, export_stage
from tests.helpers import parity
from tests.helpers.parity import deviation_error

pytestmark = pytest.mark.workbench

CASES = {
    "jca_cvprw_cam_L8_visonly": VISUAL_HEAD_DEAD_KEYS,
    "jca_cvprw_cam_L8_head256": BOTH_HEAD_DEAD_KEYS,
    "jca_tbiom_cam_L16": VISUAL_HEAD_DEAD_KEYS,
    "jca_tbiom_cam512_L16": VISUAL_HEAD_DEAD_KEYS,
}
SMALL = {
    "two targets": {},
    "one target": {"two_targets": False},
    "without encoders": {"two_targets": False, "encoded": None},
    "both attended": {"two_targets": False, "attends_audio": True},
}


def build(variant: str) -> JointCrossAttention:
    torch.manual_seed(0)
    sizes = {"n_steps": 4, "feature": 12, "encoded": 6, "hidden": 5, "head_width": 7}
    return JointCrossAttention(**(sizes | SMALL[variant])).eval()


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def run(module: JointCrossAttention, audio: Tensor, visual: Tensor) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        return module(audio, visual)


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_the_published_one_does(name: str) -> None:
    arrays, dead = parity.arrays(name), CASES[name]
    module = JointCrossAttention.like(parity.shapes(name)).eval()
    assert shapes_of(module) == parity.shapes(name, dead)
    module.load_state_dict(parity.state(name, dead))
    outputs = run(module, arrays["in_audio"], arrays["in_visual"])
    expected = [value.squeeze(-1) for key, value in arrays.items() if key.startswith("out_")]
    tolerance = parity.description(name)["tolerance"]
    for found, right in zip(outputs, expected, strict=True):
        assert deviation_error(found, right) < tolerance
    swapped = run(module, arrays["in_visual"], arrays["in_audio"])
    assert deviation_error(swapped[0], expected[0]) > 10 * tolerance


@pytest.mark.parametrize("name", CASES)
def test_dead_keys_are_those_that_reach_no_output(name: str) -> None:
    content = parity.description(name)
    modules = {key.removesuffix(".weight") for key in CASES[name]}
    assert modules == content["dead_modules"].keys()
    live = sum(value.numel() for value in JointCrossAttention.like(parity.shapes(name)).parameters())
    assert live == content["params"] - content["dead_params"]


@pytest.mark.parametrize("variant", SMALL)
def test_sizes_come_from_shapes(variant: str) -> None:
    shapes = shapes_of(build(variant))
    assert shapes_of(JointCrossAttention.like(shapes)) == shapes


def test_sizes_that_cannot_be_read_are_as_published() -> None:
    published = shapes_of(JointCrossAttention())
    wrong = {key: (3,) for key in published}
    assert shapes_of(JointCrossAttention.like(wrong)) == published
    assert "regressor.0.weight" in shapes_of(JointCrossAttention.like({"regressor.0.bias": (128,)}))


@pytest.mark.parametrize("variant", SMALL)
def test_rows_do_not_depend_on_their_batch(variant: str) -> None:
    module, audio, visual = build(variant), torch.randn(3, 4, 12), torch.randn(3, 4, 12)
    together, alone = run(module, audio, visual), run(module, audio[1:2], visual[1:2])
    assert len(together) == (2 if variant == "two targets" else 1)
    for whole, row in zip(together, alone, strict=True):
        assert whole.shape == (3, 4)
        assert deviation_error(row, whole[1:2]) < 1e-4


@pytest.mark.parametrize("variant", SMALL)
def test_audio_counts(variant: str) -> None:
    module, audio, visual = build(variant), torch.randn(2, 4, 12), torch.randn(2, 4, 12)
    with_audio, without = run(module, audio, visual), run(module, torch.zeros(2, 4, 12), visual)
    assert deviation_error(without[0], with_audio[0]) > 1e-3


@pytest.mark.parametrize("variant", SMALL)
def test_export_computes_the_same(variant: str) -> None:
    module = build(variant)
    features = tuple(
        TensorSpec(name=name, axes=("batch", "step", "feature"), shape=("batch", 4, 12))
        for name in ("audio", "visual")
    )
    names = ("valence", "arousal") if variant == "two targets" else ("valence",)
    outputs = tuple(TensorSpec(name=name, axes=("batch", "step"), shape=("batch", 4)) for name in names)
    data = export_stage("fusion", module, features, outputs, 4)
    feeds = [{spec.name: torch.randn(batch, 4, 12).numpy() for spec in features} for batch in (1, 3)]
    assert check_values("fusion", data, module, features, outputs, feeds, 1e-4) < 1e-4

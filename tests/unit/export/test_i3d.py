"""Inflated Inception with its temporal network: parity with the published one, sizes and export."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
onnx = pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from torch import Tensor, nn

from edge_mer.types.model import TensorSpec
from edge_mer_export.models.i3d import DEAD_KEYS, I3D
from edge_mer_export.onnx_stage import check_values, export_stage
from tests.helpers import parity
from tests.helpers.parity import deviation_error

pytestmark = pytest.mark.workbench

CASES = {"i3d_tcn": True, "i3d_tcn_224": False}
PARAMS, DEAD, NORMS = 25_684_147, 1_067_411, 4_096
"""Numbers in the published module, those of its unused heads, and those that folding saves."""

ALIASES = ("temporal.network.*.net.*",)
MIXED = [(2, 3, 2, 3, 2, 2 + i % 2) for i in range(9)]


def imported(name: str) -> dict[str, Tensor]:
    """The weights of a case as an importer leaves them: no aliases, weight normalisation folded."""
    state = parity.state(name, (*DEAD_KEYS, *ALIASES))
    for key in [key for key in state if key.endswith(".weight_g")]:
        scale = state.pop(key)
        direction = state.pop(key.replace("weight_g", "weight_v"))
        norm = torch.linalg.vector_norm(direction, dim=(1, 2), keepdim=True)
        state[key.replace("weight_g", "weight")] = scale * direction / norm
    return state


def shapes_of(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


@pytest.fixture(scope="module")
def small() -> I3D:
    torch.manual_seed(0)
    module = I3D(stem=(3, 4, 5), mixed=MIXED, temporal_channels=(6, 7), temporal_kernel=3).eval()
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        if isinstance(part, nn.BatchNorm3d):
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.normal_(part.running_mean, std=0.1)
    return module


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_the_published_one_does(name: str) -> None:
    state, arrays, tolerance = imported(name), parity.arrays(name), parity.description(name)["tolerance"]
    with torch.device("meta"):
        module = I3D.like(shapes_of(state), upsample=CASES[name]).to_empty(device="cpu").eval()
    assert shapes_of(module.state_dict()) == shapes_of(state)
    module.load_state_dict(state)
    steps: list[Tensor] = []
    module.temporal.register_forward_hook(lambda _module, _inputs, output: steps.append(output))
    with torch.inference_mode():
        feature = module(arrays["in_clip"])
    assert deviation_error(steps[0].transpose(1, 2), arrays["out_steps"]) < tolerance
    assert deviation_error(feature, arrays["out_feat512"]) < tolerance


def test_published_size() -> None:
    with torch.device("meta"):
        module = I3D()
    assert sum(parameter.numel() for parameter in module.parameters()) == PARAMS - DEAD - NORMS
    assert shapes_of(I3D.like({}).state_dict()) == shapes_of(module.state_dict())


def test_sizes_come_from_shapes(small: I3D) -> None:
    shapes = shapes_of(small.state_dict())
    assert shapes_of(I3D.like(shapes).state_dict()) == shapes


def test_frames_are_enlarged_each_by_itself(small: I3D) -> None:
    clip = torch.rand(1, 3, 4, 56, 56)
    frames = clip[0].transpose(0, 1)
    large = nn.functional.interpolate(frames, size=(224, 224), mode="bilinear", align_corners=False)
    with torch.inference_mode():
        enlarged = small(clip)
        small.upsample = False
        given = small(large.transpose(0, 1).unsqueeze(0))
        small.upsample = True
    assert deviation_error(enlarged, given) < 1e-4


def test_rows_do_not_depend_on_their_batch(small: I3D) -> None:
    clips = torch.randn(3, 3, 4, 56, 56) * torch.tensor([0.1, 1.0, 5.0]).reshape(3, 1, 1, 1, 1)
    with torch.inference_mode():
        together, alone = small(clips), small(clips[1:2])
    assert together.shape == (3, 7)
    assert deviation_error(alone, together[1:2]) < 1e-4
    assert deviation_error(together[:1], together[1:2]) > 0.1, "outputs must depend on inputs"


def test_export_computes_the_same(small: I3D) -> None:
    axes = ("batch", "channel", "frame", "height", "width")
    inputs = (TensorSpec(name="clip", axes=axes, shape=("batch", 3, 4, 56, 56)),)
    outputs = (TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", 7)),)
    data = export_stage("visual", small, inputs, outputs, 1)
    feeds = [{"clip": torch.randn(batch, 3, 4, 56, 56).numpy()} for batch in (1, 3)]
    assert check_values("visual", data, small, inputs, outputs, feeds, 1e-4) < 1e-4
    operators = {node.op_type for node in onnx.load_model_from_string(data).graph.node}
    assert "BatchNormalization" not in operators

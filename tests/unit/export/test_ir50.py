"""IR-50: parity with the published network, sizes, keys, independent rows and export."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from torch import nn

from edge_mer.types.model import TensorSpec
from edge_mer_export.models.ir50 import DEAD_KEYS, IR50
from edge_mer_export.onnx_stage import check_values, export_stage
from tests.helpers import parity
from tests.helpers.parity import deviation_error

pytestmark = pytest.mark.workbench

CASE = "rjcma_ir50_40px"
WIDTHS, BLOCKS = (4, 6, 7, 8), (2, 1, 3, 1)


@pytest.fixture
def small() -> IR50:
    """A network whose norms do something."""
    torch.manual_seed(0)
    network = IR50(WIDTHS, BLOCKS, 10)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return network.eval()


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def test_it_computes_what_the_published_one_does() -> None:
    state = {key.removeprefix("backbone."): value for key, value in parity.state(CASE, DEAD_KEYS).items()}
    network = IR50.like({key: tuple(value.shape) for key, value in state.items()}).eval()
    network.load_state_dict(state)
    arrays = parity.arrays(CASE)
    with torch.inference_mode():
        feature = network(arrays["in_face"])
    assert deviation_error(feature, arrays["out_feat512"]) < parity.description(CASE)["tolerance"]


def test_published_keys_and_shapes() -> None:
    published = parity.shapes(CASE, DEAD_KEYS)
    with torch.device("meta"):
        assert shapes_of(IR50()) == {key.removeprefix("backbone."): s for key, s in published.items()}


def test_sizes_come_from_shapes(small: IR50) -> None:
    assert shapes_of(IR50.like(shapes_of(small))) == shapes_of(small)


def test_sizes_that_cannot_be_read_are_as_published() -> None:
    with torch.device("meta"):
        published = shapes_of(IR50())
        assert shapes_of(IR50.like({})) == published
        assert shapes_of(IR50.like({"output_layer.3.weight": (7,)})) == published
        assert shapes_of(IR50.like({"body.0.res_layer.1.weight": (64,)})).keys() < published.keys()


def test_a_feature_has_unit_length(small: IR50) -> None:
    with torch.inference_mode():
        length = torch.linalg.vector_norm(small(torch.randn(3, 3, 40, 40)), dim=1)
    assert torch.allclose(length, torch.ones(3))


def test_a_zero_feature_stays_zero(small: IR50) -> None:
    last = small.output_layer[-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    with torch.inference_mode():
        assert torch.equal(small(torch.randn(1, 3, 40, 40)), torch.zeros(1, 10))


def test_rows_do_not_depend_on_their_batch(small: IR50) -> None:
    face = torch.randn(3, 3, 40, 40)
    with torch.inference_mode():
        assert deviation_error(small(face[1:2]), small(face)[1:2]) < 1e-5
        assert deviation_error(small(face)[:1], small(face)[1:2]) > 0.01, "outputs must depend on inputs"


def test_export_computes_the_same(small: IR50) -> None:
    axes = ("batch", "channel", "height", "width")
    inputs = (TensorSpec(name="face", axes=axes, shape=("batch", 3, 40, 40)),)
    outputs = (TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", 10)),)
    data = export_stage("visual", small, inputs, outputs, 1)
    feeds = [{"face": torch.randn(batch, 3, 40, 40).numpy()} for batch in (1, 3)]
    assert check_values("visual", data, small, inputs, outputs, feeds, 1e-4) < 1e-4

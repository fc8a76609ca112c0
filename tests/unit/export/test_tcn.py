"""The temporal convolutional network: its formula, causality, sizes and export."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from torch import Tensor

from edge_mer.types.model import TensorSpec
from edge_mer_export.models.tcn import TemporalConvNet
from edge_mer_export.onnx_stage import check_values, export_stage
from tests.helpers.parity import deviation_error

pytestmark = pytest.mark.workbench


@pytest.fixture
def small() -> TemporalConvNet:
    torch.manual_seed(0)
    return TemporalConvNet(6, (5, 5, 8), kernel_size=3).eval()


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def by_the_formula(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """One row (C, T), step by step: a convolution reads steps t, t-d, t-2d, ..., and zero before 0."""

    def convolve(key: str, x: Tensor, dilation: int) -> Tensor:
        weight, columns = state[f"{key}.weight"], []
        for t in range(x.shape[1]):
            column = state[f"{key}.bias"].clone()
            for tap in range(weight.shape[2]):
                source = t - (weight.shape[2] - 1 - tap) * dilation
                if source >= 0:
                    column += weight[:, :, tap] @ x[:, source]
            columns.append(column)
        return torch.stack(columns, dim=1)

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.01 * x)

    for i in range(3):
        block = f"network.{i}"
        y = leaky(convolve(f"{block}.conv1", x, 2**i))
        y = leaky(convolve(f"{block}.conv2", y, 2**i))
        x = leaky(y + (convolve(f"{block}.downsample", x, 1) if f"{block}.downsample.bias" in state else x))
    return x


def test_it_computes_the_formula(small: TemporalConvNet) -> None:
    x = torch.randn(2, 6, 11)
    with torch.inference_mode():
        y = small(x)
    assert y.shape == (2, 8, 11)
    for row in range(2):
        assert deviation_error(y[row], by_the_formula(small.state_dict(), x[row])) < 1e-5


def test_no_step_sees_a_later_one(small: TemporalConvNet) -> None:
    x = torch.randn(1, 6, 11)
    later = x.clone()
    later[..., 7:] = 9.0
    with torch.inference_mode():
        assert torch.allclose(small(x)[..., :7], small(later)[..., :7], atol=1e-6)
        assert not torch.allclose(small(x)[..., 7:], small(later)[..., 7:])


def test_published_keys_and_shapes() -> None:
    with torch.device("meta"):
        shapes = shapes_of(TemporalConvNet())
    expected = {
        "network.0.downsample.weight": (512, 1024, 1),
        "network.0.downsample.bias": (512,),
    }
    for i in range(4):
        expected |= {
            f"network.{i}.conv1.weight": (512, 512 if i else 1024, 5),
            f"network.{i}.conv1.bias": (512,),
            f"network.{i}.conv2.weight": (512, 512, 5),
            f"network.{i}.conv2.bias": (512,),
        }
    assert shapes == expected


def test_sizes_come_from_shapes(small: TemporalConvNet) -> None:
    assert shapes_of(TemporalConvNet.like(shapes_of(small))) == shapes_of(small)


def test_sizes_that_cannot_be_read_are_as_published() -> None:
    with torch.device("meta"):
        published = shapes_of(TemporalConvNet())
        assert shapes_of(TemporalConvNet.like({})) == published
        assert shapes_of(TemporalConvNet.like({"network.0.conv1.weight": (7,)})).keys() < published.keys()


def test_rows_do_not_depend_on_their_batch(small: TemporalConvNet) -> None:
    x = torch.randn(3, 6, 7)
    with torch.inference_mode():
        assert deviation_error(small(x[1:2]), small(x)[1:2]) < 1e-5


def test_export_computes_the_same(small: TemporalConvNet) -> None:
    inputs = (TensorSpec(name="x", axes=("batch", "channel", "step"), shape=("batch", 6, 7)),)
    outputs = (TensorSpec(name="y", axes=("batch", "channel", "step"), shape=("batch", 8, 7)),)
    data = export_stage("tcn", small, inputs, outputs, 1)
    feeds = [{"x": torch.randn(batch, 6, 7).numpy()} for batch in (1, 3)]
    assert check_values("tcn", data, small, inputs, outputs, feeds, 1e-4) < 1e-4

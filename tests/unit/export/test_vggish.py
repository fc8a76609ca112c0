"""VGGish: order of the flattened map, sizes, keys, independent rows and export."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from torch import nn
from torch.nn import functional

from edge_mer.types.model import TensorSpec
from edge_mer_export.models.vggish import DEAD_KEYS, VGGish
from edge_mer_export.onnx_stage import check_values, export_stage
from tests.helpers import parity
from tests.helpers.parity import deviation_error

pytestmark = pytest.mark.workbench

CASE = "vggish"


@pytest.fixture
def small() -> VGGish:
    torch.manual_seed(0)
    return VGGish((2, 3, 4, 4, 6, 5), (16, 12), 8).eval()


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def test_it_computes_what_the_published_one_does() -> None:
    state = parity.state(CASE, DEAD_KEYS)
    network = VGGish.like({key: tuple(value.shape) for key, value in state.items()}).eval()
    network.load_state_dict(state)
    arrays = parity.arrays(CASE)
    with torch.inference_mode():
        feature = network(arrays["in_logmel"])
    assert deviation_error(feature, arrays["out_feat128"]) < parity.description(CASE)["tolerance"]


def test_it_computes_the_layers_in_order(small: VGGish) -> None:
    state, log_mel = small.state_dict(), torch.randn(2, 96, 64)
    x = log_mel[:, None]
    for convolutions in ((0,), (3,), (6, 8), (11, 13)):
        for place in convolutions:
            key = f"features.{place}"
            x = functional.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], padding=1).relu()
        x = functional.max_pool2d(x, 2)
    assert x.shape == (2, 5, 6, 4)
    # frame by frame, then band by band, then channel by channel
    x = torch.stack([x[:, c, t, f] for t in range(6) for f in range(4) for c in range(5)], dim=1)
    for place in (0, 2, 4):
        x = x @ state[f"embeddings.{place}.weight"].T + state[f"embeddings.{place}.bias"]
        x = x if place == 4 else x.relu()
    with torch.inference_mode():
        feature = small(log_mel)
    assert feature.shape == (2, 8)
    assert (feature < 0).any(), "there is no ReLU after the last layer"
    assert deviation_error(feature, x) < 1e-5


def test_published_keys_and_shapes() -> None:
    with torch.device("meta"):
        network = VGGish()
    expected: dict[str, tuple[int, ...]] = {}
    n_in = 1
    for place, n_out in zip((0, 3, 6, 8, 11, 13), (64, 128, 256, 256, 512, 512), strict=True):
        expected |= {f"features.{place}.weight": (n_out, n_in, 3, 3), f"features.{place}.bias": (n_out,)}
        n_in = n_out
    for place, n_in, n_out in ((0, 12288, 4096), (2, 4096, 4096), (4, 4096, 128)):
        expected |= {f"embeddings.{place}.weight": (n_out, n_in), f"embeddings.{place}.bias": (n_out,)}
    assert shapes_of(network) == expected
    assert sum(parameter.numel() for parameter in network.parameters()) == 72_141_184


def test_sizes_come_from_shapes(small: VGGish) -> None:
    assert shapes_of(VGGish.like(shapes_of(small))) == shapes_of(small)


def test_sizes_that_cannot_be_read_are_as_published() -> None:
    with torch.device("meta"):
        published = shapes_of(VGGish())
        assert shapes_of(VGGish.like({})) == published
        assert shapes_of(VGGish.like({"features.0.weight": (7,)})) == published


def test_rows_do_not_depend_on_their_batch(small: VGGish) -> None:
    log_mel = torch.randn(3, 96, 64)
    with torch.inference_mode():
        assert deviation_error(small(log_mel[1:2]), small(log_mel)[1:2]) < 1e-5


def test_export_computes_the_same(small: VGGish) -> None:
    inputs = (TensorSpec(name="log_mel", axes=("batch", "frame", "mel"), shape=("batch", 96, 64)),)
    outputs = (TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", 8)),)
    data = export_stage("audio", small, inputs, outputs, 1)
    feeds = [{"log_mel": torch.randn(batch, 96, 64).numpy()} for batch in (1, 3)]
    assert check_values("audio", data, small, inputs, outputs, feeds, 1e-4) < 1e-4

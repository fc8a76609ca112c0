"""RJCMA's fusion: parity with the published network, sizes, keys, independent rows and export."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from torch import Tensor, nn

from edge_mer.types.model import TensorSpec
from edge_mer_export.models.rjcma import DEAD_KEYS, RJCMA
from edge_mer_export.onnx_stage import check_values, export_stage
from tests.helpers import parity
from tests.helpers.parity import deviation_error

pytestmark = pytest.mark.workbench

CASES = ("rjcma_L300", "rjcma_widths")
FEATURES = (7, 5, 9)


def small_network(n_layers: int = 3) -> RJCMA:
    """A network whose norms do something."""
    torch.manual_seed(0)
    network = RJCMA(
        FEATURES, ((6, 6), (5,), (8, 4, 4)), kernel_size=3, n_steps=11, n_layers=n_layers, head_width=10
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return network.eval()


@pytest.fixture
def small() -> RJCMA:
    return small_network()


def small_inputs(batch: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return [torch.randn(batch, 11, width, generator=generator) for width in FEATURES]


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def published_state(case: str) -> dict[str, Tensor]:
    """A recorded state_dict with its weight normalisation folded and without its aliases."""
    recorded, state = parity.state(case, DEAD_KEYS), {}
    for key, value in recorded.items():
        if ".net." in key or key.endswith(".weight_g"):
            continue
        if key.endswith(".weight_v"):
            norm = torch.linalg.vector_norm(value, dim=(1, 2), keepdim=True)
            state[key.removesuffix("_v")] = recorded[key.removesuffix("v") + "g"] * value / norm
        else:
            state[key] = value
    return state


def published(case: str) -> RJCMA:
    state = published_state(case)
    network = RJCMA.like({key: tuple(value.shape) for key, value in state.items()})
    network.load_state_dict(state)
    return network.eval()


@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_the_published_one_does(case: str) -> None:
    arrays, network, tolerance = parity.arrays(case), published(case), parity.description(case)["tolerance"]
    video, vggish, bert = (arrays[f"in_{name}_feat"] for name in ("video", "vggish", "bert"))
    expected = arrays["out_out"].squeeze(-1)
    with torch.inference_mode():
        estimates = network(video, vggish, bert)
        late_audio = network(video, vggish.roll(1, dims=1), bert)
    assert deviation_error(estimates, expected) < tolerance
    assert deviation_error(late_audio, expected) > 10 * tolerance


@pytest.mark.parametrize("case", CASES)
def test_published_keys_and_shapes(case: str) -> None:
    expected = {key: tuple(value.shape) for key, value in published_state(case).items()}
    with torch.device("meta"):
        network = RJCMA.like(expected)
        assert case != CASES[0] or shapes_of(RJCMA()) == expected
    assert shapes_of(network) == expected
    # in the recorded count every output channel of a convolution has a norm besides its weights
    recorded, description = parity.shapes(case), parity.description(case)
    n_norms = sum(shape[0] for key, shape in recorded.items() if key.endswith(("1.weight_g", "2.weight_g")))
    n_params = sum(parameter.numel() for parameter in network.parameters())
    assert n_params == description["params"] - description["dead_params"] - n_norms


@pytest.mark.parametrize("n_layers", [1, 3])
def test_sizes_come_from_shapes(n_layers: int) -> None:
    shapes = shapes_of(small_network(n_layers))
    assert shapes_of(RJCMA.like(shapes)) == shapes


def test_sizes_that_cannot_be_read_are_as_published() -> None:
    with torch.device("meta"):
        default = shapes_of(RJCMA())
        assert shapes_of(RJCMA.like({})) == default
        assert shapes_of(RJCMA.like({"regressor1.weight": (7,)})) == default
        one_block = {"temporal.video.network.0.conv1.weight": (7,)}
        assert shapes_of(RJCMA.like(one_block)).keys() < default.keys()


def test_every_layer_counts(small: RJCMA) -> None:
    """A recursion's step with a projection of its own set to zero estimates otherwise."""
    inputs = small_inputs(2)
    with torch.inference_mode():
        before = small(*inputs)
        assert before.shape == (2, 11)
        for layer in small.coattn.dcn_layers:
            nn.init.zeros_(layer.linears[1][0].weight)
            after = small(*inputs)
            assert deviation_error(after, before) > 1e-3
            before = after


def test_rows_do_not_depend_on_their_batch(small: RJCMA) -> None:
    inputs = small_inputs(3)
    with torch.inference_mode():
        together, alone = small(*inputs), small(*(tensor[1:2] for tensor in inputs))
    assert deviation_error(alone, together[1:2]) < 1e-5
    assert deviation_error(together[:1], together[1:2]) > 0.1, "outputs must depend on inputs"


@pytest.mark.slow  # a whole checkpoint goes the same way in tests/e2e/test_published_checkpoints.py
def test_export_computes_the_same(small: RJCMA) -> None:
    inputs = tuple(
        TensorSpec(name=name, axes=("batch", "step", "feature"), shape=("batch", 11, width))
        for name, width in zip(("visual", "audio", "text"), FEATURES, strict=True)
    )
    outputs = (TensorSpec(name="estimates", axes=("batch", "step"), shape=("batch", 11)),)
    data = export_stage("fusion", small, inputs, outputs, 11)
    names = [spec.name for spec in inputs]
    feeds = [
        dict(zip(names, (tensor.numpy() for tensor in small_inputs(batch)), strict=True)) for batch in (1, 3)
    ]
    assert check_values("fusion", data, small, inputs, outputs, feeds, 1e-4) < 1e-4

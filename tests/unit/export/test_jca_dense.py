"""Dense joint co-attention: parity with the published head and its recurrent sibling, sizes, export."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
onnx = pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from torch import Tensor

from edge_mer.types.model import TensorSpec
from edge_mer_export.models.jca_dense import DEAD_KEYS, DenseJointCoAttention
from edge_mer_export.onnx_stage import check_values, export_stage
from tests.helpers import parity
from tests.helpers.parity import deviation_error

pytestmark = pytest.mark.workbench

CASES = ("jca_tbiom_origcam_L16", "jca_origcam_numseq2", "rja_lstm_origcam_L16")
VARIANTS = {
    "as published": {},
    "recurrent sibling, deeper": {"recurrent_inputs": True, "n_layers": 3, "rnn_layers": 1},
}
N_LSTM = {"as published": 2, "recurrent sibling, deeper": 3}


def build(variant: str) -> DenseJointCoAttention:
    torch.manual_seed(0)
    sizes = {
        **{"n_steps": 4, "audio": 6, "visual": 8, "n_slices": 5, "attention_width": 3},
        **{"rnn_hidden": 7, "rnn_layers": 2, "fused": 10, "head_width": 9},
    }
    module = DenseJointCoAttention(**(sizes | VARIANTS[variant])).eval()
    for key, parameter in module.named_parameters():
        if key.endswith("init_hidden"):
            torch.nn.init.normal_(parameter)
    return module


def random_inputs(batch: int) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 4, 6), torch.randn(batch, 4, 40)


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def run(module: DenseJointCoAttention, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        return module(audio, visual)


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_the_published_one_does(name: str) -> None:
    arrays, tolerance = parity.arrays(name), parity.description(name)["tolerance"]
    module = DenseJointCoAttention.like(parity.shapes(name)).eval()
    assert shapes_of(module) == parity.shapes(name, DEAD_KEYS)
    module.load_state_dict(parity.state(name, DEAD_KEYS))
    valence, arousal = run(module, arrays["in_audio"], arrays["in_visual"])
    assert deviation_error(valence, arrays["out_valence"]) < tolerance
    assert deviation_error(arousal, arrays["out_arousal"]) < tolerance


def test_a_transposed_map_is_seen() -> None:
    arrays = parity.arrays(CASES[0])
    module = DenseJointCoAttention.like(parity.shapes(CASES[0])).eval()
    module.load_state_dict(parity.state(CASES[0]))
    places = arrays["in_visual"].unflatten(-1, (512, 49)).transpose(-2, -1).flatten(-2)
    valence, _ = run(module, arrays["in_audio"], places)
    assert deviation_error(valence, arrays["out_valence"]) > 10 * parity.description(CASES[0])["tolerance"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_come_from_shapes(variant: str) -> None:
    shapes = shapes_of(build(variant))
    assert shapes_of(DenseJointCoAttention.like(shapes)) == shapes


def test_sizes_that_cannot_be_read_are_as_published() -> None:
    with torch.device("meta"):
        published = shapes_of(DenseJointCoAttention())
        assert shapes_of(DenseJointCoAttention.like({})) == published
        assert shapes_of(DenseJointCoAttention.like({key: (3,) for key in published})) == published


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_do_not_depend_on_their_batch(variant: str) -> None:
    module, (audio, visual) = build(variant), random_inputs(3)
    together, alone = run(module, audio, visual), run(module, audio[1:2], visual[1:2])
    for whole, row in zip(together, alone, strict=True):
        assert whole.shape == (3, 4)
        assert deviation_error(row, whole[1:2]) < 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_silence_and_no_face_are_finite(variant: str) -> None:
    for output in run(build(variant), torch.zeros(1, 4, 6), torch.zeros(1, 4, 40)):
        assert torch.isfinite(output).all()


@pytest.mark.slow  # a whole checkpoint goes the same way in tests/e2e/test_published_checkpoints.py
@pytest.mark.parametrize("variant", VARIANTS)
def test_export_computes_the_same(variant: str) -> None:
    module = build(variant)
    axes = ("batch", "step", "feature")
    inputs = (
        TensorSpec(name="audio", axes=axes, shape=("batch", 4, 6)),
        TensorSpec(name="visual", axes=axes, shape=("batch", 4, 40)),
    )
    outputs = tuple(
        TensorSpec(name=name, axes=("batch", "step"), shape=("batch", 4)) for name in ("valence", "arousal")
    )
    data = export_stage("fusion", module, inputs, outputs, 4)
    feeds = [
        {spec.name: value.numpy() for spec, value in zip(inputs, random_inputs(batch), strict=True)}
        for batch in (1, 3)
    ]
    assert check_values("fusion", data, module, inputs, outputs, feeds, 1e-4) < 1e-4
    operators = [node.op_type for node in onnx.load_model_from_string(data).graph.node]
    assert operators.count("LSTM") == N_LSTM[variant], "not unrolled over steps"

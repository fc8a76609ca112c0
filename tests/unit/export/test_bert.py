"""BERT: parity with Hugging Face's encoder, sizes, keys, independent rows and export."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from torch import Tensor, nn

from edge_mer.types.model import TensorSpec
from edge_mer_export.models.bert import DEAD_KEYS, Bert, modern_keys
from edge_mer_export.onnx_stage import check_values, export_stage
from tests.helpers.parity import deviation_error

pytestmark = pytest.mark.workbench

IDS = ((3, 17, 5, 29, 8, 4),)
# transformers 5.23.0, BertModel in float64 with the weights of `small` and four heads: the sum of the
# last four hidden states of the six tokens, every eighth number
RECORDED = (
    (5.62117, -2.48495, -2.38591, -3.72989, -1.37771, 0.38241, -1.11398, -2.05778),
    (1.09030, 0.11534, -4.57032, -2.82367, -1.70434, 1.77891, -4.56097, 1.79633),
    (-2.64202, 0.88941, -5.64345, -0.85538, -3.16534, 0.88373, -1.99875, -0.26260),
    (3.21720, -0.96008, -4.15945, -2.74494, -2.45033, 1.84407, -3.80158, 0.15999),
    (1.58975, -0.07473, -3.66841, -3.51279, -0.88040, 0.70164, -2.04804, -0.35607),
    (3.86168, -1.40067, -3.42764, -3.20928, -1.85232, 1.07290, -2.34884, -1.07307),
)


def waves(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that anyone can rebuild: along each tensor a sine of its own frequency."""
    filled = {}
    for i, (key, value) in enumerate(sorted(state.items())):
        places = torch.arange(1, value.numel() + 1, dtype=torch.float64)
        wave = torch.sin((0.3 + 0.017 * i) * places).to(torch.float32).reshape(value.shape)
        if key.endswith("LayerNorm.weight"):
            wave = 1 + 0.2 * wave
        elif value.dim() == 1:
            wave = 0.2 * wave
        elif "embeddings" not in key:
            wave = 0.3 * wave
        filled[key] = wave
    return filled


@pytest.fixture
def small() -> Bert:
    network = Bert(64, 96, n_layers=5, num_heads=4, n_words=30)
    network.load_state_dict(waves(network.state_dict()))
    return network.eval()


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def test_it_computes_what_hugging_faces_does(small: Bert) -> None:
    with torch.inference_mode():
        vectors = small(torch.tensor(IDS))
    assert vectors.shape == (1, 6, 64)
    # an approximate GELU would be 5e-4 off
    assert deviation_error(vectors[0, :, ::8], RECORDED) < 5e-5


def test_published_keys_and_shapes() -> None:
    with torch.device("meta"):
        network = Bert()
    expected: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (30522, 768),
        "embeddings.position_embeddings.weight": (512, 768),
        "embeddings.token_type_embeddings.weight": (2, 768),
        "embeddings.LayerNorm.weight": (768,),
        "embeddings.LayerNorm.bias": (768,),
    }
    for i in range(12):
        layer = f"encoder.layer.{i}"
        for name in ("query", "key", "value"):
            expected |= {f"{layer}.attention.self.{name}.weight": (768, 768)}
            expected |= {f"{layer}.attention.self.{name}.bias": (768,)}
        for name, n_in, n_out in (
            ("attention.output", 768, 768),
            ("intermediate", 768, 3072),
            ("output", 3072, 768),
        ):
            expected |= {
                f"{layer}.{name}.dense.weight": (n_out, n_in),
                f"{layer}.{name}.dense.bias": (n_out,),
            }
        for name in ("attention.output", "output"):
            expected |= {f"{layer}.{name}.LayerNorm.weight": (768,), f"{layer}.{name}.LayerNorm.bias": (768,)}
    assert shapes_of(network) == expected
    # bert-base-uncased has 109,482,240 with its pooler
    assert sum(p.numel() for p in network.parameters()) == 109_482_240 - (768 * 768 + 768)


@pytest.mark.parametrize(
    "key",
    ["pooler.dense.weight", "cls.predictions.bias", "cls.seq_relationship.bias", "embeddings.position_ids"],
)
def test_other_keys_of_its_checkpoints_are_dead(key: str) -> None:
    assert any(fnmatchcase(key, pattern) for pattern in DEAD_KEYS)
    assert not any(
        fnmatchcase(live, pattern) for live in Bert(64, 96, 1).state_dict() for pattern in DEAD_KEYS
    )


def test_old_names_of_the_norms_are_known(small: Bert) -> None:
    state = small.state_dict()
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in state.items()
    }
    assert old.keys() != state.keys()
    assert modern_keys(old) == state
    assert modern_keys(state) == state


def test_sizes_come_from_shapes(small: Bert) -> None:
    network = Bert.like(shapes_of(small), num_heads=4)
    assert shapes_of(network) == shapes_of(small)
    network.load_state_dict(small.state_dict())
    ids = torch.tensor(IDS)
    with torch.inference_mode():
        assert torch.equal(network.eval()(ids), small(ids))


def test_sizes_that_cannot_be_read_are_as_published() -> None:
    with torch.device("meta"):
        published = shapes_of(Bert())
        assert shapes_of(Bert.like({})) == published
        assert shapes_of(Bert.like({"embeddings.word_embeddings.weight": (7,)})) == published


def test_heads_are_one_for_every_64_numbers() -> None:
    with torch.device("meta"):
        network = Bert()
    assert network.encoder.layer[0].attention.self.heads == 12


def test_heads_must_divide_the_feature() -> None:
    with pytest.raises(ValueError, match="do not divide"):
        Bert(64, 96, 1, num_heads=5)


def test_rows_do_not_depend_on_their_batch(small: Bert) -> None:
    ids = torch.randint(0, 30, (3, 7), generator=torch.Generator().manual_seed(0))
    small.double()
    with torch.inference_mode():
        assert deviation_error(small(ids[1:2]), small(ids)[1:2]) < 1e-12


def test_export_computes_the_same_for_any_number_of_tokens(small: Bert) -> None:
    inputs = (TensorSpec(name="ids", axes=("batch", "token"), shape=("batch", "token"), dtype="int64"),)
    outputs = (TensorSpec(name="vectors", axes=("batch", "token", "feature"), shape=("batch", "token", 64)),)
    data = export_stage("text", small, inputs, outputs, 1)
    feeds = [{"ids": torch.randint(0, 30, size).numpy()} for size in ((1, 2), (3, 7), (1, 512))]
    assert check_values("text", data, small, inputs, outputs, feeds, 1e-4) < 1e-4

"""The R(2+1)D video network: its reductions, sizes, export."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from typing import get_args

from edge_mer_export.models.r2plus1d import DEAD_KEYS, R2Plus1D, Reduction, without_mask_channel
from tests.helpers import parity
from tests.helpers.networks import check_export, check_rows, run, shapes_of
from tests.helpers.parity import deviation_error

pytestmark = pytest.mark.workbench

CASE = "bb_r2plus1d18_clip8x112"
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
FEATURE = {"max": 10, "mean": 10, "flatten": 40, "flatten_fc": 7}


def build(reduce: Reduction) -> R2Plus1D:
    """A small network whose last map has 2 x 2 positions for a clip of 32 pixels."""
    torch.manual_seed(0)
    return R2Plus1D((4, 6, 8, 10), (1, 2, 1, 1), 5, reduce, n_positions=4, feature=7).eval()


def test_every_reduction_computes_what_the_published_one_does() -> None:
    state = {f"r2plus1d.{key}": value for key, value in parity.state(CASE, ("fc.*",)).items()}
    state["vision_r2d1_fc.weight"] = torch.randn(512, 25088) / 25088**0.5
    state["vision_r2d1_fc.bias"] = torch.randn(512)
    arrays, tolerance = parity.arrays(CASE), parity.description(CASE)["tolerance"]
    module = R2Plus1D.like({key: tuple(value.shape) for key, value in state.items()}).eval()
    assert module.reduce == "flatten_fc"
    module.load_state_dict(state)
    through_fc = arrays["out_flat25088"] @ state["vision_r2d1_fc.weight"].T + state["vision_r2d1_fc.bias"]
    maps = []
    module.r2plus1d.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    assert deviation_error(run(module, arrays["in_clip"])[0], through_fc) < tolerance
    module.r2plus1d.forward = lambda _clip: maps[0]  # one pass is enough
    expected = {
        "max": arrays["out_max512"],
        "mean": arrays["out_spatial"].mean(dim=(2, 3, 4)),
        "flatten": arrays["out_flat25088"],
    }
    module.vision_r2d1_fc = None
    for reduce, right in expected.items():
        module.reduce = reduce
        assert deviation_error(run(module, arrays["in_clip"])[0], right) < tolerance, reduce


def test_keys_are_those_of_the_published_one() -> None:
    expected = {f"r2plus1d.{key}": shape for key, shape in parity.shapes(CASE).items()}
    with torch.device("meta"):
        shapes = shapes_of(R2Plus1D())
    assert shapes == {key: shape for key, shape in expected.items() if not key.startswith("r2plus1d.fc.")}
    assert DEAD_KEYS == ("r2plus1d.fc.*",)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_sizes_come_from_shapes(reduce: Reduction) -> None:
    shapes = shapes_of(build(reduce))
    other = R2Plus1D.like(shapes, reduce)
    assert shapes_of(other) == shapes
    assert other.reduce == reduce
    assert R2Plus1D.like(shapes).reduce == ("flatten_fc" if reduce == "flatten_fc" else "max")


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_sizes_that_cannot_be_read_are_as_published(reduce: Reduction) -> None:
    with torch.device("meta"):
        published = shapes_of(R2Plus1D(reduce=reduce))
        assert shapes_of(R2Plus1D.like({key: (3,) for key in published}, reduce)) == published
        assert shapes_of(R2Plus1D.like({}, reduce)) == published


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_rows_do_not_depend_on_their_batch(reduce: Reduction) -> None:
    torch.manual_seed(1)
    check_rows(build(reduce), torch.randn(3, 3, 4, 32, 32))


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_export_computes_the_same(reduce: Reduction) -> None:
    check_export(build(reduce), {"clip": ("batch", 3, 4, 32, 32)}, {"feature": ("batch", FEATURE[reduce])})


def test_mask_channel_is_dropped() -> None:
    stem = torch.randn(5, 4, 1, 7, 7)
    state = {"video_model.r2plus1d.stem.0.weight": stem, "video_model.r2plus1d.stem.1.weight": torch.ones(5)}
    cut = without_mask_channel(state)
    assert torch.equal(cut["video_model.r2plus1d.stem.0.weight"], stem[:, :3])
    assert cut["video_model.r2plus1d.stem.1.weight"] is state["video_model.r2plus1d.stem.1.weight"]

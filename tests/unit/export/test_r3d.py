"""The R3D video network: parity, sizes, export."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from edge_mer_export.models.r3d import R3D
from tests.helpers import parity
from tests.helpers.networks import check_export, check_rows, load_case, run, shapes_of
from tests.helpers.parity import deviation_error

pytestmark = pytest.mark.workbench

CASE = "r3d18_clip5"


def build() -> R3D:
    torch.manual_seed(0)
    return R3D((4, 6, 8, 10), (1, 2, 1, 1)).eval()


def test_it_computes_what_the_published_one_does() -> None:
    arrays = parity.arrays(CASE)
    module = load_case(R3D.like(parity.shapes(CASE)), CASE, ())
    feature = run(module, arrays["in_clip"])[0]
    assert deviation_error(feature, arrays["out_feat512"]) < parity.description(CASE)["tolerance"]


def test_layout_is_torchvisions() -> None:
    with torch.device("meta"):
        shapes = shapes_of(R3D())
    assert len(shapes) == 120
    assert shapes["stem.0.weight"] == (64, 3, 3, 7, 7)
    assert shapes["layer1.0.conv1.0.weight"] == (64, 64, 3, 3, 3)
    assert shapes["layer4.1.conv2.1.running_var"] == (512,)
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1, 1)


def test_sizes_come_from_shapes() -> None:
    shapes = shapes_of(build())
    assert shapes_of(R3D.like(shapes)) == shapes


def test_sizes_that_cannot_be_read_are_as_published() -> None:
    with torch.device("meta"):
        published = shapes_of(R3D())
        assert shapes_of(R3D.like({key: (3,) for key in published})) == published
        assert shapes_of(R3D.like({})) == published


@pytest.mark.parametrize("n_frames", [1, 5, 8])
def test_rows_do_not_depend_on_their_batch(n_frames: int) -> None:
    torch.manual_seed(1)
    check_rows(build(), torch.randn(3, 3, n_frames, 32, 32))


def test_export_computes_the_same() -> None:
    operators = check_export(build(), {"clip": ("batch", 3, 5, 32, 32)}, {"feature": ("batch", 10)})
    assert "BatchNormalization" not in operators

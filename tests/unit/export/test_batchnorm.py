"""Batch norms of a module in evaluation mode: where they are folded, and what they become elsewhere."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edge_mer_export.models.batchnorm import ChannelAffine, fold_batchnorm
from tests.helpers.parity import deviation_error

pytestmark = pytest.mark.workbench


class ReadTwice(nn.Module):
    """A convolution whose result is also read before its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        normed: Tensor = self.norm(y)
        total: Tensor = normed + y
        return total


class CalledTwice(nn.Module):
    """A BatchNorm of two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 1)
        self.conv2 = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.norm(self.conv1(x)) + self.norm(self.conv2(x))
        return total


IMAGE, SEQUENCE, VECTOR = (2, 3, 5, 4), (2, 3, 3), (2, 3)
FOLDED = [
    (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)), IMAGE),
    (nn.Sequential(nn.Conv1d(3, 4, 2, bias=False), nn.BatchNorm1d(4, affine=False)), SEQUENCE),
]
AFFINE = [
    (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)), IMAGE),
    (nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.BatchNorm2d(4)), IMAGE),
    (ReadTwice(), IMAGE),
    (CalledTwice(), IMAGE),
    (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), VECTOR),
    # the linear layer's outputs lie along the last axis, the norm's channels along the second
    (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), SEQUENCE),
    (nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3, affine=False)), SEQUENCE),
]


def with_statistics(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            if norm.affine:
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)
    return module.eval()


@pytest.mark.parametrize(
    ("module", "shape", "n_affine"),
    [*((*case, 0) for case in FOLDED), *((*case, 1) for case in AFFINE)],
)
def test_no_norm_is_left_and_the_numbers_are_the_same(
    module: nn.Module, shape: tuple[int, ...], n_affine: int
) -> None:
    module = with_statistics(module)
    folded = fold_batchnorm(module)
    assert not any(isinstance(part, _BatchNorm) for part in folded.modules())
    assert sum(isinstance(part, ChannelAffine) for part in folded.modules()) == n_affine
    x = torch.randn(shape)
    with torch.inference_mode():
        assert deviation_error(folded(x), module(x)) < 1e-5


def test_a_norm_without_statistics_is_refused_by_name() -> None:
    module = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    with pytest.raises(ValueError, match="BatchNorm 1 has no running statistics"):
        fold_batchnorm(module)

"""Weights learn to bear 8 bits, without labels; what does not learn stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from edge_mer_export.training import qat
from edge_mer_export.training.qat import Settings, Tuned, in_8_bits

pytestmark = pytest.mark.workbench


class Uneven(nn.Module):
    """Rows of weights with one large number each, which takes the levels of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 4)
        with torch.no_grad():
            self.first.weight[:, 0] = 12.0
            self.first.weight[:, 1] = -12.0

    def forward(self, x: Tensor) -> Tensor:
        """(B, 16) -> (B, 4)."""
        y: Tensor = self.second(torch.tanh(self.first(x)))
        return y


def data_of(n: int) -> tuple[Tensor]:
    """The first two numbers are equal, so that their large weights cancel out."""
    x = torch.randn(n, 16, generator=torch.Generator().manual_seed(1))
    x[:, 1] = x[:, 0]
    return (x,)


def told_nothing(what: str, done: int = 0, of: int = 0) -> None:
    pass


def a_network() -> nn.Module:
    torch.manual_seed(0)
    return Uneven().eval()


def test_in_8_bits_weights_and_inputs_are_rounded_and_then_as_before() -> None:
    network, (x,) = a_network(), data_of(8)
    before = copy.deepcopy(network.state_dict())
    exact = network(x)
    with in_8_bits(network):
        weight = network.first.weight  # type: ignore[union-attr]
        scale = weight.abs().amax(1, keepdim=True) / 63
        assert torch.allclose(weight / scale, (weight / scale).round(), atol=1e-4)
        rounded = network(x)
    assert 1e-3 < (rounded - exact).abs().max() < 1
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(network(x), exact)


def test_tuning_halves_the_error_and_keeps_the_function() -> None:
    network, data = a_network(), data_of(256)
    exact = copy.deepcopy(network)
    tuned = qat._tune("s", network, data, Settings(n_updates=300, batch_size=32, rate=2e-3), told_nothing)
    assert tuned.is_better
    assert tuned.after < 0.5 * tuned.before
    assert not torch.equal(network.first.weight, exact.first.weight)  # type: ignore[union-attr, arg-type]
    with in_8_bits(network), torch.no_grad():
        error = (network(*data) - exact(*data)).pow(2).mean().sqrt() / exact(*data).std()
    assert error < 1.2 * tuned.after


def test_what_does_not_learn_is_left_as_it_was() -> None:
    network, data = a_network(), data_of(64)
    before = copy.deepcopy(network.state_dict())
    tuned = qat._tune("s", network, data, Settings(n_updates=3, batch_size=8, rate=1.0), told_nothing)
    assert not tuned.is_better
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_same_seed_learns_the_same() -> None:
    found: list[tuple[Tuned, Tensor]] = []
    for _ in range(2):
        network = a_network()
        tuned = qat._tune("s", network, data_of(64), Settings(20, 8, 1e-3), told_nothing)
        found.append((tuned, network.first.weight))  # type: ignore[arg-type, union-attr]
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])

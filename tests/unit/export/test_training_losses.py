"""Losses against formulas that are written another way."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

from edge_mer.types.model import AffectOutput, EmotionOutput, PainOutput
from edge_mer_export.training.losses import ccc_loss, class_loss, level_loss, loss_of

pytestmark = pytest.mark.workbench

Doubles = NDArray[np.float64]
EMOTION = EmotionOutput(labels=("positive", "neutral", "negative"))
VALENCE = AffectOutput(name="valence")
PAIN = PainOutput(scale="test", levels=("none", "mild", "strong", "severe"))


def pair(n: int = 40, seed: int = 0) -> tuple[Doubles, Doubles]:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(-1, 1, n)
    return 0.6 * truth + 0.2 + 0.3 * rng.standard_normal(n), truth


def lin(found: Doubles, truth: Doubles) -> float:
    """Lin 1989 by way of Pearson's correlation: rho times a factor of bias (his equation for C_b)."""
    rho = float(np.corrcoef(found, truth)[0, 1])
    scale = found.std() / truth.std()
    shift = (found.mean() - truth.mean()) / np.sqrt(found.std() * truth.std())
    return rho * 2 / (scale + 1 / scale + shift**2)


def soft_cross_entropy(logits: Doubles, truth: Doubles) -> float:
    """Each truth written out as shares of all levels, (N, K); no two of them more than its neighbours."""
    shares = np.maximum(0, 1 - np.abs(np.arange(logits.shape[1])[None] - truth[:, None]))
    assert np.allclose(shares.sum(axis=1), 1)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return float(-(shares * np.log(p)).sum(axis=1).mean())


@pytest.mark.parametrize("seed", range(4))
def test_ccc_loss_is_lins_formula(seed: int) -> None:
    found, truth = pair(seed=seed)
    loss = float(ccc_loss(torch.tensor(found), torch.tensor(truth)))
    assert loss == pytest.approx(1 - lin(found, truth), abs=1e-6)
    # and by means: 1 - E[(a - b)^2] / (Var a + Var b + (mean a - mean b)^2)
    spread = found.var() + truth.var() + (found.mean() - truth.mean()) ** 2
    assert loss == pytest.approx(np.mean((found - truth) ** 2) / spread, abs=1e-6)


def test_ccc_loss_at_its_ends() -> None:
    _, truth = pair()
    t = torch.tensor(truth)
    assert float(ccc_loss(t, t)) == pytest.approx(0, abs=1e-6)
    assert float(ccc_loss(-(t - t.mean()) + t.mean(), t)) == pytest.approx(2, abs=1e-6)
    assert float(ccc_loss(torch.full_like(t, 0.3), t)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("found", "truth"),
    [
        ([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]),
        ([0.5, 0.5], [0.5, 0.5]),
        ([0.5], [0.1]),
        ([1e4, -1e4, 0.0], [0.1, 0.2, 0.3]),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    ],
)
def test_the_gradient_of_ccc_loss_is_finite(found: list[float], truth: list[float]) -> None:
    x = torch.tensor(found, requires_grad=True)
    torch.autograd.backward(ccc_loss(x, torch.tensor(truth)))
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_the_gradient_of_ccc_loss_leads_down() -> None:
    found, truth = pair()
    x, t = torch.tensor(found, requires_grad=True), torch.tensor(truth)
    assert torch.autograd.gradcheck(lambda one: ccc_loss(one, t), (x,))
    (slope,) = torch.autograd.grad(ccc_loss(x, t), x)
    assert ccc_loss(x - 0.1 * slope, t) < ccc_loss(x, t)


@pytest.mark.parametrize(
    "truth",
    [
        [0.0, 0.0, 0.0],
        [3.0, 3.0, 3.0],
        [0.0, 1.0, 3.0],
        [0.25, 1.5, 2.9],
        [2.0, 2.999, 0.001],
    ],
)
def test_level_loss_is_soft_cross_entropy(truth: list[float]) -> None:
    logits = np.random.default_rng(1).standard_normal((3, 4))
    loss = float(level_loss(torch.tensor(logits), torch.tensor(truth, dtype=torch.float64)))
    assert loss == pytest.approx(soft_cross_entropy(logits, np.array(truth)), abs=1e-9)


def test_level_loss_of_whole_levels_is_pytorchs() -> None:
    logits, truth = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), [0, 1, 2, 3, 3, 0]
    ours = level_loss(logits, torch.tensor(truth, dtype=torch.float32))
    theirs = torch.nn.functional.cross_entropy(logits, torch.tensor(truth))
    assert float(ours) == pytest.approx(float(theirs), abs=1e-6)


def test_samples_without_a_label_count_for_nothing() -> None:
    found, truth = pair()
    x = torch.tensor(found, requires_grad=True)
    t = torch.tensor(truth)
    t[::3] = torch.nan
    kept = torch.isfinite(t)
    loss = loss_of(VALENCE, x, t)
    expected = 1 - lin(found[kept.numpy()], truth[kept.numpy()])
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    (slope,) = torch.autograd.grad(loss, x)
    assert not slope[~kept].any()
    assert slope[kept].any()
    logits = np.random.default_rng(1).standard_normal((3, 4))
    loss = loss_of(PAIN, torch.tensor(logits), torch.tensor([1.5, torch.nan, 3.0], dtype=torch.float64))
    assert float(loss) == pytest.approx(soft_cross_entropy(logits[[0, 2]], np.array([1.5, 3.0])), abs=1e-9)


def test_class_loss_is_minus_the_log_of_the_true_class() -> None:
    logits = np.random.default_rng(1).standard_normal((5, 3))
    truth = np.array([0, 2, 1, 1, 0])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    loss = float(class_loss(torch.tensor(logits), torch.tensor(truth, dtype=torch.float64)))
    assert loss == pytest.approx(-np.log(p[np.arange(5), truth]).mean(), abs=1e-9)


def test_class_loss_weighs_classes_and_spreads_a_share_of_the_truth() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    weights, smoothing = torch.tensor([1.0, 3.0]), 0.2
    log_p = torch.log_softmax(logits, dim=1).numpy()
    truth = np.array([[0.9, 0.1], [0.1, 0.9]])
    expected = -(truth * weights.numpy() * log_p).sum() / 4  # the weights of the two true classes
    found = class_loss(logits, torch.tensor([0.0, 1.0]), weights, smoothing)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_emotions_are_classes_without_an_order_and_some_have_no_label() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = loss_of(EMOTION, logits, torch.tensor([2.0, torch.nan, 0.0, torch.nan]))
    expected = torch.nn.functional.cross_entropy(logits[[0, 2]], torch.tensor([2, 0]))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    (slope,) = torch.autograd.grad(loss, logits)
    assert not slope[[1, 3]].any()
    assert slope[[0, 2]].all()


def test_a_batch_without_any_label_pulls_nowhere() -> None:
    x = torch.ones(4, requires_grad=True)
    loss = loss_of(VALENCE, x, torch.full((4,), torch.nan))
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert x.grad is not None
    assert not x.grad.any()

"""The loop: when it stops, what it keeps, how fast it learns, and what it refuses."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

from torch import Tensor, nn

from edge_mer.errors import DataError
from edge_mer_export.training.recipe import Phase
from edge_mer_export.training.trainer import Epoch, State, _learning_rate, load_state, save_state, train_phase

pytestmark = pytest.mark.workbench


class Scripted:
    """A phase of one weight, whose scores are given; its losses pull the weight up.

    Args:
        scores: One for each epoch.
        losses: What is added to every loss.
        phase: How it is trained.
    """

    name = "scripted"

    def __init__(self, scores: list[float], losses: float = 0.0, **phase: Any) -> None:
        self.network: nn.Module = nn.Linear(1, 1, bias=False)
        self.phase = Phase(**{"epochs": 10, "batch_size": 2, "learning_rate": 0.1, **phase})
        self.modes: list[bool] = []
        self.weights: list[float] = []
        self.order: list[list[int]] = []
        self._scores, self._losses = iter(scores), losses

    @property
    def weight(self) -> float:
        return next(self.network.parameters()).item()

    def losses(self, generator: torch.Generator) -> Iterator[Tensor]:
        self.order.append(torch.randperm(50, generator=generator).tolist())
        for _ in range(2):
            self.modes.append(self.network.training)
            yield self._losses - self.network(torch.ones(1, 1)).sum()

    def scores(self) -> dict[str, float]:
        self.modes.append(self.network.training)
        assert not torch.is_grad_enabled()
        self.weights.append(self.weight)
        score = next(self._scores)
        return {"valence": score - 0.1, "arousal": score + 0.1}


def train(task: Scripted, seed: int = 0) -> list[Epoch]:
    state = State("scripted")
    told: list[Epoch] = []
    n_kept: list[int] = []
    train_phase(task, state, seed, lambda now: n_kept.append(len(now.epochs)), told.append)
    assert told == state.epochs
    assert n_kept == [*range(1, len(told) + 1)]
    assert not task.network.training
    return told


def test_it_stops_when_nothing_gets_better_for_so_long_and_keeps_the_best() -> None:
    task = Scripted([0.1, 0.3, 0.3, 0.2, 0.29, 0.9], patience=3)
    told = train(task)
    assert [one.number for one in told] == [1, 2, 3, 4, 5]
    assert [one.is_best for one in told] == [True, True, False, False, False]
    assert [one.score for one in told] == pytest.approx([0.1, 0.3, 0.3, 0.2, 0.29])
    assert task.weight == task.weights[1]
    assert len(set(task.weights)) == 5


def test_it_stops_at_the_last_epoch() -> None:
    task = Scripted([0.1, 0.2, 0.3, 0.4], epochs=3)
    assert len(train(task)) == 3
    assert task.weight == task.weights[2]


def test_the_last_weights_are_kept_where_nobody_chooses() -> None:
    task = Scripted([0.1, 0.3, 0.2, 0.1], epochs=4, patience=1, keep="last")
    assert [one.is_best for one in train(task)] == [True, True, False, False]
    assert task.weight == task.weights[3]


def test_negative_scores_have_a_best_one_too() -> None:
    task = Scripted([-0.5, -0.2, -0.3], epochs=3)
    assert [one.is_best for one in train(task)] == [True, True, False]
    assert task.weight == task.weights[1]


def test_it_learns_in_training_mode_and_judges_in_the_other() -> None:
    task = Scripted([0.1, 0.2], epochs=2)
    train(task)
    assert task.modes == [True, True, False] * 2


def test_the_loss_told_is_the_mean_over_batches() -> None:
    task = Scripted([0.1], losses=5.0, epochs=1, learning_rate=1e-9)
    (one,) = train(task)
    assert one.loss == pytest.approx(5.0 - task.weight, abs=1e-5)


def test_the_learning_rate_falls_along_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def noted(self: Any, *arguments: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    train(Scripted([k / 10 for k in range(8)], epochs=8, learning_rate=0.2))
    per_epoch = rates[::2]
    assert rates[1::2] == per_epoch
    assert per_epoch[0] == 0.2
    assert per_epoch == pytest.approx([0.2 * math.cos(math.pi * k / 16) ** 2 for k in range(8)])


def test_the_learning_rate_rises_first_where_the_recipe_says_so() -> None:
    phase = Phase(epochs=8, batch_size=2, learning_rate=0.2, warm_up=0.5)
    rates = [_learning_rate(phase, number) for number in range(1, 9)]
    assert rates[:4] == pytest.approx([0.04, 0.08, 0.12, 0.16])
    assert rates[4:] == pytest.approx([0.2 * math.cos(math.pi * k / 8) ** 2 for k in range(4)])


def test_every_epoch_has_random_numbers_of_its_own_and_the_same_again() -> None:
    first, again, other = (Scripted([0.1, 0.2], epochs=2) for _ in range(3))
    train(first)
    train(again)
    train(other, seed=1)
    assert first.order == again.order
    assert first.order[0] != first.order[1]
    assert first.order[0] != other.order[0]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_an_error_with_a_hint(loss: float) -> None:
    with pytest.raises(DataError, match=r"training of scripted came to nothing.*Next: .*learning_rate"):
        train(Scripted([0.1], losses=loss))


def test_an_epoch_without_a_batch_is_an_error() -> None:
    task = Scripted([0.1])
    task.losses = lambda generator: iter(())  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"came to nothing.*Found: 0 batches"):
        train(task)


def test_scores_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(DataError, match=r"epoch 2 of scripted.*lower the recipe's learning_rate"):
        train(Scripted([0.1, math.nan]))


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    task = Scripted([0.1, 0.3, 0.2], epochs=3)
    state = State("scripted", history=[Epoch("before", 1, 0.5, {"valence": 0.2}, True)])
    train_phase(task, state, 0, lambda now: save_state(now, tmp_path / "c.pt"), lambda _: None)
    found = load_state(tmp_path / "c.pt")
    assert (found.phase, found.epochs, found.history) == ("scripted", state.epochs, state.history)
    assert found.n_since_best == 1
    for name in ("weights", "best"):
        assert torch.equal(getattr(found, name)["weight"], getattr(state, name)["weight"])
    assert not torch.equal(found.best["weight"], found.weights["weight"])
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize("data", [b"", b"nothing", b"PK\x03\x04" + bytes(40)])
def test_what_is_no_checkpoint(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "c.pt").write_bytes(data)
    with pytest.raises(DataError, match=r"cannot go on from .*c\.pt.*train into a new folder"):
        load_state(tmp_path / "c.pt")
    torch.save({"phase": "x"}, tmp_path / "d.pt")
    with pytest.raises(DataError, match=r"cannot go on from .*d\.pt"):
        load_state(tmp_path / "d.pt")


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"phase": Evil()}, tmp_path / "c.pt")
    with pytest.raises(DataError, match="cannot go on from"):
        load_state(tmp_path / "c.pt")
    assert not (tmp_path / "ran").exists()

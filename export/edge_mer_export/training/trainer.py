"""The loop: epochs, early stopping, and a run that can be killed at any moment and goes on.

All random numbers of an epoch follow from the seed, the phase and the epoch's number, so a resumed
run comes to the same weights as one that was never stopped.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge_mer.errors import DataError
from edge_mer_export.training.phases import Scores, Task
from edge_mer_export.training.recipe import Phase


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        phase: Name of the phase.
        number: From 1.
        loss: Mean over its batches.
        scores: Output -> CCC, of classes kappa, on the people to choose by.
        is_best: Better than all before.
    """

    phase: str
    number: int
    loss: float
    scores: Scores
    is_best: bool

    @property
    def score(self) -> float:
        """Mean of the scores."""
        return sum(self.scores.values()) / len(self.scores)


@dataclass
class State:
    """Where a phase stands; what a checkpoint holds.

    Attributes:
        phase: Name of the phase.
        epochs: What was done.
        weights: Of the network now.
        optimizer: State of the optimizer now.
        best: Weights of the best epoch, or of the last one where the recipe keeps that.
        history: Epochs of all phases before this one.
    """

    phase: str
    epochs: list[Epoch] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    history: list[Epoch] = field(default_factory=list)

    @property
    def n_since_best(self) -> int:
        """Epochs since the best one."""
        best = max((epoch.number for epoch in self.epochs if epoch.is_best), default=0)
        return len(self.epochs) - best


def train_phase(
    task: Task, state: State, seed: int, keep: Callable[[State], None], told: Callable[[Epoch], None]
) -> None:
    """Train until the last epoch or until nothing gets better; the network then has its best weights.

    A phase that keeps the last weights goes on to the last epoch.

    Args:
        task: Network and data.
        state: A fresh one, or a checkpoint's.
        seed: Of order, drop-out and augmentation.
        keep: Writes a checkpoint after each epoch.
        told: Of each new epoch.

    Raises:
        DataError: A loss or an estimate is no number.
    """
    network, phase = task.network, task.phase
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=phase.learning_rate, weight_decay=phase.weight_decay
    )
    if state.epochs:
        network.load_state_dict(state.weights)
        optimizer.load_state_dict(state.optimizer)
    keeps_last = phase.keep == "last"
    while len(state.epochs) < phase.epochs and (keeps_last or state.n_since_best < phase.patience):
        number = len(state.epochs) + 1
        generator = seeded(seed, task.name, number)
        loss = _train_epoch(task, optimizer, _learning_rate(phase, number), generator)
        epoch = _judged(task, state, number, loss)
        state.epochs.append(epoch)
        state.weights = copy.deepcopy(network.state_dict())
        state.optimizer = copy.deepcopy(optimizer.state_dict())
        if epoch.is_best or keeps_last:
            state.best = state.weights
        keep(state)
        told(epoch)
    network.load_state_dict(state.best)
    network.eval()


def seeded(seed: int, phase: str, epoch: int) -> torch.Generator:
    """PyTorch's own generator and a new one, both begun for one epoch of a phase."""
    digest = hashlib.sha256(f"{seed}/{phase}/{epoch}".encode()).digest()
    number = int.from_bytes(digest[:7], "little")
    torch.manual_seed(number)
    return torch.Generator().manual_seed(number)


def _learning_rate(phase: Phase, number: int) -> float:
    """Of an epoch: in equal steps up to the highest one, then along a cosine towards 0."""
    n_rising = round(phase.warm_up * phase.epochs)
    if number <= n_rising:
        return phase.learning_rate * number / (n_rising + 1)
    passed = (number - 1 - n_rising) / (phase.epochs - n_rising)
    return phase.learning_rate * (1 + math.cos(math.pi * passed)) / 2


def _train_epoch(
    task: Task, optimizer: torch.optim.Optimizer, learning_rate: float, generator: torch.Generator
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    task.network.train()
    total, n_batches = 0.0, 0
    for loss in task.losses(generator):
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(task.network.parameters(), 1.0)
        optimizer.step()
        total, n_batches = total + loss.item(), n_batches + 1
    mean = total / max(1, n_batches)
    if not math.isfinite(mean) or not n_batches:
        raise DataError(
            f"training of {task.name} came to nothing",
            expected="batches with a finite loss",
            found=f"{n_batches} batches, mean loss {mean}",
            hint="look at the labels, or lower the recipe's learning_rate or batch_size",
        )
    return mean


def _judged(task: Task, state: State, number: int, loss: float) -> Epoch:
    task.network.eval()
    with torch.no_grad():
        scores = task.scores()
    if not all(map(math.isfinite, scores.values())):
        raise DataError(
            f"epoch {number} of {task.name} gave estimates that are no numbers",
            hint="lower the recipe's learning_rate",
        )
    best_before = max((epoch.score for epoch in state.epochs), default=-math.inf)
    is_best = sum(scores.values()) / len(scores) > best_before
    return Epoch(task.name, number, loss, scores, is_best)


def save_state(state: State, file: Path) -> None:
    """Write a checkpoint; a kill in the middle leaves the one before."""
    content = {
        **{key: getattr(state, key) for key in ("phase", "weights", "optimizer", "best")},
        "epochs": [asdict(epoch) for epoch in state.epochs],
        "history": [asdict(epoch) for epoch in state.history],
    }
    partial = file.with_suffix(".part")
    with partial.open("wb") as target:
        torch.save(content, target)
        target.flush()
        os.fsync(target.fileno())
    partial.replace(file)


def load_state(file: Path) -> State:
    """Read a checkpoint.

    Raises:
        DataError: It is none.
    """
    try:
        content = torch.load(file, weights_only=True, map_location="cpu")
        return State(
            **{key: content[key] for key in ("phase", "weights", "optimizer", "best")},
            epochs=_epochs(content["epochs"]),
            history=_epochs(content["history"]),
        )
    except Exception as error:  # a foreign or broken file raises whatever the unpickler stumbles over
        found = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"cannot go on from {file}", found=found, hint="train into a new folder") from error


def _epochs(rows: Iterable[dict[str, Any]]) -> list[Epoch]:
    return [Epoch(**row) for row in rows]

"""What is trained in each phase: batches, forward pass, validation.

Shape letters: N sample, M modality, L step, D feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_mer.errors import DataError
from edge_mer.postprocess.decode import expected
from edge_mer.runtime.agreement import confusion, kappa
from edge_mer.runtime.proof import concordance
from edge_mer.types.model import EmotionOutput, Encoder, Fusion, LogMel, Output
from edge_mer_export.engines import as_tuple
from edge_mer_export.models.zoo import ZooModel
from edge_mer_export.training.augment import augmented, hidden_in_part
from edge_mer_export.training.losses import loss_of
from edge_mer_export.training.recipe import FusionPhase, Phase
from edge_mer_export.training.sessions import Session

_BATCH = 256
Scores = dict[str, float]
"""Output -> agreement with the labels of people who were not learned from: CCC, of classes kappa."""


class Task(Protocol):
    """A phase's network and data."""

    @property
    def name(self) -> str:
        """Of the phase."""
        ...

    @property
    def phase(self) -> Phase:
        """How it is trained."""
        ...

    @property
    def network(self) -> nn.Module:
        """What is trained, in place."""
        ...

    def losses(self, generator: torch.Generator) -> Iterator[Tensor]:
        """The loss of each batch of one epoch."""
        ...

    def scores(self) -> Scores:
        """How well it does on the people to choose by."""
        ...


class _Headed(nn.Module):
    """An encoder with one small head per output, which is thrown away afterwards."""

    def __init__(self, encoder: nn.Module, width: int, outputs: Sequence[Output], dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleList([nn.Linear(width, max(1, *o.value_shape, 1)) for o in outputs])
        self._shapes = [output.value_shape for output in outputs]

    def forward(self, steps: Tensor) -> list[Tensor]:
        """(N, …) -> one (N, *value_shape) per output."""
        feature = self.dropout(self.encoder(steps))  # (N, D)
        return [head(feature).reshape(-1, *s) for head, s in zip(self.heads, self._shapes, strict=True)]


class _Whole(nn.Module):
    """A model of one encoder whose fusion reads one step: the fusion is its head, and stays."""

    def __init__(self, model: ZooModel, dropout: float) -> None:
        super().__init__()
        self._fusion = model.spec.fusion
        self.encoder = model.stages[model.spec.encoders[0].stage]
        self.head = model.stages[self._fusion.stage]
        _set_dropout(self.head, dropout)

    def forward(self, steps: Tensor) -> list[Tensor]:
        """(N, …) -> one (N, *value_shape) per output."""
        feature = self.encoder(steps)  # (N, D)
        return _at_last_step(self._fusion, self.head(feature[:, None]))


class BackboneTask:
    """One encoder alone, on single steps.

    Args:
        model: The model whose encoder is trained, in place.
        encoder: Which one.
        phase: How.
        train: Sessions to learn from.
        valid: Sessions to choose by.

    Raises:
        DataError: The people to choose by show it nothing.
    """

    def __init__(
        self, model: ZooModel, encoder: Encoder, phase: Phase, train: list[Session], valid: list[Session]
    ) -> None:
        self.name, self.phase = encoder.stage, phase
        self._encoder, self._outputs = encoder, model.spec.outputs
        self.network = self._headed(model)
        self._train, self._train_labels = self._gather(train)
        self._valid, self._valid_labels = self._gather(valid)
        _demand_some(len(self._valid), self.name)
        self._weights = _class_weights(self._outputs, self._train_labels, phase.balance)

    def _headed(self, model: ZooModel) -> nn.Module:
        width = int(self._encoder.output.shape[-1])
        return _Headed(model.stages[self.name], width, self._outputs, self.phase.dropout)

    def _gather(self, sessions: list[Session]) -> tuple[Tensor, list[Tensor]]:
        stage = self._encoder.stage
        steps = np.concatenate([one.steps[stage][one.present[stage]] for one in sessions])
        labels = [
            torch.from_numpy(np.concatenate([one.labels[o.name][one.present[stage]] for one in sessions]))
            for o in self._outputs
        ]
        return torch.from_numpy(steps), labels

    def losses(self, generator: torch.Generator) -> Iterator[Tensor]:
        """The loss of each batch of one epoch."""
        for part in _parts(_drawn(len(self._train), self.phase, generator), self.phase.batch_size):
            if len(part) < 2:
                continue
            steps = augmented(self._train[part].float(), self._encoder.preprocess, generator)
            if isinstance(self._encoder.preprocess, LogMel):
                steps = hidden_in_part(steps, self.phase, generator)
            found = self.network(steps)
            labels = [one[part] for one in self._train_labels]
            yield _total(self._outputs, found, labels, self._weights, self.phase.smoothing)

    def scores(self) -> Scores:
        """How well single steps do on the people to choose by."""
        parts = [self.network(part.float()) for part in _parts(self._valid, _BATCH)]
        found = [torch.cat(one) for one in zip(*parts, strict=True)]
        return _scores(self._outputs, found, self._valid_labels)


class WholeTask(BackboneTask):
    """All of a model that has one encoder and whose fusion reads one step.

    A head that learns afterwards learns from features of people known by heart, and does worse on others.
    """

    def _headed(self, model: ZooModel) -> nn.Module:
        return _Whole(model, self.phase.dropout)


class FusionTask:
    """The fusion on windows of the trained backbones' features.

    Args:
        model: The model whose fusion is trained, in place; its encoders are left as they are.
        phase: How.
        train: Sessions to learn from.
        valid: Sessions to choose by.

    Raises:
        DataError: The people to choose by show it nothing.
    """

    def __init__(
        self, model: ZooModel, phase: FusionPhase, train: list[Session], valid: list[Session]
    ) -> None:
        self.name, self.phase = model.spec.fusion.stage, phase
        self._fusion_phase = phase
        self._spec = model.spec
        self.network = model.stages[self.name]
        _set_dropout(self.network, phase.dropout)
        self._train = _Windows(model, train)
        self._valid = _Windows(model, valid)
        _demand_some(self._valid.n, self.name)
        self._weights = _class_weights(model.spec.outputs, self._train.labels, phase.balance)

    def losses(self, generator: torch.Generator) -> Iterator[Tensor]:
        """The loss of each batch of one epoch."""
        for part in _parts(_drawn(self._train.n, self.phase, generator), self.phase.batch_size):
            if len(part) < 2:
                continue
            features, present, labels = self._train.cut(part)
            if self._spec.fusion.has_present_input:
                present = _with_gaps(present, self._fusion_phase, generator)
            found = self._run(features, present)
            yield _total(self._spec.outputs, found, labels, self._weights, self.phase.smoothing)

    def scores(self) -> Scores:
        """How well all modalities together do on the people to choose by."""
        return self.scores_of(self._spec.modalities)

    def scores_of(self, modalities: Sequence[str]) -> Scores:
        """How well a subset of the modalities does, the others being missing."""
        keep = torch.tensor([modality in modalities for modality in self._spec.modalities])  # (M,)
        found: list[list[Tensor]] = []
        labels: list[list[Tensor]] = []
        for part in _parts(torch.arange(self._valid.n), _BATCH):
            features, present, truth = self._valid.cut(part)
            present = present & keep[:, None]
            seen = present[:, :, -1].any(dim=1)  # else the device withholds
            features = [one[seen] for one in features]
            found.append(self._run(features, present[seen]))
            labels.append([one[seen] for one in truth])
        return _scores(self._spec.outputs, _joined(found), _joined(labels))

    def _run(self, features: list[Tensor], present: Tensor) -> list[Tensor]:
        """The outputs of each window, at its last step: one (N, *value_shape) per output."""
        fusion = self._spec.fusion
        shown = [one * present[:, m, :, None] for m, one in enumerate(features)]
        inputs = [*shown, present] if fusion.has_present_input else shown
        return _at_last_step(fusion, self.network(*inputs))


def _set_dropout(network: nn.Module, share: float) -> None:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = share


def _at_last_step(fusion: Fusion, outputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    """Of what a fusion gives, what belongs to the last step: one (N, *value_shape) per output."""
    pairs = zip(as_tuple(outputs), fusion.outputs, strict=True)
    return [one[:, -1] if "steps" in tensor.axes else one for one, tensor in pairs]


def _demand_some(n: int, name: str) -> None:
    if not n:
        raise DataError(
            f"there is nothing to choose {name} by",
            expected="at least one step that shows what it looks at, of people in the split valid",
            found="none: no face, no sound or no signal in all of their recordings",
        )


class _Windows:
    """Every window of L steps of some sessions, those that reach before a session's start too."""

    def __init__(self, model: ZooModel, sessions: list[Session]) -> None:
        spec = model.spec
        self._n_steps = length = spec.fusion.n_steps
        padding = length - 1
        self._features = [
            torch.cat([_padded(_features(model, e.stage, one), padding) for one in sessions])
            for e in spec.encoders
        ]
        self._present = torch.stack(
            [
                torch.cat([_padded(torch.from_numpy(one.present[e.stage]), padding) for one in sessions])
                for e in spec.encoders
            ]
        )  # (M, all steps)
        self._labels = [
            torch.cat([_padded(torch.from_numpy(one.labels[o.name]), padding) for one in sessions])
            for o in spec.outputs
        ]
        ends, first = [], 0
        for one in sessions:
            ends.append(torch.arange(first + padding, first + padding + one.n_steps))
            first += padding + one.n_steps
        all_ends = torch.cat(ends)
        usable = self._present[:, all_ends].any(dim=0)
        if not spec.fusion.has_present_input:
            usable = self._present[:, self._rows(all_ends)].all(dim=0).all(dim=1)
        self._ends = all_ends[usable]

    @property
    def n(self) -> int:
        """How many windows."""
        return len(self._ends)

    @property
    def labels(self) -> list[Tensor]:
        """Of the last step of every window: (n,) each."""
        return [one[self._ends] for one in self._labels]

    def _rows(self, ends: Tensor) -> Tensor:
        return ends[:, None] + torch.arange(1 - self._n_steps, 1)  # (N, L)

    def cut(self, which: Tensor) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Features, one (N, L, D) per modality; present (N, M, L); labels of the last steps, (N,) each."""
        rows = self._rows(self._ends[which])
        features = [one[rows] for one in self._features]
        present = self._present[:, rows].transpose(0, 1)
        return features, present, [one[self._ends[which]] for one in self._labels]


def _features(model: ZooModel, stage: str, session: Session) -> Tensor:
    """(steps, D) of the trained encoder, zero where absent."""
    steps = torch.from_numpy(session.steps[stage])
    with torch.no_grad():
        parts = [model.stages[stage](part.float()) for part in _parts(steps, _BATCH)]
    return torch.cat(parts) * torch.from_numpy(session.present[stage])[:, None]


def _padded(values: Tensor, n: int) -> Tensor:
    """`n` rows of zeros, or of False, before `values`."""
    return torch.cat([torch.zeros((n, *values.shape[1:]), dtype=values.dtype), values])


def _with_gaps(present: Tensor, phase: FusionPhase, generator: torch.Generator) -> Tensor:
    """Masks (N, M, L) in which modalities are missing here and there; one always stays at the end."""
    n, n_modalities, length = present.shape
    chance = torch.rand(n, generator=generator)
    victim = torch.randint(n_modalities, (n,), generator=generator)
    first = torch.randint(length, (n,), generator=generator)
    last = first + torch.randint(1, length + 1, (n,), generator=generator)
    step = torch.arange(length)
    all_steps = (chance < phase.modality_dropout)[:, None]
    some_steps = (
        (chance >= 1 - phase.step_dropout)[:, None] & (step >= first[:, None]) & (step < last[:, None])
    )
    hit = torch.zeros_like(present)
    hit[torch.arange(n), victim] = all_steps | some_steps
    gapped = present & ~hit
    # a window whose newest step shows nothing is never asked about
    blind = ~gapped[:, :, -1].any(dim=1)
    return torch.where(blind[:, None, None], present, gapped)


def _parts(values: Tensor, size: int) -> list[Tensor]:
    return [values[first : first + size] for first in range(0, len(values), size)]


def _drawn(n: int, phase: Phase, generator: torch.Generator) -> Tensor:
    """Which of n samples an epoch looks at, in what order."""
    order = torch.randperm(n, generator=generator)
    return order[: phase.samples_per_epoch] if phase.samples_per_epoch else order


def _class_weights(outputs: Sequence[Output], labels: list[Tensor], balance: float) -> list[Tensor | None]:
    """How much a sample of each class counts, (K,) per output; None where all count alike."""
    return [
        _by_rarity(truth, len(output.labels)) ** balance
        if isinstance(output, EmotionOutput) and balance
        else None
        for output, truth in zip(outputs, labels, strict=True)
    ]


def _by_rarity(truth: Tensor, n_classes: int) -> Tensor:
    """One over how often each class comes, (K,); as if once where it never does."""
    counts = truth[torch.isfinite(truth)].round().long().bincount(minlength=n_classes)  # (K,)
    return 1 / counts.clamp(min=1)


def _total(
    outputs: Sequence[Output],
    found: list[Tensor],
    labels: list[Tensor],
    weights: list[Tensor | None],
    smoothing: float,
) -> Tensor:
    parts = zip(outputs, found, labels, weights, strict=True)
    return torch.stack([loss_of(o, f, t, w, smoothing) for o, f, t, w in parts]).mean()


def _scores(outputs: Sequence[Output], found: list[Tensor], labels: list[Tensor]) -> Scores:
    scores: Scores = {}
    for output, raw, truth in zip(outputs, found, labels, strict=True):
        there = torch.isfinite(truth).numpy()
        estimates: NDArray[np.float64] = expected(output, raw.numpy())[there]
        labels_there = truth.numpy()[there].astype(np.float64)
        scores[output.name] = _agreement(output, estimates, labels_there)
    return scores


def _agreement(output: Output, found: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Of estimates (N,), or of classes (N, K), with labels (N,); 0 where nothing varies."""
    if isinstance(output, EmotionOutput):
        return float(kappa(confusion(found, truth)))
    return concordance(found, truth) or 0.0


def _joined(parts: list[list[Tensor]]) -> list[Tensor]:
    return [torch.cat(one) for one in zip(*parts, strict=True)]

"""Two models that plain conversion breaks, for `edge-mer export breaking_models.py:Name`.

Their weights come from a seed, and their outputs vary with their inputs. Encoders end in a batch norm, so
that with `--random`, which calibrates it on simulated people, features have a mean of 0 and a deviation of 1.
"""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor, nn

from edge_mer.types.model import AffectOutput, Encoder, Fusion, ModelSpec, Signal, TensorSpec

STEP, STEPS, FEATURE, WIDTH = Fraction(1, 2), 8, 16, 32
N_OUTLIERS, OUTLIER = 2, 400.0
LOUD = 300.0


def _encoder(modality: str, rate_hz: int, unit: str, mean: float, std: float) -> Encoder:
    """Two seconds of one sensor, ending with the step."""
    span = Fraction(2)
    samples = TensorSpec(
        name="samples", axes=("batch", "channel", "sample"), shape=("batch", 1, int(span * rate_hz))
    )
    return Encoder(
        stage=modality,
        modality=modality,
        input=samples,
        output=TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", FEATURE)),
        period=STEP,
        span=span,
        preprocess=Signal(rate_hz=rate_hz, unit=unit, mean=mean, std=std),
        min_coverage=1.0,
    )


def _spec(name: str, title: str) -> ModelSpec:
    features = tuple(
        TensorSpec(name=one, axes=("batch", "steps", "feature"), shape=("batch", STEPS, FEATURE))
        for one in ("eda", "ecg")
    )
    return ModelSpec(
        name=name,
        title=title,
        source="made for tests",
        step=STEP,
        encoders=(_encoder("eda", 32, "uS", 8.0, 4.0), _encoder("ecg", 128, "mV", 0.0, 0.3)),
        fusion=Fusion(
            n_steps=STEPS,
            inputs=features,
            outputs=(TensorSpec(name="arousal", axes=("batch", "steps"), shape=("batch", STEPS)),),
            warm_up="withhold",
        ),
        outputs=(AffectOutput(name="arousal"),),
        intended_use="Tests.",
        licence="Apache-2.0",
    )


class _Attention(nn.Module):
    """Two encoders, attention over the steps of a window, and a feed-forward part."""

    last_layers: ClassVar[dict[str, str]] = {"arousal": "head"}

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.eda, self.ecg = self._convolutions(), self._convolutions()
            self.project = nn.Linear(2 * FEATURE, WIDTH)
            self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
            self.first, self.second = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
            self.head = nn.Linear(WIDTH, 1)

    @staticmethod
    def _convolutions() -> nn.Sequential:
        return nn.Sequential(
            nn.Conv1d(1, 8, 7, stride=4),
            nn.ReLU(),
            nn.Conv1d(8, FEATURE, 5, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.BatchNorm1d(FEATURE),
        )

    def scores(self, h: Tensor) -> Tensor:
        """What steps make of each other: (B, L, WIDTH) -> (B, L, L)."""
        return self.q(h) @ self.k(h).transpose(1, 2) / WIDTH**0.5

    def fuse(self, eda: Tensor, ecg: Tensor) -> Tensor:
        """(B, L, FEATURE) of each -> (B, L)."""
        h = self.project(torch.cat([eda, ecg], dim=-1))  # (B, L, WIDTH)
        mixed = torch.softmax(self.scores(h), dim=-1) @ self.v(h)
        hidden = torch.relu(self.second(torch.relu(self.first(mixed + h))))
        out: Tensor = self.head(hidden).squeeze(-1)
        return out


class OutlierAttention(_Attention):
    """Two channels are hundreds of times as large as the others, as in large transformers.

    Who reads them has small weights for them, so they carry no more than the others; but one scale for all
    channels leaves those hardly a level.
    """

    spec = _spec("outlier-attention", "Attention with outlier channels")

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.project.bias[:N_OUTLIERS] += OUTLIER
            for layer in (self.q, self.k, self.v, self.first):
                layer.weight[:, :N_OUTLIERS] /= OUTLIER


class Overflowing(_Attention):
    """Loud queries and keys, whose products leave the range of half before they are scaled down."""

    spec = _spec("overflowing", "Attention that overflows in half precision")

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            for layer in (self.q, self.k):
                layer.weight *= LOUD
                layer.bias *= LOUD

    def scores(self, h: Tensor) -> Tensor:
        """(B, L, WIDTH) -> (B, L, L)."""
        return super().scores(h) / LOUD**2


MODELS = (OutlierAttention, Overflowing)

if __name__ == "__main__":  # leaves a checkpoint of each beside it
    for model_class in MODELS:
        torch.save(model_class().state_dict(), f"{model_class.spec.name}.pt")

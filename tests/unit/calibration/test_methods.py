"""Which method is taken for a stage, and that what it came to is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_mer.types.model import TensorSpec
from edge_mer_calibration.methods import Stage, histograms_of, relative_error
from edge_mer_calibration.quantize import SCHEMES
from edge_mer_calibration.ranges import METHODS, Feed
from edge_mer_export.onnx_stage import export_stage

pytestmark = pytest.mark.workbench

INPUT = (TensorSpec(name="x", axes=("batch", "feature"), shape=("batch", 64)),)
OUTPUT = (TensorSpec(name="y", axes=("batch", "feature"), shape=("batch", 32)),)


class Clipped(nn.Module):
    """What lies beyond 4 makes no difference, but takes the levels of what does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 64) -> (B, 32)."""
        y: Tensor = self.second(torch.tanh(self.first(x)))
        return y


def feeds_of(n: int, seed: int, outlier: float) -> list[Feed]:
    rng = np.random.default_rng(seed)
    feeds = [{"x": rng.standard_normal((1, 64)).astype(np.float32)} for _ in range(n)]
    feeds[0]["x"][0, 0] = outlier
    return feeds


def a_stage(outlier: float) -> Stage:
    torch.manual_seed(0)
    data = export_stage("s", Clipped().eval(), INPUT, OUTPUT, 1)
    feeds = feeds_of(64, 0, outlier)
    return Stage("s", data, INPUT, OUTPUT, feeds, histograms_of(data, feeds), feeds_of(16, 1, 1.0))


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_the_method_that_errs_least_is_taken(scheme: str) -> None:
    stage = a_stage(outlier=100.0)
    data, how = stage.quantized(SCHEMES[scheme])
    assert tuple(how.tried) == METHODS
    assert how.tried[how.method] == min(how.tried.values())
    assert how.method != "min-max"
    assert how.tried["min-max"] > 1.5 * how.tried[how.method]
    assert data == stage.by(how.method, SCHEMES[scheme])  # type: ignore[arg-type]


def test_of_equals_the_plainest_is_taken() -> None:
    stage = a_stage(outlier=2.0)
    _, how = stage.quantized(SCHEMES["int8-trt"])
    assert max(how.tried.values()) < 0.1


def test_the_worst_output_counts_in_its_own_deviation() -> None:
    rng = np.random.default_rng(0)
    truth = {"a": [rng.standard_normal((50, 1)) * 100], "b": [rng.standard_normal((50, 1)) * 0.01]}
    found = {"a": [truth["a"][0] + 1.0], "b": [truth["b"][0] + 0.005]}
    expected = 0.005 / truth["b"][0].std()
    assert relative_error(found, truth) == pytest.approx(expected, rel=1e-6)


def test_utterances_of_any_length_are_rows_of_tokens() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((9, 3)) * 0.1 + [0, 5, 10]  # what lies between columns is no variation
    truth = {"words": [tokens[None, :4], tokens[None, 4:]]}
    found = {"words": [part + 0.01 for part in truth["words"]]}
    deviation = np.sqrt(tokens.var(axis=0).mean())
    assert relative_error(found, truth) == pytest.approx(0.01 / deviation, rel=1e-6)

"""A search leaves in float what harms most, and no more than the budget asks for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edge_mer.bundle.manifest import OutputError
from edge_mer.engine.base import Engine
from edge_mer.engine.onnxruntime import OrtEngine, OrtOptions
from edge_mer.runtime.proof import concordance
from edge_mer.types.model import TensorSpec
from edge_mer_calibration.fidelity import Fidelity, drop
from edge_mer_calibration.methods import Stage, histograms_of
from edge_mer_calibration.quantize import SCHEMES
from edge_mer_calibration.ranges import Feed
from edge_mer_calibration.search import Search
from edge_mer_export.onnx_stage import export_stage

pytestmark = pytest.mark.workbench

WIDTH, L = 32, 8
INPUT = (TensorSpec(name="x", axes=("batch", "steps", "feature"), shape=("batch", L, WIDTH)),)
OUTPUT = (TensorSpec(name="y", axes=("batch", "steps"), shape=("batch", L)),)
N_OUTLIERS, OUTLIER = 2, 400.0


class Attends(nn.Module):
    """Attention whose inner channels hold a few large constants, as those of large transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, WIDTH)
        self.attention = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("q", "k", "v")})
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, WIDTH))
        self.head = nn.Linear(WIDTH, 16)
        with torch.no_grad():
            self.project.bias[:N_OUTLIERS] = OUTLIER
            for layer in (*self.attention.values(), self.feed_forward[0]):
                layer.weight[:, :N_OUTLIERS] *= 0.02

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L)."""
        h = self.project(x)  # (B, L, D)
        q, k, v = (self.attention[name](h) for name in ("q", "k", "v"))
        mixed = torch.softmax(q @ k.transpose(1, 2) / WIDTH**0.5, dim=-1) @ v  # (B, L, D)
        out = h[..., N_OUTLIERS:].sum(-1, keepdim=True) * 0.05 + self.head(self.feed_forward(mixed + h))
        y: Tensor = out.sum(-1)  # (B, L)
        return y


class OneStage(Fidelity):
    """The concordance of one stage's own output."""

    def __init__(self, model: bytes, feeds: list[Feed]) -> None:
        self._feeds = feeds
        self._expected = self._run(OrtEngine("s", model, INPUT, OUTPUT, {"batch": 1}, OrtOptions()))
        self.n_asked = 0

    def of(self, engines: Mapping[str, Engine]) -> dict[str, OutputError]:
        self.n_asked += 1
        found = self._run(engines["s"])
        return {"valence": OutputError(max=0, rms=0, ccc=concordance(found, self._expected))}

    def _run(self, engine: Engine) -> np.ndarray:
        return np.concatenate([engine.run(feed)["y"].ravel() for feed in self._feeds]).astype(np.float64)


def feeds_of(n: int, seed: int) -> list[Feed]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, L, WIDTH)).astype(np.float32)} for _ in range(n)]


@pytest.fixture(scope="module")
def stage() -> Stage:
    torch.manual_seed(0)
    data = export_stage("s", Attends().eval(), INPUT, OUTPUT, L)
    return Stage("s", data, INPUT, OUTPUT, histograms_of(data, feeds_of(32, 0)), feeds_of(16, 1))


@pytest.mark.parametrize("kind", sorted(SCHEMES))
def test_a_model_that_breaks_in_8_bits_is_mended_by_leaving_blocks_in_float(stage: Stage, kind: str) -> None:
    scheme, fidelity = SCHEMES[kind], OneStage(stage.model, feeds_of(32, 2))
    options = OrtOptions(fuse_qdq=not scheme.half)
    plain = OrtEngine("s", stage.by("min-max", scheme), INPUT, OUTPUT, {"batch": 1}, options)
    assert drop(fidelity.of({"s": plain})) > 0.05
    search = Search([stage], scheme, fidelity, 0.005, lambda _: None)
    whole = search.whole()
    assert not whole.is_good
    mixed = search.mixed(whole)
    assert mixed.is_good
    assert mixed.drop <= 0.005
    findings = mixed.how["s"].blocks
    assert any(not one.is_float for one in findings.values())
    worst = max(findings, key=lambda name: findings[name].drop)
    assert findings[worst].is_float
    made = onnx.load_model_from_string(mixed.stages["s"])
    n_quantized = sum(one.n_nodes for one in findings.values() if not one.is_float)
    weights = [t for t in made.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2]
    assert len(weights) == n_quantized


def test_what_is_good_as_a_whole_needs_no_search(stage: Stage) -> None:
    fidelity = OneStage(stage.model, feeds_of(8, 2))
    whole = Search([stage], SCHEMES["int8-cpu"], fidelity, 1.0, lambda _: None).whole()
    assert whole.is_good
    assert fidelity.n_asked == 1
    assert whole.how["s"].blocks == {}


def test_the_worst_output_counts_and_none_at_all_is_lost() -> None:
    some = OutputError(max=0, rms=0, ccc=0.9)
    assert drop({"a": some, "b": OutputError(max=0, rms=0, ccc=0.99)}) == pytest.approx(0.1)
    assert drop({"a": some, "b": OutputError(max=0, rms=0, ccc=None)}) == 1.0

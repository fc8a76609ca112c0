"""A search leaves in float what harms most, and no more than the budget asks for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edge_mer.bundle.manifest import Budget, OutputError
from edge_mer.engine.base import Engine
from edge_mer.engine.onnxruntime import OrtEngine, OrtOptions
from edge_mer.runtime.proof import concordance
from edge_mer.types.model import TensorSpec
from edge_mer_calibration.fidelity import Cost, Fidelity
from edge_mer_calibration.forms import FORMS
from edge_mer_calibration.methods import Stage, histograms_of
from edge_mer_calibration.quantize import SCHEMES
from edge_mer_calibration.ranges import Feed
from edge_mer_calibration.search import Judge, Search, _fewest
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

    def of(self, engines: Mapping[str, Engine]) -> Cost:
        self.n_asked += 1
        found = self._run(engines["s"])
        return Cost({"valence": OutputError(max=0, rms=0, ccc=concordance(found, self._expected))})

    def _run(self, engine: Engine) -> np.ndarray:
        return np.concatenate([engine.run(feed)["y"].ravel() for feed in self._feeds]).astype(np.float64)


def feeds_of(n: int, seed: int) -> list[Feed]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, L, WIDTH)).astype(np.float32)} for _ in range(n)]


@pytest.fixture(scope="module")
def stage() -> Stage:
    torch.manual_seed(0)
    data = export_stage("s", Attends().eval(), INPUT, OUTPUT, L)
    feeds = feeds_of(32, 0)
    return Stage("s", data, INPUT, OUTPUT, feeds, histograms_of(data, feeds), feeds_of(16, 1))


def search_of(stage: Stage, kind: str, fidelity: Fidelity, **budget: float) -> Search:
    return Search(
        [stage], FORMS[kind], Judge(fidelity, fidelity, Budget(**{"ccc": 0.005, **budget})), said_nothing
    )


def said_nothing(what: str, done: int = 0, of: int = 0) -> None:
    pass


@pytest.mark.parametrize("kind", sorted(SCHEMES))
def test_a_model_that_breaks_in_8_bits_is_mended_by_leaving_blocks_in_float(stage: Stage, kind: str) -> None:
    scheme, fidelity = SCHEMES[kind], OneStage(stage.model, feeds_of(32, 2))
    options = OrtOptions(fuse_qdq=not scheme.half)
    plain = OrtEngine("s", stage.by("min-max", scheme), INPUT, OUTPUT, {"batch": 1}, options)
    assert fidelity.of({"s": plain}).drop > 0.05
    search = search_of(stage, kind, fidelity)
    whole = search.whole()
    assert not whole.is_good
    assert "of concordance with fp32, 0.005 is allowed" in whole.over[0]
    mixed = search.mixed(whole)
    assert mixed.is_good
    assert mixed.cost.drop <= 0.005
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
    found = search_of(stage, "int8-cpu", fidelity, ccc=1.0).run()
    assert list(found) == ["int8-cpu"]
    assert found["int8-cpu"].is_good
    assert fidelity.n_asked == 1
    assert found["int8-cpu"].how["s"].blocks == {}


def test_no_block_is_left_in_float_that_need_not_be(stage: Stage) -> None:
    search = search_of(stage, "int8-cpu", OneStage(stage.model, feeds_of(32, 2)))
    mixed = search.mixed(search.whole())
    left = [block for _, block in mixed.in_the_way]
    assert left
    for block in left[:-1]:
        nodes = [n for other, own in stage.blocks.items() if other == block or other not in left for n in own]
        data = FORMS["int8-cpu"].part(stage, mixed.how["s"], nodes)
        fidelity = OneStage(stage.model, feeds_of(32, 2))
        assert fidelity.of({"s": FORMS["int8-cpu"].engine(stage, data)}).drop > 0.005


def test_where_nothing_is_good_enough_the_best_is_told_with_what_is_in_the_way(stage: Stage) -> None:
    found = search_of(stage, "int8-cpu", OneStage(stage.model, feeds_of(32, 2)), ccc=0.0).run()
    best = found["int8-cpu+mixed"]
    assert not best.is_good
    assert not best.has_few_bits
    assert len(best.in_the_way) == len(stage.blocks)
    harm = [finding.drop for finding in best.in_the_way.values()]
    assert harm == sorted(harm, reverse=True)


class Calm(nn.Module):
    """Nothing that breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L)."""
        y: Tensor = self.project(x).sum(-1)  # (B, L)
        return y


class TwoStages(OneStage):
    """Beside the stage that breaks one that does not, each with an output of its own."""

    def __init__(self, model: bytes, feeds: list[Feed], calm: OneStage) -> None:
        super().__init__(model, feeds)
        self._calm = calm

    def of(self, engines: Mapping[str, Engine]) -> Cost:
        costs = [one.of({"s": engines[name]}) for name, one in (("calm", self._calm),) if name in engines]
        costs += [super().of(engines)] if "s" in engines else []
        return max(costs, key=lambda cost: cost.drop)


def test_no_block_is_tried_of_a_stage_that_alone_costs_next_to_nothing(stage: Stage) -> None:
    torch.manual_seed(1)
    data = export_stage("calm", Calm().eval(), INPUT, OUTPUT, L)
    feeds = feeds_of(32, 0)
    calm = Stage("calm", data, INPUT, OUTPUT, feeds, histograms_of(data, feeds), feeds_of(16, 1))
    fidelity = TwoStages(stage.model, feeds_of(32, 2), OneStage(data, feeds_of(32, 2)))
    judge = Judge(fidelity, fidelity, Budget(ccc=0.005))
    said: list[str] = []
    search = Search([calm, stage], FORMS["int8-cpu"], judge, said.append)
    found = search.mixed(search.whole())
    assert found.is_good
    assert found.how["calm"].blocks == {}
    assert 0 < (found.how["calm"].alone or 0) <= 0.0005
    assert found.how["s"].blocks
    assert (found.how["s"].alone or 0) > 0.005
    assert not any("block of calm" in one for one in said)
    made = onnx.load_model_from_string(found.stages["calm"])
    assert any(t.data_type == onnx.TensorProto.INT8 for t in made.graph.initializer)


def test_what_is_only_slow_is_not_searched(stage: Stage) -> None:
    fidelity = OneStage(stage.model, feeds_of(8, 2))
    judge = Judge(fidelity, fidelity, Budget(ccc=1.0, latency_ms=1.0), lambda _: 2.5)
    found = Search([stage], FORMS["int8-cpu"], judge, said_nothing).run()
    assert found["int8-cpu"].over == ("takes 2.5 ms here, 1 are allowed",)
    assert fidelity.n_asked == 1


@pytest.mark.parametrize("needed", range(1, 14))
@pytest.mark.parametrize("low", [1, 3])
def test_as_few_as_are_enough_are_found_in_few_tries(needed: int, low: int) -> None:
    asked: list[int] = []

    def is_enough(n: int) -> bool:
        asked.append(n)
        return n >= needed

    assert _fewest(is_enough, low, 12) == min(12, max(low, needed))
    assert len(asked) <= 7
    assert len(set(asked)) == len(asked)


def test_points_against_labels_count_where_there_are_labels() -> None:
    judge = Judge(None, None, Budget(ccc=0.005, points=0.5))  # type: ignore[arg-type]
    errors = {"emotion": OutputError(max=0, rms=0, ccc=1.0)}
    assert judge.over(Cost(errors, 0.4)) == ()
    assert judge.over(Cost(errors, 0.6)) == ("loses 0.60 points against labels, 0.5 are allowed",)
    assert judge.over(Cost(errors)) == ("loses nobody knows how many points: there are no labels",)


def test_the_worst_output_counts_and_none_at_all_is_lost() -> None:
    some = OutputError(max=0, rms=0, ccc=0.9)
    assert Cost({"a": some, "b": OutputError(max=0, rms=0, ccc=0.99)}).drop == pytest.approx(0.1)
    assert Cost({"a": some, "b": OutputError(max=0, rms=0, ccc=None)}).drop == 1.0

"""Two models that plain conversion breaks, and what mends them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_mer.runtime.proof import concordance
from edge_mer.types.model import ModelSpec
from edge_mer_calibration.balance import balanced
from edge_mer_calibration.bias import bias_corrected, with_corrected
from edge_mer_calibration.half import LIMIT, half_stage
from edge_mer_calibration.half_arithmetic import in_half_arithmetic
from edge_mer_calibration.methods import histograms_of
from edge_mer_calibration.overflow import near_overflow, peaks_of
from edge_mer_calibration.quantize import SCHEMES, finish_stage, quantizable, quantize_stage
from edge_mer_calibration.trt_rules import problems
from edge_mer_export.models.own import own_system
from edge_mer_export.models.zoo import Found
from edge_mer_export.onnx_stage import export_stage
from tests.helpers import breaking_models
from tests.helpers.graphs import Feed, Floats, run

pytestmark = pytest.mark.workbench

FILE = Path(breaking_models.__file__)
SEEN, NEW = 0, 1


def fusion_of(name: str) -> bytes:
    """Its window fusion, from the file as a user would name it."""
    model = own_system(f"{FILE}:{name}").build(Found({}, {}))
    fusion = model.spec.fusion
    return export_stage("fusion", model.stage("fusion").module, fusion.inputs, fusion.outputs, fusion.n_steps)


@pytest.fixture(scope="module")
def outlier() -> bytes:
    return fusion_of("OutlierAttention")


@pytest.fixture(scope="module")
def overflowing() -> bytes:
    return fusion_of("Overflowing")


def feeds_of(seed: int, n: int = 32) -> list[Feed]:
    """Windows of features with a mean of 0 and a deviation of 1."""
    rng = np.random.default_rng(seed)
    shape = (1, breaking_models.STEPS, breaking_models.FEATURE)
    return [
        {name: rng.standard_normal(shape).astype(np.float32) for name in ("eda", "ecg")} for _ in range(n)
    ]


def outputs(model: bytes) -> Floats:
    return np.concatenate([run(model, feed).ravel() for feed in feeds_of(NEW)])


def loss(model: bytes, expected: Floats) -> float:
    """Concordance with FP32 that is lost; all of it where numbers are not finite."""
    found = outputs(model)
    return 1 - (concordance(found, expected) or 0.0) if np.isfinite(found).all() else 1.0


def by_min_max(model: bytes, kind: str, without: tuple[str, ...] = ()) -> bytes:
    """In 8 bits but for the nodes whose names begin so."""
    ranges = {name: (one.low, one.high) for name, one in histograms_of(model, feeds_of(SEEN)).items()}
    nodes = [n for n in quantizable(onnx.load_model_from_string(model)) if not n.startswith(without or "?")]
    return quantize_stage(model, ranges, SCHEMES[kind], nodes)


def made_even(model: bytes) -> bytes:
    peaks = {name: one.peaks for name, one in histograms_of(model, feeds_of(SEEN)).items()}
    return balanced(model, peaks, quantizable(onnx.load_model_from_string(model)))


@pytest.mark.parametrize("kind", sorted(SCHEMES))
def test_outlier_channels_break_plain_8_bits_and_balance_mends_them(outlier: bytes, kind: str) -> None:
    expected = outputs(outlier)
    assert expected.std() > 0.01
    assert loss(by_min_max(outlier, kind), expected) > 0.05
    assert loss(by_min_max(made_even(outlier), kind), expected) < 0.005


@pytest.mark.parametrize("kind", sorted(SCHEMES))
def test_leaving_the_readers_of_outliers_in_float_mends_them_too(outlier: bytes, kind: str) -> None:
    expected = outputs(outlier)
    mixed = by_min_max(outlier, kind, without=("q/", "k/", "v/", "first/"))
    assert mixed != outlier
    assert loss(mixed, expected) < 0.005


@pytest.mark.parametrize("kind", sorted(SCHEMES))
def test_balance_and_bias_correction_work_together(outlier: bytes, kind: str) -> None:
    even = made_even(outlier)
    histograms = histograms_of(even, feeds_of(SEEN))
    means = {name: one.means for name, one in histograms.items()}
    better = bias_corrected(even, SCHEMES[kind], means, quantizable(onnx.load_model_from_string(even)))
    ranges = with_corrected(better, {name: (one.low, one.high) for name, one in histograms.items()})
    data = finish_stage(quantize_stage(better, ranges, SCHEMES[kind]), SCHEMES[kind])
    assert kind != "int8-trt" or problems(data) == []
    assert loss(data, outputs(outlier)) < 0.005


def test_overflow_is_caught_and_mended(overflowing: bytes) -> None:
    expected = outputs(overflowing)
    assert expected.std() > 0.01
    plain = half_stage(overflowing)
    assert loss(plain, expected) < 0.005  # as ONNX Runtime's CPU shows it
    assert loss(in_half_arithmetic(plain), expected) > 0.05  # as a device would
    named = near_overflow(overflowing, peaks_of(overflowing, feeds_of(SEEN), 1))
    products = [name for name in named if "MatMul" in name and named[name] > LIMIT]
    assert products
    mended = half_stage(overflowing, named)
    assert problems(mended) == []
    assert loss(in_half_arithmetic(mended), expected) < 0.005
    n_half = sum(one.data_type == 10 for one in onnx.load_model_from_string(mended).graph.initializer)
    assert n_half > 4


def test_8_bits_with_the_rest_in_half_overflow_and_are_mended_alike(overflowing: bytes) -> None:
    scheme = SCHEMES["int8-trt"]
    small, expected = by_min_max(overflowing, "int8-trt"), outputs(overflowing)
    named = near_overflow(small, peaks_of(small, feeds_of(SEEN), 1))
    plain = in_half_arithmetic(finish_stage(small, scheme))
    mended = finish_stage(small, scheme, named)
    assert loss(plain, expected) > 0.05
    assert problems(mended) == []
    assert loss(in_half_arithmetic(mended), expected) < loss(small, expected) + 0.001


@pytest.mark.parametrize("name", ["OutlierAttention", "Overflowing"])
def test_each_is_declared_as_a_model_of_ones_own(name: str) -> None:
    """Its weights are the same whenever it is built."""
    models = [own_system(f"{FILE}:{name}").build(Found({}, {})) for _ in range(2)]
    assert isinstance(models[0].spec, ModelSpec)
    states = [model.state_dict() for model in models]
    assert all((states[0][key] == states[1][key]).all() for key in states[0])
    assert models[0].last_layers == {"arousal": "head"}

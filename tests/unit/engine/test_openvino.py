"""OpenVINO as one more engine of the processor: the same numbers, and what it really computes in."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino", reason="needs OpenVINO: pip install 'edge-mer[openvino]'")

from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.clock import MonotonicClock
from edge_mer.engine.base import Array, Engine
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.engine.openvino import OvEngine, OvOptions, computes_bf16
from edge_mer.errors import BundleError, DataError, MissingError
from edge_mer.runtime.build import build, fitting_build
from edge_mer.runtime.opening import open_chosen
from edge_mer.runtime.proof import golden_sessions, prove
from edge_mer.runtime.setup import open_engine, open_setup
from edge_mer.runtime.target import Choice, CpuOptions
from edge_mer.runtime.target_cpu import CpuTarget

needs_bf16 = pytest.mark.skipif(not computes_bf16(), reason="this processor does not multiply bf16")


@pytest.fixture(scope="module")
def bundle(shared_bundle: Path) -> Bundle:
    return open_bundle(shared_bundle)


def engine(bundle: Bundle, options: CpuOptions, precision: str = "fp32", stage: str = "visual") -> Engine:
    return open_engine(bundle.manifest.model, stage, bundle.read_stage(precision, stage), options)


def feed_of(one: Engine, n: int) -> dict[str, Array]:
    (spec,) = one.input_specs
    made = np.random.default_rng(3).standard_normal((n, *one.inputs[spec.name].shape[1:]))
    return {spec.name: made.astype(np.float32)}


@pytest.mark.parametrize("stage", ["visual", "audio"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_it_computes_what_onnx_runtime_does(bundle: Bundle, stage: str, n: int) -> None:
    here, there = (engine(bundle, one, stage=stage) for one in (OvOptions(), OrtOptions()))
    feed = feed_of(here, n)
    np.testing.assert_allclose(here.run(feed)["feature"], there.run(feed)["feature"], rtol=1e-3, atol=1e-5)
    assert isinstance(here, OvEngine)
    assert set(here.executed()) == {"f32"}


def test_it_reads_its_buffers_and_gives_arrays_to_keep(bundle: Bundle) -> None:
    one = engine(bundle, OvOptions())
    first = feed_of(one, 1)
    one.inputs["clip"][...] = first["clip"]
    kept = one.infer()["feature"]
    before = kept.copy()
    one.inputs["clip"][...] = 0
    other = one.infer()["feature"]
    assert not np.allclose(other, before)
    np.testing.assert_array_equal(kept, before)
    np.testing.assert_array_equal(one.run(first)["feature"], before)
    np.testing.assert_array_equal(one.infer()["feature"], other)
    one.close()
    one.close()
    with pytest.raises(RuntimeError, match="was closed"):
        one.infer()


def test_eight_bits_run_in_eight_bits(bundle: Bundle) -> None:
    one = engine(bundle, OvOptions(), "int8-cpu")
    assert isinstance(one, OvEngine)
    assert set(one.executed()) <= {"u8", "i8"}


@needs_bf16
def test_bf16_is_computed_when_it_is_asked_for_and_only_then(bundle: Bundle) -> None:
    here, exact = engine(bundle, OvOptions(1, "bf16")), engine(bundle, OvOptions(1, "f32"))
    assert isinstance(here, OvEngine)
    assert set(here.executed()) == {"bf16"}
    feed = feed_of(here, 1)
    error = np.abs(here.run(feed)["feature"] - exact.run(feed)["feature"]).max()
    assert 1e-5 < error < 0.1 * np.abs(exact.run(feed)["feature"]).max()


def test_what_it_does_not_take_is_one_message(bundle: Bundle) -> None:
    model = bundle.manifest.model
    with pytest.raises(BundleError, match=r"stage visual: OpenVINO .* does not take this file"):
        open_engine(model, "visual", b"no onnx", OvOptions())
    with pytest.raises(BundleError, match="not what the manifest declares"):
        open_engine(model, "audio", bundle.read_stage("fp32", "visual"), OvOptions())
    with pytest.raises(DataError, match="input clip does not fit"):
        engine(bundle, OvOptions()).run({"clip": np.zeros((1, 2), np.float32)})


def test_without_openvino_it_says_how_to_get_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_mer.engine import openvino as room

    room._core.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingError, match=r"edge-mer\[openvino\]"):
        engine(bundle, OvOptions())


# -- as a choice ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "int8-cpu", pytest.param("bf16", marks=needs_bf16)])
def test_golden_sessions_are_proven_on_it(bundle: Bundle, precision: str) -> None:
    target = CpuTarget()
    choice = next(
        one
        for one in target.choices(bundle)
        if one.precision == precision and any(isinstance(options, OvOptions) for _, options in one.stages)
    )
    setup = target.open(bundle, choice, {})
    sessions = golden_sessions(bundle.manifest, bundle.read_arrays)
    prove(setup, bundle.manifest, precision, sessions).demand(precision)
    assert setup.engine_name.startswith("openvino-cpu")
    assert setup.precision == precision


@needs_bf16
def test_bf16_is_not_taken_for_fp32(bundle: Bundle) -> None:
    setup = open_setup(bundle, "bf16", None)
    sessions = golden_sessions(bundle.manifest, bundle.read_arrays)
    assert not all(check.passed for check in prove(setup, bundle.manifest, "fp32", sessions).checks)


def test_what_openvino_does_not_take_stays_in_onnx_runtime_and_is_named(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = CpuTarget()
    monkeypatch.setattr(target, "untaken", lambda *_: {"fusion": "OpenVINO has no such layer"})
    choice = next(one for one in target.choices(bundle) if "OpenVINO" in str(one))
    assert "fusion: ONNX Runtime" in str(choice)
    setup = target.open(bundle, choice, {})
    assert setup.engine_name == "openvino-cpu+onnxruntime-cpu"
    assert target.prepare(bundle, choice, lambda *_: None).facts == {
        "openvino_refused": {"fusion": "OpenVINO has no such layer"}
    }
    assert target.choice_of(target.describe(choice)) == choice


def test_each_stage_takes_the_way_that_was_its_fastest() -> None:
    ort, ov = OrtOptions(), OvOptions()
    alike = [Choice("fp32", (("visual", one), ("fusion", one))) for one in (ort, ov)]
    times = [{"visual": 10.0, "fusion": 1.0}, {"visual": 5.0, "fusion": 2.0}]
    timed = list(zip(alike, times, strict=True))
    assert CpuTarget().mixed(timed) == [Choice("fp32", (("visual", ov), ("fusion", ort)))]
    times[1]["fusion"] = 1.1
    assert CpuTarget().mixed(timed) == []


def test_the_fastest_that_keeps_its_numbers_runs_from_then_on(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_MER_CACHE", str(tmp_path))
    trials = {trial.choice: trial for trial in build(bundle, MonotonicClock(), CpuTarget())}
    chosen = next(one for one in trials.values() if one.error is not None and one.refused is None)
    record = fitting_build(bundle, CpuTarget())
    assert record is not None
    setup, choice, was_built = open_chosen(bundle, None)
    assert (choice, was_built) == (chosen.choice, True)
    assert setup.precision == chosen.choice.precision
    _, asked, _ = open_chosen(bundle, "fp32")
    assert asked.precision == "fp32"

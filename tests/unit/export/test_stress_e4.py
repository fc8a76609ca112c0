"""stress-e4: its declaration, its networks, its weights, and a reference that knows no state."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

from edge_mer.clock import ManualClock
from edge_mer.preprocess.courses import CourseConditioner
from edge_mer.runtime.pipeline import Pipeline, PipelineSetup
from edge_mer.runtime.simulated import n_lead_in, simulated
from edge_mer.sources.registry import open_source
from edge_mer.types.model import ModelSpec, Signal
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk
from edge_mer_export.engines import torch_engines
from edge_mer_export.models.course_fusion import CourseFusion, CourseMlp
from edge_mer_export.models.spec_stress_e4 import MEMORY_S, N_STEPS, SPAN_S, STEP_S, WARM_UP_S
from edge_mer_export.models.zoo import ZooModel, build, shipped_weights, system
from edge_mer_export.reference_courses import whole_courses
from edge_mer_export.training.recipe import read_recipe
from edge_mer_export.training.run import check_phases
from edge_mer_export.weight_files import read_weights

pytestmark = pytest.mark.workbench

N_LEAD_IN = (MEMORY_S + SPAN_S) // STEP_S - 1


@pytest.fixture(scope="module")
def model() -> ZooModel:
    found = build("stress-e4")
    file = shipped_weights(system("stress-e4"))
    assert file is not None
    found.load_state_dict(read_weights(file).values)
    return found.eval()


def chunks_of(spec: ModelSpec, n_steps: int) -> Iterator[Chunk]:
    source = open_source(simulated(spec, seed=1, person=3, n_steps=n_steps))
    source.start()
    while (chunk := source.read(0)) is not None:
        yield chunk


def played(model: ZooModel, chunks: list[Chunk], without: tuple[str, ...] = ()) -> list[Prediction]:
    setup = PipelineSetup(
        model.spec,
        torch_engines(model.spec, model.stages),
        None,
        missing=dict.fromkeys(model.spec.modalities, "mask"),
    )
    specs = [
        spec
        for spec in open_source(simulated(model.spec, seed=1, person=3, n_steps=1)).specs
        if spec.modality not in without
    ]
    pipeline = Pipeline(setup, specs, ManualClock())
    predictions = [one for chunk in chunks for one in pipeline.push(chunk)]
    return [*predictions, *pipeline.finish()]


def test_a_bundle_says_what_is_derived_and_other_models_say_nothing_of_it(model: ZooModel) -> None:
    text = model.spec.model_dump_json(exclude_none=True)
    assert ModelSpec.model_validate_json(text) == model.spec
    assert '"normalise_memory":"300"' in text
    assert "normalise_memory" not in build("pain-tiny").spec.model_dump_json(exclude_none=True)


def test_its_lead_in_is_the_memory_and_a_piece(model: ZooModel) -> None:
    assert n_lead_in(model.spec) == N_LEAD_IN
    assert WARM_UP_S == (N_LEAD_IN + N_STEPS) * STEP_S


def test_its_recipe_trains_it(model: ZooModel) -> None:
    read = read_recipe("stress-e4")
    check_phases(model.spec, read.recipe)
    assert read.recipe.model == "stress-e4"


@pytest.mark.parametrize("kind", ["eda", "ppg", "skt"])
def test_the_stream_gives_what_the_whole_recording_gives(model: ZooModel, kind: str) -> None:
    spec = next(e.preprocess for e in model.spec.encoders if e.modality == kind)
    assert isinstance(spec, Signal)
    data = np.concatenate(
        [chunk.data for chunk in chunks_of(model.spec, N_LEAD_IN + 8) if chunk.modality == kind]
    )
    conditioner = CourseConditioner(spec)
    conditioner.resume(0)
    cuts = np.sort(np.random.default_rng(0).integers(0, len(data), 500))
    found = np.concatenate([conditioner.push(part) for part in np.split(data, cuts)])
    wanted = whole_courses(np.asarray(data[:, 0], np.float32), spec)
    assert np.isfinite(wanted[MEMORY_S - 1 :]).all()
    np.testing.assert_allclose(found, wanted, atol=2e-4)


def test_it_is_silent_until_its_memory_is_full_and_says_why(model: ZooModel) -> None:
    predictions = played(model, list(chunks_of(model.spec, N_LEAD_IN + N_STEPS + 1)))
    statuses = [one.status for one in predictions]
    assert statuses[:N_LEAD_IN] == ["withheld"] * N_LEAD_IN
    assert {one.reasons for one in predictions[:N_LEAD_IN]} == {("warming_up",)}
    assert statuses[N_LEAD_IN + N_STEPS - 1 :] == ["ok"] * 2
    last = predictions[-1].emotion
    assert last is not None
    assert set(last) == {"calm", "stress"}
    assert sum(last.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("without", ["eda", "ppg", "skt"])
def test_any_stream_may_be_missing(model: ZooModel, without: str) -> None:
    chunks = [one for one in chunks_of(model.spec, N_LEAD_IN + N_STEPS) if one.modality != without]
    predictions = played(model, chunks, (without,))
    assert predictions[-1].status == "degraded"
    assert f"{without}_missing" in predictions[-1].reasons
    assert predictions[-1].emotion is not None


def test_what_stands_behind_a_mask_does_not_matter(model: ZooModel) -> None:
    torch.manual_seed(0)
    features = [torch.randn(2, N_STEPS, 8) for _ in range(3)]
    present = torch.rand(2, 3, N_STEPS) < 0.5
    fusion = model.stages["fusion"]
    hidden = [torch.where(present[:, m, :, None], one, 7.0) for m, one in enumerate(features)]
    with torch.no_grad():
        assert torch.equal(fusion(*features, present), fusion(*hidden, present))
        assert not torch.equal(fusion(*features, present), fusion(*features, ~present))


def test_networks_have_the_shapes_that_are_declared() -> None:
    assert CourseMlp(2, 60, 6, 5, 4)(torch.randn(3, 2, 60)).shape == (3, 4)
    fusion = CourseFusion(3, 4, 5, 2)
    assert fusion(*[torch.randn(3, 6, 4)] * 3, torch.ones(3, 3, 6, dtype=torch.bool)).shape == (3, 2)
    with pytest.raises(ValueError, match="cannot be averaged"):
        CourseMlp(1, 61, 6, 5, 4)


def test_its_step_is_seen_through_the_same_five_minutes_at_any_time(model: ZooModel) -> None:
    """Time since the start must not show: the same signals an hour later give the same step tensors."""
    spec = next(e.preprocess for e in model.spec.encoders if e.modality == "skt")
    assert isinstance(spec, Signal)
    rng = np.random.default_rng(0)
    same = rng.normal(33, 0.2, (4 * 420, 1)).astype(np.float32)
    before = rng.normal(30, 1, (4 * 3600, 1)).astype(np.float32)
    late, early = CourseConditioner(spec), CourseConditioner(spec)
    late.resume(0)
    early.resume(0)
    late.push(before)
    assert np.array_equal(late.push(same)[MEMORY_S - 1 :], early.push(same)[MEMORY_S - 1 :])
    assert spec.memory == Fraction(MEMORY_S)

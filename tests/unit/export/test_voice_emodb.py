"""voice-emodb: its declaration, its networks, its weights, and what it makes of a clip."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

from edge_mer.clock import ManualClock
from edge_mer.runtime.pipeline import Pipeline, PipelineSetup
from edge_mer.sources.registry import open_source
from edge_mer.types.model import ModelSpec
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk
from edge_mer_export.engines import torch_engines
from edge_mer_export.models.spec_voice_emodb import LABELS, SOUND, SPAN, STEP, WIDE, WIDTHS, of_width
from edge_mer_export.models.voice_resnet import FLOOR, VoiceHead, VoiceResNet
from edge_mer_export.models.zoo import ZooModel, build, shipped_weights, system
from edge_mer_export.training.recipe import read_recipe
from edge_mer_export.training.run import check_phases
from edge_mer_export.weight_files import read_weights

pytestmark = pytest.mark.workbench

HALF_TINY = 2.0**-14


@pytest.fixture(scope="module")
def model() -> ZooModel:
    found = build("voice-emodb")
    file = shipped_weights(system("voice-emodb"))
    assert file is not None
    found.load_state_dict(read_weights(file).values)
    return found.eval()


def played(model: ZooModel, duration_s: float) -> list[Prediction]:
    source = open_source(f"sim:seed=1&person=3&duration_s={duration_s}&streams=audio")
    source.start()
    chunks: list[Chunk] = []
    while (chunk := source.read(0)) is not None:
        chunks.append(chunk)
    setup = PipelineSetup(model.spec, torch_engines(model.spec, model.stages), None)
    pipeline = Pipeline(setup, source.specs, ManualClock())
    predictions = [one for chunk in chunks for one in pipeline.push(chunk)]
    return [*predictions, *pipeline.finish()]


def test_its_declaration_survives_a_bundle(model: ZooModel) -> None:
    text = model.spec.model_dump_json(exclude_none=True)
    assert ModelSpec.model_validate_json(text) == model.spec


def test_its_recipe_trains_it(model: ZooModel) -> None:
    read = read_recipe("voice-emodb")
    check_phases(model.spec, read.recipe)
    assert read.recipe.model == "voice-emodb"
    assert read.recipe.phases.keys() == {"audio"}
    assert read.recipe.backbones["audio"].keep == "last"


def test_a_clip_of_its_span_gives_one_estimate_at_its_end(model: ZooModel) -> None:
    predictions = played(model, float(SPAN))
    assert [one.status for one in predictions] == ["withheld"] * (int(SPAN / STEP) - 1) + ["ok"]
    last = predictions[-1].emotion
    assert last is not None
    assert tuple(last) == LABELS
    assert sum(last.values()) == pytest.approx(1, abs=1e-5)


def test_its_spectrogram_is_as_wide_as_a_piece(model: ZooModel) -> None:
    assert SOUND.width == int(SPAN * SOUND.rate_hz) // SOUND.hop_samples + 1
    assert model.spec.encoders[0].input.shape == ("batch", 1, SOUND.n_mels, SOUND.width)


def test_its_feature_is_mean_and_deviation_over_time() -> None:
    torch.manual_seed(0)
    network = VoiceResNet(SOUND.n_mels, (4, 4, 4, 6)).eval()
    log_mel = torch.randn(3, 1, SOUND.n_mels, SOUND.width)
    with torch.no_grad():
        found, maps = network(log_mel).numpy(), network.resnet(log_mel).numpy()
    n = 6 * maps.shape[2]
    assert found.shape == (3, network.n_features) == (3, 2 * n)
    np.testing.assert_allclose(found[:, :n], maps.mean(axis=3).reshape(3, n), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[:, n:], np.sqrt(maps.var(axis=3) + FLOOR).reshape(3, n), rtol=1e-5)


def test_half_precision_holds_what_guards_the_root() -> None:
    assert FLOOR > 100 * HALF_TINY
    assert float(np.float16(FLOOR)) == pytest.approx(FLOOR, rel=1e-3)


def test_the_head_reads_the_newest_step() -> None:
    head = VoiceHead(5, 3).eval()
    features = torch.randn(2, 4, 5)
    with torch.no_grad():
        assert torch.equal(head(features), head.head(features[:, -1]))


def test_sizes_are_those_that_the_card_names() -> None:
    n_params = [
        sum(one.numel() for stage in of_width(widths).stages.values() for one in stage.parameters())
        for widths in (WIDTHS, WIDE)
    ]
    assert 200_000 < n_params[0] < 400_000
    assert n_params[1] > 1_000_000


def test_estimates_follow_the_voice(model: ZooModel) -> None:
    estimates = [one.emotion for one in played(model, 6) if one.emotion is not None]
    assert len(estimates) == 9
    assert all(a != b for a, b in pairwise(estimates))

"""The group models: declaration, the fusion's computation, import of own sizes, and training."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

import safetensors.torch
from torch import Tensor, nn

from edge_mer.errors import DataError
from edge_mer.types.model import EmotionOutput, LogMel, SceneClip
from edge_mer_export.checkpoint import import_model
from edge_mer_export.models import group
from edge_mer_export.models.group import GroupFusion
from edge_mer_export.models.r2plus1d import R2Plus1D
from edge_mer_export.models.resnet_audio import ResNetAudio
from edge_mer_export.models.zoo import Found, ZooModel, build, system
from edge_mer_export.training.phases import FusionTask
from edge_mer_export.training.recipe import FusionPhase
from edge_mer_export.training.sessions import Session
from edge_mer_export.training.trainer import State, train_phase

pytestmark = pytest.mark.workbench

NAMES = ("group", "group-tiny")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def declared(name: str) -> ZooModel:
    with torch.device("meta"):
        return build(name)


def n_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# what is declared


@pytest.mark.parametrize("name", NAMES)
def test_five_seconds_become_one_emotion(name: str) -> None:
    spec = declared(name).spec
    assert (spec.step, spec.fusion.n_steps, spec.fusion.hop, spec.fusion.warm_up) == (1, 5, 1, "withhold")
    assert spec.outputs == (EmotionOutput(labels=("positive", "neutral", "negative")),)
    assert spec.fusion.outputs[0].axes == ("batch", "class")
    assert spec.modalities == ("visual", "audio")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_our_own_design_says_so(name: str) -> None:
    assert "edge-mer's own design after the abstract" in declared(name).spec.source
    assert "2111.05890" in declared(name).spec.source
    assert "edge-mer's own design" in str(group.__doc__)
    assert "no published weights fit" in str(group.__doc__)


@pytest.mark.parametrize("name", NAMES)
def test_pieces_fill_their_span(name: str) -> None:
    visual, audio = declared(name).spec.encoders
    clip, mel = visual.preprocess, audio.preprocess
    assert isinstance(clip, SceneClip)
    assert isinstance(mel, LogMel)
    assert clip.last_frame_before_end + (clip.n_frames - 1) * clip.frame_interval == visual.span
    assert mel.width == int(audio.span * mel.rate_hz) // mel.hop_samples + 1
    assert clip.width_px * 4 == clip.height_px * 7


@pytest.mark.parametrize("name", NAMES)
def test_stages_return_what_their_spec_declares(name: str) -> None:
    model = declared(name)
    for stage in model.stages:
        one = model.stage(stage)
        inputs = [torch.zeros(tensor.concrete(batch=2), device="meta") for tensor in one.inputs]
        assert tuple(one.module(*inputs).shape) == one.outputs[0].concrete(batch=2)


def test_sizes() -> None:
    full, tiny = declared("group").stages, declared("group-tiny").stages
    assert n_params(full["visual"]) == 31_505_325 - 205_200  # R(2+1)D-18 without its head
    assert n_params(full["audio"]) == 11_170_240
    assert 0.8e6 < sum(n_params(module) for module in tiny.values()) < 1.2e6


# what the fusion computes


def varied(fusion: GroupFusion, seed: int = 0) -> GroupFusion:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return fusion.eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_pytorch(fusion: GroupFusion, visual: Tensor, audio: Tensor) -> Tensor:
    """The same from PyTorch's own layers."""
    d_model = fusion.positions.shape[1]

    def attended(name: str, query: Tensor, memory: Tensor) -> Tensor:
        layer = nn.MultiheadAttention(d_model, 1, batch_first=True)
        layer.load_state_dict(fusion.get_submodule(name).state_dict())
        return layer(query, memory, memory)[0]

    def encoded(name: str, x: Tensor) -> Tensor:
        own = fusion.get_submodule(f"{name}.layers.0").state_dict()
        d_ff = len(own["feed_forward.0.bias"])
        layer = nn.TransformerEncoderLayer(d_model, 1, d_ff, dropout=0.0, batch_first=True)
        names = {"attention": "self_attn", "feed_forward.0": "linear1", "feed_forward.2": "linear2"}
        names |= {"layer_norm1": "norm1", "layer_norm2": "norm2"}
        for ours, theirs in names.items():
            part = {key.removeprefix(f"{ours}."): v for key, v in own.items() if key.startswith(f"{ours}.")}
            layer.get_submodule(theirs).load_state_dict(part)
        return layer(x)

    v = encoded("visual_encoder", fusion.visual_in(visual) + fusion.positions)
    a = encoded("audio_encoder", fusion.audio_in(audio) + fusion.positions)
    seen = fusion.visual_norm(v + attended("visual_to_audio", v, a))
    heard = fusion.audio_norm(a + attended("audio_to_visual", a, v))
    return fusion.head(torch.cat([seen.mean(dim=1), heard.mean(dim=1)], dim=1))


def test_each_modality_attends_to_the_other() -> None:
    fusion = varied(GroupFusion(6, 4, d_model=8, d_ff=12))
    visual, audio = noise(3, 5, 6), noise(3, 5, 4, seed=2)
    with torch.no_grad():
        found = fusion(visual, audio)
        torch.testing.assert_close(found, by_pytorch(fusion, visual, audio), atol=1e-5, rtol=1e-5)
    assert found.shape == (3, 3)


def test_the_order_of_the_steps_matters_and_the_batch_does_not() -> None:
    fusion = varied(GroupFusion(6, 4, d_model=8, d_ff=12))
    visual, audio = noise(3, 5, 6), noise(3, 5, 4, seed=2)
    with torch.no_grad():
        found = fusion(visual, audio)
        backwards = fusion(visual.flip(1), audio.flip(1))
        alone = fusion(visual[1:2], audio[1:2])
    assert (found - backwards).abs().max() > 0.01
    torch.testing.assert_close(found[1:2], alone)


# sizes of a user's own


def saved(model: ZooModel, path: Path) -> Path:
    safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path


def other_sizes() -> ZooModel:
    """group-tiny as somebody else might train it: other widths, depths and steps."""
    stages = {
        "visual": R2Plus1D((4, 6, 8, 10), (2, 1, 1, 1), 5),
        "audio": ResNetAudio((3, 4, 5, 6), (1, 2, 1, 1)),
        "fusion": GroupFusion(10, 6, d_model=12, d_ff=20, n_layers=2, n_steps=7),
    }
    shapes = {s: {k: tuple(v.shape) for k, v in m.state_dict().items()} for s, m in stages.items()}
    model = system("group-tiny").build(Found(shapes, {}))
    for stage, module in stages.items():
        model.stages[stage].load_state_dict(module.state_dict())
    return model


def test_weights_of_other_sizes_are_imported(tmp_path: Path) -> None:
    trained = other_sizes()
    found = import_model(system("group-tiny"), [saved(trained, tmp_path / "own.safetensors")]).model
    assert (found.spec.fusion.n_steps, [one.feature for one in found.spec.encoders]) == (7, [10, 6])
    assert [tensor.shape for tensor in found.spec.fusion.inputs] == [("batch", 7, 10), ("batch", 7, 6)]
    for key, value in trained.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key


def test_weights_of_published_sizes_come_back(tmp_path: Path) -> None:
    trained = build("group-tiny")
    found = import_model(system("group-tiny"), [saved(trained, tmp_path / "own.safetensors")]).model
    assert found.spec == trained.spec
    assert found.state_dict().keys() == trained.state_dict().keys()


def test_parts_of_different_models_are_refused(tmp_path: Path) -> None:
    state = build("group-tiny").state_dict()
    small = other_sizes().state_dict()
    mixed = {key: value for key, value in state.items() if not key.startswith("fusion.")}
    mixed |= {key: value for key, value in small.items() if key.startswith("fusion.")}
    file = tmp_path / "mixed.safetensors"
    safetensors.torch.save_file({key: value.contiguous() for key, value in mixed.items()}, file)
    with pytest.raises(DataError, match="do not belong together"):
        import_model(system("group-tiny"), [file])


# training


def people(model: ZooModel, numbers: range, n_steps: int = 12) -> list[Session]:
    """Sessions whose step tensors are features already, which show the emotion through noise."""
    patterns = np.random.default_rng(0).standard_normal((2, 3, 112)).astype(np.float32)
    sessions = []
    for number in numbers:
        rng = np.random.default_rng(number)
        emotion = np.repeat(rng.integers(0, 3, n_steps // 6), 6)
        steps = {
            encoder.stage: patterns[m, emotion, : encoder.feature]
            + 3 * rng.standard_normal((n_steps, encoder.feature)).astype(np.float32)
            for m, encoder in enumerate(model.spec.encoders)
        }
        present = {stage: np.ones(n_steps, np.bool_) for stage in steps}
        sessions.append(Session(str(number), steps, present, {"emotion": emotion.astype(np.float32)}))
    return sessions


def test_a_few_steps_of_training_teach_the_fusion() -> None:
    torch.manual_seed(0)
    model = build("group-tiny")
    model.stages.update(visual=nn.Identity(), audio=nn.Identity())
    phase = FusionPhase(epochs=3, batch_size=16, learning_rate=1e-3, dropout=0.1)
    task = FusionTask(model, phase, people(model, range(30)), people(model, range(30, 60)))
    with torch.no_grad():
        before = task.scores()["emotion"]
    state = State("fusion")
    train_phase(task, state, 0, lambda _: None, lambda _: None)
    assert state.epochs[-1].loss < state.epochs[0].loss
    assert max(epoch.scores["emotion"] for epoch in state.epochs) > max(0.4, before + 0.2)
    assert model.stages["fusion"].dropout.p == 0.1

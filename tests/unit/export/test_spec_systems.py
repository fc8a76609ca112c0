"""Each published system from the files that its code leaves, with tiny widths."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
pytest.importorskip("tokenizers", reason="the workbench needs tokenizers: pip install 'edge-mer[export]'")

from torch import Tensor

from edge_mer.errors import DataError, EdgeMerError, UsageError
from edge_mer.types.model import PainOutput
from edge_mer_export.checkpoint import CheckpointReport, import_model
from edge_mer_export.models.spec_rjcma import SHARED
from edge_mer_export.models.zoo import Found, ZooModel, system
from tests.helpers import tiny_checkpoints as tiny

pytestmark = pytest.mark.workbench

Parts = Mapping[str, Any]
TEXT_SET = ("text_mean=0.1", "text_std=0.4")


def give(folder: Path, parts: Parts) -> list[str]:
    """Save each part; what a user would say after --checkpoint."""
    given = []
    for name, state in parts.items():
        path = folder / f"{name}.bin"
        if isinstance(state, bytes):
            path.write_bytes(state)
        else:
            tiny.save(path, state)
        given.append(f"{name}={path}")
    return given


def load(
    folder: Path, name: str, parts: Parts, settings: Sequence[str] = (), only: str | None = None
) -> tuple[ZooModel, CheckpointReport]:
    imported = import_model(system(name), give(folder, parts), settings, only)
    return imported.model, imported.report


def refusal(
    folder: Path, name: str, parts: Parts, settings: Sequence[str] = (), only: str | None = None
) -> str:
    with pytest.raises(EdgeMerError) as caught:
        load(folder, name, parts, settings, only)
    return str(caught.value)


def holds(model: ZooModel, stage: str, state: Mapping[str, Tensor], prefix: str = "") -> bool:
    """A stage holds exactly this state, under a prefix."""
    found = tiny.inside(prefix, model.stages[stage].state_dict())
    return found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


def jmt_parts(**changes: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "fusion": tiny.randomized(tiny.jmt()),
        "visual": tiny.randomized(tiny.face()),
        "audio": tiny.randomized(tiny.voice()),
    }
    parts |= changes
    return {name: state for name, state in parts.items() if state is not None}


# jmt


def test_jmt_from_its_three_files(tmp_path: Path) -> None:
    parts = jmt_parts()
    model, report = load(tmp_path, "jmt", parts)
    assert holds(model, "fusion", parts["fusion"])
    assert holds(model, "visual", parts["visual"], "r2d1.")
    assert holds(model, "audio", parts["audio"])
    assert [encoder.feature for encoder in model.spec.encoders] == [tiny.D, tiny.D]
    assert report.n_params_dead == 0


def test_jmt_from_tsav_in_place_of_both_backbones(tmp_path: Path) -> None:
    tsav = tiny.tsav()
    model, report = load(tmp_path, "jmt", {"fusion": tiny.randomized(tiny.jmt()), "tsav": tsav})
    stem = model.stages["visual"].state_dict()["r2d1.r2plus1d.stem.0.weight"]
    assert torch.equal(stem, tsav["video_model.r2plus1d.stem.0.weight"][:, :3])
    assert report.files[1].dropped == ("fc.*",)
    assert report.n_params_dead == 5 * 2 * tiny.D + 5


@pytest.mark.parametrize("channels", [2, 5])
def test_a_first_convolution_of_other_channels_is_refused(tmp_path: Path, channels: int) -> None:
    tsav = tiny.tsav()
    tsav["video_model.r2plus1d.stem.0.weight"] = torch.ones(3, channels, 1, 7, 7)
    text = refusal(tmp_path, "jmt", {"fusion": tiny.randomized(tiny.jmt()), "tsav": tsav})
    key = "video_model.r2plus1d.stem.0.weight"
    assert f"{key}: expected (3, 3, 1, 7, 7) float32, found (3, {channels}, 1, 7, 7)" in text


def test_a_first_convolution_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    visual: dict[str, Any] = {**tiny.randomized(tiny.face()), "r2plus1d.stem.0.weight": 3}
    text = refusal(tmp_path, "jmt", jmt_parts(visual=visual))
    assert "r2plus1d.stem.0.weight: expected" in text
    assert "float32, found an int" in text


def test_jmt_with_a_linear_layer_on_the_face(tmp_path: Path) -> None:
    whole = tiny.randomized(tiny.face(feature=5, with_fc=True))
    fc = tiny.inside("vision_r2d1_fc.", whole)
    visual = tiny.inside("r2plus1d.", whole)
    model, _ = load(tmp_path, "jmt", jmt_parts(**{"visual": visual, "visual-fc": fc}))
    assert holds(model, "visual", whole, "r2d1.")
    assert model.stages["visual"](torch.randn(1, 3, 8, 112, 112)).shape == (1, tiny.D)


def test_a_linear_layer_on_the_map_of_another_clip_is_refused(tmp_path: Path) -> None:
    fc = {"weight": torch.zeros(tiny.D, tiny.D * 16), "bias": torch.zeros(tiny.D)}
    text = refusal(tmp_path, "jmt", jmt_parts(**{"visual-fc": fc}))
    assert f"a feature of {tiny.D * 16} numbers for visual-fc" in text
    assert f"Found: {tiny.D * 49} numbers from the map of visual" in text


def test_a_linear_layer_without_the_face_is_named(tmp_path: Path) -> None:
    fc = {"weight": torch.zeros(tiny.D, 512 * 49), "bias": torch.zeros(tiny.D)}
    text = refusal(tmp_path, "jmt", jmt_parts(**{"visual": None, "visual-fc": fc}))
    assert "R(2+1)D-18 on the face: expected --checkpoint visual=vision_r2d1.pt, found nothing" in text
    assert "problems: 1" in text


def test_jmt_with_i3d_alone(tmp_path: Path) -> None:
    i3d = tiny.randomized(tiny.face_i3d())
    model, _ = load(tmp_path, "jmt", jmt_parts(visual=None, i3d=i3d))
    assert holds(model, "visual", i3d, "i3d.")
    assert model.spec.encoders[1].input.shape[-1] == 112


@pytest.mark.parametrize("fuse", [tiny.both_faces, tiny.faces_side_by_side])
def test_jmt_with_two_face_networks_in_one_stage(tmp_path: Path, fuse: Any) -> None:
    face, i3d, fused = (tiny.randomized(made()) for made in (tiny.face, tiny.face_i3d, fuse))
    parts = jmt_parts(**{"visual": face, "i3d": i3d, "visual-fusion": fused})
    model, _ = load(tmp_path, "jmt", parts)
    for prefix, state in (("r2d1.", face), ("i3d.", i3d), ("fuse.", fused)):
        assert holds(model, "visual", state, prefix)


def test_two_face_networks_need_their_fusion(tmp_path: Path) -> None:
    text = refusal(tmp_path, "jmt", jmt_parts(i3d=tiny.randomized(tiny.face_i3d())))
    assert "expected --checkpoint visual-fusion=transformer_visio_modality_fusion.pt, found nothing" in text
    assert "problems: 1" in text


@pytest.mark.parametrize(
    ("changes", "takes", "found"),
    [
        ({"i3d": tiny.face_i3d(5), "visual-fusion": tiny.both_faces()}, 8, "5 numbers from i3d"),
        ({"i3d": tiny.face_i3d(), "visual-fusion": tiny.both_faces(6)}, 6, "8 numbers from visual"),
        (
            {"i3d": tiny.face_i3d(5), "visual-fusion": tiny.faces_side_by_side()},
            16,
            "13 numbers from visual and i3d together",
        ),
    ],
)
def test_face_networks_of_another_fusion_are_refused(
    tmp_path: Path, changes: dict[str, Any], takes: int, found: str
) -> None:
    states = {name: tiny.randomized(module) for name, module in changes.items()}
    text = refusal(tmp_path, "jmt", jmt_parts(**states))
    assert f"a feature of {takes} numbers for visual-fusion" in text
    assert f"Found: {found}" in text


def test_a_bundle_with_two_features_of_the_voice_is_refused(tmp_path: Path) -> None:
    parts = jmt_parts(**{"audio-fusion": tiny.randomized(tiny.both_voices())})
    assert "--only audio-fusion" in refusal(tmp_path, "jmt", parts)


def test_the_fusion_of_two_voices_alone(tmp_path: Path) -> None:
    state = tiny.randomized(tiny.both_voices())
    model, _ = load(tmp_path, "jmt", {"audio-fusion": state}, only="audio-fusion")
    one = model.stage("audio-fusion")
    assert [spec.name for spec in one.inputs] == ["audio_resnet18", "audio_wavlm"]
    assert [spec.shape[-1] for spec in one.inputs] == [tiny.D, 12]
    assert all(torch.equal(value, state[key]) for key, value in one.module.state_dict().items())


def test_the_fusion_of_two_voices_is_asked_for_by_its_own_part(tmp_path: Path) -> None:
    parts = {"fusion": tiny.randomized(tiny.jmt())}
    text = refusal(tmp_path, "jmt", parts, only="audio-fusion")
    assert "expected --checkpoint audio-fusion=transformer_audio_modality_fusion.pt, found nothing" in text


def test_heads_need_not_divide_what_is_not_there(tmp_path: Path) -> None:
    parts = {"fusion": tiny.randomized(tiny.jmt(9))}
    model, _ = load(tmp_path, "jmt", parts, ["num_heads=3"], only="fusion")
    assert model.stage("fusion").inputs[0].shape[-1] == 9


@pytest.mark.parametrize(("name", "fusion"), [("jmt", tiny.jmt), ("jmt-pain", tiny.pain)])
def test_heads_that_do_not_divide_the_feature_are_refused(tmp_path: Path, name: str, fusion: Any) -> None:
    parts = {"fusion": tiny.randomized(fusion())}
    text = refusal(tmp_path, name, parts, ["num_heads=3"], only="fusion")
    assert "cannot use --set num_heads=3" in text
    assert "3 heads do not divide a feature of 8" in text


@pytest.mark.parametrize(("value", "reduce"), [("max", "max"), ("mean", "mean")])
def test_the_reduction_of_the_map_is_set(tmp_path: Path, value: str, reduce: str) -> None:
    model, _ = load(tmp_path, "jmt", jmt_parts(), [f"visual_reduce={value}"])
    assert model.stages["visual"].r2d1.reduce == reduce  # type: ignore[union-attr]


def test_two_files_of_the_same_weights_are_named_once(tmp_path: Path) -> None:
    text = refusal(tmp_path, "jmt", jmt_parts(tsav=tiny.tsav()))
    assert "problems: 2" in text
    assert "tsav.bin: weights of visual that visual.bin holds too: leave one of them away" in text
    assert "tsav.bin: weights of audio that audio.bin holds too" in text


def test_a_file_with_the_same_weights_twice_is_refused(tmp_path: Path) -> None:
    audio = tiny.randomized(tiny.voice())
    both = {**audio, "bn1.bias": audio["resnet.bn1.bias"]}
    text = refusal(tmp_path, "jmt", jmt_parts(audio=both))
    assert "audio.bin: bn1.bias: resnet.bn1.bias stands for the same weights" in text


# features that do not belong together


@pytest.mark.parametrize(
    ("part", "module", "said"),
    [
        ("visual", tiny.face(5), ("8 numbers for the fusion's input visual", "5 numbers from stage visual")),
        ("audio", tiny.voice(6), ("8 numbers for the fusion's input audio", "6 numbers from stage audio")),
    ],
)
def test_a_feature_of_another_size_is_refused(
    tmp_path: Path, part: str, module: Any, said: tuple[str, str]
) -> None:
    text = refusal(tmp_path, "jmt", jmt_parts(**{part: tiny.randomized(module)}))
    assert "the weights do not belong together" in text
    assert all(one in text for one in said)


def test_a_missing_backbone_is_called_missing_and_not_of_another_size(tmp_path: Path) -> None:
    text = refusal(tmp_path, "jmt", jmt_parts(visual=None))
    assert "model jmt lacks weights of visual" in text
    assert (
        "Next: for visual: --checkpoint visual=vision_r2d1.pt or --checkpoint tsav=TSAV_Sub4_544k.pth.tar "
        "or --checkpoint i3d=vision_i3d.pt." in text
    )


# jca


def backbones() -> dict[str, Any]:
    return {"visual": tiny.randomized(tiny.face()), "audio": tiny.randomized(tiny.voice())}


def test_jca_with_its_dense_head(tmp_path: Path) -> None:
    fusion = tiny.randomized(tiny.jca_dense())
    model, _ = load(tmp_path, "jca", {"fusion": fusion, **backbones()})
    assert holds(model, "fusion", fusion)
    assert [encoder.feature for encoder in model.spec.encoders] == [tiny.D, tiny.D * 49]
    assert model.spec.fusion.n_steps == tiny.STEPS


def test_jca_with_a_small_head(tmp_path: Path) -> None:
    fusion = tiny.randomized(tiny.jca_small())
    model, _ = load(tmp_path, "jca", {"fusion": fusion, "tsav": tiny.tsav()})
    assert [output.name for output in model.spec.outputs] == ["valence", "arousal"]
    live = tiny.jca_small().state_dict().keys()
    assert model.stages["fusion"].state_dict().keys() == live


@pytest.mark.parametrize("target", ["valence", "arousal"])
def test_jca_of_one_target_names_its_output(tmp_path: Path, target: str) -> None:
    fusion = tiny.randomized(tiny.jca_small(two_targets=False))
    model, _ = load(tmp_path, "jca", {"fusion": fusion, **backbones()}, [f"target={target}"])
    assert [output.name for output in model.spec.outputs] == [target]
    assert [spec.name for spec in model.spec.fusion.outputs] == [target]


def test_jca_with_i3d_sees_large_frames(tmp_path: Path) -> None:
    parts = {"fusion": tiny.randomized(tiny.jca_small()), "audio": tiny.randomized(tiny.voice())}
    model, _ = load(tmp_path, "jca", {**parts, "i3d": tiny.randomized(tiny.face_i3d())})
    assert model.spec.encoders[1].input.shape[-1] == 224


def test_jca_with_two_face_networks_is_refused(tmp_path: Path) -> None:
    parts = {"fusion": tiny.randomized(tiny.jca_small()), **backbones()}
    text = refusal(tmp_path, "jca", {**parts, "i3d": tiny.randomized(tiny.face_i3d())})
    assert "sees the face with one network" in text
    assert "give visual= (or tsav=) or i3d=" in text


# rjcma


def words(n_words: int = len(tiny.WORDS), **changes: Any) -> dict[str, Any]:
    return {
        "text": tiny.randomized(tiny.bert(n_words)),
        "vocabulary": "\n".join(tiny.WORDS).encode(),
        **changes,
    }


def test_rjcma_of_valence_alone(tmp_path: Path) -> None:
    valence = tiny.one_target()
    model, report = load(tmp_path, "rjcma", {"valence": valence, **words()}, TEXT_SET)
    assert [output.name for output in model.spec.outputs] == ["valence"]
    assert list(model.stages["visual"].nets) == ["valence"]  # type: ignore[arg-type]
    assert "spatial.visual.logits.*" in report.dropped
    assert report.files[0].n_params_dead == 7 * tiny.D


@pytest.mark.parametrize(("other", "nets"), [(0, [SHARED]), (1, ["valence", "arousal"])])
def test_rjcma_of_both_targets_runs_equal_backbones_once(tmp_path: Path, other: int, nets: list[str]) -> None:
    parts = {"valence": tiny.one_target(1), "arousal": tiny.one_target(2, backbone_seed=other), **words()}
    model, _ = load(tmp_path, "rjcma", parts, TEXT_SET)
    assert [output.name for output in model.spec.outputs] == ["valence", "arousal"]
    assert list(model.stages["visual"].nets) == nets  # type: ignore[arg-type]
    assert list(model.stages["audio"].nets) == nets  # type: ignore[arg-type]
    assert model.spec.encoders[0].feature == tiny.D * len(nets)
    features = [torch.randn(1, 6, spec.shape[-1]) for spec in model.spec.fusion.inputs]  # type: ignore[arg-type]
    assert [tuple(one.shape) for one in model.stages["fusion"](*features)] == [(1, 6), (1, 6)]


def test_rjcma_with_backbones_in_files_of_their_own(tmp_path: Path) -> None:
    parts = {
        "valence": tiny.one_target(1, backbones=False),
        "arousal": tiny.one_target(2, backbones=False),
        "visual": {**tiny.under("backbone.", tiny.randomized(tiny.ir50())), "logits.bias": torch.zeros(7)},
        "audio": tiny.randomized(tiny.vggish()),
        **words(),
    }
    model, report = load(tmp_path, "rjcma", parts, TEXT_SET)
    assert list(model.stages["visual"].nets) == [SHARED]  # type: ignore[arg-type]
    assert report.files[2].n_params_dead == 7


def test_rjcma_with_one_model_of_a_target_that_is_set(tmp_path: Path) -> None:
    parts = {"fusion": tiny.one_target(), **words()}
    model, _ = load(tmp_path, "rjcma", parts, [*TEXT_SET, "target=arousal"])
    assert [output.name for output in model.spec.outputs] == ["arousal"]


def test_rjcma_with_two_models_of_one_target_is_refused(tmp_path: Path) -> None:
    parts = {"fusion": tiny.one_target(), "valence": tiny.one_target(2), **words()}
    assert "two models of valence were given" in refusal(tmp_path, "rjcma", parts, TEXT_SET)


def test_rjcma_without_backbones_of_one_target_is_refused(tmp_path: Path) -> None:
    parts = {"valence": tiny.one_target(1), "arousal": tiny.one_target(2, backbones=False), **words()}
    text = refusal(tmp_path, "rjcma", parts, TEXT_SET)
    assert "model rjcma lacks a backbone of arousal" in text
    assert "Found: valence" in text


def test_rjcma_without_any_backbone_is_refused(tmp_path: Path) -> None:
    parts = {"valence": tiny.one_target(1, backbones=False), **words()}
    text = refusal(tmp_path, "rjcma", parts, TEXT_SET)
    assert "lacks weights of visual and audio" in text
    assert "--checkpoint visual=res50_ir_*.pth" in text


def test_rjcma_of_windows_of_two_lengths_is_refused(tmp_path: Path) -> None:
    parts = {"valence": tiny.one_target(1), "arousal": tiny.one_target(2, n_steps=7), **words()}
    text = refusal(tmp_path, "rjcma", parts, TEXT_SET)
    assert "windows of 6 steps" in text
    assert "7 steps in the model of arousal" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"visual": tiny.ir50(5), "audio": tiny.vggish(), "text": tiny.bert()},
            ("8 numbers for the visual", "5 numbers from stage visual"),
        ),
        (
            {"visual": tiny.ir50(), "audio": tiny.vggish(), "text": tiny.bert(feature=4)},
            ("8 numbers for the text", "4 numbers from stage text"),
        ),
    ],
)
def test_rjcma_with_a_feature_of_another_size_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: tuple[str, str]
) -> None:
    parts = {"valence": tiny.one_target(backbones=False), **words()}
    parts |= {name: tiny.randomized(module) for name, module in changes.items()}
    text = refusal(tmp_path, "rjcma", parts, TEXT_SET)
    assert all(one in text for one in said)


def test_rjcma_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    parts = {"valence": tiny.one_target(), "text": words()["text"]}
    text = refusal(tmp_path, "rjcma", parts, TEXT_SET)
    assert "--checkpoint vocabulary=vocab.txt" in text


@pytest.mark.parametrize("settings", [(), TEXT_SET[:1], TEXT_SET[1:]])
def test_rjcma_without_the_statistics_of_its_words_is_refused(
    tmp_path: Path, settings: tuple[str, ...]
) -> None:
    text = refusal(tmp_path, "rjcma", {"valence": tiny.one_target(), **words()}, settings)
    assert "--set text_mean=NUMBER --set text_std=NUMBER" in text
    assert "mean_std_info.pkl" in text


def test_rjcma_with_a_vocabulary_of_another_encoder_is_refused(tmp_path: Path) -> None:
    parts = {"valence": tiny.one_target(), **words(n_words=5)}
    text = refusal(tmp_path, "rjcma", parts, TEXT_SET)
    assert "at most 5 tokens" in text
    assert "Found: 7" in text


def test_rjcma_takes_a_tokenizer_as_it_is(tmp_path: Path) -> None:
    from edge_mer_export.models.vocabulary import TOKENIZER, tokenizer_of

    made = tokenizer_of("\n".join(tiny.WORDS).encode())
    assert json.loads(made)["model"]["type"] == "WordPiece"
    parts = {"valence": tiny.one_target(), **words(vocabulary=made)}
    model, _ = load(tmp_path, "rjcma", parts, TEXT_SET)
    assert model.assets == {TOKENIZER: made}


@pytest.mark.parametrize(
    "setting",
    [
        "text_mean=nan",
        "text_mean=inf",
        "text_mean=much",
        "text_mean=",
        "text_std=0",
        "text_std=-1",
        "text_wait=-1",
        "text_wait=61",
        "text_wait=1/0",
        "text_wait=nan",
        "text_heads=0",
        "text_heads=-2",
        "text_heads=65",
        "text_heads=many",
        "target=pain",
    ],
)
def test_settings_out_of_range_are_refused(setting: str) -> None:
    with pytest.raises(UsageError, match="model rjcma: cannot use --set") as caught:
        system("rjcma").read_settings([setting])
    assert "Expected:" in str(caught.value)


@pytest.mark.parametrize("setting", ["num_heads=0", "num_heads=65", "num_heads=1.5", "visual_reduce=sum"])
def test_settings_of_jmt_out_of_range_are_refused(setting: str) -> None:
    with pytest.raises(UsageError, match="model jmt: cannot use --set"):
        system("jmt").read_settings([setting])


def test_heads_of_the_text_encoder_divide_its_feature(tmp_path: Path) -> None:
    text = refusal(tmp_path, "rjcma", words(), ["text_heads=3"], only="text")
    assert "cannot use --set text_heads=3" in text


# jmt-pain


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_pain_from_its_two_files(tmp_path: Path, n_classes: int) -> None:
    fusion = tiny.randomized(tiny.pain(n_classes))
    model, report = load(tmp_path, "jmt-pain", {"visphy": tiny.visphy(), "fusion": fusion})
    assert holds(model, "fusion", fusion)
    (pain,) = model.spec.outputs
    assert isinstance(pain, PainOutput)
    assert len(pain.levels) == n_classes
    scales = {2: "biovid-bl-pa4", 3: "levels", 5: "biovid-bl-pa1-4"}
    assert pain.scale == scales[n_classes]
    assert report.files[0].dropped == ("phy_model.fc2.*",)
    assert holds(model, "eda", tiny.randomized(tiny.eda()))
    assert model.spec.fusion.n_steps == 4


def test_pain_of_one_class_is_refused(tmp_path: Path) -> None:
    fusion = tiny.randomized(tiny.pain(1))
    text = refusal(tmp_path, "jmt-pain", {"visphy": tiny.visphy(), "fusion": fusion})
    assert "a last layer of two outputs or more" in text
    assert "Found: 1 in out_layer5" in text


def test_pain_with_the_concatenation_from_the_backbones_file(tmp_path: Path) -> None:
    concat = tiny.randomized(tiny.pain_concat())
    both = {**tiny.visphy(), **concat}
    model, report = load(tmp_path, "jmt-pain", {"visphy": both, "fusion": both})
    assert holds(model, "fusion", concat)
    assert holds(model, "visual", tiny.inside("vis_model.visual_model.", both))
    assert "vis_model.*" in report.files[1].dropped
    assert "out_layer1.*" in report.files[0].dropped


@pytest.mark.parametrize(("settings", "n_steps"), [((), 4), (("sequence=no",), 1), (("sequence=yes",), 4)])
def test_pain_with_two_cross_attentions_of_one_step_or_four(
    tmp_path: Path, settings: tuple[str, ...], n_steps: int
) -> None:
    parts = {"visphy": tiny.visphy(), "fusion": tiny.randomized(tiny.pain_pair())}
    model, _ = load(tmp_path, "jmt-pain", parts, settings)
    assert model.spec.fusion.n_steps == n_steps
    features = [torch.randn(1, n_steps, tiny.D) for _ in range(2)]
    assert model.stages["fusion"](*features).shape == (1, 2)


def test_pain_from_backbones_in_files_of_their_own(tmp_path: Path) -> None:
    both = tiny.visphy()
    parts = {
        "visual": {key: value for key, value in both.items() if key.startswith("vis_model.")},
        "eda": {key: value for key, value in both.items() if key.startswith("phy_model.")},
        "fusion": tiny.randomized(tiny.pain()),
    }
    model, _ = load(tmp_path, "jmt-pain", parts)
    assert holds(model, "visual", tiny.inside("vis_model.visual_model.", both))
    assert holds(model, "eda", tiny.randomized(tiny.eda()))


def test_eda_alone_has_the_classifier_that_it_was_trained_with(tmp_path: Path) -> None:
    model, _ = load(tmp_path, "jmt-pain", {"visphy": tiny.visphy()}, only="eda")
    one = model.stage("eda")
    assert [spec.name for spec in one.outputs] == ["feature", "logits"]
    assert torch.equal(one.module.state_dict()["fc2.bias"], torch.zeros(2))


def test_a_face_of_another_size_is_refused_for_pain(tmp_path: Path) -> None:
    parts = {
        "visual": tiny.randomized(tiny.r3d(5)),
        "eda": tiny.randomized(tiny.eda()),
        "fusion": tiny.randomized(tiny.pain()),
    }
    text = refusal(tmp_path, "jmt-pain", parts)
    assert "a feature of 8 numbers for the fusion's input visual" in text
    assert "Found: 5 numbers from stage visual" in text


def test_files_without_names_of_parts_are_told_by_their_keys(tmp_path: Path) -> None:
    parts = {"visphy": tiny.visphy(), "fusion": tiny.randomized(tiny.pain())}
    paths = [one.partition("=")[2] for one in give(tmp_path, parts)]
    model = import_model(system("jmt-pain"), paths).model
    assert holds(model, "fusion", parts["fusion"])


@pytest.mark.parametrize(
    ("name", "state", "parts"),
    [
        ("rjcma", tiny.one_target(), ("valence", "arousal", "fusion")),
        ("jmt", tiny.randomized(tiny.both_faces()), ("visual-fusion", "audio-fusion")),
    ],
)
def test_a_file_that_may_be_several_parts_must_be_named(
    tmp_path: Path, name: str, state: Any, parts: tuple[str, ...]
) -> None:
    path = tiny.save(tmp_path / "weights.pt", state)
    with pytest.raises(UsageError, match="may be several parts") as caught:
        import_model(system(name), [path])
    assert all(f"--checkpoint {part}={path}" in str(caught.value) for part in parts)


@pytest.mark.parametrize("name", ["jmt", "jca", "rjcma", "jmt-pain"])
def test_settings_have_the_published_values_by_default(name: str) -> None:
    one = system(name)
    with torch.device("meta"):
        model = one.build(Found({}, one.read_settings(()), only="fusion"))
    assert model.spec.name == name


def test_parts_of_which_none_is_given_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no file of model jmt") as caught:
        import_model(system("jmt"), [tmp_path])
    assert "Found: no file at all" in str(caught.value)

"""Recursive joint cross-modal attention as a deployable model: "rjcma", valence and arousal side by side.

Source: "Recursive Joint Cross-Modal Attention for Multimodal Fusion in Dimensional Emotion Recognition",
arXiv 2403.13659. One model was trained per target, with backbones of its own.

Shape letters: B batch, K step, D feature.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from edge_mer.errors import DataError, UsageError
from edge_mer.types.model import (
    AffectOutput,
    Encoder,
    FaceAlignment,
    FaceClip,
    Fusion,
    ModelSpec,
    TensorSpec,
    VggishLogMel,
    Words,
)
from edge_mer_export.models import bert, rjcma, tsav
from edge_mer_export.models.bert import Bert
from edge_mer_export.models.ir50 import IR50
from edge_mer_export.models.rjcma import RJCMA
from edge_mer_export.models.shapes import Shapes, size, under
from edge_mer_export.models.spec_jca import TARGET
from edge_mer_export.models.spec_jmt import LICENCE, TARGETS, Target
from edge_mer_export.models.tsav import FRAME
from edge_mer_export.models.vggish import VGGish
from edge_mer_export.models.vocabulary import TOKENIZER, simulated_words, tokenizer_of
from edge_mer_export.models.zoo import (
    Found,
    Part,
    Route,
    Setting,
    States,
    System,
    ZooModel,
    heads_that_fit,
    mismatch,
    whole,
)

SHARED = "shared"
"""Stands for a target in the keys of a backbone that all of them use."""

SINGLE = "single"
"""Stands for a target whose name only the user knows."""

_STORED_PX, _CROP_PX = 48, 40
_HOP = 10
"""Three predictions a second; the published code gives one per frame, of whole recordings."""


class PerTarget(nn.Module):
    """A network for each target, or a single one for all.

    Args:
        nets: By target, or under `SHARED`; each has `n_features`.
    """

    def __init__(self, nets: dict[str, nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(nets)
        sizes: list[Any] = [net.n_features for net in nets.values()]
        self.sizes: list[int] = sizes
        self.n_features: int = sum(sizes)

    def forward(self, step: Tensor) -> Tensor:
        """A step's tensor (B, …) -> features side by side (B, D)."""
        return torch.cat([net(step) for net in self.nets.values()], dim=-1)  # (B, D)

    def place(self, target: str) -> tuple[int, int]:
        """Where the feature of a target begins and ends.

        Raises:
            DataError: There is none.
        """
        names = list(self.nets)
        if SHARED in names:
            target = SHARED
        if target not in names:
            raise DataError(
                f"model rjcma lacks a backbone of {target}",
                expected="one for each target, or one for both",
                found=" and ".join(names),
            )
        index = names.index(target)
        return sum(self.sizes[:index]), sum(self.sizes[: index + 1])


class SideBySide(nn.Module):
    """A fusion for each target, each with its own part of the features.

    Args:
        fusions: By target.
        visual: Where each target's face feature begins and ends.
        audio: The same of the voice.
    """

    def __init__(
        self, fusions: dict[str, nn.Module], visual: list[tuple[int, int]], audio: list[tuple[int, int]]
    ) -> None:
        super().__init__()
        self.fusions = nn.ModuleDict(fusions)
        self.visual, self.audio = visual, audio

    def forward(self, visual: Tensor, audio: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        """Estimate every target.

        Args:
            visual: (B, K, D) of all targets side by side.
            audio: (B, K, D) likewise.
            text: (B, K, D) of the words, the same for all.

        Returns:
            (B, K) in (-1, 1) for each target.
        """
        places = zip(self.fusions.values(), self.visual, self.audio, strict=True)
        return tuple(net(visual[..., v[0] : v[1]], audio[..., a[0] : a[1]], text) for net, v, a in places)


def rjcma_model(found: Found) -> ZooModel:
    """The published model: windows of 300 frames; every width is that of the checkpoint."""
    names = _names(found.of("fusion"))
    fusions = {name: RJCMA.like(under(found.of("fusion"), f"fusions.{name}.")) for name in names}
    first = fusions[names[0]]
    visual = _backbones(found.of("visual"), IR50)
    audio = _backbones(found.of("audio"), VGGish)
    with heads_that_fit("text_heads", found.settings["text_heads"]):
        text = Bert.like(found.of("text"), found.settings["text_heads"])
    _check_steps(fusions)
    if found.only is None:
        _check_features(found, fusions, visual, audio, text.n_features)
        fusion = SideBySide(dict(fusions), [visual.place(n) for n in names], [audio.place(n) for n in names])
        sizes = {"visual": visual.n_features, "audio": audio.n_features, "text": text.n_features}
    else:
        fusion, sizes = _unconnected(fusions)
    targets = _targets(names, found.settings["target"])
    spec = ModelSpec(
        name="rjcma",
        title=f"Recursive joint cross-modal attention: {' and '.join(targets)} from face, voice and words",
        source=(
            "Recursive Joint Cross-Modal Attention for Multimodal Fusion in Dimensional Emotion "
            "Recognition, arXiv 2403.13659"
        ),
        step=FRAME,
        encoders=(_face(visual.n_features), _voice(audio.n_features), _words(text.n_features, found)),
        fusion=Fusion(
            n_steps=first.n_steps,
            inputs=tsav.feature_tensors(sizes, first.n_steps),
            outputs=tsav.affect_tensors(tuple(targets), first.n_steps),
            warm_up="pad",
            hop=_HOP,
        ),
        outputs=tuple(AffectOutput(name=target) for target in targets),
        intended_use=(
            "Research on dimensional affect from face, voice and words, with the user's own weights. "
            "Not a medical device, and not for decisions about people."
        ),
        licence=LICENCE,
    )
    stages = {"visual": visual, "audio": audio, "text": text, "fusion": fusion}
    dead = {
        "fusion": tuple(f"fusions.*.{key}" for key in rjcma.DEAD_KEYS),
        "text": bert.DEAD_KEYS,
        "audio": ("nets.*.pproc.*",),
    }
    last = {str(target): f"fusions.{name}.regressor2" for name, target in zip(names, targets, strict=True)}
    return ZooModel(spec, stages, last, dead, assets={TOKENIZER: _tokenizer(found)})


def _check_steps(fusions: dict[str, RJCMA]) -> None:
    """Refuse models of windows of different lengths.

    Raises:
        DataError: Names both.
    """
    (name, first), *others = fusions.items()
    for other, fusion in others:
        if fusion.n_steps != first.n_steps:
            raise DataError(
                "model rjcma: the weights do not belong together",
                expected=f"windows of {first.n_steps} steps, as in the model of {name}",
                found=f"{fusion.n_steps} steps in the model of {other}",
                hint="export each target to a bundle of its own",
            )


def _check_features(
    found: Found, fusions: dict[str, RJCMA], visual: PerTarget, audio: PerTarget, n_text: int
) -> None:
    """Refuse a backbone whose feature has not the size that a fusion takes; those without weights pass.

    Raises:
        DataError: Names both sizes.
    """
    for name, fusion in fusions.items():
        given = {"text": n_text}
        for stage, nets in (("visual", visual), ("audio", audio)):
            if found.of(stage):
                begin, end = nets.place(name)
                given[stage] = end - begin
        for stage, takes in zip(("visual", "audio", "text"), fusion.features, strict=True):
            if found.of("fusion") and found.of(stage) and given[stage] != takes:
                raise mismatch("rjcma", f"the {stage} of {name}", takes, f"stage {stage}", given[stage])


def _names(shapes: Shapes) -> list[str]:
    """The targets that there are weights for, in the order of the outputs; without any, both."""
    found = [name for name in (*TARGETS, SINGLE) if under(shapes, f"fusions.{name}.")]
    return found or list(TARGETS)


def _targets(names: list[str], single: Target) -> list[Target]:
    """What each fusion estimates.

    Raises:
        UsageError: Two of them estimate the same.
    """
    known: dict[str, Target] = {"valence": "valence", "arousal": "arousal", SINGLE: single}
    targets = [known[name] for name in names]
    if len(set(targets)) < len(targets):
        raise UsageError(f"two models of {single} were given", hint="say --set target=…, or leave one away")
    return targets


def _backbones(shapes: Shapes, kind: type[IR50] | type[VGGish]) -> PerTarget:
    names = [name for name in (*TARGETS, SINGLE) if under(shapes, f"nets.{name}.")] or [SHARED]
    return PerTarget({name: kind.like(under(shapes, f"nets.{name}.")) for name in names})


def _unconnected(fusions: dict[str, RJCMA]) -> tuple[SideBySide, dict[str, int]]:
    """Fusions alone: they share the features that come in."""
    n_visual, n_audio, n_text = next(iter(fusions.values())).features
    places = ([(0, n_visual)] * len(fusions), [(0, n_audio)] * len(fusions))
    return SideBySide(dict(fusions), *places), {"visual": n_visual, "audio": n_audio, "text": n_text}


def _face(feature: int) -> Encoder:
    """The frame at the step's start: the middle 40 of 48 pixels of an aligned face, in [-1, 1]."""
    eyes = FaceAlignment()
    clip = FaceClip(
        size_px=_CROP_PX,
        n_frames=1,
        frame_interval=FRAME,
        last_frame_before_end=FRAME,
        frame_tolerance=FRAME,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        alignment=FaceAlignment(left_eye=_cropped(eyes.left_eye), right_eye=_cropped(eyes.right_eye)),
    )
    return Encoder(
        stage="visual",
        modality="visual",
        input=TensorSpec(
            name="face",
            axes=("batch", "channel", "height", "width"),
            shape=("batch", 3, _CROP_PX, _CROP_PX),
        ),
        output=tsav.feature_spec(feature),
        period=FRAME,
        span=FRAME,
        preprocess=clip,
    )


def _cropped(eye: tuple[float, float]) -> tuple[float, float]:
    edge = (_STORED_PX - _CROP_PX) / 2
    return (eye[0] * _STORED_PX - edge) / _CROP_PX, (eye[1] * _STORED_PX - edge) / _CROP_PX


def _voice(feature: int) -> Encoder:
    """The 0.96 s after the step's start."""
    mel = VggishLogMel()
    span = Fraction(mel.n_samples, mel.rate_hz)
    return Encoder(
        stage="audio",
        modality="audio",
        input=TensorSpec(
            name="log_mel", axes=("batch", "column", "mel"), shape=("batch", mel.width, mel.n_mels)
        ),
        output=tsav.feature_spec(feature),
        period=FRAME,
        span=span,
        offset=span - FRAME,
        preprocess=mel,
    )


def _words(feature: int, found: Found) -> Encoder:
    """The word that is being said at the step's start."""
    mean, std = found.settings["text_mean"], found.settings["text_std"]
    if found.of("text") and found.only is None and None in (mean, std):
        raise DataError(
            "the checkpoint does not say how word vectors were normalised when the fusion was trained",
            expected="--set text_mean=NUMBER --set text_std=NUMBER: mean and deviation of all their numbers",
            hint="the published code keeps them in mean_std_info.pkl, under the fold, 'train', 'bert'",
        )
    return Encoder(
        stage="text",
        modality="text",
        input=TensorSpec(name="ids", axes=("batch", "token"), shape=("batch", "token"), dtype="int64"),
        output=TensorSpec(
            name="vectors", axes=("batch", "token", "feature"), shape=("batch", "token", feature)
        ),
        period=FRAME,
        span=FRAME,
        offset=found.settings["text_wait"],
        preprocess=Words(tokenizer=TOKENIZER, mean=mean or 0.0, std=std or 1.0),
    )


def _tokenizer(found: Found) -> bytes:
    """The user's vocabulary; without one, that of the words that simulated people say.

    Raises:
        DataError: There are weights of a text encoder, and no vocabulary.
    """
    if "vocabulary" in found.assets:
        n_words = size(found.of("text"), "embeddings.word_embeddings.weight", 0, 2, 0)
        return tokenizer_of(found.assets["vocabulary"], n_words or None)
    if found.of("text") and found.only is None:
        raise DataError(
            "a text encoder without its vocabulary reads nothing",
            expected="--checkpoint vocabulary=vocab.txt (or tokenizer.json), from where its weights are",
        )
    return simulated_words()


def share_equal_backbones(states: States) -> States:
    """Backbones that were not trained differently for the targets are run once."""
    for stage in ("visual", "audio"):
        state = states.get(stage, {})
        first, second = ({k.removeprefix(p): state[k] for k in state if k.startswith(p)} for p in _PREFIXES)
        if first and first.keys() == second.keys() and all(_equal(first[k], second[k]) for k in first):
            states[stage] = {f"nets.{SHARED}.{key}": value for key, value in first.items()}
    return states


_PREFIXES = tuple(f"nets.{target}." for target in TARGETS)


def _equal(a: Any, b: Any) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)


def _target_part(name: str, about: str) -> Part:
    return Part(
        name if name != SINGLE else "fusion",
        "",
        about,
        kinds=("rjcma",),
        routes=(
            Route("spatial.visual.backbone.", "visual", f"nets.{name}."),
            Route("spatial.visual.logits.", None),
            Route("spatial.audio.backbone.", "audio", f"nets.{name}."),
            Route("", "fusion", f"fusions.{name}."),
        ),
    )


def _number(text: str) -> float:
    value = float(text)
    if not -1e6 < value < 1e6:
        raise ValueError(text)
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise ValueError(text)
    return value


def _wait(text: str) -> Fraction:
    try:
        value = Fraction(text)
    except ZeroDivisionError as error:
        raise ValueError(text) from error
    if not 0 <= value <= 60:
        raise ValueError(text)
    return value


def _heads(text: str) -> int | None:
    return None if text == "auto" else whole(1, 64)(text)


RJCMA_SYSTEM = System(
    "rjcma",
    ("visual", "audio", "text", "fusion"),
    rjcma_model,
    (
        _target_part("valence", "the model of valence, with its backbones (model_state_dict….pth)"),
        _target_part("arousal", "the model of arousal, with its backbones (model_state_dict….pth)"),
        _target_part(SINGLE, "the model of one target, named by --set target"),
        Part(
            "visual",
            "res50_ir_*.pth",
            "IR-50 on the face, where the models' files do not hold it",
            kinds=("ir50",),
            routes=(
                Route("logits.", None),
                Route("backbone.", "visual", f"nets.{SHARED}."),
                Route("", "visual", f"nets.{SHARED}."),
            ),
        ),
        Part(
            "audio",
            "vggish*.pth",
            "VGGish on the voice, where the models' files do not hold it",
            kinds=("vggish",),
            routes=(
                Route("backbone.", "audio", f"nets.{SHARED}."),
                Route("", "audio", f"nets.{SHARED}."),
            ),
        ),
        Part(
            "text",
            "",
            "BERT on the words (model.safetensors or pytorch_model.bin)",
            kinds=("bert",),
            routes=(Route("cls.", None), Route("bert.", "text"), Route("", "text")),
        ),
        Part("vocabulary", "", "BERT's vocabulary (vocab.txt or tokenizer.json)", is_asset=True),
    ),
    (
        TARGET,
        Setting("text_mean", "mean of the word vectors' numbers in training", None, _number, "a number"),
        Setting("text_std", "their standard deviation", None, _positive, "a number above 0"),
        Setting("text_wait", "seconds that a step waits for its words", "4", _wait, "0 to 60"),
        Setting(
            "text_heads",
            "BERT's attention heads; auto: one per 64",
            "auto",
            _heads,
            "a number or auto",
        ),
    ),
    share_equal_backbones,
)

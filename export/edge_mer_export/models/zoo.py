"""Models by name, and what the code they were published with leaves on disk.

A new model costs one file and one line here.

Words with one meaning: a *system* is a published model with all its variants; a *part* is a file that
holds weights of it; a *stage* is a graph of a bundle, one per modality and the fusion.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edge_mer.errors import DataError, UsageError
from edge_mer.types.model import ModelSpec, TensorSpec, Words
from edge_mer_export.models.shapes import Shapes
from edge_mer_export.models.vocabulary import n_tokens

MODELS = {
    "group": "edge_mer_export.models.spec_group:GROUP",
    "group-tiny": "edge_mer_export.models.spec_group:GROUP_TINY",
    "jmt": "edge_mer_export.models.spec_jmt:JMT",
    "jca": "edge_mer_export.models.spec_jca:JCA",
    "rjcma": "edge_mer_export.models.spec_rjcma:RJCMA_SYSTEM",
    "jmt-pain": "edge_mer_export.models.spec_jmt_pain:JMT_PAIN",
    "jmt-tiny": "edge_mer_export.models.spec_jmt:JMT_TINY",
    "pain-tiny": "edge_mer_export.models.spec_pain_tiny:PAIN_TINY",
    "stress-e4": "edge_mer_export.models.spec_stress_e4:STRESS_E4",
    "voice-emodb": "edge_mer_export.models.spec_voice_emodb:VOICE_EMODB",
}


@dataclass(frozen=True)
class LooseStage:
    """A stage as it can be exported alone.

    Attributes:
        module: It in PyTorch.
        inputs: In their order.
        outputs: In their order.
        of: The stage whose weights it takes.
        prefix: How those of its keys begin that it takes.
        dead: Patterns of them that reach no output.
    """

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    of: str
    prefix: str = ""
    dead: tuple[str, ...] = ()


def mismatch(model: str, taker: str, takes: int | str, giver: str, gives: int | str) -> DataError:
    """What to say where a feature has not the size that is taken."""
    return DataError(
        f"model {model}: the weights do not belong together",
        expected=f"a feature of {takes} numbers for {taker}",
        found=f"{gives} numbers from {giver}",
        hint="give all parts of one trained model",
    )


@dataclass(frozen=True)
class ZooModel:
    """A model as it is declared and as it computes.

    Attributes:
        spec: What the model declares about itself.
        stages: One module per stage, by name in the order of `spec.stages`. It takes its stage's
            declared inputs in their order and returns the declared outputs.
        last_layers: Output -> name of the fusion's linear layer that it comes out of.
        dead: Stage -> patterns of keys of a checkpoint that reach no output.
        loose: Stages beside the bundle's.
        assets: Path in the bundle -> bytes of a file that preprocessing reads.
    """

    spec: ModelSpec
    stages: dict[str, nn.Module]
    last_layers: Mapping[str, str]
    dead: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    loose: Mapping[str, LooseStage] = field(default_factory=dict)
    assets: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if tuple(self.stages) != self.spec.stages:
            raise ValueError(f"{self.spec.name} declares stages {self.spec.stages}, has {tuple(self.stages)}")

    def check_sizes(self) -> None:
        """Refuse parts of different models: a feature must have the size that the fusion takes.

        Raises:
            DataError: Names both sizes.
        """
        for encoder, tensor in zip(self.spec.encoders, self.spec.fusion.inputs, strict=False):
            if encoder.feature != tensor.shape[-1]:
                raise mismatch(
                    self.spec.name,
                    f"the fusion's input {tensor.name}",
                    tensor.shape[-1],
                    f"stage {encoder.stage}",
                    encoder.feature,
                )

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and buffers by "<stage>.<key>"; they share memory with the modules."""
        return {
            f"{stage}.{key}": value
            for stage, module in self.stages.items()
            for key, value in module.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take weights and buffers by "<stage>.<key>"; a missing or unexpected key is refused."""
        nn.ModuleDict(self.stages).load_state_dict(dict[str, Any](state))

    def stage(self, name: str) -> LooseStage:
        """A stage as it is exported alone, with its tensors.

        Raises:
            UsageError: The model has no such stage.
        """
        return self.loose[name] if name in self.loose else self.bundle_stage(name)

    def bundle_stage(self, name: str) -> LooseStage:
        """A stage as it stands in the bundle, with its tensors.

        Raises:
            UsageError: The model has no such stage.
        """
        if name == self.spec.fusion.stage:
            fusion = self.spec.fusion
            return LooseStage(self.stages[name], fusion.inputs, fusion.outputs, name, dead=self.dead_of(name))
        for encoder in self.spec.encoders:
            if encoder.stage == name:
                inputs, outputs = (encoder.input,), (encoder.output,)
                return LooseStage(self.stages[name], inputs, outputs, name, dead=self.dead_of(name))
        known = dict.fromkeys((*self.spec.stages, *self.loose))
        raise UsageError(f"model {self.spec.name} has no stage {name!r}", expected=" or ".join(known))

    def n_tokens(self, stage: str) -> int | None:
        """How many tokens the vocabulary of a stage has; None of a stage that reads no words."""
        for encoder in self.spec.encoders:
            words = encoder.preprocess
            if encoder.stage == stage and isinstance(words, Words) and words.tokenizer in self.assets:
                return n_tokens(self.assets[words.tokenizer])
        return None

    def dead_of(self, stage: str) -> tuple[str, ...]:
        """Patterns of a stage's keys that reach no output."""
        return self.dead.get(stage, ())

    def train(self, mode: bool = True) -> ZooModel:
        """Put every stage into training mode, or out of it; returns this model."""
        for module in (*self.stages.values(), *(one.module for one in self.loose.values())):
            module.train(mode)
        return self

    def eval(self) -> ZooModel:
        """Put every stage into evaluation mode; returns this model."""
        return self.train(False)


@dataclass(frozen=True)
class Route:
    """Where the keys of a part belong.

    Attributes:
        prefix: How a key begins in the file; of several routes that fit, the first one counts.
        stage: The stage that takes it; None: it reaches no output.
        to: What stands in the prefix' place in the stage's state_dict.
    """

    prefix: str
    stage: str | None
    to: str = ""


@dataclass(frozen=True)
class Part:
    """A file in which the published code keeps weights.

    Attributes:
        name: In `--checkpoint name=path`.
        file: Its name, or a pattern of it, in the published code's folder; "" if it has none.
        about: What it holds, in one line.
        kinds: What its keys must look like (names in `edge_mer_export.recognise`).
        routes: Where its keys belong; a key that no route takes is one too many.
        is_asset: It is no file of weights, but travels in the bundle as it is.
    """

    name: str
    file: str
    about: str
    kinds: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    is_asset: bool = False

    def route(self, key: str) -> Route | None:
        """The route that takes `key`."""
        return next((route for route in self.routes if key.startswith(route.prefix)), None)


@dataclass(frozen=True)
class Setting:
    """What the shapes of a checkpoint cannot tell.

    Attributes:
        name: In `--set name=value`.
        about: What it means, in one line.
        default: The published value, as a user would write it; None if there is none.
        read: From text to value; raises ValueError.
        expected: What may be written.
    """

    name: str
    about: str
    default: str | None
    read: Callable[[str], Any]
    expected: str


def whole(low: int, high: int) -> Callable[[str], int]:
    """Reads a whole number within bounds."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise ValueError(text)
        return int(text)

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """Reads one of some words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return read


@contextlib.contextmanager
def heads_that_fit(setting: str, heads: int | None) -> Iterator[None]:
    """Around the building of networks whose features so many attention heads must divide.

    Raises:
        UsageError: They do not.
    """
    try:
        yield
    except ValueError as error:
        raise UsageError(
            f"cannot use --set {setting}={heads}",
            expected="as many heads as in training, which divide the feature",
            found=str(error),
        ) from error


@dataclass(frozen=True)
class Found:
    """What a model is built from.

    Attributes:
        shapes: Stage -> shapes of the weights at hand; a stage without weights takes published sizes.
        settings: By name; every setting of the system is there.
        assets: Part -> bytes.
        only: The one stage that is wanted; None wants all.
    """

    shapes: Mapping[str, Shapes]
    settings: Mapping[str, Any]
    assets: Mapping[str, bytes] = field(default_factory=dict)
    only: str | None = None

    def of(self, stage: str) -> Shapes:
        """Shapes of one stage's weights; empty if there are none."""
        return self.shapes.get(stage, {})


States = dict[str, dict[str, Tensor]]
"""Stage -> key -> tensor."""


@dataclass(frozen=True)
class System:
    """A published model with all its variants, or one of edge-mer's own.

    Attributes:
        name: In the zoo.
        stages: Names of its stages.
        build: The variant that weights of these shapes belong to, untrained.
        parts: The files that its code leaves.
        settings: What shapes cannot tell.
        adapt: Last changes to the tensors of a checkpoint before they are compared with the model's.
        learned_from: Whom the weights that come along, if there are any, were trained on.
    """

    name: str
    stages: tuple[str, ...]
    build: Callable[[Found], ZooModel]
    parts: tuple[Part, ...] = ()
    settings: tuple[Setting, ...] = ()
    adapt: Callable[[States], States] = lambda states: states
    learned_from: str = "simulated people only"

    @property
    def is_published(self) -> bool:
        """Whether its files are those of published code, which are known by their keys."""
        return any(part.kinds for part in self.parts)

    def part(self, name: str) -> Part:
        """A part by its name.

        Raises:
            UsageError: There is no such part.
        """
        for part in self.parts:
            if part.name == name:
                return part
        known = ", ".join(part.name for part in self.parts) or "none: it takes one .safetensors file"
        raise UsageError(f"model {self.name} has no part {name!r}", expected=f"one of {known}")

    def default(self) -> ZooModel:
        """The published variant with untrained weights, in evaluation mode."""
        return self.build(Found({}, self.read_settings(()))).eval()

    def read_settings(self, given: Sequence[str]) -> dict[str, Any]:
        """Every setting's value: as given in "name=value", else its default, else None.

        Raises:
            UsageError: No such setting, or a value that it cannot have.
        """
        texts = {setting.name: setting.default for setting in self.settings}
        for one in given:
            name, equals, text = one.partition("=")
            if not equals or name not in texts:
                known = ", ".join(f"{s.name}={s.expected}" for s in self.settings) or "no setting"
                raise UsageError(f"model {self.name}: cannot use --set {one}", expected=known)
            texts[name] = text
        return {setting.name: self._value(setting, texts[setting.name]) for setting in self.settings}

    def _value(self, setting: Setting, text: str | None) -> Any:
        if text is None:
            return None
        try:
            return setting.read(text)
        except ValueError as error:
            what = f"model {self.name}: cannot use --set {setting.name}={text}"
            raise UsageError(what, expected=setting.expected) from error


WEIGHTS = Path(__file__).parents[1] / "weights"


def shipped_weights(one: System) -> Path | None:
    """The trained weights that come with the package for a model; None if it has none.

    A user's own model has none, whatever it is called.
    """
    file = WEIGHTS / f"{one.name}.safetensors"
    return file if one.name in MODELS and system(one.name) is one and file.is_file() else None


def dead_pattern(key: str, patterns: tuple[str, ...]) -> str | None:
    """The pattern that says that `key` reaches no output; None if none does."""
    return next((pattern for pattern in patterns if fnmatchcase(key, pattern)), None)


def system(name: str) -> System:
    """A system by its name, or "path/to/file.py:Name" of a user's own.

    Raises:
        UsageError: There is no such model.
    """
    if ".py:" in name:  # a file of the user's
        own: System = import_module("edge_mer_export.models.own").own_system(name)
        return own
    if name.endswith(".py"):
        raise UsageError(
            f"{name} is a file, not a model",
            expected="the name of the class in it, behind a colon",
            hint=f"give {name}:Name",
        )
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]}" if near else None
        raise UsageError(f"unknown model {name!r}", expected=f"one of {', '.join(sorted(MODELS))}", hint=hint)
    module_name, _, constant = MODELS[name].partition(":")
    found: System = getattr(import_module(module_name), constant)
    return found


def build(name: str) -> ZooModel:
    """The model `name` in its published sizes with untrained weights, in evaluation mode.

    Raises:
        UsageError: The zoo has no such model.
    """
    return system(name).default()

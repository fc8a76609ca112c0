"""What a training run does, in one TOML file."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from edge_mer.errors import UsageError
from edge_mer.types.model import Declared

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHIPPED = Path(__file__).parents[1] / "recipes"
"""Recipes that come with the package, by name."""

Share = Annotated[float, Field(ge=0, lt=1)]


class SimulatedPeople(Declared):
    """Simulated people to learn from; each gives one session.

    Attributes:
        first_person: Number of the first one; the next ones follow.
        n_train: People to learn from.
        n_valid: People after them, to choose the best epoch by.
        n_steps: Steps of each session after its start.
        seed: Of what they feel.
        keys: More of each session's URI, e.g. "fps=15&occlusion=0.1".
    """

    first_person: int = Field(ge=0)
    n_train: int = Field(gt=0)
    n_valid: int = Field(gt=0)
    n_steps: int = Field(gt=0)
    seed: int = Field(default=0, ge=0)
    keys: str = ""


class Data(Declared):
    """Where sessions and labels come from: simulated people, or a manifest of recordings.

    Attributes:
        simulated: Simulated people.
        manifest: Path of a manifest (CSV or JSON lines), relative to the recipe.
        valid_share: Of the manifest's people without a split of their own, the share to choose the
            best epoch by.
    """

    simulated: SimulatedPeople | None = None
    manifest: str | None = None
    valid_share: Share = 0.2

    @model_validator(mode="after")
    def _has_one(self) -> Data:
        if (self.simulated is None) == (self.manifest is None):
            raise ValueError("give either [data.simulated] or a manifest")
        return self


class Phase(Declared):
    """One phase of training.

    Attributes:
        epochs: At most so many.
        batch_size: Steps (backbones) or windows (fusion) in a batch.
        learning_rate: At its highest; it falls to 0 along a cosine.
        weight_decay: AdamW's.
        samples_per_epoch: Steps or windows of an epoch, drawn anew for each; 0 = all of them.
        patience: Epochs without a better one before it stops.
        dropout: In the head.
        keep: Weights of the best epoch, or those of the last one, which nobody chooses; then patience
            counts for nothing.
        balance: How much more samples of rare classes count: 0 = all alike, 1 = so that classes count alike.
        smoothing: Share of a class label that is spread over all classes, so that none is learned as certain.
        warm_up: Share of the epochs in which the learning rate rises first.
        shift_columns: How many columns log-mel spectrograms are shifted by at most, either way.
        shift_bands: How many bands they are shifted by at most, either way.
        mask_columns: How many neighbouring columns of them are hidden at most.
        mask_bands: How many neighbouring bands of them are hidden at most.
    """

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    samples_per_epoch: int = Field(default=0, ge=0)
    patience: int = Field(default=5, gt=0)
    dropout: Share = 0.0
    keep: Literal["best", "last"] = "best"
    balance: float = Field(default=0.0, ge=0, le=1)
    smoothing: Share = 0.0
    warm_up: Share = 0.0
    shift_columns: int = Field(default=0, ge=0)
    shift_bands: int = Field(default=0, ge=0)
    mask_columns: int = Field(default=0, ge=0)
    mask_bands: int = Field(default=0, ge=0)

    @property
    def changes_spectrograms(self) -> bool:
        """Whether it asks for what only spectrograms have."""
        return any((self.shift_columns, self.shift_bands, self.mask_columns, self.mask_bands))


class FusionPhase(Phase):
    """The fusion, on the features of the trained backbones.

    Attributes:
        modality_dropout: Share of windows in which one modality is missing altogether.
        step_dropout: Share of windows in which one modality is missing for a run of steps.
        own_people_share: Share of the people to learn from whom the backbones never see, and from whom
            alone the fusion learns: the features of people known by heart are better than any it will
            meet. 0 = all learn from all.
    """

    modality_dropout: Share = 0.3
    step_dropout: Share = 0.2
    own_people_share: Share = 0.35

    @model_validator(mode="after")
    def _leaves_whole_windows(self) -> FusionPhase:
        if self.modality_dropout + self.step_dropout > 1:
            raise ValueError("modality_dropout and step_dropout are together more than all windows")
        return self


class Recipe(Declared):
    """A training run.

    Attributes:
        model: Name in the zoo.
        seed: Of weights, order and drop-out.
        threads: Threads of PyTorch; sums come out otherwise with another number.
        data: Where sessions and labels come from.
        backbones: Each encoder alone, with a head of its own.
        fusion: The fusion on their features. None for a model of one encoder whose fusion reads one step:
            both learn together.
    """

    model: str
    seed: int = Field(default=0, ge=0)
    threads: int = Field(default=2, gt=0)
    data: Data
    backbones: dict[str, Phase]
    fusion: FusionPhase | None = None

    @property
    def phases(self) -> dict[str, Phase]:
        """Name -> how it is trained."""
        return self.backbones if self.fusion is None else {**self.backbones, "fusion": self.fusion}


@dataclass(frozen=True)
class RecipeFile:
    """A recipe as it was read.

    Attributes:
        recipe: What it says.
        text: The file's text.
        folder: What its paths are relative to.
    """

    recipe: Recipe
    text: str
    folder: Path


def read_recipe(path: str) -> RecipeFile:
    """Read a recipe.

    Args:
        path: Of a TOML file, or the name of a recipe that comes with the package.

    Raises:
        UsageError: No such recipe, or something in it that cannot be used; every fault is listed.
    """
    file = SHIPPED / f"{path}.toml" if "/" not in path and not path.endswith(".toml") else Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        values: dict[str, Any] = tomllib.loads(text)
    except FileNotFoundError:
        known = ", ".join(sorted(one.stem for one in SHIPPED.glob("*.toml")))
        raise UsageError(
            f"no recipe {path!r}", expected=f"a .toml file, or one of {known}", found="no such file"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read recipe {file}", found=str(error)) from error
    try:
        return RecipeFile(Recipe.model_validate(values, strict=True), text, file.parent)
    except ValidationError as error:
        faults = "".join(
            f"\n  {'.'.join(map(str, one['loc']))}: {_plain(one['type'], one['msg'])}"
            for one in error.errors()
        )
        raise UsageError(f"recipe {file} cannot be used:{faults}") from None


def _plain(kind: str, message: str) -> str:
    known = {"extra_forbidden": "there is no such key", "missing": "has to be given"}
    return known.get(kind, message.removeprefix("Value error, "))

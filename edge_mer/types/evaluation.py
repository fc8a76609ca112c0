"""What an evaluation found, as it travels in a bundle: how right a candidate is, and how sure it may be."""

from __future__ import annotations

from pydantic import Field

from edge_mer.types.model import Declared, MissingPolicy
from edge_mer.types.signals import Modality


class Measured(Declared):
    """A number with its 95 % interval by person."""

    value: float
    low: float
    high: float


class Interval(Declared):
    """What is added to an estimate on both sides.

    Attributes:
        half_width: In the output's own units.
        coverage: Share of the labels that lay inside, for people that the width was not taken from.
    """

    half_width: float = Field(ge=0)
    coverage: float = Field(ge=0, le=1)


class Sharpness(Declared):
    """How sure classes may be.

    The probability of the likeliest class is p of the softmax of logits / `temperature`, and then
    1 / (1 + exp(-(slope * log(p / (1 - p)) + shift))).

    Attributes:
        temperature: Divides the logits before the softmax.
        slope: How fast being right follows the odds; 1 = as they say; None = 1, never measured.
        shift: What is added to the log odds; None = 0, never measured.
        ece: Expected calibration error of the likeliest class, for people that the other three were not
            taken from.
    """

    temperature: float = Field(gt=0)
    slope: float | None = Field(default=None, ge=0)
    shift: float | None = None
    ece: float = Field(ge=0, le=1)


class SubsetFindings(Declared):
    """What holds while just these modalities are there.

    Attributes:
        modalities: In the order of the model's encoders.
        stand_in: What stood in for the others; None where nothing was missing.
        scores: Output -> measure -> value.
        interval: Output of affect -> its 90 % interval.
        sharpness: Output of classes or levels -> its temperature, slope and shift.
    """

    modalities: tuple[Modality, ...]
    stand_in: MissingPolicy | None = None
    scores: dict[str, dict[str, Measured]]
    interval: dict[str, Interval] = Field(default_factory=dict)
    sharpness: dict[str, Sharpness] = Field(default_factory=dict)


class Findings(Declared):
    """What an evaluation of one candidate found.

    Attributes:
        people: Who it was judged on, in words.
        n_people: How many.
        n_steps: Steps with all modalities.
        subsets: All modalities first.
    """

    people: str
    n_people: int
    n_steps: int
    subsets: tuple[SubsetFindings, ...] = Field(min_length=1)

    def of(self, modalities: tuple[Modality, ...]) -> SubsetFindings | None:
        """What was found for just these modalities; None if they were not measured."""
        return next((one for one in self.subsets if one.modalities == modalities), None)

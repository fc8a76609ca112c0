"""What comes out: one prediction per hop, with everything a reader needs to judge it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

Status = Literal["ok", "degraded", "withheld"]
"""`withheld` carries reasons and no estimate; it is never filled with the last value."""


@dataclass(frozen=True)
class Affect:
    """Valence and arousal in [-1, 1]; `interval` holds 90 % intervals once they were measured."""

    valence: float | None
    arousal: float | None
    interval: dict[str, tuple[float, float]] | None = None


@dataclass(frozen=True)
class Pain:
    """Pain on a scale of levels.

    Attributes:
        scale: What the levels are those of.
        level_probs: Level -> probability, in rising order of pain; they add up to 1.
        expected: Mean level under these probabilities, 0 to the number of levels - 1.
    """

    scale: str
    level_probs: dict[str, float]
    expected: float


@dataclass(frozen=True)
class ModalityStatus:
    """What was there of one modality in the last step.

    Attributes:
        present: Enough of it was there to count.
        coverage: Share of its span that was there, 0 to 1.
        age_ms: From its newest datum to the end of the step; negative where the model looks ahead,
            None when there was none.
        source: How its live source was when the prediction was made: "ok", "starting", "stalled",
            "wrong_rate" or "restarting"; None of recordings, and where there is no source.
        quality: What was wrong with what came, if that is why it is not present: "no_face", "small_face",
            "blurred_face", "black", "silent", "clipped", "flat", "saturated", "lead_off" or "not_a_number".
    """

    present: bool
    coverage: float
    age_ms: float | None
    source: str | None = None
    quality: str | None = None


@dataclass(frozen=True)
class SyncQuality:
    """How well the streams lie on each other.

    Attributes:
        skew_ms: Largest difference between the streams' capture times against the grid.
        uncertainty_ms: How well the clocks behind them are known; None while one is not known at all.
        warming_up: A clock is not known well enough yet.
    """

    skew_ms: float
    uncertainty_ms: float | None
    warming_up: bool = False


@dataclass(frozen=True)
class Latency:
    """Where the time went, in milliseconds.

    `capture` (from capture to arrival) and `wait` (from the step's end to the start of work) are
    None when a recording is played faster than it was made.
    """

    capture: float | None
    wait: float | None
    preprocess: float
    infer: float
    postprocess: float
    end_to_end: float


@dataclass(frozen=True)
class Prediction:
    """The model's output for the last step of a window, stamped with that step's end.

    Attributes:
        window_index: Counts hops from 0.
        t_start_ns: Start of the window that was looked at.
        t_end_ns: End of the last step.
        utc: ISO 8601 wall time of `t_end_ns`.
        utc_synchronised: The host said that its wall clock follows a reference.
        status: Whether to trust it.
        reasons: Why the status is not "ok", in plain words joined by underscores.
        affect: Valence and arousal; None when withheld or not estimated by the model.
        pain: Likewise.
        emotion: Likewise; class -> probability, which add up to 1.
        confidence: Calibrated probability of a class; None until measured.
        person: Who it is about, such as "p1", where several are followed; None where one is, and of hops in
            which nobody was there. Its key is left out of a record then.
        modalities: What was there.
        sync: How well the streams lie on each other.
        latency_ms: Where the time went.
        engine: What ran the stages.
        precision: Of the stages.
        bundle_id: "sha256:…" of the bundle.
    """

    window_index: int
    t_start_ns: int
    t_end_ns: int
    utc: str
    utc_synchronised: bool
    status: Status
    reasons: tuple[str, ...]
    affect: Affect | None
    modalities: dict[str, ModalityStatus]
    sync: SyncQuality
    latency_ms: Latency
    engine: str
    precision: str
    bundle_id: str
    pain: Pain | None = None
    emotion: dict[str, float] | None = None
    confidence: float | None = field(default=None)
    person: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, ready for JSON."""
        record = asdict(self)
        record["reasons"] = list(self.reasons)
        if self.person is None:
            del record["person"]
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Prediction:
        """The prediction that `to_dict` made a record of.

        Args:
            record: With every field; ones that this version does not know are passed over.

        Raises:
            KeyError: A field is missing.
        """
        affect, pain = record["affect"], record["pain"]
        interval = affect["interval"] if affect else None
        bounds = {name: (low, high) for name, (low, high) in interval.items()} if interval else None
        return cls(
            **{name: record[name] for name in _AS_THEY_ARE},
            reasons=tuple(record["reasons"]),
            affect=Affect(affect["valence"], affect["arousal"], bounds) if affect else None,
            pain=_known(Pain, pain) if pain else None,
            modalities={name: _known(ModalityStatus, one) for name, one in record["modalities"].items()},
            sync=_known(SyncQuality, record["sync"]),
            latency_ms=_known(Latency, record["latency_ms"]),
            person=record.get("person"),
        )


_MADE_OF_PARTS = ("reasons", "affect", "pain", "modalities", "sync", "latency_ms", "person")
_AS_THEY_ARE = tuple(one.name for one in fields(Prediction) if one.name not in _MADE_OF_PARTS)

_Part = TypeVar("_Part", Pain, ModalityStatus, SyncQuality, Latency)


def _known(kind: type[_Part], values: Mapping[str, Any]) -> _Part:
    return kind(**{one.name: values[one.name] for one in fields(kind) if one.name in values})

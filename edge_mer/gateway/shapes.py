"""What the gateway answers, for /openapi.json and whoever generates clients from it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edge_mer.config import Right
from edge_mer.types.alarms import AlarmState


class Shape(BaseModel):
    """More may be added later; clients must pass over what they do not know."""

    model_config = ConfigDict(extra="allow")


class AffectShape(Shape):
    """Valence and arousal in [-1, 1], with 90 % intervals once they were measured."""

    valence: float | None
    arousal: float | None
    interval: dict[str, tuple[float, float]] | None = None


class PainShape(Shape):
    """Probabilities of levels in rising order of pain, and the mean level under them."""

    scale: str
    level_probs: dict[str, float]
    expected: float


class ModalityShape(Shape):
    """What was there of one modality in the last step."""

    present: bool
    coverage: float = Field(ge=0, le=1)
    age_ms: float | None
    source: str | None = None
    quality: str | None = None


class SyncShape(Shape):
    """How well the streams lie on each other."""

    skew_ms: float
    uncertainty_ms: float | None
    warming_up: bool = False


class LatencyShape(Shape):
    """Where the time went, in milliseconds."""

    capture: float | None
    wait: float | None
    preprocess: float
    infer: float
    postprocess: float
    end_to_end: float


class PredictionShape(Shape):
    """The model's output for the last step of a window, or why there is none."""

    window_index: int
    t_start_ns: int
    t_end_ns: int
    utc: str = Field(description="ISO 8601 wall time of t_end_ns")
    utc_synchronised: bool
    status: Literal["ok", "degraded", "withheld"]
    reasons: list[str]
    affect: AffectShape | None = None
    pain: PainShape | None = None
    emotion: dict[str, float] | None = None
    confidence: float | None = None
    person: str | None = Field(None, description="who it is about, where several are followed")
    modalities: dict[str, ModalityShape]
    sync: SyncShape
    latency_ms: LatencyShape
    engine: str
    precision: str
    bundle_id: str


class ModelShape(Shape):
    """What is running."""

    name: str
    bundle_id: str
    precision: str
    engine: str
    modalities: list[str]
    outputs: list[dict[str, Any]] = Field(
        description="each with its kind: affect, pain or emotion, and labels"
    )
    hop_s: float
    step_s: float
    window_s: float
    latency_s: float = Field(description="inherent in the model: how long after a moment it can be judged")
    edge_mer: str
    instance: str = Field(description="another one after every start of the inference process")
    interval_s: float = Field(description="between two predictions")


class SwapShape(Shape):
    """How far a bundle that was brought has come."""

    state: str
    bundle_id: str | None = None
    why: str = ""


class GatewayShape(Shape):
    """How the gateway itself is."""

    is_linked: bool
    silent_s: float = Field(description="since the last prediction")
    n_losses: int = Field(description="how often predictions stayed out")
    n_clients: int
    n_events_dropped: int
    n_connections: int
    n_connections_refused: int
    n_connections_cut: int
    sinks: list[dict[str, Any]]


class HealthShape(Shape):
    """How the inference process is; all but `state` and `gateway` are missing until it was heard."""

    state: Literal["starting", "serving", "stopping", "lost"]
    uptime_s: float | None = None
    n_predictions: int | None = None
    recording: str | None = Field(
        None, description="the file that raw media go into, when recording was asked for"
    )
    raw_media: bool | None = Field(
        None, description="whether that file has raw media; this gateway never sends any"
    )
    gateway: GatewayShape


class AlarmShape(Shape):
    """An alarm that is there now."""

    id: str
    name: str = Field(description="of its rule")
    state: AlarmState
    since_utc: str
    value: float
    threshold: float
    person: str | None = None
    acknowledged_by: str | None = None
    text: str = Field(description="all of it in words")


class AlarmsShape(Shape):
    """All alarms that are there now."""

    alarms: list[AlarmShape]


class BundleShape(Shape):
    """The bundle that runs, and how far a new one has come."""

    bundle_id: str | None
    can_go_back: bool = Field(description="whether there is one that ran before")
    swap: SwapShape


class DoneShape(Shape):
    """What the inference process replied."""


class LoginShape(BaseModel):
    """What logs in."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(min_length=1, max_length=512)


class VisitorShape(Shape):
    """Who is logged in."""

    name: str
    may: list[Right]
    expires_utc: str | None


class StateShape(Shape):
    """How it is, in one word."""

    state: str


class ErrorShape(BaseModel):
    """What failed, what was expected and found, and what to do next."""

    what: str
    expected: str | None
    found: str | None
    hint: str | None


class ErrorBody(BaseModel):
    """Every error has this shape."""

    error: ErrorShape

"""How a stream is doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_mer.types.signals import Modality


@dataclass(frozen=True)
class StreamHealth:
    """What a session knows of one stream; counts are those since it started, and never wrap.

    Attributes:
        stream: Its name.
        modality: What it carries.
        nominal_hz: Frames or samples per second that it promised; None where it promised none.
        measured_hz: Those that came in its last seconds; None before there are two chunks.
        drift_ppm: How much faster its own clock is than the host's, in parts per million; None where its
            stamps are exact.
        last_arrival_ns: When its last chunk came, by the host's monotonic clock; None before the first.
        newest_ns: Capture time of the newest chunk, on the session's time; None before the first.
        n_chunks: Chunks that came.
        n_late: Frames, samples or words that came after their step was given out.
        n_duplicate: Frames or samples that came again.
        n_reordered: Chunks of samples that came after later ones.
        n_gaps: Breaks between samples.
        n_corrections: Samples that drift added or took away, and times at which all lay too late.
        n_refused: Chunks of a time that is yet to come.
        uncertainty_ns: How far its stamps lie from the times at which it was placed, on average.
    """

    stream: str
    modality: Modality
    nominal_hz: float | None
    measured_hz: float | None = None
    drift_ppm: float | None = None
    last_arrival_ns: int | None = None
    newest_ns: int | None = None
    n_chunks: int = 0
    n_late: int = 0
    n_duplicate: int = 0
    n_reordered: int = 0
    n_gaps: int = 0
    n_corrections: int = 0
    n_refused: int = 0
    uncertainty_ns: int = 0


@dataclass(frozen=True)
class ServerHealth:
    """What a session knows of the inference server that runs its stages.

    Attributes:
        name: Its URI without the keys.
        state: "ok"; "away", where it does not answer as it should; "refused", where what it has or gives is
            not what the bundle declares.
        why: Why it is not used; "" while it is.
        fallback: What runs in its place; "" where nothing does.
        n_lost: How often it was lost.
        n_stood_in: Runs of stages that it did not make.
    """

    name: str
    state: Literal["ok", "away", "refused"]
    why: str = ""
    fallback: str = ""
    n_lost: int = 0
    n_stood_in: int = 0

"""What a source says about its streams, and what it delivers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Modality = Literal["visual", "audio", "text", "eda", "ecg", "emg", "ppg", "rsp", "skt"]
"""What a stream carries. Rates in Hz, EDA in uS, ECG and EMG in mV, SKT in degC, text in words."""

UNITS: dict[Modality, str] = {
    "visual": "rgb24",
    "audio": "1",
    "text": "word",
    "eda": "uS",
    "ecg": "mV",
    "emg": "mV",
    "ppg": "1",
    "rsp": "1",
    "skt": "degC",
}
"""The unit of each modality's streams."""

TimeBasis = Literal["driver", "arrival", "remote"]
"""Who stamped a chunk: the recording device or driver, this host on arrival, or a remote clock."""


@dataclass(frozen=True)
class StreamSpec:
    """What a source says about one stream before it starts.

    Attributes:
        name: Unique within a session, e.g. "clip.mp4/visual".
        modality: What the stream carries.
        axes: Axis names of a chunk's data: ("height", "width", "channel"), ("sample", "channel") or, for
            text, ("word", "field").
        shape: Sizes along `axes`; None where a chunk may have any size.
        dtype: NumPy name of the data type: "uint8" for frames, "float32" for samples, "str" for text of
            any length.
        rate_hz: Nominal frames or samples per second; None for an irregular stream.
        unit: "rgb24" for frames, "1" for sound in [-1, 1], "word" for text, else the physical unit
            ("uS", "mV").
        channels: Channel names, in the order of the last axis.
    """

    name: str
    modality: Modality
    axes: tuple[str, ...]
    shape: tuple[int | None, ...]
    dtype: str
    rate_hz: float | None
    unit: str
    channels: tuple[str, ...]


@dataclass(frozen=True)
class Chunk:
    """A piece of one stream, stamped at capture, before any work was done on it.

    Attributes:
        stream: The name in its `StreamSpec`.
        modality: What it carries.
        seq: Counts the stream's chunks from 0; never wraps.
        t_ns: Capture time of the first sample (or of the frame), host monotonic nanoseconds; by the remote
            clock where `time_basis` is "remote"; starts at 0 for files and simulations. Of text, the time
            at which the last word was out: nobody can deliver it sooner.
        data: One frame (H, W, 3) uint8 RGB, samples (n, channels) float32, or words (n, fields) str, whose
            own times are nanoseconds from the session's start.
        time_basis: Who stamped it.
        arrived_ns: When it came, host monotonic nanoseconds; None for files and simulations. Of a replayed
            live session, the session's time up to which all that had come was given before it.
    """

    stream: str
    modality: Modality
    seq: int
    t_ns: int
    data: NDArray[np.generic]
    time_basis: TimeBasis = "driver"
    arrived_ns: int | None = None

    @property
    def n_samples(self) -> int:
        """Samples in this chunk; 1 for a frame."""
        return 1 if self.modality == "visual" else int(self.data.shape[0])


@dataclass(frozen=True)
class ClockOffset:
    """One look at a remote clock.

    Attributes:
        stream: The stream whose chunks that clock stamps.
        remote_ns: What it showed.
        host_ns: What the host's monotonic clock showed then, halfway between question and answer.
        uncertainty_ns: How far off that may be: half the time between them.
    """

    stream: str
    remote_ns: int
    host_ns: int
    uncertainty_ns: int

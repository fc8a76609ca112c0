"""What goes wrong outside a laboratory, done to recordings on purpose.

Each corruption is the same each time it is played, changes one modality, and leaves the truth alone.
"""

from __future__ import annotations

import difflib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mer.errors import UsageError
from edge_mer.sources.base import Source
from edge_mer.types.signals import UNITS, Chunk, Modality, StreamSpec

BODY: tuple[Modality, ...] = ("eda", "ecg", "emg", "ppg", "rsp", "skt")
_ARTEFACT_S = (0.5, 2.0)
_ARTEFACT_GAP = (0.5, 1.5)
"""Of the mean time between two."""

_ARTEFACT_DEVIATIONS = 4.0


@dataclass(frozen=True)
class Corruption:
    """One thing that goes wrong.

    Attributes:
        text: As the user writes it, e.g. "noise=10".
        kind: One of `KINDS`.
        amount: How much of it, in the kind's unit.
        modalities: What it is done to.
    """

    text: str
    kind: str
    amount: float
    modalities: tuple[Modality, ...]

    @classmethod
    def parse(cls, text: str) -> Corruption:
        """From "kind=amount", or "skew=modality:milliseconds".

        Raises:
            UsageError: No such kind, or an amount out of its range.
        """
        kind, _, amount = text.partition("=")
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1)
            raise UsageError(
                f"cannot corrupt by {text!r}",
                expected=", ".join(f"{name}={one.unit}" for name, one in KINDS.items()),
                hint=f"did you mean {near[0]}" if near else None,
            )
        made = KINDS[kind]
        modalities = made.modalities
        if kind == "skew":
            modality, _, amount = amount.partition(":")
            modalities = tuple(one for one in UNITS if one == modality != "text")  # words carry times inside
        try:
            number = float(amount)
        except ValueError:
            number = np.nan
        if not (made.low <= number <= made.high and modalities):
            raise UsageError(f"cannot corrupt by {text!r}", expected=f"{kind}={made.unit}")
        return cls(text, kind, number, modalities)

    def applied(self, source: Source) -> Source:
        """The same source with it."""
        return CorruptedSource(source, self)


class CorruptedSource:
    """A source to which something is done.

    Args:
        source: The source, not yet opened.
        corruption: What is done to it.
    """

    def __init__(self, source: Source, corruption: Corruption) -> None:
        self._source = source
        self._corruption = corruption
        self._work: dict[str, _Work] = {}

    @property
    def uri(self) -> str:
        """Of the source itself."""
        return self._source.uri

    @property
    def is_live(self) -> bool:
        """As the source."""
        return self._source.is_live

    @property
    def specs(self) -> tuple[StreamSpec, ...]:
        """As the source's."""
        return self._source.specs

    @property
    def ended(self) -> bool:
        """As the source."""
        return self._source.ended

    def ensure_ready(self) -> None:
        """Open the source."""
        self._source.ensure_ready()

    def start(self) -> None:
        """Start the source."""
        self._work = {
            spec.name: KINDS[self._corruption.kind].work(self._corruption, self._source.uri, spec)
            for spec in self._source.specs
            if spec.modality in self._corruption.modalities
        }
        self._source.start()

    def read(self, timeout_ms: int) -> Chunk | None:
        """The source's next chunk, corrupted."""
        chunk = self._source.read(timeout_ms)
        if chunk is None or chunk.stream not in self._work:
            return chunk
        return self._work[chunk.stream].done_to(chunk)

    def ensure_stopped(self) -> None:
        """Stop the source."""
        self._source.ensure_stopped()


class _Work(ABC):
    """A corruption at work on one stream.

    Args:
        corruption: What to do.
        uri: Of the source; with the corruption it chooses the random numbers.
        spec: The stream.
    """

    def __init__(self, corruption: Corruption, uri: str, spec: StreamSpec) -> None:
        digest = hashlib.sha256(f"{corruption.text} {uri} {spec.name}".encode()).digest()
        self.rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        self.amount, self.rate_hz = corruption.amount, spec.rate_hz or 1.0

    @abstractmethod
    def done_to(self, chunk: Chunk) -> Chunk: ...


class _Level:
    """Mean and deviation of everything so far."""

    def __init__(self) -> None:
        self._n, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, data: NDArray[Any]) -> None:
        self._n += data.size
        self._sum += float(data.sum(dtype=np.float64))
        self._squares += float((data.astype(np.float64) ** 2).sum())

    @property
    def rms(self) -> float:
        return float(np.sqrt(self._squares / max(1, self._n)))

    @property
    def deviation(self) -> float:
        n = max(1, self._n)
        return float(np.sqrt(max(0.0, self._squares / n - (self._sum / n) ** 2)))


class _Noise(_Work):
    """White noise, so many dB below the sound's mean power so far."""

    def __init__(self, corruption: Corruption, uri: str, spec: StreamSpec) -> None:
        super().__init__(corruption, uri, spec)
        self._level = _Level()

    def done_to(self, chunk: Chunk) -> Chunk:
        self._level.add(chunk.data)
        noise = self.rng.standard_normal(chunk.data.shape) * self._level.rms * 10 ** (-self.amount / 20)
        return replace(chunk, data=(chunk.data.astype(np.float64) + noise).astype(np.float32))


class _Blur(_Work):
    """A Gaussian blur; its deviation is a share of the picture's height."""

    def done_to(self, chunk: Chunk) -> Chunk:
        sigma_px = self.amount / 100 * chunk.data.shape[0]
        return replace(chunk, data=cv2.GaussianBlur(_picture(chunk), (0, 0), max(0.1, sigma_px)))


class _Dark(_Work):
    """Less light: pixels are a share of what they were, in whole numbers."""

    def done_to(self, chunk: Chunk) -> Chunk:
        return replace(chunk, data=np.rint(_picture(chunk) * self.amount).astype(np.uint8))


class _Cover(_Work):
    """A grey square in the middle of the picture, which has a share of its area."""

    def done_to(self, chunk: Chunk) -> Chunk:
        picture = _picture(chunk).copy()
        height, width = picture.shape[:2]
        side_px = min(round((self.amount * height * width) ** 0.5), height, width)
        top, left = (height - side_px) // 2, (width - side_px) // 2
        picture[top : top + side_px, left : left + side_px] = 128
        return replace(chunk, data=picture)


class _Artefacts(_Work):
    """So many bumps a minute, half a second to two long, four deviations of the signal so far high."""

    def __init__(self, corruption: Corruption, uri: str, spec: StreamSpec) -> None:
        super().__init__(corruption, uri, spec)
        self._level = _Level()
        self._at = self._start = self._length = self._next_start = 0
        self._plan()

    def _plan(self) -> None:
        """The next bump, and when the one after it begins."""
        gap_s = self.rng.uniform(*_ARTEFACT_GAP) * 60 / self.amount
        length_s = min(self.rng.uniform(*_ARTEFACT_S), gap_s / 2)
        self._start = self._next_start + round(gap_s / 2 * self.rate_hz)
        self._length = max(1, round(length_s * self.rate_hz))
        self._next_start += round(gap_s * self.rate_hz)

    def done_to(self, chunk: Chunk) -> Chunk:
        self._level.add(chunk.data)
        bumps = np.zeros(len(chunk.data))
        stop = self._at + len(bumps)
        while self._start < stop:
            inside = np.arange(max(self._start, self._at), min(self._start + self._length, stop))
            bumps[inside - self._at] = np.sin(np.pi * (inside - self._start) / self._length)
            if self._start + self._length > stop:
                break
            self._plan()
        self._at = stop
        height = _ARTEFACT_DEVIATIONS * self._level.deviation
        moved = chunk.data.astype(np.float64) + height * bumps[:, np.newaxis]
        return replace(chunk, data=moved.astype(np.float32))


class _Skew(_Work):
    """Stamps that are late."""

    def done_to(self, chunk: Chunk) -> Chunk:
        return replace(chunk, t_ns=chunk.t_ns + round(self.amount * 1e6))


def _picture(chunk: Chunk) -> NDArray[np.uint8]:
    return chunk.data.astype(np.uint8, copy=False)


@dataclass(frozen=True)
class _Kind:
    unit: str
    low: float
    high: float
    modalities: tuple[Modality, ...]
    work: Callable[[Corruption, str, StreamSpec], _Work]


KINDS = {
    "noise": _Kind("decibels that the sound is above it, -20 to 60", -20, 60, ("audio",), _Noise),
    "blur": _Kind("percent of the picture's height, 0 to 20", 0, 20, ("visual",), _Blur),
    "dark": _Kind("share of the light, 0 to 1", 0, 1, ("visual",), _Dark),
    "cover": _Kind("share of the picture, 0 to 1", 0, 1, ("visual",), _Cover),
    "artefacts": _Kind("bumps per minute, 0.1 to 60", 0.1, 60, BODY, _Artefacts),
    "skew": _Kind("MODALITY:milliseconds, 0 to 5000", 0, 5000, (), _Skew),
}
"""By the names that users write."""

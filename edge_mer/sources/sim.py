"""`sim:` is a simulated person before a camera and a microphone.

    sim:seed=3&person=2&duration_s=20

Valence and arousal take a slow, smooth course; face and voice are rendered from it, the face showing
mostly valence, the voice mostly arousal. The same URI gives the same chunks, bit for bit, on every
read on one machine; `SimSource.truth` gives the course itself.
"""

from __future__ import annotations

import difflib
import heapq
import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.errors import UsageError
from edge_mer.sources.sim_person import Actor
from edge_mer.sources.sim_voice import RATE_HZ
from edge_mer.types.signals import Chunk, StreamSpec

AUDIO_CHUNK_SAMPLES = 1024

_MAX_ID = 2**63 - 1


@dataclass(frozen=True)
class SimSettings:
    """What a `sim:` URI asks for.

    Attributes:
        seed: Chooses the course of valence and arousal, together with `person`.
        person: Chooses face, voice and room.
        duration_s: Length of the session in seconds.
        fps: Pictures per second.
        width: Width of the pictures in pixels.
        height: Height of the pictures in pixels.
        switch_s: When another person takes the seat; None = never.
        switch_person: Who that is.
        drop: "audio" or "visual" for a stream that is not there; None = both are.
    """

    seed: int = 0
    person: int = 0
    duration_s: Fraction = Fraction(20)
    fps: Fraction = Fraction(30)
    width: int = 192
    height: int = 160
    switch_s: Fraction | None = None
    switch_person: int | None = None
    drop: str | None = None

    @classmethod
    def parse(cls, rest: str) -> SimSettings:
        """Read the part of a URI after `sim:`, e.g. "seed=3&duration_s=20"; "" gives the defaults.

        Raises:
            UsageError: An unknown or repeated key, or a value that is not allowed.
        """
        values: dict[str, Any] = {}
        for part in rest.split("&") if rest else ():
            key, separator, text = part.partition("=")
            if key not in _KEYS:
                raise _unknown_key(rest, key)
            if not separator or key in values:
                what = "is given twice" if separator else "has no value"
                raise UsageError(
                    f"sim:{rest}: {key} {what}", expected=f"{key}=VALUE once, {_KEYS[key].allowed}"
                )
            values[key] = _KEYS[key].read(text)
        settings = cls(**values)
        settings._check_switch(rest)
        return settings

    def _check_switch(self, rest: str) -> None:
        if (self.switch_s is None) != (self.switch_person is None):
            raise UsageError(f"sim:{rest}: a change of person needs both switch_s and switch_person")
        if self.switch_s is not None and not 0 < self.switch_s < self.duration_s:
            raise UsageError(
                f"sim:{rest}: switch_s lies outside the session",
                expected=f"more than 0 and less than duration_s={_text(self.duration_s)}",
                found=_text(self.switch_s),
            )
        if self.switch_s is not None and self.switch_person == self.person:
            raise UsageError(
                f"sim:{rest}: switch_person is the person already there", expected="another number"
            )

    def __str__(self) -> str:
        pairs = ((key, getattr(self, key)) for key in _KEYS)
        return "sim:" + "&".join(f"{key}={_text(value)}" for key, value in pairs if value is not None)


@dataclass(frozen=True)
class _Key:
    """A key of the URI: what it may be, and how its text is read (None = not allowed)."""

    name: str
    allowed: str
    convert: Callable[[str], Any]

    def read(self, text: str) -> Any:
        value = self.convert(text)
        if value is None:
            raise UsageError(f"sim: cannot use {self.name}={text}", expected=f"{self.name} = {self.allowed}")
        return value


def _whole(name: str, low: int, high: int) -> _Key:
    def convert(text: str) -> int | None:
        good = re.fullmatch(r"[0-9]{1,19}", text) and low <= int(text) <= high
        return int(text) if good else None

    return _Key(name, f"a whole number from {low} to {high}", convert)


def _fraction(name: str, low: Fraction, high: Fraction) -> _Key:
    def convert(text: str) -> Fraction | None:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}|/0*[1-9][0-9]{0,8})?", text):
            return None
        return Fraction(text) if low <= Fraction(text) <= high else None

    allowed = f"a number (20, 29.97 or 30000/1001), from {_text(low)} to {_text(high)}"
    return _Key(name, allowed, convert)


def _text(value: object) -> str:
    """A value as a URI has it: a decimal number where that is exact, else "numerator/denominator"."""
    if isinstance(value, Fraction):
        decimal = f"{float(value):.9f}".rstrip("0").rstrip(".")
        return decimal if Fraction(decimal) == value else str(value)
    return str(value)


_KEYS = {
    key.name: key
    for key in (
        _whole("seed", 0, _MAX_ID),
        _whole("person", 0, _MAX_ID),
        _fraction("duration_s", Fraction(1, 10), Fraction(86_400)),
        _fraction("fps", Fraction(1), Fraction(240)),
        _whole("width", 128, 1280),
        _whole("height", 128, 1280),
        _fraction("switch_s", Fraction(0), Fraction(86_400)),
        _whole("switch_person", 0, _MAX_ID),
        _Key("drop", "audio or visual", lambda text: text if text in ("audio", "visual") else None),
    )
}


def _unknown_key(rest: str, key: str) -> UsageError:
    near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}, {_KEYS[near[0]].allowed}" if near else "write sim:seed=3&duration_s=20"
    return UsageError(f"sim:{rest}: unknown key {key!r}", expected=f"one of {', '.join(_KEYS)}", hint=hint)


class SimSource:
    """A simulated session: streams "sim/visual" and "sim/audio", their chunks in order of time.

    Args:
        rest: The URI after `sim:`, keys of `SimSettings` as "seed=3&person=2"; "" = defaults.

    Raises:
        UsageError: An unknown key or a value that is not allowed.
    """

    is_live = False

    def __init__(self, rest: str) -> None:
        self._settings = settings = SimSettings.parse(rest)
        self._duration_ns = _to_ns(settings.duration_s)
        self._switch_ns = None if settings.switch_s is None else _to_ns(settings.switch_s)
        n_frames = math.ceil(settings.duration_s * settings.fps)
        n_samples = math.ceil(settings.duration_s * RATE_HZ)
        self._actors = self._cast(n_frames, n_samples)
        self._n_chunks = 0
        if settings.drop != "visual":
            self._n_chunks += n_frames
        if settings.drop != "audio":
            self._n_chunks += -(-n_samples // AUDIO_CHUNK_SAMPLES)
        self._n_left = self._n_chunks
        self._chunks: Iterator[Chunk] = iter(())
        self._started = False

    def _cast(self, n_frames: int, n_samples: int) -> tuple[Actor, ...]:
        """Who sits in the seat, one after the other."""
        settings, seed = self._settings, self._settings.seed
        if self._switch_ns is None or settings.switch_person is None:
            return (Actor(seed, settings.person, range(n_frames), range(n_samples)),)
        frame_cut = min(math.ceil(Fraction(self._switch_ns, NS_PER_S) * settings.fps), n_frames)
        sample_cut = min(-(-self._switch_ns * RATE_HZ // NS_PER_S), n_samples)
        return (
            Actor(seed, settings.person, range(frame_cut), range(sample_cut)),
            Actor(seed, settings.switch_person, range(frame_cut, n_frames), range(sample_cut, n_samples)),
        )

    @property
    def uri(self) -> str:
        """The URI with every key, in a fixed order."""
        return str(self._settings)

    @property
    def specs(self) -> tuple[StreamSpec, ...]:
        """The streams that were not dropped."""
        settings = self._settings
        visual = StreamSpec(
            name="sim/visual",
            modality="visual",
            axes=("height", "width", "channel"),
            shape=(settings.height, settings.width, 3),
            dtype="uint8",
            rate_hz=float(settings.fps),
            unit="rgb24",
            channels=("R", "G", "B"),
        )
        audio = StreamSpec(
            name="sim/audio",
            modality="audio",
            axes=("sample", "channel"),
            shape=(None, 1),
            dtype="float32",
            rate_hz=float(RATE_HZ),
            unit="1",
            channels=("mono",),
        )
        return tuple(spec for spec in (visual, audio) if spec.modality != settings.drop)

    @property
    def ended(self) -> bool:
        """True once every chunk was read, or the source was stopped."""
        return self._n_left == 0

    def ensure_ready(self) -> None:
        """Nothing has to be opened."""

    def start(self) -> None:
        """Begin to deliver; after `ensure_stopped`, from the beginning again."""
        if not self._started:
            streams = {"visual": self._visual(), "audio": self._audio()}
            streams.pop(self._settings.drop or "", None)
            self._chunks = heapq.merge(*streams.values(), key=lambda chunk: chunk.t_ns)
            self._n_left = self._n_chunks
            self._started = True

    def read(self, timeout_ms: int) -> Chunk | None:
        """The next chunk; None before `start` and at the end. Never waits."""
        chunk = next(self._chunks, None)
        if chunk is not None:
            self._n_left -= 1
        return chunk

    def ensure_stopped(self) -> None:
        """Forget what was not read."""
        self._chunks = iter(())
        self._n_left = 0
        self._started = False

    def truth(self, t_ns: ArrayLike) -> dict[str, NDArray[np.float32]]:
        """Valence and arousal that face and voice were rendered from.

        Args:
            t_ns: Times in nanoseconds from the session's start to its end, any shape.

        Returns:
            "valence" and "arousal", each float32 of the shape of `t_ns`, -1 to 1.

        Raises:
            ValueError: A time outside the session.
        """
        times_ns = np.asarray(t_ns, np.int64)
        if times_ns.size and not (times_ns.min() >= 0 and times_ns.max() <= self._duration_ns):
            asked = f"{times_ns.min()} to {times_ns.max()} ns"
            raise ValueError(f"asked for {asked}, the session lasts from 0 to {self._duration_ns} ns")
        values = np.stack(self._actors[0].course.at(times_ns / NS_PER_S))
        if self._switch_ns is not None:
            after = np.stack(self._actors[1].course.at(times_ns / NS_PER_S))
            values = np.where(times_ns >= self._switch_ns, after, values)
        valence, arousal = values.astype(np.float32)
        return {"valence": valence, "arousal": arousal}

    def _frame_ns(self, index: int) -> int:
        fps = self._settings.fps
        return index * NS_PER_S * fps.denominator // fps.numerator

    def _visual(self) -> Iterator[Chunk]:
        settings = self._settings
        for actor in self._actors:
            pictures = actor.pictures(settings.fps, settings.width, settings.height)
            for index, picture in zip(actor.frames, pictures, strict=True):
                yield Chunk("sim/visual", "visual", index, self._frame_ns(index), picture)

    def _audio(self) -> Iterator[Chunk]:
        size, seq = AUDIO_CHUNK_SAMPLES, 0
        pending = np.zeros(0, np.float32)
        for piece in itertools.chain.from_iterable(actor.sound() for actor in self._actors):
            pending = np.concatenate((pending, piece))
            while len(pending) >= size:
                yield _audio_chunk(seq, pending[:size])
                pending, seq = pending[size:], seq + 1
        if len(pending):
            yield _audio_chunk(seq, pending)


def _audio_chunk(seq: int, samples: NDArray[np.float32]) -> Chunk:
    t_ns = seq * AUDIO_CHUNK_SAMPLES * NS_PER_S // RATE_HZ
    return Chunk("sim/audio", "audio", seq, t_ns, samples[:, None].copy())


def _to_ns(seconds: Fraction) -> int:
    return seconds.numerator * NS_PER_S // seconds.denominator

"""`sim:` is a simulated person before a camera and a microphone, wired to sensors of the body.

    sim:seed=3&person=2&duration_s=20&streams=visual+audio+eda&pain=1

Valence, arousal and, where asked for, pain take a course; face, voice and body show it, each in its
own way and with its own noise. The same URI gives the same chunks, bit for bit, on every read on one
machine; `SimSource.truth` gives the course itself.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.sources.sim_body import BODY_SIGNALS
from edge_mer.sources.sim_course import Episodes, generator
from edge_mer.sources.sim_person import Conditions
from edge_mer.sources.sim_scene import Scene
from edge_mer.sources.sim_settings import SimSettings
from edge_mer.sources.sim_voice import RATE_HZ
from edge_mer.types.signals import Chunk, Modality, StreamSpec

AUDIO_CHUNK_SAMPLES = 1024

EMOTIONS = ("positive", "neutral", "negative")
"""Classes of a group's emotion, by their numbers from 0."""

NEUTRAL_BELOW = 0.3
"""A mean valence closer to 0 than this is neutral.

Of three people it makes the classes about as frequent: over 1200 sessions of 30 s, 33.8 % of the time is
positive, 32.2 % neutral and 34.0 % negative. One person alone is neutral for 24 % of the time.
"""

_GAP_S = (0.4, 3.0)

Piece = tuple[int, NDArray[np.generic]]
"""Time in nanoseconds of a chunk, and its data."""
Lost = Callable[[int], bool]
"""Whether a stream drops out at a time in nanoseconds."""


class SimSource:
    """A simulated session: one stream "sim/MODALITY" each, their chunks in order of time.

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
        self._scenes = self._cast()
        self._chunks: Iterator[Chunk] = iter(())
        self._next: Chunk | None = None
        self._started = self._ended = False

    def _cast(self) -> tuple[Scene, ...]:
        """Who sits in the seat, one after the other."""
        settings = self._settings
        conditions = Conditions(
            until_s=float(settings.duration_s),
            with_pain=bool(settings.pain),
            occlusion=float(settings.occlusion),
            noise=float(settings.noise),
        )
        n_frames = math.ceil(settings.duration_s * settings.fps)
        n_samples = math.ceil(settings.duration_s * RATE_HZ)
        if self._switch_ns is None or settings.switch_person is None:
            group = self._group(settings.person)
            return (Scene(settings.seed, group, conditions, range(n_frames), range(n_samples)),)
        frame_cut = min(_n_before(self._switch_ns, settings.fps), n_frames)
        sample_cut = min(_n_before(self._switch_ns, Fraction(RATE_HZ)), n_samples)
        parts = (
            (self._group(settings.person), range(frame_cut), range(sample_cut)),
            (self._group(settings.switch_person), range(frame_cut, n_frames), range(sample_cut, n_samples)),
        )
        return tuple(Scene(settings.seed, group, conditions, *ranges) for group, *ranges in parts)

    def _group(self, first: int) -> range:
        return range(first, first + self._settings.people)

    @property
    def uri(self) -> str:
        """The URI with every key, in a fixed order."""
        return str(self._settings)

    @property
    def specs(self) -> tuple[StreamSpec, ...]:
        """The streams that were asked for."""
        return tuple(self._spec(modality) for modality in self._settings.streams)

    def _spec(self, modality: Modality) -> StreamSpec:
        settings = self._settings
        if modality == "visual":
            return StreamSpec(
                name="sim/visual",
                modality="visual",
                axes=("height", "width", "channel"),
                shape=(settings.height, settings.width, 3),
                dtype="uint8",
                rate_hz=float(settings.fps),
                unit="rgb24",
                channels=("R", "G", "B"),
            )
        if modality == "text":
            return StreamSpec(
                name="sim/text",
                modality="text",
                axes=("word", "field"),
                shape=(None, 3),
                dtype="str",
                rate_hz=None,
                unit="word",
                channels=("word", "start_ns", "end_ns"),
            )
        rate_hz = Fraction(RATE_HZ) if modality == "audio" else self._rate_hz(modality)
        return StreamSpec(
            name=f"sim/{modality}",
            modality=modality,
            axes=("sample", "channel"),
            shape=(None, 1),
            dtype="float32",
            rate_hz=float(rate_hz),
            unit="1" if modality == "audio" else BODY_SIGNALS[modality],
            channels=("mono",) if modality == "audio" else (modality,),
        )

    @property
    def ended(self) -> bool:
        """True once every chunk was read, or the source was stopped."""
        return self._ended

    def ensure_ready(self) -> None:
        """Nothing has to be opened."""

    def start(self) -> None:
        """Begin to deliver; after `ensure_stopped`, from the beginning again."""
        if not self._started:
            streams = (self._stream(modality) for modality in self._settings.streams)
            self._chunks = heapq.merge(*streams, key=lambda chunk: chunk.t_ns)
            self._next = next(self._chunks, None)
            self._started, self._ended = True, self._next is None

    def read(self, timeout_ms: int) -> Chunk | None:
        """The next chunk; None before `start` and at the end. Never waits."""
        chunk = self._next
        if chunk is not None:
            self._next = next(self._chunks, None)
            self._ended = self._next is None
        return chunk

    def ensure_stopped(self) -> None:
        """Forget what was not read."""
        self._chunks, self._next = iter(()), None
        self._started, self._ended = False, True

    def truth(self, t_ns: ArrayLike) -> dict[str, NDArray[np.float32]]:
        """Valence, arousal and pain that face, voice and body were rendered from, and the emotion.

        Of several people, the mean; their emotion is the class of their mean valence.

        Args:
            t_ns: Times in nanoseconds from the session's start to its end, any shape.

        Returns:
            "valence" and "arousal", -1 to 1, "pain", 0 to 1, and "emotion", the number of one of
            `EMOTIONS`, each float32 of the shape of `t_ns`.

        Raises:
            ValueError: A time outside the session.
        """
        people = [self._truth_of(which, t_ns) for which in range(self._settings.people)]
        return _named(np.mean(people, axis=0))

    def truth_of(self, which: int, t_ns: ArrayLike) -> dict[str, NDArray[np.float32]]:
        """The same of one of the people.

        Args:
            which: From 0, the leftmost one, to `people` - 1.
            t_ns: Times in nanoseconds from the session's start to its end, any shape.

        Returns:
            As `truth`.

        Raises:
            ValueError: A time outside the session, or nobody of that number.
        """
        if not 0 <= which < self._settings.people:
            raise ValueError(f"asked for {which}, the people are 0 to {self._settings.people - 1}")
        return _named(self._truth_of(which, t_ns))

    def words(self) -> list[tuple[int, int, str]]:
        """Start and end in nanoseconds, and text, of every word that is spoken out in the session."""
        return [word for utterance in self._spoken() for word in utterance]

    def _truth_of(self, which: int, t_ns: ArrayLike) -> NDArray[np.float64]:
        times_ns = np.asarray(t_ns, np.int64)
        if times_ns.size and not (times_ns.min() >= 0 and times_ns.max() <= self._duration_ns):
            asked = f"{times_ns.min()} to {times_ns.max()} ns"
            raise ValueError(f"asked for {asked}, the session lasts from 0 to {self._duration_ns} ns")
        courses = [scene.truth(which, times_ns / NS_PER_S) for scene in self._scenes]
        if self._switch_ns is None:
            return courses[0]
        return np.where(times_ns >= self._switch_ns, courses[1], courses[0])

    def _stream(self, modality: Modality) -> Iterator[Chunk]:
        """The chunks of a stream that were not lost, counted."""
        lost = self._gaps(modality)
        streams = {"visual": self._visual, "audio": self._audio, "text": self._text}
        pieces = streams[modality](lost) if modality in streams else self._sensor(modality, lost)
        for seq, (t_ns, data) in enumerate(pieces):
            yield Chunk(f"sim/{modality}", modality, seq, t_ns, data)

    def _gaps(self, modality: Modality) -> Lost:
        settings, share = self._settings, float(self._settings.gaps)
        if not share:
            return lambda t_ns: False
        pause_s = sum(_GAP_S) / 2 * (1 - share) / share
        rng = generator("gaps", modality, settings.seed, settings.person)
        gaps = Episodes.draw(rng, float(settings.duration_s), _GAP_S, (0.5 * pause_s, 1.5 * pause_s))
        return lambda t_ns: bool(gaps.active(t_ns / NS_PER_S))

    def _visual(self, lost: Lost) -> Iterator[Piece]:
        settings, fps = self._settings, self._settings.fps
        for scene in self._scenes:
            pictures = scene.pictures(
                fps, settings.width, settings.height, lambda index: not lost(_index_ns(index, fps))
            )
            for index, picture in pictures:
                yield _index_ns(index, fps), picture

    def _audio(self, lost: Lost) -> Iterator[Piece]:
        for first, samples in self._sound():
            t_ns = first * NS_PER_S // RATE_HZ
            if not lost(t_ns):
                yield t_ns, samples[:, None].copy()

    def _sound(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Index of the first sample, and samples, of equal pieces."""
        size, first = AUDIO_CHUNK_SAMPLES, 0
        pending = np.zeros(0, np.float32)
        for piece in itertools.chain.from_iterable(scene.sound() for scene in self._scenes):
            pending = np.concatenate((pending, piece))
            while len(pending) >= size:
                yield first, pending[:size]
                pending, first = pending[size:], first + size
        if len(pending):
            yield first, pending

    def _text(self, lost: Lost) -> Iterator[Piece]:
        """Utterances as a recogniser gives them: whole, once the last word is out."""
        for utterance in self._spoken():
            end_ns = utterance[-1][1]
            if not lost(end_ns):
                yield end_ns, np.array([[text, str(start), str(end)] for start, end, text in utterance])

    def _spoken(self) -> Iterator[list[tuple[int, int, str]]]:
        for k, scene in enumerate(self._scenes):
            is_last = k == len(self._scenes) - 1
            until_ns = self._duration_ns if is_last or self._switch_ns is None else self._switch_ns
            yield from scene.utterances(until_ns)

    def _rate_hz(self, signal: Modality) -> Fraction:
        rate_hz: Fraction = getattr(self._settings, f"{signal}_hz")
        return rate_hz

    def _sensor(self, signal: Modality, lost: Lost) -> Iterator[Piece]:
        """Pieces of a signal of the body, of about an eighth of a second each."""
        rate_hz = self._rate_hz(signal)
        size, n_samples = max(1, round(rate_hz / 8)), math.ceil(self._settings.duration_s * rate_hz)
        for piece, first in enumerate(range(0, n_samples, size)):
            t_ns = _index_ns(first, rate_hz)
            if not lost(t_ns):
                # also the last piece is computed whole: sums in another order differ in the last bit
                values = self._sensed(signal, np.arange(first, first + size), piece)
                yield t_ns, values[: n_samples - first].astype(np.float32)[:, None]

    def _sensed(self, signal: Modality, index: NDArray[np.int64], piece: int) -> NDArray[np.float64]:
        rate_hz = self._rate_hz(signal)
        t_s = index * rate_hz.denominator / rate_hz.numerator
        cut = index[-1] + 1 if self._switch_ns is None else _n_before(self._switch_ns, rate_hz)
        if index[-1] < cut:
            return self._scenes[0].sensed(signal, t_s, piece)
        after = self._scenes[1].sensed(signal, t_s, piece)
        if index[0] >= cut:
            return after
        return np.where(index < cut, self._scenes[0].sensed(signal, t_s, piece), after)


def _named(courses: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
    named = dict(zip(("valence", "arousal", "pain"), courses.astype(np.float32), strict=True))
    return {**named, "emotion": _emotion(named["valence"])}


def _emotion(valence: NDArray[np.float32]) -> NDArray[np.float32]:
    """Number of the class: 0 where valence is at least `NEUTRAL_BELOW`, 2 where it is as far below 0."""
    is_positive, is_negative = valence >= NEUTRAL_BELOW, valence <= -NEUTRAL_BELOW
    return (1.0 - is_positive + is_negative).astype(np.float32)


def _index_ns(index: int, rate_hz: Fraction) -> int:
    """Time of a frame or sample, by an exact rule."""
    return index * NS_PER_S * rate_hz.denominator // rate_hz.numerator


def _n_before(t_ns: int, rate_hz: Fraction) -> int:
    """How many frames or samples come before a time."""
    return math.ceil(Fraction(t_ns, NS_PER_S) * rate_hz)


def _to_ns(seconds: Fraction) -> int:
    return seconds.numerator * NS_PER_S // seconds.denominator

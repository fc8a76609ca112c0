"""The simulated people before one camera and one microphone, for a part of a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from edge_mer.sources.sim_course import Times, Wander, feelings, generator
from edge_mer.sources.sim_cover import Cover
from edge_mer.sources.sim_face import Expression, FacePainter, Light, Pose, paint_wall
from edge_mer.sources.sim_person import Actor, Conditions
from edge_mer.sources.sim_voice import RATE_HZ, Utterance
from edge_mer.types.signals import Modality

_BLOCK = 32
"""Frames whose movements are computed at once."""


@dataclass(frozen=True)
class Turn:
    """What one of the people says, before another one takes over.

    Attributes:
        speaker: Which of the people, from 0.
        utterance: What is said.
    """

    speaker: int
    utterance: Utterance


class Scene:
    """People side by side, for a part of the session.

    Args:
        seed: Chooses what they feel and do.
        persons: Chooses who they are, from left to right.
        conditions: What is the same for everyone.
        frames: The frames on which they are seen.
        samples: The samples in which they are heard.
    """

    def __init__(
        self, seed: int, persons: Sequence[int], conditions: Conditions, frames: range, samples: range
    ) -> None:
        self._key, self._noise = (seed, persons[0]), conditions.noise
        mood = feelings("mood", *self._key) if len(persons) > 1 else None
        self._actors = tuple(Actor(seed, person, conditions, mood) for person in persons)
        self._frames, self._samples = frames, samples
        rng = generator("light", *self._key)
        self._light = Wander(rng, 2, shortest_s=15.0, longest_s=90.0)
        self._light_gain = float(rng.uniform(0.9, 1.08))

    def truth(self, which: int, t_s: Times) -> NDArray[np.float64]:
        """Valence, arousal and pain of one of the people at times in seconds: (3, *shape of `t_s`)."""
        course = self._actors[which].course
        return np.stack((*course.felt(t_s), course.pain_at(t_s)))

    def sensed(self, signal: Modality, t_s: Times, piece: int) -> NDArray[np.float64]:
        """A signal of the first one's body: see `Body.sensed`."""
        return self._actors[0].body.sensed(signal, t_s, piece)

    # -- seen

    def pictures(
        self, fps: Fraction, width_px: int, height_px: int, wanted: Callable[[int], bool]
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The pictures in which the people are seen.

        Args:
            fps: Frames per second.
            width_px: Width of the pictures.
            height_px: Height of the pictures.
            wanted: Whether a frame, given by its index, is wanted; others are left out.

        Yields:
            Index of the frame, and its picture: (height, width, 3) uint8 RGB.
        """
        painters = self._painters(width_px, height_px)
        turns = _Lips(self.turns(), len(self._actors))
        # whole blocks that begin at multiples of their size: sums in another order differ in the last bit
        for first in range(self._frames.start // _BLOCK * _BLOCK, self._frames.stop, _BLOCK):
            t_s = np.arange(first, first + _BLOCK) * fps.denominator / fps.numerator
            lips, lights = turns.opening(t_s), self._lights(t_s)
            takes = [_take(actor, t_s, lips[k]) for k, actor in enumerate(self._actors)]
            for index in range(first, first + _BLOCK):
                if index in self._frames and wanted(index):
                    light = lights[index - first]
                    parts = [
                        painter.paint(*take[index - first][:2], index, light, take[index - first][2])
                        for painter, take in zip(painters, takes, strict=True)
                    ]
                    yield index, parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _painters(self, width_px: int, height_px: int) -> list[FacePainter]:
        """One for each of the people, in the room and the light of the first."""
        room = self._actors[0].look
        wall, n = paint_wall(room, width_px, height_px), len(self._actors)
        edges = [width_px * k // n for k in range(n + 1)]
        return [
            FacePainter(
                replace(actor.look, light=room.light), right - left, height_px, wall[:, left:right].copy()
            )
            for actor, left, right in zip(self._actors, edges[:-1], edges[1:], strict=True)
        ]

    def _lights(self, t_s: Times) -> list[Light]:
        gain, turn = self._light.at(t_s)
        gains = self._light_gain * (1 + np.clip(0.04 * gain, -0.1, 0.1))
        turns = np.clip(0.5 * turn, -1, 1)
        pairs = zip(gains.tolist(), turns.tolist(), strict=True)
        return [Light(gain, turn, self._noise) for gain, turn in pairs]

    # -- heard

    def sound(self) -> Iterator[NDArray[np.float32]]:
        """The samples in which the people are heard, in pieces of any size."""
        for turn in self.turns():
            if turn.utterance.start >= self._samples.stop:
                return
            sound = self._actors[turn.speaker].voice.render(turn.utterance)
            yield sound[: self._samples.stop - turn.utterance.start]

    def utterances(self, until_ns: int) -> Iterator[list[tuple[int, int, str]]]:
        """Start, end and text of the words of each utterance that are spoken out before a time, in ns."""
        for turn in self.turns():
            said = [word for word in turn.utterance.spoken() if word[1] <= until_ns]
            if said:
                yield said
            if len(said) < len(turn.utterance.words):
                return

    def turns(self) -> Iterator[Turn]:
        """What is said, one after the other, without end and without gaps."""
        n = len(self._actors)
        start, number, speaker = self._samples.start, 0, 0
        while True:
            if n > 1:
                step = int(generator("turn", *self._key, number).integers(1, n))
                speaker = (speaker + step) % n
            utterance = self._actors[speaker].voice.plan(number, start)
            yield Turn(speaker, utterance)
            start, number = utterance.end, number + 1


class _Lips:
    """How far speech opens the lips of each of the people.

    Args:
        turns: What is said.
        n_people: How many they are.
    """

    def __init__(self, turns: Iterator[Turn], n_people: int) -> None:
        self._turns, self._n_people = turns, n_people
        self._turn = next(turns)

    def opening(self, t_s: Times) -> NDArray[np.float64]:
        """From 0 to 1: (n_people, n) at times that rise from call to call: (n,)."""
        opening = np.zeros((self._n_people, len(t_s)))
        for k, at_s in enumerate(t_s.tolist()):
            while self._turn.utterance.end <= at_s * RATE_HZ:
                self._turn = next(self._turns)
            utterance = self._turn.utterance
            opening[self._turn.speaker, k] = utterance.lip_opening(at_s - utterance.start / RATE_HZ)
        return opening


def _take(actor: Actor, t_s: Times, lips: Times) -> list[tuple[Expression, Pose, Cover | None]]:
    """What one person does at times in seconds: (n,)."""
    return list(zip(actor.expressions(t_s, lips), actor.poses(t_s), actor.covering.at(t_s), strict=True))

"""The simulated person: what it feels, how that shows in face and voice, and how it moves."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from edge_mer.sources.sim_face import Expression, FacePainter, Pose
from edge_mer.sources.sim_look import Look
from edge_mer.sources.sim_voice import RATE_HZ, Speaker, Utterance, Voice

_BLINKS = 64
_BLINK_PERIOD_S = 3.6
_BLINK_S = 0.18


def _generator(*purpose: object) -> np.random.Generator:
    """Random numbers that depend on nothing but their purpose."""
    digest = hashlib.blake2b(repr(purpose).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


class _Wander:
    """Smooth random courses of unit variance, known at any time: sums of sinusoids.

    Args:
        rng: Chooses frequencies and phases.
        n_courses: How many.
        shortest_s: Shortest period.
        longest_s: Longest period.
    """

    def __init__(self, rng: np.random.Generator, n_courses: int, shortest_s: float, longest_s: float) -> None:
        n_waves = 8
        # one period per stratum, so that no course lacks fast or slow parts
        share = (np.arange(n_waves) + rng.uniform(size=(n_courses, n_waves))) / n_waves
        self._rad_per_s = 2 * math.pi / (shortest_s * (longest_s / shortest_s) ** share)
        self._phase_rad = rng.uniform(0, 2 * math.pi, (n_courses, n_waves))
        self._amplitude = math.sqrt(2 / n_waves)

    def at(self, t_s: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """All courses at times in seconds: (n_courses, *shape of `t_s`)."""
        angle = np.multiply.outer(self._rad_per_s, t_s)
        angle += self._phase_rad.reshape(self._phase_rad.shape + (1,) * np.ndim(t_s))
        courses: NDArray[np.float64] = self._amplitude * np.sin(angle).sum(axis=1)
        return courses


class Course:
    """Valence and arousal of one person in one session."""

    def __init__(self, seed: int, person: int) -> None:
        self._wander = _Wander(_generator("course", seed, person), 2, shortest_s=8.0, longest_s=32.0)

    def at(self, t_s: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Valence and arousal at times in seconds, each -1 to 1 and about evenly spread."""
        valence, arousal = erf(0.85 * self._wander.at(t_s))
        return valence, arousal


class _Habits:
    """How a person shows what it feels: gains and offsets that a model has to see through."""

    def __init__(self, person: int) -> None:
        rng = _generator("habits", person)
        self.smile_gain, self.brow_gain, self.eye_gain = rng.uniform(0.75, 1.2, 3)
        self.smile, self.brow_raise, self.brow_tilt = rng.normal(0, (0.13, 0.22, 0.15))
        self.eye_open, self.mouth_open = rng.normal(0, (0.05, 0.06))


class Actor:
    """One person in the seat, for a part of the session.

    Args:
        seed: Chooses what the person feels and does in this session.
        person: Chooses who it is.
        frames: The frames on which the person is seen.
        samples: The samples in which the person is heard.

    Attributes:
        course: What the person feels.
        frames: As given.
    """

    def __init__(self, seed: int, person: int, frames: range, samples: range) -> None:
        self.course = Course(seed, person)
        self.frames, self._samples = frames, samples
        self._look = Look.draw(_generator("look", person))
        self._voice = Voice(
            Speaker.draw(_generator("speaker", person)),
            affect=self.course.at,
            random=lambda purpose: _generator(purpose, seed, person),
            start=samples.start,
        )
        self._habits = _Habits(person)
        rng = _generator("manner", seed, person)
        self._fidget = _Wander(rng, 7, shortest_s=0.7, longest_s=6.0)
        self._sway = _Wander(rng, 5, shortest_s=2.0, longest_s=12.0)
        self._blinks_s = np.arange(_BLINKS) * _BLINK_PERIOD_S + rng.uniform(0, _BLINK_PERIOD_S - 0.3, _BLINKS)
        self._light = float(rng.uniform(0.9, 1.08))

    def pictures(self, fps: Fraction, width_px: int, height_px: int) -> Iterator[NDArray[np.uint8]]:
        """One picture per frame: (height, width, 3) uint8 RGB."""
        painter = FacePainter(self._look, width_px, height_px)
        speech = self._voice.utterances()
        utterance = next(speech)
        for index in self.frames:
            t_s = float(index / fps)
            while utterance.end <= t_s * RATE_HZ:
                utterance = next(speech)
            yield painter.paint(self._expression(t_s, utterance), self._pose(t_s), index)

    def sound(self) -> Iterator[NDArray[np.float32]]:
        """The person's samples, in pieces of any size."""
        for utterance in self._voice.utterances():
            if utterance.start >= self._samples.stop:
                return
            yield self._voice.render(utterance)[: self._samples.stop - utterance.start]

    def _expression(self, t_s: float, utterance: Utterance) -> Expression:
        valence, arousal = (part.item() for part in self.course.at(np.array([t_s])))
        unrest, habits = self._fidget.at(t_s), self._habits
        speaking = utterance.lip_opening(t_s - utterance.start / RATE_HZ)
        gloom = max(0.0, -valence)
        smile = habits.smile_gain * 0.9 * valence + habits.smile + 0.13 * unrest[0]
        mouth = 0.14 + 0.14 * arousal + habits.mouth_open + 0.07 * unrest[1] + 0.4 * speaking
        raised = habits.brow_gain * (0.5 * valence + 0.25 * arousal) + habits.brow_raise + 0.2 * unrest[2]
        tilt = -gloom * (0.2 + 0.8 * arousal) + habits.brow_tilt + 0.13 * unrest[3]
        eyes = 0.68 + habits.eye_gain * 0.14 * arousal + habits.eye_open + 0.06 * unrest[4]
        return Expression(
            smile=_clipped(smile, -1, 1),
            mouth_open=_clipped(mouth, 0, 1),
            brow_raise=_clipped(raised, -1, 1),
            brow_tilt=_clipped(tilt, -1, 1),
            eye_open=_clipped(eyes - 0.06 * max(0.0, valence), 0.45, 1) * self._lids(t_s),
            gaze=(_clipped(0.5 * unrest[5], -1, 1), _clipped(0.4 * unrest[6], -1, 1)),
        )

    def _lids(self, t_s: float) -> float:
        """1 = as open as the expression wants, 0 = closed in the middle of a blink."""
        distance_s = np.abs(self._blinks_s - t_s % (_BLINKS * _BLINK_PERIOD_S)).min()
        return _clipped(float(distance_s) * 4 / _BLINK_S - 0.5, 0, 1)

    def _pose(self, t_s: float) -> Pose:
        x, y, roll, nearness, light = self._sway.at(t_s)
        return Pose(
            x=_clipped(0.09 * x, -0.25, 0.25),
            y=_clipped(0.05 * y, -0.12, 0.12),
            roll_rad=_clipped(0.04 * roll, -0.12, 0.12),
            scale=1 + _clipped(0.025 * nearness, -0.06, 0.06),
            exposure=self._light * (1 + _clipped(0.02 * light, -0.05, 0.05)),
        )


def _clipped(value: float, low: float, high: float) -> float:
    return float(min(max(value, low), high))

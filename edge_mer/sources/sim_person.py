"""The simulated person: how that which it feels shows in face, voice and body, and how it moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mer.sources.sim_body import Body
from edge_mer.sources.sim_course import Course, Times, Wander, generator
from edge_mer.sources.sim_cover import Covering
from edge_mer.sources.sim_face import Expression, Pose
from edge_mer.sources.sim_look import Look
from edge_mer.sources.sim_voice import Speaker, Voice

_BLINKS = 64
_BLINK_PERIOD_S = 3.6
_BLINK_S = 0.18


@dataclass(frozen=True)
class Conditions:
    """What is the same for everyone in a session.

    Attributes:
        until_s: End of the session.
        with_pain: Whether there are painful stimuli.
        occlusion: Share of the time in which something covers a part of the face.
        noise: Factor of what camera, room and electrodes add.
    """

    until_s: float
    with_pain: bool = False
    occlusion: float = 0.0
    noise: float = 1.0


class _Habits:
    """How a person shows what it feels: gains and offsets that a model has to see through."""

    def __init__(self, person: int) -> None:
        rng = generator("habits", person)
        self.smile_gain, self.brow_gain, self.eye_gain = rng.uniform(0.75, 1.2, 3)
        self.smile, self.brow_raise, self.brow_tilt = rng.normal(0, (0.13, 0.22, 0.15))
        self.eye_open, self.mouth_open = rng.normal(0, (0.05, 0.06))


class Actor:
    """One person in one session.

    Args:
        seed: Chooses what the person feels and does in this session.
        person: Chooses who it is.
        conditions: What is the same for everyone.
        mood: Of the company that the person is in; None alone.

    Attributes:
        course: What the person feels and shows.
        body: What sensors on the person measure.
        voice: How the person speaks.
        look: How the person looks.
        covering: When something is held before the face, and what.
    """

    def __init__(self, seed: int, person: int, conditions: Conditions, mood: Wander | None = None) -> None:
        self.course = Course(seed, person, conditions.until_s, conditions.with_pain, mood)
        self.body = Body(seed, person, self.course, conditions.noise)
        self.voice = Voice(
            Speaker.draw(generator("speaker", person)),
            affect=self.course.voice,
            random=lambda purpose: generator(purpose, seed, person),
            room_noise=conditions.noise,
        )
        self.look = Look.draw(generator("look", person))
        rng = generator("covering", seed, person)
        self.covering = Covering(rng, conditions.until_s, conditions.occlusion)
        self._habits = _Habits(person)
        rng = generator("manner", seed, person)
        self._fidget = Wander(rng, 7, shortest_s=0.7, longest_s=6.0)
        self._sway = Wander(rng, 6, shortest_s=2.0, longest_s=12.0)
        self._blinks_s = np.arange(_BLINKS) * _BLINK_PERIOD_S + rng.uniform(0, _BLINK_PERIOD_S - 0.3, _BLINKS)

    def expressions(self, t_s: Times, speaking: Times) -> list[Expression]:
        """What the face does at times in seconds.

        Args:
            t_s: The times: (n,).
            speaking: How far speech opens the lips then, 0 to 1: (n,).
        """
        valence, arousal = self.course.face(t_s)
        unrest, habits = self._fidget.at(t_s), self._habits
        gloom = np.maximum(0.0, -valence)
        smile = habits.smile_gain * 0.9 * valence + habits.smile + 0.13 * unrest[0]
        mouth = 0.16 + 0.17 * arousal + habits.mouth_open + 0.07 * unrest[1] + 0.4 * speaking
        raised = habits.brow_gain * (0.45 * valence + 0.4 * arousal) + habits.brow_raise + 0.2 * unrest[2]
        tilt = -gloom * (0.2 + 0.8 * arousal) + habits.brow_tilt + 0.13 * unrest[3]
        eyes = 0.68 + habits.eye_gain * 0.24 * arousal + habits.eye_open + 0.05 * unrest[4]
        eyes = np.clip(eyes - 0.06 * np.maximum(0.0, valence), 0.36, 1)
        pain = np.zeros_like(t_s) if self.course.pain is None else self.course.pain.face(t_s)
        columns = (
            np.clip(smile * (1 - 0.5 * np.minimum(1, pain)), -1, 1),
            np.clip(mouth, 0, 1),
            np.clip(raised - 0.9 * pain, -1, 1),
            np.clip(tilt - 0.45 * pain, -1, 1),
            eyes * self._lids(t_s) * (1 - 0.85 * np.minimum(1, pain)),
            np.minimum(1, pain),
            np.clip(0.5 * unrest[5], -1, 1),
            np.clip(0.4 * unrest[6], -1, 1),
        )
        rows = np.stack(columns, axis=1).tolist()
        return [
            Expression(smile, mouth, raised, tilt, eyes, grimace, (gaze_x, gaze_y))
            for smile, mouth, raised, tilt, eyes, grimace, gaze_x, gaze_y in rows
        ]

    def _lids(self, t_s: Times) -> NDArray[np.float64]:
        """1 = as open as the expression wants, 0 = closed in the middle of a blink."""
        within_s = t_s % (_BLINKS * _BLINK_PERIOD_S)
        distance_s = np.abs(within_s[:, None] - self._blinks_s).min(axis=1)
        opening: NDArray[np.float64] = np.clip(distance_s * 4 / _BLINK_S - 0.5, 0, 1)
        return opening

    def poses(self, t_s: Times) -> list[Pose]:
        """Where the head is at times in seconds: (n,)."""
        x, y, roll, nearness, yaw, pitch = self._sway.at(t_s)
        columns = (
            np.clip(0.09 * x, -0.25, 0.25),
            np.clip(0.05 * y, -0.12, 0.12),
            np.clip(0.04 * roll, -0.12, 0.12),
            1 + np.clip(0.025 * nearness, -0.06, 0.06),
            np.clip(0.07 * yaw, -0.2, 0.2),
            np.clip(0.04 * pitch, -0.12, 0.12),
        )
        return [Pose(*row) for row in np.stack(columns, axis=1).tolist()]

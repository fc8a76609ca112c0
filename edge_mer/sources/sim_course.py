"""What a simulated person feels over a session, and what of it face and voice show.

Every course is a function of time without memory: its value at a time does not depend on which other
times are asked for, on the rate they are asked at, or on the session's length.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Times = NDArray[np.float64]
ValenceArousal = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Valence and arousal, each -1 to 1, of the shape of the times asked for."""

_SPREAD = 0.85
"""Makes the error function of a wander of unit variance about evenly spread."""

SHORTEST_S, LONGEST_S = 8.0, 32.0
"""Shortest and longest period of what is felt, and of what hides it."""

FACE_NOISE = (0.60, 0.75)
VOICE_NOISE = (0.75, 0.60)
"""How much a channel's own course hides valence and arousal: standard deviations relative to theirs.

A channel alone can know a course at best with the correlation 1 / sqrt(1 + s^2), that is 0.86 or 0.80;
both together know it with 0.90, since their noises are independent.
"""

CONTAGION = 1.5
"""How much the mood of a company moves each of its people: standard deviations relative to their own.

Two of them then feel alike with the correlation 1.5^2 / (1 + 1.5^2) = 0.69.
"""

RISE_S, DECAY_S = 0.7, 1.0
_HOLD_S = (3.0, 6.0)
_PAUSE_S = (4.0, 9.0)
INTENSITIES = (0.25, 0.5, 0.75, 1.0)
_PAIN_PULL = (-0.7, 0.5)
"""What full pain adds to the wanders of valence and arousal."""


def generator(*purpose: object) -> np.random.Generator:
    """Random numbers that depend on nothing but their purpose."""
    digest = hashlib.blake2b(repr(purpose).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


class Wander:
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

    def at(self, t_s: Times | float) -> NDArray[np.float64]:
        """All courses at times in seconds: (n_courses, *shape of `t_s`)."""
        courses: NDArray[np.float64] = self._amplitude * np.sin(self._angle(t_s)).sum(axis=1)
        return courses

    def integral(self, t_s: Times) -> NDArray[np.float64]:
        """Integrals of all courses over time, up to a constant: (n_courses, *shape of `t_s`)."""
        waves = np.cos(self._angle(t_s)) / self._like(self._rad_per_s, t_s)
        areas: NDArray[np.float64] = -self._amplitude * waves.sum(axis=1)
        return areas

    def smoothed(self, t_s: Times, tau_s: float) -> NDArray[np.float64]:
        """All courses as a sluggish follower (a first-order low-pass) shows them: like `at`."""
        turn = self._rad_per_s * tau_s
        waves = np.sin(self._angle(t_s) - self._like(np.arctan(turn), t_s))
        waves /= self._like(np.hypot(1, turn), t_s)
        courses: NDArray[np.float64] = self._amplitude * waves.sum(axis=1)
        return courses

    def _angle(self, t_s: Times | float) -> NDArray[np.float64]:
        angle: NDArray[np.float64] = np.multiply.outer(self._rad_per_s, t_s)
        angle += self._like(self._phase_rad, t_s)
        return angle

    @staticmethod
    def _like(per_wave: NDArray[np.float64], t_s: Times | float) -> NDArray[np.float64]:
        return per_wave.reshape(per_wave.shape + (1,) * np.ndim(t_s))


def feelings(purpose: str, seed: int, person: int) -> Wander:
    """The wanders of valence and arousal, of what is felt or of what hides it."""
    return Wander(generator(purpose, seed, person), 2, SHORTEST_S, LONGEST_S)


@dataclass(frozen=True)
class Episodes:
    """Stretches of time that come and go, one after the other.

    Attributes:
        start_s: Start of each: (n,), rising.
        end_s: End of each: (n,), never after the next one's start.
        draws: Uniform numbers from 0 to 1 for what happens in each: (n, n_draws).
    """

    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    draws: NDArray[np.float64]

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        until_s: float,
        length_s: tuple[float, float],
        pause_s: tuple[float, float],
        n_draws: int = 0,
    ) -> Episodes:
        """Random episodes that are under way at time 0 as at any other time.

        Args:
            rng: Chooses them; a later `until_s` only adds episodes.
            until_s: Covered at least up to here.
            length_s: Least and greatest length.
            pause_s: Least and greatest time between two.
            n_draws: Further random numbers per episode.
        """
        lead_s = 2 * (length_s[1] + pause_s[1]) * (1 + rng.random())
        n = math.ceil((until_s + lead_s) / (length_s[0] + pause_s[0])) + 1
        rows = rng.random((n, 2 + n_draws))
        lengths_s = length_s[0] + (length_s[1] - length_s[0]) * rows[:, 0]
        pauses_s = pause_s[0] + (pause_s[1] - pause_s[0]) * rows[:, 1]
        start_s = np.cumsum(np.concatenate(([-lead_s], lengths_s[:-1] + pauses_s[:-1])))
        return cls(start_s, start_s + lengths_s, rows[:, 2:])

    def latest(self, t_s: Times | float) -> NDArray[np.intp]:
        """Which episode began last: of the shape of `t_s`."""
        return np.maximum(np.searchsorted(self.start_s, t_s, side="right") - 1, 0)

    def active(self, t_s: Times | float) -> NDArray[np.bool_]:
        """Whether an episode is under way: of the shape of `t_s`."""
        here = self.latest(t_s)
        return (self.start_s[here] <= t_s) & (t_s < self.end_s[here])


class Pain:
    """Painful stimuli, as heat pads give them: four intensities, plateaus of some seconds, pauses.

    Args:
        rng: Chooses them.
        until_s: End of the session.

    Attributes:
        onset_s: Start of each stimulus.
        intensity: Its plateau, one of `INTENSITIES`.
        skin_gain: How strongly the sweat glands answer it, 0.6 to 1.3.
    """

    def __init__(self, rng: np.random.Generator, until_s: float) -> None:
        length_s = (_HOLD_S[0] + RISE_S + DECAY_S, _HOLD_S[1] + RISE_S + DECAY_S)
        self._episodes = Episodes.draw(rng, until_s, length_s, _PAUSE_S, n_draws=4)
        which, shown, delay, skin = self._episodes.draws.T
        self.onset_s = self._episodes.start_s
        self._end_s = self._episodes.end_s
        self.intensity = np.array(INTENSITIES)[(which * len(INTENSITIES)).astype(np.intp)]
        self.skin_gain = 0.6 + 0.7 * skin
        self._face_gain = 1.1 * shown
        self._face_delay_s = 0.2 + 0.4 * delay
        hold_s = self._end_s - self.onset_s - RISE_S - DECAY_S
        areas = self.intensity * (RISE_S / 2 + hold_s + DECAY_S / 2)
        self._area_before = np.concatenate(([0.0], np.cumsum(areas)[:-1]))

    def at(self, t_s: Times) -> NDArray[np.float64]:
        """Pain at times in seconds, 0 to 1."""
        here = self._episodes.latest(t_s)
        pain: NDArray[np.float64] = self.intensity[here] * self._level(t_s, here)
        return pain

    def face(self, t_s: Times) -> NDArray[np.float64]:
        """What the face shows of it, a little later and more or less of it each time: 0 to 1.1."""
        here = self._episodes.latest(t_s)
        level = self._level(t_s - self._face_delay_s[here], here)
        shown: NDArray[np.float64] = self._face_gain[here] * self.intensity[here] * level
        return shown

    def integral(self, t_s: Times) -> NDArray[np.float64]:
        """Integral of the pain up to times in seconds, up to a constant."""
        here = self._episodes.latest(t_s)
        since_s = t_s - self.onset_s[here]
        hold_s = self._end_s[here] - self.onset_s[here] - RISE_S - DECAY_S
        rise, decay = since_s / RISE_S, np.clip((since_s - RISE_S - hold_s) / DECAY_S, 0, 1)
        area = (
            RISE_S * _smooth_step_area(np.clip(rise, 0, 1))
            + np.clip(since_s - RISE_S, 0, hold_s)
            + DECAY_S * (decay - _smooth_step_area(decay))
        )
        whole: NDArray[np.float64] = self._area_before[here] + self.intensity[here] * area
        return whole

    def _level(self, t_s: Times, here: NDArray[np.intp]) -> NDArray[np.float64]:
        rise = _smooth_step((t_s - self.onset_s[here]) / RISE_S)
        level: NDArray[np.float64] = rise * _smooth_step((self._end_s[here] - t_s) / DECAY_S)
        return level


class Course:
    """What one person feels and shows in one session.

    Args:
        seed: Chooses the session.
        person: Chooses the person.
        until_s: End of the session.
        with_pain: Whether there are painful stimuli.
        mood: Of the company that the person is in; None alone.

    Attributes:
        pain: The painful stimuli; None without.
    """

    def __init__(
        self, seed: int, person: int, until_s: float, with_pain: bool, mood: Wander | None = None
    ) -> None:
        self._felt = feelings("course", seed, person)
        self._face, self._voice = (
            feelings("face course", seed, person),
            feelings("voice course", seed, person),
        )
        self._mood = mood
        self.pain = Pain(generator("pain", seed, person), until_s) if with_pain else None

    def pain_at(self, t_s: Times) -> NDArray[np.float64]:
        """Pain at times in seconds, 0 to 1; 0 everywhere in a session without."""
        return np.zeros(np.shape(t_s)) if self.pain is None else self.pain.at(t_s)

    def felt(self, t_s: Times) -> ValenceArousal:
        """What the person feels at times in seconds: the truth."""
        valence, arousal = erf(_SPREAD * self._feeling(t_s))
        return valence, arousal

    def face(self, t_s: Times) -> ValenceArousal:
        """What the face shows at times in seconds, besides pain."""
        return self._shown(t_s, self._face, FACE_NOISE)

    def voice(self, t_s: Times) -> ValenceArousal:
        """What the voice shows at times in seconds."""
        return self._shown(t_s, self._voice, VOICE_NOISE)

    def arousal_integral(self, t_s: Times) -> NDArray[np.float64]:
        """Integral over time of the wander behind the arousal, without pain, up to a constant."""
        area: NDArray[np.float64] = self._felt.integral(t_s)[1]
        return area

    def sluggish_arousal(self, t_s: Times, tau_s: float) -> NDArray[np.float64]:
        """The wander behind the arousal, without pain, as a sluggish follower shows it."""
        smoothed: NDArray[np.float64] = self._felt.smoothed(t_s, tau_s)[1]
        return smoothed

    def _feeling(self, t_s: Times) -> NDArray[np.float64]:
        """The wanders of valence and arousal: (2, *shape of `t_s`)."""
        wanders = self._felt.at(t_s)
        if self._mood is not None:
            wanders = (wanders + CONTAGION * self._mood.at(t_s)) / math.hypot(1, CONTAGION)
        if self.pain is not None:
            wanders += np.multiply.outer(_PAIN_PULL, self.pain.at(t_s))
        return wanders

    def _shown(self, t_s: Times, channel: Wander, noise: tuple[float, float]) -> ValenceArousal:
        feeling, own = self._feeling(t_s), channel.at(t_s)
        valence, arousal = (
            erf(_SPREAD * (feeling[k] + s * own[k]) / math.hypot(1, s)) for k, s in enumerate(noise)
        )
        return valence, arousal


def _smooth_step(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 up to 0, 1 from 1 on, smooth between."""
    inner = np.clip(x, 0, 1)
    step: NDArray[np.float64] = inner * inner * (3 - 2 * inner)
    return step


def _smooth_step_area(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral of the smooth step from 0 to `x`, for 0 to 1."""
    area: NDArray[np.float64] = x**3 * (1 - x / 2)
    return area

"""What electrodes, a belt and a thermometer measure on a simulated person.

Skin conductance, heart, breath and skin temperature follow what is felt by plain rules of physiology,
each a function of time: any rate and any chunking samples the same curves.

Facts that the curves are built on:

- Skin conductance lies at 2 to 15 uS, differs more between people than within one, and drifts over
  minutes. A response begins 1 to 3 s after what causes it, rises within 1 to 2 s and decays over some
  seconds. At rest there are a few responses a minute, under arousal twenty.
- A heart at rest beats 55 to 85 times a minute, faster while breathing in, and faster a second or two
  after arousal or pain sets in.
- A pulse wave reaches the wrist a fifth of a second after its beat, rises steeply, and shows a second, lower
  crest (about a third as high) as the arteries answer. It is smaller when arousal narrows the vessels.
- Breath comes 12 to 18 times a minute, faster and deeper under arousal.
- Fingers are at 31 to 35 degC and cool by tenths of a degree, within tens of seconds, when arousal
  narrows their vessels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge_mer.sources.sim_course import Course, Times, Wander, generator
from edge_mer.types.signals import Modality

Curve = NDArray[np.float64]

BODY_SIGNALS: dict[Modality, str] = {"eda": "uS", "ecg": "mV", "ppg": "1", "rsp": "1", "skt": "degC"}
"""Every signal of the body and its unit."""

_BLOCK_S = 60.0
_KEPT_BLOCKS = 8
_RESPONSE_RISE_S, _RESPONSE_DECAY_S, _RESPONSE_END_S = 0.7, 3.0, 30.0
_PEAK_S = (
    math.log(_RESPONSE_DECAY_S / _RESPONSE_RISE_S)
    * _RESPONSE_DECAY_S
    * _RESPONSE_RISE_S
    / (_RESPONSE_DECAY_S - _RESPONSE_RISE_S)
)
_PEAK = math.exp(-_PEAK_S / _RESPONSE_DECAY_S) - math.exp(-_PEAK_S / _RESPONSE_RISE_S)
_COOLING_RISE_S, _COOLING_DECAY_S, _COOLING_END_S = 8.0, 25.0, 250.0
_WAVES = (
    # height in mV, place in the beat, width; both in beats
    (0.13, -0.170, 0.024),  # P
    (-0.10, -0.026, 0.008),  # Q
    (1.00, 0.0, 0.010),  # R
    (-0.22, 0.027, 0.010),  # S
    (0.27, 0.270, 0.048),  # T
)
_PULSE_WAVES = (
    # height, place after the beat, width; both in beats
    (1.00, 0.30, 0.09),
    (0.35, 0.60, 0.11),
)
_SENSOR_NOISE = {"eda": 0.004, "ecg": 0.012, "ppg": 0.03, "rsp": 0.01, "skt": 0.004}
"""Standard deviation per sample, in the signal's unit."""
_MOTION_PER_MIN = 0.8
_MOTION_S = 0.35
_MOTION_SIZE = {"eda": 0.5, "ecg": 0.5, "ppg": 0.6, "rsp": 0.4, "skt": 0.0}


class Body:
    """One person's body in one session.

    Args:
        seed: Chooses the session.
        person: Chooses the person.
        course: What the person feels.
        noise: Factor of the sensors' noise and of motion artefacts.
    """

    def __init__(self, seed: int, person: int, course: Course, noise: float) -> None:
        self._key, self._course, self._noise = (seed, person), course, noise
        self._draw_person(generator("body", person))
        rng = generator("body", seed, person)
        self._tonic_us *= math.exp(rng.normal(0, 0.1))
        self._skin_degc += rng.normal(0, 0.2)
        self._heart_phase, self._breath_phase = rng.random(2)
        self._drift = Wander(rng, 2, shortest_s=40.0, longest_s=200.0)
        self._heart_unrest = Wander(rng, 1, shortest_s=6.0, longest_s=20.0)
        self._breath_unrest = Wander(rng, 2, shortest_s=5.0, longest_s=25.0)
        self._baseline = Wander(rng, 1, shortest_s=3.0, longest_s=15.0)
        self._blocks: dict[int, tuple[Curve, ...]] = {}
        self._curves: dict[str, Callable[[Times], Curve]] = {
            "eda": self._eda,
            "ecg": self._ecg,
            "ppg": self._ppg,
            "rsp": self._rsp,
            "skt": self._skt,
        }

    def _draw_person(self, rng: np.random.Generator) -> None:
        self._tonic_us = float(2.4 * (12.5 / 2.4) ** rng.uniform())
        self._response_us = float(0.25 * (1.2 / 0.25) ** rng.uniform())
        self._skin_lag_s = float(rng.uniform(1.0, 2.5))
        self._heart_hz = float(rng.uniform(55, 85) / 60)
        self._heart_gain, self._breath_gain, self._cooling_gain = rng.uniform(0.6, 1.4, 3)
        self._heart_lag_s = float(rng.uniform(1.0, 2.0))
        self._sinus_arrhythmia = float(rng.uniform(0.03, 0.08))
        self._beat_height = float(rng.uniform(0.7, 1.4))
        self._breath_hz = float(rng.uniform(12, 18) / 60)
        self._breath_lag_s = float(rng.uniform(0.5, 2.0))
        self._skin_degc = float(rng.uniform(31, 35))
        self._cooling_lag_s = float(rng.uniform(15, 35))

    def curve(self, signal: str, t_s: Times) -> Curve:
        """A signal with motion artefacts, without the sensor's noise.

        Args:
            signal: A key of `BODY_SIGNALS`.
            t_s: Times in seconds: (n,), rising.

        Returns:
            Values in the signal's unit: (n,).
        """
        values = self._curves[signal](t_s)
        size = self._noise * _MOTION_SIZE[signal]
        if size:
            values += size * self._motion(t_s)
        return np.maximum(values, 0.05) if signal == "eda" else values

    def sensed(self, signal: str, t_s: Times, piece: int) -> Curve:
        """A signal as the sensor delivers it.

        Args:
            signal: A key of `BODY_SIGNALS`.
            t_s: Times in seconds: (n,), rising.
            piece: Counts the pieces that are asked for; chooses the noise.

        Returns:
            Values in the signal's unit: (n,).
        """
        rng = generator("sensor", signal, *self._key, piece)
        noise = rng.standard_normal(len(t_s))
        return self.curve(signal, t_s) + self._noise * _SENSOR_NOISE[signal] * noise

    # -- skin conductance

    def _eda(self, t_s: Times) -> Curve:
        level: Curve = self._tonic_us * (1 + 0.06 * self._drift.at(t_s)[0])
        first = math.floor((t_s[0] - _RESPONSE_END_S) / _BLOCK_S)
        for number in range(first, math.floor(t_s[-1] / _BLOCK_S) + 1):
            onsets_s, heights = self._block(number)[:2]
            level += _responses(t_s, onsets_s, heights)
        pain = self._course.pain
        if pain is not None:
            onsets_s = pain.onset_s + self._skin_lag_s
            near = _between(onsets_s, t_s[0] - _RESPONSE_END_S, t_s[-1])
            heights = 1.2 * self._response_us * pain.intensity[near] * pain.skin_gain[near]
            level += _responses(t_s, onsets_s[near], heights)
        return level

    def _block(self, number: int) -> tuple[Curve, ...]:
        """Skin responses without pain, and movements, that begin in one minute of the session.

        Returns:
            Onsets of the responses in seconds, their heights in uS, middles of the movements in
            seconds, their sizes relative to a usual one.
        """
        if number not in self._blocks:
            if len(self._blocks) >= _KEPT_BLOCKS:
                self._blocks.pop(min(self._blocks))
            self._blocks[number] = self._draw_block(number)
        return self._blocks[number]

    def _draw_block(self, number: int) -> tuple[Curve, ...]:
        rng = generator("minute", *self._key, number)
        start_s = number * _BLOCK_S
        aroused_s, aroused = self._aroused_responses(rng, start_s)
        own_s = start_s + 15 * (np.arange(4) + rng.random(4))
        own = self._response_us * (0.1 + 0.4 * rng.random(4)) * (rng.random(4) < 0.5)
        moved_s = start_s + _BLOCK_S * rng.random(1)
        moved = rng.uniform(0.4, 1.6, 1) * rng.choice((-1, 1)) * (rng.random(1) < _MOTION_PER_MIN)
        return np.concatenate((aroused_s, own_s)), np.concatenate((aroused, own)), moved_s, moved

    def _aroused_responses(self, rng: np.random.Generator, start_s: float) -> tuple[Curve, Curve]:
        """Onsets and heights of responses that grow in number and height with the arousal."""
        slot_s = 2.0
        n_slots = round(_BLOCK_S / slot_s)
        onsets_s = start_s + slot_s * (np.arange(n_slots) + rng.random(n_slots))
        arousal = self._course.felt(onsets_s - self._skin_lag_s)[1]
        drive = 0.15 + 0.275 * (1 + arousal)
        return onsets_s, 1.2 * self._response_us * np.maximum(0, drive - rng.random(n_slots))

    # -- heart, breath and skin temperature

    def _breath_turns(self, t_s: Times) -> Curve:
        """Breaths since some time: the integral of their rate."""
        lagged_s = t_s - self._breath_lag_s
        turns: Curve = t_s + 0.09 * self._breath_gain * self._course.arousal_integral(lagged_s)
        turns += 0.05 * self._breath_unrest.integral(t_s)[0]
        if self._course.pain is not None:
            turns += 0.15 * self._breath_gain * self._course.pain.integral(lagged_s)
        turns *= self._breath_hz
        turns += self._breath_phase
        return turns

    def _beats(self, t_s: Times, breath_rad: Curve) -> Curve:
        """Heart beats since some time: the integral of their rate."""
        lagged_s = t_s - self._heart_lag_s
        beats: Curve = t_s + 0.08 * self._heart_gain * self._course.arousal_integral(lagged_s)
        beats += 0.02 * self._heart_unrest.integral(t_s)[0]
        if self._course.pain is not None:
            beats += 0.12 * self._heart_gain * self._course.pain.integral(lagged_s)
        # its derivative is the sinus arrhythmia: the rate swings with the breath
        beats -= self._sinus_arrhythmia * np.cos(breath_rad) / (2 * math.pi * self._breath_hz)
        beats *= self._heart_hz
        beats += self._heart_phase
        return beats

    def _ecg(self, t_s: Times) -> Curve:
        breath_rad = 2 * math.pi * self._breath_turns(t_s)
        beats = self._beats(t_s, breath_rad)
        phase = beats - np.rint(beats)
        volts: Curve = np.zeros_like(phase)
        for height, place, width in _WAVES:
            volts += height * np.exp(-0.5 * ((phase - place) / width) ** 2)
        volts *= self._beat_height * (1 + 0.05 * np.sin(breath_rad))
        volts += 0.05 * np.sin(breath_rad + 1) + 0.03 * self._baseline.at(t_s)[0]
        return volts

    def _ppg(self, t_s: Times) -> Curve:
        breath_rad = 2 * math.pi * self._breath_turns(t_s)
        beats = self._beats(t_s, breath_rad)
        wave: Curve = np.zeros_like(beats)
        for height, place, width in _PULSE_WAVES:
            distance = beats - place - np.rint(beats - place)
            wave += height * np.exp(-0.5 * (distance / width) ** 2)
        narrowed = self._course.sluggish_arousal(t_s, self._heart_lag_s)
        wave *= self._beat_height * np.exp(-0.25 * self._cooling_gain * narrowed)
        wave += 0.1 * np.sin(breath_rad + 2) + 0.2 * self._baseline.at(t_s)[0]
        return wave

    def _rsp(self, t_s: Times) -> Curve:
        breath_rad = 2 * math.pi * self._breath_turns(t_s)
        depth: Curve = 0.75 + 0.2 * self._breath_gain * self._course.felt(t_s - self._breath_lag_s)[1]
        depth += 0.05 * self._breath_unrest.at(t_s)[1]
        depth *= np.sin(breath_rad) - 0.22 * np.sin(2 * breath_rad + 0.4)
        return depth

    def _skt(self, t_s: Times) -> Curve:
        degc: Curve = self._skin_degc + 0.12 * self._drift.at(t_s)[1]
        degc -= 0.9 * self._cooling_gain * self._course.sluggish_arousal(t_s, self._cooling_lag_s)
        pain = self._course.pain
        if pain is not None:
            near = _between(pain.onset_s, t_s[0] - _COOLING_END_S, t_s[-1])
            sizes = 0.15 * self._cooling_gain * pain.intensity[near]
            degc -= _pulses(t_s, pain.onset_s[near], sizes, _COOLING_RISE_S, _COOLING_DECAY_S, _COOLING_END_S)
        return degc

    def _motion(self, t_s: Times) -> Curve:
        """Jerks of the hand, about 1 high."""
        jerks = np.zeros_like(t_s)
        first = math.floor((t_s[0] - 4 * _MOTION_S) / _BLOCK_S)
        for number in range(first, math.floor((t_s[-1] + 4 * _MOTION_S) / _BLOCK_S) + 1):
            (middle_s,), (size,) = self._block(number)[2:]
            distance = (t_s - middle_s) / _MOTION_S
            jerk = size * np.exp(-(distance**2)) * np.cos(5 * distance)
            jerks += np.where(np.abs(distance) < 4, jerk, 0.0)
        return jerks


def _between(times_s: Curve, low_s: float, high_s: float) -> slice:
    """The part of rising times that lies between two others."""
    first, last = np.searchsorted(times_s, (low_s, high_s))
    return slice(int(first), int(last))


def _responses(t_s: Times, onsets_s: Curve, heights: Curve) -> Curve:
    """Skin responses of the given heights."""
    return _pulses(t_s, onsets_s, heights / _PEAK, _RESPONSE_RISE_S, _RESPONSE_DECAY_S, _RESPONSE_END_S)


def _pulses(t_s: Times, onsets_s: Curve, sizes: Curve, rise_s: float, decay_s: float, end_s: float) -> Curve:
    """Sum of pulses that rise and decay exponentially: (n,)."""
    # one by one, so that the sum does not depend on how many times are asked for at once
    total = np.zeros_like(t_s)
    for onset_s, size in zip(onsets_s, sizes, strict=True):
        if size and onset_s <= t_s[-1] and onset_s > t_s[0] - end_s:
            since_s = np.clip(t_s - onset_s, 0, end_s)
            pulse = np.exp(-since_s / decay_s) - np.exp(-since_s / rise_s)
            total += np.where(since_s < end_s, size * pulse, 0.0)
    return total

"""The simulated person's voice: glottal pulses and breath noise through a moving vocal tract.

Speech is a row of utterances, each a few words and then a short pause. What is said (`Utterance`)
is planned ahead of how it sounds, so that the lips of the picture can move with the same syllables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from edge_mer.clock import NS_PER_S
from edge_mer.sources.sim_words import Word, draw_words

Floats = NDArray[np.float32]
Affect = Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Valence and arousal, each -1 to 1, at times in seconds."""
Random = Callable[[str], np.random.Generator]
"""A generator for a purpose; the same purpose gives the same numbers."""

RATE_HZ = 44_100
MAX_PAUSE_S = 0.45

_HOP = 512
_WINDOW = 2 * _HOP
_FFT = 2048
_VOICE_BAND_HZ = 8_000.0
_VOWELS_HZ = np.array(  # in the order of the vocabulary's vowels
    [
        [730.0, 1250.0, 2500.0, 3500.0],  # a
        [530.0, 1840.0, 2480.0, 3500.0],  # e
        [290.0, 2250.0, 2950.0, 3600.0],  # i
        [500.0, 900.0, 2450.0, 3400.0],  # o
        [320.0, 850.0, 2300.0, 3400.0],  # u
    ]
)
_BANDWIDTHS_HZ = np.array([75.0, 95.0, 140.0, 220.0])
_LIP_OPENING = np.array([1.0, 0.65, 0.3, 0.7, 0.35])


@dataclass(frozen=True)
class Speaker:
    """What stays the same about a voice.

    Attributes:
        pitch_hz: Pitch at rest.
        formant_scale: Formants relative to an average tract; more = shorter tract.
        gain: Loudness relative to an average speaker.
        breath: Share of breath noise, 0 to 1.
        tempo: Speaking rate relative to an average speaker.
    """

    pitch_hz: float
    formant_scale: float
    gain: float
    breath: float
    tempo: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Speaker:
        """A random voice; short tracts and high pitches go together."""
        height = rng.uniform()
        return cls(
            pitch_hz=float(95 * 2 ** (1.15 * height + rng.normal(0, 0.08))),
            formant_scale=float(0.94 + 0.22 * height + rng.normal(0, 0.02)),
            gain=float(10 ** (rng.uniform(-2.5, 2.5) / 20)),
            breath=float(rng.uniform(0.1, 0.5)),
            tempo=float(rng.uniform(0.88, 1.14)),
        )


@dataclass(frozen=True)
class Utterance:
    """A few words and the pause after them.

    Attributes:
        number: Counts the utterances of the conversation.
        start: Index of its first sample in the session.
        n_samples: Its length, pause included.
        onsets_s: Start of each syllable, and the end of the last, in seconds after `start`.
        vowels: Row of the vowel table for each syllable.
        stresses: Emphasis of each syllable, 0 to 1.
        hisses: Strength of the consonant before each syllable, 0 to 1.
        words: The words, in the order of their syllables.
    """

    number: int
    start: int
    n_samples: int
    onsets_s: NDArray[np.float64]
    vowels: NDArray[np.int64]
    stresses: NDArray[np.float64]
    hisses: NDArray[np.float64]
    words: tuple[Word, ...]

    @property
    def end(self) -> int:
        """Index of the first sample after it."""
        return self.start + self.n_samples

    def spoken(self) -> Iterator[tuple[int, int, str]]:
        """Start and end in nanoseconds of the session, and text, of each word."""
        start_ns, syllable = self.start * NS_PER_S // RATE_HZ, 0
        for word in self.words:
            begin, end = self.onsets_s[[syllable, syllable + len(word.vowels)]].tolist()
            yield start_ns + int(begin * NS_PER_S), start_ns + int(end * NS_PER_S), word.text
            syllable += len(word.vowels)

    def lip_opening(self, t_s: float) -> float:
        """How far speaking opens the lips, 0 to 1, at a time after its start."""
        if not 0 <= t_s < self.onsets_s[-1]:
            return 0.0
        syllable = int(np.searchsorted(self.onsets_s, t_s, side="right")) - 1
        begin, end = self.onsets_s[syllable : syllable + 2]
        bow = math.sin(math.pi * (t_s - begin) / (end - begin))
        return float(_LIP_OPENING[self.vowels[syllable]] * bow)


class Voice:
    """One person speaking.

    Args:
        speaker: The voice.
        affect: Valence and arousal that the voice shows over the session.
        random: Where its random numbers come from.
        room_noise: Factor of the room's noise.
    """

    def __init__(self, speaker: Speaker, affect: Affect, random: Random, room_noise: float = 1.0) -> None:
        self._room_noise = room_noise
        self._speaker = speaker
        self._affect = affect
        self._random = random

    def plan(self, number: int, start: int) -> Utterance:
        """What the person says next.

        Args:
            number: Counts the utterances of the conversation.
            start: Index of its first sample in the session.
        """
        rng = self._random(f"words {number}")
        valence, arousal = (part.item() for part in self._affect(np.array([start / RATE_HZ])))
        words = draw_words(rng, int(rng.integers(2, 5)), valence)
        vowels = np.concatenate([word.vowels for word in words])
        n_syllables = len(vowels)
        rate_hz = self._speaker.tempo * 4.1 * 2 ** (0.5 * arousal)
        durations_s = rng.uniform(0.75, 1.3, n_syllables) / rate_hz
        onsets_s = np.concatenate(([0.0], np.cumsum(durations_s)))
        pause_s = min(MAX_PAUSE_S, 0.28 * 2 ** (-0.7 * arousal) * rng.uniform(0.6, 1.4))
        return Utterance(
            number=number,
            start=start,
            n_samples=round((onsets_s[-1] + pause_s) * RATE_HZ),
            onsets_s=onsets_s,
            vowels=vowels,
            stresses=rng.uniform(0, 1, n_syllables) ** 2,
            hisses=rng.uniform(0.8, 1, n_syllables) * np.concatenate([word.hisses for word in words]),
            words=tuple(words),
        )

    def render(self, utterance: Utterance) -> Floats:
        """The sound of one utterance: (n_samples,), float32, -1 to 1."""
        rng = self._random(f"sound {utterance.number}")
        n_frames = math.ceil(utterance.n_samples / _HOP) + 1
        frame_s = np.arange(n_frames, dtype=np.float64) * (_HOP / RATE_HZ)
        valence, arousal = self._affect(utterance.start / RATE_HZ + frame_s)
        loudness = self._loudness(utterance, frame_s, arousal)
        pitch_hz = self._pitch_hz(utterance, frame_s, valence, arousal, rng)
        n_padded = n_frames * _HOP
        noise = rng.standard_normal(n_padded, dtype=np.float32)
        level = _per_sample(loudness, n_padded)
        pulses = _glottal_pulses(_per_sample(pitch_hz, n_padded))
        breath = np.float32(0.12 * self._speaker.breath) * noise
        voiced = _filtered((pulses + breath) * level, self._tract(utterance, frame_s, valence, arousal))
        hiss = noise * _per_sample(self._hiss_level(utterance, frame_s, arousal), n_padded)
        room = np.float32(4e-4 * self._room_noise) * noise
        sound = voiced + _filtered(hiss, _hiss_response(n_frames)) + room
        return np.tanh(sound[: utterance.n_samples])

    def _loudness(
        self, utterance: Utterance, frame_s: NDArray[np.float64], arousal: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Linear level per frame: syllables with dips between them, silence in the pause."""
        onsets_s = utterance.onsets_s
        fractions = np.array([0.0, 0.22, 0.75])
        durations_s = np.diff(onsets_s)
        knots_s = (onsets_s[:-1, None] + fractions * durations_s[:, None]).ravel()
        peaks = 0.65 + 0.5 * utterance.stresses
        knots = np.stack((np.full(len(peaks), 0.15), peaks, 0.8 * peaks), axis=1).ravel()
        knots[0] = 0.0
        envelope = np.interp(frame_s, np.append(knots_s, onsets_s[-1]), np.append(knots, 0.0), right=0.0)
        decibels = 7.5 * arousal
        level: NDArray[np.float64] = 0.16 * self._speaker.gain * envelope * 10 ** (decibels / 20)
        return level

    def _pitch_hz(
        self,
        utterance: Utterance,
        frame_s: NDArray[np.float64],
        valence: NDArray[np.float64],
        arousal: NDArray[np.float64],
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        """Pitch per frame; pleasant speech rises towards the end and swings more."""
        onsets_s = utterance.onsets_s
        middles_s = (onsets_s[:-1] + onsets_s[1:]) / 2
        accent = np.interp(frame_s, middles_s, utterance.stresses) - 0.33
        progress = np.minimum(frame_s / onsets_s[-1], 1.0)
        tremor = np.convolve(rng.normal(0, 0.02, len(frame_s) + 2), np.ones(3) / 3, mode="valid")
        octaves = (
            0.42 * arousal
            + 0.30 * (1 + 0.5 * valence + 0.3 * arousal) * accent
            + (0.22 * valence - 0.10) * (progress - 0.5)
            + tremor
        )
        pitch: NDArray[np.float64] = self._speaker.pitch_hz * 2**octaves
        return pitch

    def _tract(
        self,
        utterance: Utterance,
        frame_s: NDArray[np.float64],
        valence: NDArray[np.float64],
        arousal: NDArray[np.float64],
    ) -> NDArray[np.complex64]:
        """Frequency response per frame: formants that glide between vowels, and the source's tilt."""
        onsets_s = utterance.onsets_s
        middles_s = (onsets_s[:-1] + onsets_s[1:]) / 2
        targets_hz = _VOWELS_HZ[utterance.vowels]
        formants_hz = np.stack([np.interp(frame_s, middles_s, targets_hz[:, k]) for k in range(4)], axis=1)
        spread = 1 + 0.06 * valence[:, None] * np.array([0.7, 1.0, 0.6, 0.3])
        formants_hz = formants_hz * self._speaker.formant_scale * spread
        f_hz = _voice_band_hz()
        response = np.ones((len(frame_s), len(f_hz)), np.complex64)
        square = np.square(f_hz)[None]
        for k in range(4):
            centre = formants_hz[:, k, None].astype(np.float32)
            width = np.float32(_BANDWIDTHS_HZ[k]) * f_hz[None]
            response *= centre**2 / (centre**2 - square + np.complex64(1j) * width)
        steepness = (0.75 - 0.30 * arousal - 0.22 * valence).astype(np.float32)[:, None]
        tilt = (1 + square / np.float32(600.0**2)) ** (-steepness / 2)
        # formants above the fourth lift what four poles alone would lose
        lift = (1 + square / np.float32(4000.0**2)) * np.clip((_VOICE_BAND_HZ - f_hz) / 1500, 0, 1)
        return response * (tilt * lift)

    def _hiss_level(
        self, utterance: Utterance, frame_s: NDArray[np.float64], arousal: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Level per frame of consonants at syllable onsets, and of the breath drawn in the pause."""
        distance_s = frame_s[:, None] - utterance.onsets_s[None, :-1]
        consonants = np.exp(-((distance_s / 0.028) ** 2)) @ utterance.hisses
        middle_s = (utterance.onsets_s[-1] + utterance.n_samples / RATE_HZ) / 2
        half_s = max(0.05, utterance.n_samples / RATE_HZ - middle_s)
        inhaling = np.exp(-(((frame_s - middle_s) / (0.6 * half_s)) ** 2))
        level: NDArray[np.float64] = self._speaker.gain * (
            0.030 * 10 ** (5 * arousal / 20) * consonants + (0.003 + 0.003 * self._speaker.breath) * inhaling
        )
        return level


def _voice_band_hz() -> Floats:
    n_bins = round(_VOICE_BAND_HZ * _FFT / RATE_HZ)
    return (np.arange(n_bins) * (RATE_HZ / _FFT)).astype(np.float32)


def _per_sample(values: NDArray[np.float64], n_samples: int) -> Floats:
    """Values per frame, interpolated to every sample."""
    slopes = np.diff(values, append=values[-1:])[:, None]
    ramp = np.arange(_HOP) / _HOP
    return (values[:, None] + slopes * ramp).astype(np.float32).reshape(-1)[:n_samples]


def _glottal_pulses(pitch_hz: Floats) -> Floats:
    """Derivative of Rosenberg's glottal flow, one pulse per period, of similar level at every pitch."""
    opening, closing = 0.40, 0.16
    phase = np.cumsum(pitch_hz.astype(np.float64) / RATE_HZ) % 1
    phase = phase.astype(np.float32)
    rising = np.sin(np.float32(math.pi / opening) * phase) * np.float32(closing / opening)
    falling = -np.sin(np.float32(math.pi / 2 / closing) * (phase - np.float32(opening)))
    zero = np.float32(0)
    return np.where(phase < opening, rising, np.where(phase < opening + closing, falling, zero))


def _hiss_response(n_frames: int) -> NDArray[np.complex64]:
    f_hz = np.arange(_FFT // 2 + 1) * (RATE_HZ / _FFT)
    band = np.exp(-(((f_hz - 5500) / 2500) ** 2)).astype(np.complex64)
    return np.broadcast_to(band, (n_frames, len(band)))


def _filtered(sound: Floats, responses: NDArray[np.complex64]) -> Floats:
    """Each frame of `sound` through its own response; bins that a response lacks are silent."""
    n_frames, n_bins = responses.shape
    padded = np.concatenate((np.zeros(_HOP, np.float32), sound, np.zeros(_HOP, np.float32)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][:n_frames]
    window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
    spectra = fft.rfft(frames * window, _FFT)[:, :n_bins]
    pieces = fft.irfft(spectra * responses, _FFT).astype(np.float32)
    mixed = np.zeros((n_frames + _FFT // _HOP, _HOP), np.float32)
    for part in range(_FFT // _HOP):
        mixed[part : part + n_frames] += pieces[:, part * _HOP : (part + 1) * _HOP]
    return mixed.reshape(-1)[_HOP : _HOP + len(sound)]

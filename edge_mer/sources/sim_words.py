"""The words that simulated people say: a language of sixteen words, made for nothing but this.

A word is one to three syllables, each a consonant (of "m", "h", "f", "s", from none to much hiss) and a
vowel. Some words are pleasant, some are not; which ones are said depends on the valence that the voice
shows, so that a transcript tells something, and nothing that the voice does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VOWELS = "aeiou"
_HISS = {"m": 0.0, "h": 0.4, "f": 0.7, "s": 1.0}
_PLEASANT = ("ma", "sime", "hafi", "misa", "fe")
_NEUTRAL = ("mo", "fase", "hesi", "sumo", "ha", "safemi")
_UNPLEASANT = ("so", "fumu", "hosa", "mufe", "su")
_PULL = 1.2
"""Logarithm of how much likelier a pleasant word is than a neutral one at full valence."""


@dataclass(frozen=True)
class Word:
    """A word.

    Attributes:
        text: How it is written.
        vowels: Place in `VOWELS` of each syllable's vowel.
        hisses: Strength of each syllable's consonant, 0 to 1.
        tone: 1 pleasant, 0 neutral, -1 unpleasant.
    """

    text: str
    vowels: tuple[int, ...]
    hisses: tuple[float, ...]
    tone: int


def _word(text: str, tone: int) -> Word:
    vowels = tuple(VOWELS.index(letter) for letter in text[1::2])
    return Word(text, vowels, tuple(_HISS[letter] for letter in text[::2]), tone)


VOCABULARY = tuple(
    _word(text, tone) for tone, texts in ((1, _PLEASANT), (0, _NEUTRAL), (-1, _UNPLEASANT)) for text in texts
)
_TONES: NDArray[np.float64] = np.array([word.tone for word in VOCABULARY], np.float64)


def draw_words(rng: np.random.Generator, n_words: int, valence: float) -> list[Word]:
    """Random words of an utterance that shows a valence of -1 to 1."""
    weights = np.exp(_PULL * valence * _TONES)
    chosen = rng.choice(len(VOCABULARY), n_words, p=weights / weights.sum())
    return [VOCABULARY[k] for k in chosen.tolist()]

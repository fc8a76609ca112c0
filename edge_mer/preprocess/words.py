"""From words to the token numbers of a text encoder, and from its vectors back to words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.errors import BundleError, MissingError
from edge_mer.types.model import Words

_N_SPECIAL = 2
"""Tokens that begin and end an utterance."""


@dataclass(frozen=True)
class Utterance:
    """Words that are encoded together.

    Attributes:
        ids: (1, token) int64.
        word_of: (token,) int64: which of the words each token belongs to; -1 for none.
        first: Place of its first word among those that were given.
        n_words: How many words it has.
    """

    ids: NDArray[np.int64]
    word_of: NDArray[np.int64]
    first: int
    n_words: int

    def word_vectors(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean of each word's token vectors: (token, feature) -> (n_words, feature)."""
        out = np.zeros((self.n_words, vectors.shape[1]), np.float32)
        for word in range(self.n_words):
            own = vectors[self.word_of == word]
            if len(own):
                out[word] = own.mean(axis=0)
        return out


class WordTokenizer:
    """Cuts words into tokens.

    Args:
        spec: What the model declares.
        tokenizer: Content of its tokenizer's file.

    Raises:
        MissingError: The `tokenizers` library is not installed.
        BundleError: The file is no tokenizer.
    """

    def __init__(self, spec: Words, tokenizer: bytes) -> None:
        self._spec = spec
        try:
            library = import_module("tokenizers")
        except ImportError as error:
            raise MissingError(
                "this model reads words, and the tokenizers library is not installed",
                hint="pip install 'edge-mer[text]'",
            ) from error
        try:
            self._tokenizer: Any = library.Tokenizer.from_str(tokenizer.decode())
        except Exception as error:  # the library raises plain Exception
            raise BundleError(f"{spec.tokenizer} is no tokenizer", found=str(error)) from error
        self._tokenizer.enable_truncation(spec.max_tokens)  # of one endless word
        self._tokenizer.no_padding()

    def utterances(self, words: Sequence[str]) -> Iterator[Utterance]:
        """The words as one utterance, or as several where they are too many tokens for one."""
        sizes = [max(1, self._n_tokens(word)) for word in words]
        first = 0
        while first < len(words):
            stop, n_tokens = first, _N_SPECIAL
            while stop < len(words) and (stop == first or n_tokens + sizes[stop] <= self._spec.max_tokens):
                n_tokens += sizes[stop]
                stop += 1
            yield self._encode(words[first:stop], first)
            first = stop

    def _n_tokens(self, word: str) -> int:
        return len(self._tokenizer.encode([word], is_pretokenized=True, add_special_tokens=False).ids)

    def _encode(self, words: Sequence[str], first: int) -> Utterance:
        found = self._tokenizer.encode(list(words), is_pretokenized=True)
        word_of = [-1 if word is None else word for word in found.word_ids]
        return Utterance(
            ids=np.array([found.ids], np.int64),
            word_of=np.array(word_of, np.int64),
            first=first,
            n_words=len(words),
        )


def write_words(vector: NDArray[np.float32] | None, spec: Words, out: NDArray[np.float32]) -> None:
    """Write one step's feature into `out`.

    Args:
        vector: (feature,) of the word that was being said; None between words.
        spec: What the model declares.
        out: (feature,) float32.
    """
    if vector is None:
        out[...] = -spec.mean / spec.std
    else:
        np.divide(vector - np.float32(spec.mean), np.float32(spec.std), out=out)

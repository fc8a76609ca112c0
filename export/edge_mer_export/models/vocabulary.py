"""Tokenizers of text encoders, from the files that come with their weights."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from edge_mer.errors import DataError
from edge_mer.sources.sim_words import VOCABULARY

TOKENIZER = "text/tokenizer.json"
"""Where it lies in a bundle."""

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def tokenizer_of(data: bytes) -> bytes:
    """A tokenizer in the `tokenizers` library's own format.

    Args:
        data: Content of a tokenizer.json, or of a vocab.txt with one token per line (BERT, lower case).

    Raises:
        DataError: It is neither.
    """
    if data.lstrip()[:1] == b"{":
        try:
            Tokenizer.from_str(data.decode())
        except Exception as error:  # the library raises plain Exception
            raise DataError("the vocabulary is no tokenizer.json", found=str(error)) from error
        return data
    try:
        tokens = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise DataError("the vocabulary is neither vocab.txt nor tokenizer.json", found=str(error)) from error
    missing = [token for token in _SPECIAL if token not in tokens]
    if missing:
        raise DataError(
            "the vocabulary is no vocab.txt of BERT",
            expected=f"one token per line, among them {', '.join(_SPECIAL)}",
            found=f"{len(tokens)} lines without {', '.join(missing)}",
        )
    return _word_piece(tokens)


def simulated_words() -> bytes:
    """A tokenizer that knows each word of simulated people, and the letters of all others."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [word.text for word in VOCABULARY]
    return _word_piece([*_SPECIAL, *words, *letters, *(f"##{letter}" for letter in letters)])


def _word_piece(tokens: list[str]) -> bytes:
    numbers = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(WordPiece(numbers, unk_token="[UNK]"))  # noqa: S106 -- no password
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, numbers[token]) for token in ("[CLS]", "[SEP]")],
    )
    return str(tokenizer.to_str()).encode()

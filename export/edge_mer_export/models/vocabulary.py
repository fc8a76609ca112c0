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


def tokenizer_of(data: bytes, n_words: int | None = None) -> bytes:
    """A tokenizer in the `tokenizers` library's own format.

    Args:
        data: Content of a tokenizer.json, or of a vocab.txt with one token per line (BERT, lower case).
        n_words: How many tokens the text encoder knows.

    Raises:
        DataError: It is neither, or knows tokens that the text encoder does not.
    """
    made = _tokenizer_of(data)
    if n_words is not None and (n_found := n_tokens(made)) > n_words:
        raise DataError(
            "the vocabulary does not belong to the text encoder",
            expected=f"at most {n_words} tokens, as many as its weights have vectors",
            found=f"{n_found}",
            hint="give the vocabulary that lies beside the text encoder's weights",
        )
    return made


def n_tokens(tokenizer: bytes) -> int:
    """How many tokens a tokenizer in the library's own format knows."""
    return max(Tokenizer.from_str(tokenizer.decode()).get_vocab().values(), default=-1) + 1


def _tokenizer_of(data: bytes) -> bytes:
    if data.lstrip()[:1] == b"{":
        try:
            Tokenizer.from_str(data.decode())
        except Exception as error:  # the library raises plain Exception
            raise DataError(
                "the vocabulary is no tokenizer.json",
                expected="a file that the tokenizers library wrote",
                found=str(error),
                hint="give vocab.txt or tokenizer.json from where the text encoder's weights are",
            ) from error
        return data
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            "the vocabulary is neither vocab.txt nor tokenizer.json",
            expected="text in UTF-8",
            found=str(error),
            hint="give vocab.txt or tokenizer.json from where the text encoder's weights are",
        ) from error
    tokens = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    missing = [token for token in _SPECIAL if token not in tokens]
    if missing:
        raise DataError(
            "the vocabulary is no vocab.txt of BERT",
            expected=f"one token per line, among them {', '.join(_SPECIAL)}",
            found=f"{len(tokens)} lines without {', '.join(missing)}",
            hint="give vocab.txt or tokenizer.json from where the text encoder's weights are",
        )
    return _word_piece(tokens)


def simulated_words() -> bytes:
    """A tokenizer that knows each word of simulated people, and the letters of all others."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [word.text for word in VOCABULARY]
    return _word_piece([*_SPECIAL, *words, *letters, *(f"##{letter}" for letter in letters)])


def _word_piece(tokens: list[str]) -> bytes:
    numbers = {token: number for number, token in enumerate(tokens)}  # the number is the line's
    tokenizer = Tokenizer(WordPiece(numbers, unk_token="[UNK]"))  # noqa: S106 -- no password
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, numbers[token]) for token in ("[CLS]", "[SEP]")],
    )
    return str(tokenizer.to_str()).encode()

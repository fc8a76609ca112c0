"""Tokenizers from vocab.txt and tokenizer.json."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import json
from typing import Any

import pytest

tokenizers = pytest.importorskip(
    "tokenizers", reason="the workbench needs tokenizers: pip install 'edge-mer[export]'"
)

from edge_mer.errors import DataError
from edge_mer_export.models.vocabulary import simulated_words, tokenizer_of

pytestmark = pytest.mark.workbench

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "so", "##fe", "new")


def lines(*tokens: str, end: str = "\n") -> bytes:
    return "".join(token + end for token in tokens).encode()


def loaded(data: bytes) -> Any:
    return tokenizers.Tokenizer.from_str(data.decode())


def refusal(data: bytes, n_words: int | None = None) -> str:
    with pytest.raises(DataError) as caught:
        tokenizer_of(data, n_words)
    return str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_vocab_txt_becomes_a_tokenizer(end: str) -> None:
    made = loaded(tokenizer_of(lines(*WORDS, end=end)))
    assert made.encode("New sofe xyz").ids == [2, 6, 4, 5, 1, 3]
    assert made.get_vocab_size() == len(WORDS)


def test_the_last_line_needs_no_end() -> None:
    assert tokenizer_of(lines(*WORDS).removesuffix(b"\n")) == tokenizer_of(lines(*WORDS))


@pytest.mark.parametrize("odd", ["", "\u2028", "\x85", "\x1c", "so"])
def test_a_token_keeps_the_number_of_its_line(odd: str) -> None:
    made = loaded(tokenizer_of(lines(*WORDS[:5], odd, *WORDS[5:])))
    assert made.token_to_id("new") == 7


def test_a_tokenizer_json_is_taken_as_it_is() -> None:
    data = tokenizer_of(lines(*WORDS))
    assert tokenizer_of(data) == data
    assert tokenizer_of(b"\n " + data) == b"\n " + data


def test_words_of_simulated_people_are_known() -> None:
    made = loaded(simulated_words())
    assert 1 not in made.encode("zq").ids


def test_as_many_tokens_as_the_text_encoder_knows_are_taken() -> None:
    assert tokenizer_of(lines(*WORDS), len(WORDS)) == tokenizer_of(lines(*WORDS))


@pytest.mark.parametrize("data", [lines(*WORDS), tokenizer_of(lines(*WORDS))])
def test_more_tokens_than_the_text_encoder_knows_are_refused(data: bytes) -> None:
    text = refusal(data, 6)
    assert "at most 6 tokens" in text
    assert "Found: 7" in text
    assert "beside the text encoder's weights" in text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "found: 1 lines without [pad], [unk], [cls], [sep]"),
        (lines("so", "new"), "2 lines without [pad], [unk], [cls], [sep]"),
        (lines(*WORDS[:3]), "3 lines without [sep]"),
        (b"\xff\xfe\x00", "neither vocab.txt nor tokenizer.json"),
        (b"{", "no tokenizer.json"),
        (json.dumps({"version": "1.0"}).encode(), "no tokenizer.json"),
        (b"{\xff", "no tokenizer.json"),
    ],
)
def test_what_is_no_vocabulary_is_refused(data: bytes, said: str) -> None:
    text = refusal(data)
    assert said in text.lower()
    assert "Expected:" in text
    assert "Found:" in text
    assert "Next: give vocab.txt or tokenizer.json" in text

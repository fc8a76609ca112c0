"""Words become tokens of utterances, and token vectors become vectors of words."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mer.errors import BundleError, MissingError
from edge_mer.preprocess.words import Utterance, WordTokenizer, write_words
from edge_mer.types.model import Words
from tests.helpers import tiny_words
from tests.helpers.tiny_words import TOKENS

UNKNOWN, BEGIN, END = 0, 1, 2


def spec(**changes: Any) -> Words:
    return Words(**({"tokenizer": "text/tokenizer.json", "max_tokens": 8} | changes))


@pytest.fixture(scope="module")
def content() -> bytes:
    pytest.importorskip("tokenizers", reason="needs the tokenizers library")
    return tiny_words.tokenizer_bytes()


def cut(content: bytes, *words: str, **changes: Any) -> list[Utterance]:
    return list(WordTokenizer(spec(**changes), content).utterances(words))


def tokens(utterance: Utterance) -> list[str]:
    return [TOKENS[number] for number in utterance.ids[0]]


def test_words_become_one_utterance_with_its_beginning_and_end(content: bytes) -> None:
    (one,) = cut(content, "so", "SaFe", "mo")
    assert tokens(one) == ["[CLS]", "so", "sa", "##fe", "mo", "[SEP]"]
    assert one.word_of.tolist() == [-1, 0, 1, 1, 2, -1]
    assert (one.first, one.n_words) == (0, 3)
    assert (one.ids.shape, one.ids.dtype) == ((1, 6), np.int64)


def test_a_word_is_the_mean_of_its_tokens_and_of_no_other(content: bytes) -> None:
    (one,) = cut(content, "so", "safemi", "mo")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(one.ids.shape[1], 5)).astype(np.float32)
    found = one.word_vectors(vectors)
    expected = [vectors[1], (vectors[2] + vectors[3] + vectors[4]) / 3, vectors[5]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    vectors[[0, -1]] = 1e9  # beginning and end belong to no word
    np.testing.assert_allclose(one.word_vectors(vectors), expected, rtol=1e-6)
    assert found.dtype == np.float32


def test_a_long_utterance_is_cut_between_words(content: bytes) -> None:
    parts = cut(content, "so", "safemi", "mo", "safe", "so", "so", "ha")
    assert [tokens(part)[1:-1] for part in parts] == [
        ["so", "sa", "##fe", "##mi", "mo"],
        ["sa", "##fe", "so", "so", "ha"],
    ]
    assert [(part.first, part.n_words) for part in parts] == [(0, 3), (3, 4)]


@pytest.mark.parametrize(("n_words", "sizes"), [(6, [6]), (7, [6, 1]), (12, [6, 6]), (13, [6, 6, 1])])
def test_an_utterance_may_fill_all_of_its_tokens(content: bytes, n_words: int, sizes: list[int]) -> None:
    parts = cut(content, *["so"] * n_words)
    assert [part.n_words for part in parts] == sizes
    assert max(part.ids.size for part in parts) <= 8


def test_a_word_of_too_many_tokens_stands_alone_and_loses_its_last_ones(content: bytes) -> None:
    first, endless, last = cut(content, "so", "sa" + "fe" * 20, "mo")
    assert tokens(first) == ["[CLS]", "so", "[SEP]"]
    assert tokens(endless) == ["[CLS]", "sa", *["##fe"] * 5, "[SEP]"]
    assert endless.word_of.tolist() == [-1, *[0] * 6, -1]
    assert tokens(last) == ["[CLS]", "mo", "[SEP]"]
    assert [part.first for part in (first, endless, last)] == [0, 1, 2]


@pytest.mark.parametrize("n_more", [4, 5, 6])
def test_a_word_just_as_long_as_an_utterance(content: bytes, n_more: int) -> None:
    parts = cut(content, "sa" + "fe" * n_more, "so")
    assert [tokens(part)[-1] for part in parts] == ["[SEP]"] * len(parts)
    assert [part.ids.size for part in parts] == ([8] if n_more == 4 else [8, 3])


def test_a_word_of_no_tokens_is_a_vector_of_zeros(content: bytes) -> None:
    (one,) = cut(content, "so", "", "mo", " ")
    assert tokens(one) == ["[CLS]", "so", "mo", "[SEP]"]
    found = one.word_vectors(np.ones((4, 3), np.float32))
    assert found.tolist() == [[1] * 3, [0] * 3, [1] * 3, [0] * 3]
    (nothing,) = cut(content, "")
    assert tokens(nothing) == ["[CLS]", "[SEP]"]
    assert nothing.word_vectors(np.ones((2, 3), np.float32)).tolist() == [[0] * 3]


def test_many_words_of_no_tokens_are_cut_as_well(content: bytes) -> None:
    assert [part.n_words for part in cut(content, *[""] * 20)] == [6, 6, 6, 2]


def test_an_unknown_word_is_one_token(content: bytes) -> None:
    (one,) = cut(content, "so", "zygote", "猫")
    assert one.ids.tolist() == [[BEGIN, 3, UNKNOWN, UNKNOWN, END]]
    assert one.word_of.tolist() == [-1, 0, 1, 2, -1]


def test_a_word_with_a_blank_or_a_stop_inside_stays_one_word(content: bytes) -> None:
    (one,) = cut(content, "new york", "so", "so.mo")
    assert tokens(one) == ["[CLS]", "new", "york", "so", "so", "[UNK]", "mo", "[SEP]"]
    assert one.word_of.tolist() == [-1, 0, 0, 1, 2, 2, 2, -1]
    vectors = np.arange(8, dtype=np.float32)[:, np.newaxis]
    assert one.word_vectors(vectors).ravel().tolist() == [1.5, 3.0, 5.0]


def test_a_thousand_words(content: bytes) -> None:
    words = [("so", "safe", "safemi", "new york", "zz")[i * i % 7 % 5] for i in range(1000)]
    parts = cut(content, *words, max_tokens=64)
    assert [part.first for part in parts] == np.cumsum([0, *(p.n_words for p in parts)])[:-1].tolist()
    assert sum(part.n_words for part in parts) == 1000
    assert all(part.ids.size <= 64 for part in parts)
    assert all(part.ids.size > 55 for part in parts[:-1])


def test_no_words_are_no_utterance(content: bytes) -> None:
    assert cut(content) == []


@settings(max_examples=50)
@given(words=st.lists(st.sampled_from(["so", "safemi", "", "new york", "x", "sa" + "fe" * 9]), max_size=12))
def test_every_word_has_its_place_in_exactly_one_utterance(content: bytes, words: list[str]) -> None:
    parts = cut(content, *words)
    assert [part.first + i for part in parts for i in range(part.n_words)] == list(range(len(words)))
    for part in parts:
        assert part.ids.size == part.word_of.size <= 8
        assert (part.ids[0, 0], part.ids[0, -1]) == (BEGIN, END)
        there = set(part.word_of.tolist()) - {-1}
        assert there <= set(range(part.n_words))
        for place in range(part.n_words):
            assert (place in there) == (words[part.first + place].strip() != "")


def test_a_tokenizer_that_cuts_and_pads_by_itself_changes_nothing(content: bytes) -> None:
    import tokenizers

    made = tokenizers.Tokenizer.from_str(content.decode())
    made.enable_padding(length=32)
    made.enable_truncation(4)
    assert [tokens(part) for part in cut(made.to_str().encode(), *["so"] * 5)] == [
        ["[CLS]", *["so"] * 5, "[SEP]"]
    ]


# -- what goes into a step -------------------------------------------------------------------------


def test_a_word_and_silence_are_normalised_alike() -> None:
    declared, out = spec(mean=0.5, std=4.0), np.full(3, np.nan, np.float32)
    write_words(np.array([0.5, 4.5, -3.5], np.float32), declared, out)
    assert out.tolist() == [0.0, 1.0, -1.0]
    write_words(None, declared, out)
    assert out.tolist() == [-0.125] * 3
    silence = out.copy()
    write_words(np.zeros(3, np.float32), declared, out)
    np.testing.assert_array_equal(out, silence)


# -- what goes wrong -------------------------------------------------------------------------------


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingError, match="the tokenizers library is not installed") as caught:
        WordTokenizer(spec(), b"{}")
    assert caught.value.hint == "pip install 'edge-mer[text]'"


@pytest.mark.parametrize(
    "garbage", [b"", b"{}", b"\xff\xfe\x00", b"[1, 2]", b'{"model": {}}', b"garbage" * 1000, b"null"]
)
def test_a_file_that_is_no_tokenizer_is_refused_by_name(content: bytes, garbage: bytes) -> None:
    with pytest.raises(BundleError, match=r"text/tokenizer\.json is no tokenizer"):
        WordTokenizer(spec(), garbage)


def test_half_a_tokenizer_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match="no tokenizer"):
        WordTokenizer(spec(), content[: len(content) // 2])

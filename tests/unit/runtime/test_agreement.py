"""Cohen's kappa against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mer.runtime.agreement import confusion, kappa, measure


def test_the_likeliest_class_is_counted_where_it_was_true() -> None:
    found = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [np.nan] * 3])
    truth = np.array([0, 2, 2, np.nan, 1])
    assert confusion(found, truth).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]


def test_nothing_is_counted_where_there_is_nothing() -> None:
    assert not confusion(np.full((3, 4), np.nan), np.zeros(3)).any()
    assert confusion(np.zeros((0, 4)), np.zeros(0)).shape == (4, 4)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # observed 35/50, by chance (25 * 30 + 25 * 20) / 2500 = 0.5
        ([[20, 5], [10, 15]], (0.7 - 0.5) / 0.5),
        ([[3, 0, 0], [0, 4, 0], [0, 0, 5]], 1.0),
        # rows and columns that know nothing of each other
        ([[2, 4], [3, 6]], 0.0),
        # always the other one of two classes that are as frequent
        ([[0, 5], [5, 0]], -1.0),
        ([[7, 0], [0, 0]], 0.0),
        ([[0, 0], [0, 0]], 0.0),
    ],
)
def test_kappa_is_agreement_beyond_chance(counts: list[list[int]], expected: float) -> None:
    assert kappa(np.array(counts, np.float64)) == pytest.approx(expected, abs=1e-12)


def test_many_kappas_at_once_are_those_of_each() -> None:
    counts = np.random.default_rng(0).integers(0, 9, (4, 5, 3, 3)).astype(np.float64)
    found = kappa(counts)
    assert found.shape == (4, 5)
    assert found[2, 3] == kappa(counts[2, 3])


def test_only_classes_have_a_kappa() -> None:
    assert [measure(name) for name in ("valence", "arousal", "pain", "mean", "emotion")] == ["CCC"] * 4 + [
        "kappa"
    ]

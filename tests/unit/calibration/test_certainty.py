"""Intervals and temperatures: what they promise about people that they were not taken from."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from edge_mer.types.evaluation import Sharpness
from edge_mer_calibration.certainty import (
    LEVEL,
    calibration_error,
    error_at,
    inside,
    interval,
    sharpness,
)

Doubles = NDArray[np.float64]


def noisy(rng: np.random.Generator, n_people: int, n_steps: int = 40) -> tuple[list[Doubles], list[Doubles]]:
    """Labels, and estimates whose errors are as wide for everyone."""
    truths = [rng.uniform(-1, 1, n_steps) for _ in range(n_people)]
    return [truth + 0.3 * rng.standard_normal(n_steps) for truth in truths], truths


def test_an_interval_holds_nine_of_ten_labels_of_other_people() -> None:
    rng = np.random.default_rng(0)
    found = interval(*noisy(rng, 30))
    assert found is not None
    assert found.half_width == pytest.approx(0.3 * 1.645, rel=0.06)
    assert found.coverage == pytest.approx(LEVEL, abs=0.02)
    estimates, truths = noisy(rng, 200)
    inside = np.abs(np.concatenate(estimates) - np.concatenate(truths)) <= found.half_width
    assert inside.mean() == pytest.approx(LEVEL, abs=0.02)


def test_an_interval_from_elsewhere_is_held_against_people() -> None:
    estimates = [np.array([0.0, 0.5, np.nan]), np.array([1.0])]
    truths = [np.array([0.2, 0.0, 0.0]), np.array([0.9])]
    assert inside(estimates, truths, 0.2) == pytest.approx(2 / 3)
    assert inside(estimates, [np.full(3, np.nan), np.full(1, np.nan)], 0.2) is None


def test_a_temperature_from_elsewhere_is_held_against_people() -> None:
    rng = np.random.default_rng(3)
    found, truths = classes(rng, 3.0, n_people=100)
    fitted = sharpness(found, truths)
    assert fitted is not None
    others, labels = classes(rng, 3.0, n_people=100)
    as_it_is = Sharpness(temperature=1.0, ece=0.0)
    good, untouched = error_at(others, labels, fitted), error_at(others, labels, as_it_is)
    assert good is not None
    assert untouched is not None
    assert good < 0.02 < 0.1 < untouched
    assert error_at([np.full((2, 3), 1 / 3)], [np.full(2, np.nan)], as_it_is) is None


def test_coverage_is_that_of_the_one_left_out() -> None:
    """Two people are sure, one is not: whoever is left out, the others know too little or too much."""
    quiet, loud = np.full(10, 0.1), np.full(10, 0.5)
    found = interval([quiet, quiet, loud], [np.zeros(10)] * 3)
    assert found is not None
    assert found.half_width == 0.5
    # without the loud one the width is 0.1, which holds none of its labels
    assert found.coverage == pytest.approx(2 / 3)


def test_withheld_steps_and_missing_labels_are_in_no_interval() -> None:
    estimates, truths = noisy(np.random.default_rng(1), 5)
    whole = interval([one[5:] for one in estimates], [one[5:] for one in truths])
    for which in (estimates, truths):
        for one in which:
            one[:5] = np.nan
        assert interval(estimates, truths) == whole
    assert interval(estimates[:1], truths[:1]) is None
    nothing = np.full(40, np.nan)
    assert interval([estimates[0], nothing], [truths[0], nothing]) is None


def classes(
    rng: np.random.Generator, sharpened: float, n_people: int = 30, n_steps: int = 60
) -> tuple[list[Doubles], list[Doubles]]:
    """Classes drawn by logits, and the probabilities of a model that takes those times `sharpened`."""
    found, truths = [], []
    for _ in range(n_people):
        logits = 1.5 * rng.standard_normal((n_steps, 3))
        right = softmax(logits, axis=1)
        truths.append((rng.random((n_steps, 1)) > right.cumsum(axis=1)).sum(axis=1).astype(np.float64))
        found.append(softmax(sharpened * logits, axis=1))
    return found, truths


@pytest.mark.parametrize("sharpened", [0.5, 1.0, 3.0])
def test_a_temperature_undoes_what_a_model_is_too_sure_of(sharpened: float) -> None:
    rng = np.random.default_rng(2)
    found, truths = classes(rng, sharpened)
    one = sharpness(found, truths)
    assert one is not None
    assert one.temperature == pytest.approx(sharpened, rel=0.15)
    assert one.ece < 0.04
    before = np.concatenate(found)
    right = before.argmax(axis=1) == np.concatenate(truths)
    if sharpened == 3.0:
        assert calibration_error(before.max(axis=1), right) > 0.1


def test_what_no_temperature_can_undo_a_shift_does() -> None:
    """A model that halves the odds of what it finds likeliest: no single temperature makes its odds right."""
    rng = np.random.default_rng(4)
    found, truths = classes(rng, 1.0, n_people=100)
    for probabilities in found:
        probabilities[np.arange(60), probabilities.argmax(axis=1)] *= 2.0
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    fitted = sharpness(found, truths)
    assert fitted is not None
    assert fitted.shift is not None
    assert fitted.shift < -0.2
    with_temperature_alone = fitted.model_copy(update={"slope": None, "shift": None})
    others, labels = classes(rng, 1.0, n_people=100)
    for probabilities in others:
        probabilities[np.arange(60), probabilities.argmax(axis=1)] *= 2.0
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    good, alone = error_at(others, labels, fitted), error_at(others, labels, with_temperature_alone)
    assert good is not None
    assert alone is not None
    assert good < 0.02 < alone


def test_a_temperature_leaves_out_what_is_not_there() -> None:
    found, truths = classes(np.random.default_rng(3), 1.0, n_people=5)
    whole = sharpness([one[4:] for one in found], [one[4:] for one in truths])
    for which in (found, truths):
        for one in which:
            one[:4] = np.nan
        assert sharpness(found, truths) == whole
    assert sharpness(found[:1], truths[:1]) is None


def test_a_sure_zero_that_was_true_breaks_nothing() -> None:
    found = [np.array([[1.0, 0.0], [0.0, 1.0]])] * 3
    one = sharpness(found, [np.array([0.0, 0.0])] * 3)
    assert one is not None
    assert np.isfinite(one.temperature)


def test_calibration_error_is_the_gap_in_each_bin() -> None:
    sure = np.array([0.55, 0.55, 0.95, 0.95, 1.0])
    right = np.array([True, False, True, True, False])
    # bin 5: two steps, 0.55 against 0.5; bin 9: three steps, 0.9667 against 0.6667
    assert calibration_error(sure, right) == pytest.approx((2 * 0.05 + 3 * 0.3) / 5)

"""Concordance and kappa from sums, and intervals whose unit is the person."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mer.runtime.proof import concordance
from edge_mer_calibration.metrics import (
    CLASS_MEASURES,
    N_DRAWS,
    NUMBER_MEASURES,
    Classes,
    Numbers,
    draws,
    estimate,
    gain,
)

Floats = NDArray[np.float32]
EVERYONE = np.ones((1, 5))


def people(
    rng: np.random.Generator, n_people: int, n_steps: int, bias: float = 0.7
) -> tuple[list[Floats], list[Floats]]:
    """Truths, and estimates that are off by a constant of each person's own, and by noise."""
    truths = [rng.standard_normal(n_steps).astype(np.float32) for _ in range(n_people)]
    found = [
        (truth + bias * rng.standard_normal() + 0.5 * rng.standard_normal(n_steps)).astype(np.float32)
        for truth in truths
    ]
    return found, truths


def interval(found: list[Floats], truths: list[Floats], weights: NDArray[np.float64]) -> tuple[float, float]:
    one = estimate(Numbers.of(found, truths).scores(weights)["CCC"])
    return one.low, one.high


def test_concordance_is_that_of_all_steps_together() -> None:
    found, truths = people(np.random.default_rng(0), 5, 30)
    moments = Numbers.of(found, truths)
    together = concordance(np.concatenate(found).astype(float), np.concatenate(truths).astype(float))
    assert moments.n == 150
    assert moments.scores(EVERYONE)["CCC"] == pytest.approx(together, abs=1e-12)


def test_a_weight_is_so_many_copies_of_a_person() -> None:
    found, truths = people(np.random.default_rng(0), 5, 30)
    weights = np.array([[2.0, 0.0, 1.0, 0.0, 3.0]])
    copies = [i for i, n in enumerate(weights[0]) for _ in range(int(n))]
    a, b = (np.concatenate([one[i] for i in copies]).astype(float) for one in (found, truths))
    assert Numbers.of(found, truths).scores(weights)["CCC"] == pytest.approx(concordance(a, b), abs=1e-12)


def test_pairs_with_a_nan_on_either_side_do_not_count() -> None:
    found, truths = people(np.random.default_rng(0), 5, 30)
    a, b = [one.copy() for one in found], [one.copy() for one in truths]
    a[0][:7], b[0][5:9], b[4][:] = np.nan, np.nan, np.nan
    moments = Numbers.of(a, b)
    kept = [(found[0][9:], truths[0][9:]), *zip(found[1:4], truths[1:4], strict=True)]
    together = concordance(*(np.concatenate([pair[k] for pair in kept]).astype(float) for k in (0, 1)))
    assert moments.n == 150 - 9 - 30
    assert moments.scores(EVERYONE)["CCC"] == pytest.approx(together, abs=1e-12)


def test_what_does_not_vary_has_no_concordance() -> None:
    same = [np.full(4, 0.5, np.float32)] * 5
    assert Numbers.of(same, same).scores(EVERYONE)["CCC"] == 0
    nothing = [np.full(4, np.nan, np.float32)] * 5
    assert Numbers.of(nothing, same).scores(EVERYONE)["CCC"] == 0


def classified(rng: np.random.Generator, n_people: int, n_steps: int) -> tuple[list[Floats], list[Floats]]:
    """Class numbers, and probabilities of three classes that often follow them."""
    truths = [rng.integers(0, 3, n_steps).astype(np.float32) for _ in range(n_people)]
    found = [
        (np.eye(3)[truth.astype(int)] + 0.6 * rng.standard_normal((n_steps, 3))).astype(np.float32)
        for truth in truths
    ]
    return found, truths


def cohen(found: Floats, truth: Floats) -> float:
    """By pairs of steps: how much rarer estimate and truth differ than they would if they were shuffled."""
    classes = found.argmax(axis=1)
    differ = np.mean(classes != truth)
    shuffled = np.mean(classes[:, np.newaxis] != truth[np.newaxis])
    return float(1 - differ / shuffled)


def test_kappa_is_that_of_all_steps_together_and_weights_are_copies() -> None:
    found, truths = classified(np.random.default_rng(0), 5, 30)
    counts = Classes.of(found, truths)
    assert counts.n == 150
    together = cohen(np.concatenate(found), np.concatenate(truths))
    assert 0.3 < together < 0.9
    assert counts.scores(EVERYONE)["kappa"] == pytest.approx(together, abs=1e-9)
    copies = [0, 0, 2, 4, 4, 4]
    a, b = (np.concatenate([one[i] for i in copies]) for one in (found, truths))
    assert counts.scores(np.array([[2.0, 0.0, 1.0, 0.0, 3.0]]))["kappa"] == pytest.approx(
        cohen(a, b), abs=1e-9
    )


def test_withheld_steps_and_steps_without_a_label_are_in_no_kappa() -> None:
    found, truths = classified(np.random.default_rng(1), 5, 30)
    a, b = [one.copy() for one in found], [one.copy() for one in truths]
    a[0][:7], b[0][5:9], b[4][:] = np.nan, np.nan, np.nan
    counts = Classes.of(a, b)
    assert counts.n == 150 - 9 - 30
    together = cohen(
        np.concatenate([found[0][9:], *found[1:4]]), np.concatenate([truths[0][9:], *truths[1:4]])
    )
    assert counts.scores(EVERYONE)["kappa"] == pytest.approx(together, abs=1e-9)


def directly(found: Floats, truth: Floats) -> dict[str, float]:
    """Every measure of classes from all steps, by counting; the AUC by every pair."""
    named = found.argmax(axis=1)
    there = sorted(set(truth.astype(int).tolist()))
    recalls, f1s, aucs = [], [], []
    for k in sorted({*there, *named.tolist()}):
        hits, n_named, n_true = np.sum((named == k) & (truth == k)), np.sum(named == k), np.sum(truth == k)
        f1s.append(2 * hits / (n_named + n_true))
        if k in there:
            recalls.append(hits / n_true)
            own, others = found[truth == k, k][:, np.newaxis], found[truth != k, k][np.newaxis]
            aucs.append(np.mean((own > others) + 0.5 * (own == others)))
    return {
        "kappa": cohen(found, truth),
        "accuracy": float(np.mean(named == truth)),
        "UAR": float(np.mean(recalls)),
        "F1": float(np.mean(f1s)),
        "AUC": float(np.mean(aucs)),
    }


@pytest.mark.parametrize("copies", [[0, 1, 2, 3, 4], [0, 0, 2, 4, 4, 4], [1, 1]])
@pytest.mark.parametrize("has_ties", [False, True])
def test_measures_of_classes_are_those_of_all_steps_together(copies: list[int], has_ties: bool) -> None:
    found, truths = classified(np.random.default_rng(2), 5, 30)
    if has_ties:
        found = [np.round(one, 0) for one in found]
    weights = np.array([[float(copies.count(i)) for i in range(5)]])
    scores = Classes.of(found, truths).scores(weights)
    expected = directly(*(np.concatenate([one[i] for i in copies]) for one in (found, truths)))
    assert tuple(scores) == CLASS_MEASURES
    assert {name: float(values[0]) for name, values in scores.items()} == pytest.approx(expected, abs=1e-9)
    assert 0.6 < expected["AUC"] < 0.99


def test_a_class_that_nobody_is_in_counts_in_no_mean() -> None:
    found, truths = classified(np.random.default_rng(3), 5, 30)
    two = [np.where(truth == 2, 1, truth).astype(np.float32) for truth in truths]
    scores = Classes.of(found, two).scores(EVERYONE)
    expected = directly(np.concatenate(found), np.concatenate(two))
    assert {name: float(values[0]) for name, values in scores.items()} == pytest.approx(expected, abs=1e-9)


def test_where_there_is_nothing_to_tell_apart() -> None:
    found, _ = classified(np.random.default_rng(4), 5, 30)
    same = [np.zeros(30, np.float32)] * 5
    scores = Classes.of(found, same).scores(EVERYONE)
    assert scores["AUC"] == 0.5
    assert scores["UAR"] == scores["accuracy"]
    nothing = [np.full(30, np.nan, np.float32)] * 5
    assert {float(one[0]) for one in Classes.of(found, nothing).scores(EVERYONE).values()} == {0.0, 0.5}


def test_errors_are_those_of_all_steps_together() -> None:
    found, truths = people(np.random.default_rng(5), 5, 30)
    scores = Numbers.of(found, truths).scores(np.array([[2.0, 0.0, 1.0, 0.0, 3.0]]))
    copies = [0, 0, 2, 4, 4, 4]
    distance = np.concatenate([found[i].astype(float) - truths[i] for i in copies])
    assert tuple(scores) == NUMBER_MEASURES
    assert scores["RMSE"] == pytest.approx(np.sqrt(np.mean(distance**2)), abs=1e-9)
    assert scores["MAE"] == pytest.approx(np.mean(np.abs(distance)), abs=1e-9)


def test_the_first_draw_is_everyone_once() -> None:
    counts = draws(7)
    assert counts.shape == (1 + N_DRAWS, 7)
    assert counts[0].tolist() == [1] * 7
    assert set(counts.sum(axis=1)) == {7}
    assert (counts[1:] != 1).any(axis=1).mean() > 0.9
    assert counts[1:].mean(axis=0) == pytest.approx(np.ones(7), abs=0.1)
    assert np.array_equal(draws(7), counts)
    assert not np.array_equal(draws(7, seed=1), counts)


def test_an_estimate_is_the_first_value_between_quantiles_of_the_others() -> None:
    found = estimate(np.array([123.0, *range(101)]))
    assert (found.value, found.low, found.high) == (123.0, 2.5, 97.5)


def test_more_steps_of_the_same_people_make_nothing_surer() -> None:
    found, truths = people(np.random.default_rng(0), 8, 30)
    weights = draws(8)
    once = interval(found, truths, weights)
    tenfold = interval([np.tile(a, 10) for a in found], [np.tile(b, 10) for b in truths], weights)
    assert tenfold == pytest.approx(once, abs=1e-9)
    assert once[1] - once[0] > 0.05
    more_found, more_truths = people(np.random.default_rng(0), 80, 30)
    low, high = interval(more_found, more_truths, draws(80))
    assert high - low < 0.6 * (once[1] - once[0])


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """People with a bias each; the concordance over all people that there could be is known."""
    bias, n_people, n_steps, n_worlds = 0.7, 30, 20, 120
    known = 2 / (1 + (1 + bias**2 + 0.5**2))
    rng = np.random.default_rng(7)
    by_person = by_step = 0
    for _ in range(n_worlds):
        found, truths = people(rng, n_people, n_steps, bias)
        low, high = interval(found, truths, draws(n_people))
        by_person += low <= known <= high
        # the wrong way: as if steps were drawn, of which there are as many per person
        spread = (high - low) / 2 / np.sqrt(n_steps)
        by_step += abs((low + high) / 2 - known) <= spread
    assert 0.87 <= by_person / n_worlds <= 0.995
    assert by_step / n_worlds < 0.6


def test_gain_is_over_the_best_single_one_of_each_draw() -> None:
    rng = np.random.default_rng(0)
    together = rng.uniform(0.5, 1, 1 + N_DRAWS)
    alone = {"visual": rng.uniform(0, 1, 1 + N_DRAWS), "audio": rng.uniform(0, 1, 1 + N_DRAWS)}
    direct = [t - max(v, a) for t, v, a in zip(together, alone["visual"], alone["audio"], strict=True)]
    found = gain(together, alone)
    assert found.value == pytest.approx(direct[0])
    assert (found.low, found.high) == pytest.approx(
        (np.quantile(direct[1:], 0.025), np.quantile(direct[1:], 0.975))
    )
    # a best one that is chosen once for all draws would look better against
    assert found.low < estimate(together - alone["visual"]).low

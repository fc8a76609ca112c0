"""What an evaluation grounds: how far streams may lie apart."""

from __future__ import annotations

import pytest

from edge_mer_calibration.evaluation import Evaluation
from edge_mer_calibration.findings import max_skew_ms
from edge_mer_calibration.judging import CorruptedRow
from edge_mer_calibration.metrics import Estimate

pytestmark = pytest.mark.workbench


def both(change: float) -> dict[str, Estimate]:
    return {"valence": Estimate(change, change - 1, change + 1), "arousal": Estimate(0.0, 0.0, 0.0)}


def skewed(losses: dict[str, float], precision: str = "fp32") -> tuple[CorruptedRow, ...]:
    return tuple(CorruptedRow(precision, text, 9, {}, both(-loss)) for text, loss in losses.items())


def judged(*rows: CorruptedRow) -> Evaluation:
    return Evaluation("tiny", "sha256:0", 3, (), {}, {}, rows)


@pytest.mark.parametrize(
    ("losses", "most_ms"),
    [
        ({"skew=audio:50": 0.001, "skew=audio:100": 0.01, "skew=audio:200": 0.05}, 100),
        ({"skew=audio:100": 0.01, "skew=visual:100": 0.03, "skew=audio:50": 0.0}, 50),
        ({"skew=audio:500": -0.01}, 500),
        ({"skew=audio:200": 0.03, "skew=audio:500": 0.01}, 200 * 0.02 / 0.03),
        ({"skew=audio:0": 0.5}, None),
        ({"noise=10": 0.5}, None),
        ({}, None),
    ],
)
def test_streams_may_lie_apart_as_far_as_costs_little(
    losses: dict[str, float], most_ms: float | None
) -> None:
    found = max_skew_ms(judged(*skewed(losses)))
    assert found == (most_ms if most_ms is None else pytest.approx(most_ms))


def test_the_worst_precision_counts() -> None:
    rows = (
        *skewed({"skew=audio:100": 0.0, "skew=audio:200": 0.0}),
        *skewed({"skew=audio:200": 0.1}, "int8-cpu"),
    )
    assert max_skew_ms(judged(*rows)) == 100

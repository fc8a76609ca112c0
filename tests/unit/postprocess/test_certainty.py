"""Intervals and confidence of one step, by what was found."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mer.postprocess.certainty import confidence, intervals
from edge_mer.types.evaluation import Interval, Sharpness, SubsetFindings
from edge_mer.types.model import AffectOutput, EmotionOutput, PainOutput

AFFECT = (AffectOutput(name="valence"), AffectOutput(name="arousal"))
PAIN = PainOutput(scale="x", levels=("none", "some", "much"))
EMOTION = EmotionOutput(labels=("a", "b"))


def test_an_interval_ends_where_the_output_does() -> None:
    found = SubsetFindings(
        modalities=("visual",),
        scores={},
        interval={"valence": Interval(half_width=0.25, coverage=0.9)},
    )
    raw = {"valence": np.float32(0.875), "arousal": np.float32(0.0)}
    assert intervals(AFFECT, raw, found) == {"valence": (0.625, 1.0)}
    assert intervals(AFFECT, {**raw, "valence": np.float32(-3.0)}, found) == {"valence": (-1.0, -0.75)}
    assert intervals(AFFECT, raw, SubsetFindings(modalities=("visual",), scores={})) is None
    assert confidence(AFFECT, raw, found) is None


@pytest.mark.parametrize("output", [PAIN, EMOTION])
def test_confidence_is_the_likeliest_class_after_the_temperature(output: PainOutput | EmotionOutput) -> None:
    logits = np.arange(output.value_shape[0], dtype=np.float32)
    sharp = {output.name: Sharpness(temperature=2.0, ece=0.01)}
    found = SubsetFindings(modalities=("eda",), scores={}, sharpness=sharp)
    expected = np.exp(logits[-1] / 2) / np.exp(logits / 2).sum()
    assert confidence((output,), {output.name: logits}, found) == pytest.approx(expected)
    assert intervals((output,), {output.name: logits}, found) is None
    sharp = {output.name: Sharpness(temperature=2.0, slope=0.5, shift=-0.25, ece=0.01)}
    found = found.model_copy(update={"sharpness": sharp})
    odds = np.log(expected / (1 - expected))
    shifted = 1 / (1 + np.exp(0.25 - 0.5 * odds))
    assert confidence((output,), {output.name: logits}, found) == pytest.approx(shifted)
    assert (
        confidence((output,), {output.name: logits}, SubsetFindings(modalities=("eda",), scores={})) is None
    )

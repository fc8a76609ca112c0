"""A biosignal at another rate than its model's: taken within a range, with nearly the same numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_mer.clock import ManualClock
from edge_mer.errors import SpecMismatchError
from edge_mer.runtime.pipeline import Pipeline, PipelineSetup
from edge_mer.types.model import ModelSpec
from tests.helpers.numpy_engines import tiny_engines
from tests.helpers.skin_session import RATE_HZ, Play, arousal, live, recorded, skin, skin_model
from tests.helpers.tiny_session import SquareDetector

WIDE = skin_model((4.0, 512.0))
DURATION_S = 8


def set_up(model: ModelSpec) -> PipelineSetup:
    return PipelineSetup(model, tiny_engines(model), SquareDetector())


@pytest.mark.parametrize("play", [recorded, live])
def test_the_models_own_rate_gives_the_very_same_numbers_as_without_a_range(play: Play) -> None:
    stream = skin(RATE_HZ, DURATION_S)
    narrow, wide = (play(set_up(model), *stream) for model in (skin_model(), WIDE))
    assert np.isfinite(arousal(wide)).sum() > 15
    np.testing.assert_array_equal(arousal(wide), arousal(narrow))


@pytest.mark.parametrize("play", [recorded, live])
@pytest.mark.parametrize(("stream_hz", "most"), [(2 * RATE_HZ, 1e-6), (130.5, 1e-6), (32, 5e-6), (8, 1e-4)])
def test_another_rate_gives_nearly_the_same_numbers(play: Play, stream_hz: float, most: float) -> None:
    own = recorded(set_up(WIDE), *skin(RATE_HZ, DURATION_S))
    other = play(set_up(WIDE), *skin(stream_hz, DURATION_S))
    assert [one.modalities["eda"].present for one in other] == [o.modalities["eda"].present for o in own]
    assert np.nanstd(arousal(own)) > 0.002
    np.testing.assert_allclose(arousal(other), arousal(own), rtol=0, atol=most)


def test_a_device_may_drift_around_another_rate() -> None:
    own = recorded(set_up(WIDE), *skin(RATE_HZ, DURATION_S))
    spec, chunks = skin(128 * 1.0003, DURATION_S)
    drifting = live(set_up(WIDE), replace(spec, rate_hz=128.0), chunks)
    np.testing.assert_allclose(arousal(drifting)[:-1], arousal(own)[: len(drifting) - 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("stream_hz", [8, 2 * RATE_HZ])
def test_a_hole_is_missing_in_the_same_steps(stream_hz: float) -> None:
    """One of a quarter of a second, which both rates can tell."""
    present = []
    for rate_hz in (RATE_HZ, stream_hz):
        spec, chunks = skin(rate_hz, DURATION_S)
        kept = [chunk for chunk in chunks if not 4 <= chunk.t_ns / 1e9 < 4.25]
        present.append([one.modalities["eda"].present for one in recorded(set_up(WIDE), spec, kept)])
    assert present[1] == present[0]
    assert len(set(present[0][10:])) == 2


@pytest.mark.parametrize(
    ("model", "stream_hz", "expected", "found"),
    [
        (WIDE, 2.0, "4 to 512 Hz, to be resampled to 64 Hz", "2.0 Hz"),
        (WIDE, 512.5, "4 to 512 Hz, to be resampled to 64 Hz", "512.5 Hz"),
        (WIDE, None, "4 to 512 Hz, to be resampled to 64 Hz", "an irregular stream"),
        (skin_model(), 128.0, "64 Hz", "128.0 Hz"),
    ],
)
def test_a_rate_out_of_range_is_refused_with_what_to_do(
    model: ModelSpec, stream_hz: float | None, expected: str, found: str
) -> None:
    spec = replace(skin(RATE_HZ, 1)[0], rate_hz=stream_hz)
    with pytest.raises(SpecMismatchError, match="stream sim/eda does not fit encoder eda") as caught:
        Pipeline(set_up(model), [spec], ManualClock())
    assert (caught.value.expected, caught.value.found) == (expected, found)
    assert caught.value.hint is not None
    assert "set the sensor to such a rate" in caught.value.hint

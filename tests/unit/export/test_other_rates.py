"""What a trained model makes of skin conductance at other rates than it learned at."""

from __future__ import annotations

import numpy as np

from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer_export.checkpoint import import_model
from edge_mer_export.engines import torch_engines
from edge_mer_export.models.spec_pain_tiny import EDA_HZ, PAIN_TINY
from edge_mer_export.models.zoo import shipped_weights
from tests.helpers.skin_session import levels, live, recorded, skin, taking
from tests.helpers.tiny_session import SquareDetector

DURATION_S = 12


def test_pain_is_nearly_the_same_at_other_rates() -> None:
    """Skin of 2 and 4 Hz bandwidth: the 512 Hz that it learned at are far more than its curve holds."""
    model = import_model(PAIN_TINY, (str(shipped_weights(PAIN_TINY)),)).model
    wide = taking(model.spec, 4, 2_048)
    setup = PipelineSetup(
        wide, torch_engines(wide, model.stages), SquareDetector(), missing={"visual": "mask"}
    )
    own = levels(recorded(setup, *skin(EDA_HZ, DURATION_S)))
    assert np.isfinite(own[:, 0]).sum() > 10
    assert np.nanstd(own, axis=0).max() > 0.03
    for rate_hz, most in ((2 * EDA_HZ, 1e-5), (700, 1e-5), (64, 1e-3)):
        for play in (recorded, live):
            found = levels(play(setup, *skin(rate_hz, DURATION_S)))
            np.testing.assert_allclose(found, own[: len(found)], rtol=0, atol=most)

"""Step tensors and feature windows of whole sessions: for calibration, proofs and training."""

from __future__ import annotations

from collections.abc import Sequence

from edge_mer.clock import ManualClock
from edge_mer.errors import DataError
from edge_mer.runtime.pipeline import Pipeline, PipelineSetup, StepTrace
from edge_mer.runtime.session import merged
from edge_mer.sources.base import Source


def collect(setup: PipelineSetup, sources: Sequence[Source]) -> list[StepTrace]:
    """Play sources through the device's own runtime as fast as it goes.

    Args:
        setup: Model and engines.
        sources: The streams of one session, not yet opened.

    Returns:
        One trace per step, in order.

    Raises:
        DataError: A source cannot be used, or there was not even one step in it.
    """
    traces: list[StepTrace] = []
    try:
        for source in sources:
            source.ensure_ready()
        specs = [spec for source in sources for spec in source.specs]
        pipeline = Pipeline(setup, specs, ManualClock(), on_step=traces.append)
        for source in sources:
            source.start()
        for chunk in merged(sources):
            pipeline.push(chunk)
        pipeline.finish()
    finally:
        for source in sources:
            source.ensure_stopped()
    if not traces:
        raise DataError(
            f"{', '.join(source.uri for source in sources)}: not even one step of model {setup.model.name}",
            expected=f"at least {float(setup.model.step):.2f} s",
        )
    return traces

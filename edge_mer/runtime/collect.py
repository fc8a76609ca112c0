"""Step tensors and feature windows of whole sessions: for calibration, proofs and training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    trace_steps(setup, sources, traces.append)
    return traces


def trace_steps(
    setup: PipelineSetup,
    sources: Sequence[Source],
    on_step: Callable[[StepTrace], None],
    first_step: int = 0,
    from_ns: int = 0,
    end_step: int | None = None,
) -> None:
    """The same, step by step.

    Args:
        setup: Model and engines.
        sources: The streams of one session, not yet opened.
        on_step: Given one trace per step, in order.
        first_step: Where to begin; the first step of a hop.
        from_ns: What was captured before is left out.
        end_step: Where to end, without it; None: where the sources end.

    Raises:
        DataError: A source cannot be used, or there was not even one step in it.
    """
    n_steps = 0
    is_over = False

    def take(trace: StepTrace) -> None:
        nonlocal n_steps, is_over
        n_steps += 1
        is_over = end_step is not None and trace.index >= end_step
        if not is_over:
            on_step(trace)

    try:
        for source in sources:
            source.ensure_ready()
        specs = [spec for source in sources for spec in source.specs]
        pipeline = Pipeline(setup, specs, ManualClock(), on_step=take, first_step=first_step)
        for source in sources:
            source.start()
        for chunk in merged(sources, lambda: is_over):
            if chunk.t_ns >= from_ns:
                pipeline.push(chunk)
        if not is_over:
            pipeline.finish()
    finally:
        for source in sources:
            source.ensure_stopped()
    if not n_steps:
        raise DataError(
            f"{', '.join(source.uri for source in sources)}: not even one step of model {setup.model.name}",
            expected=f"at least {float(setup.model.step):.2f} s",
        )

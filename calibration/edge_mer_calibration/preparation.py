"""Makes a stage easier to hold in 8 bits, without changing what it computes: balance first, then biases."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from edge_mer_calibration.balance import balanced
from edge_mer_calibration.bias import bias_corrected, with_corrected
from edge_mer_calibration.methods import Stage, histograms_of
from edge_mer_calibration.quantize import Scheme, quantize_stage
from edge_mer_calibration.ranges import METHODS, Method

BALANCED, BIAS_CORRECTED = "balanced", "bias-corrected"
PREPARATIONS = (BALANCED, BIAS_CORRECTED, f"{BALANCED} {BIAS_CORRECTED}")


def evened(stage: Stage, how: str) -> Stage:
    """A stage that was balanced, made once, where `how` says so; else the stage as it is."""
    if BALANCED not in how.split():
        return stage
    if BALANCED not in stage.variants:
        stage.variants[BALANCED] = _balanced(stage)
    return stage.variants[BALANCED]


def in_8_bits(stage: Stage, how: str, scheme: Scheme, nodes: Sequence[str] | None = None) -> bytes:
    """A stage in 8 bits.

    Args:
        stage: As it is in FP32.
        how: A method, with or without preparations before it: "balanced bias-corrected mse".
        scheme: How its numbers become 8 bits.
        nodes: Those that do; None takes all that can be. Only their biases are corrected.
    """
    base, method = evened(stage, how), method_of(how)
    if BIAS_CORRECTED not in how.split():
        return base.by(method, scheme, nodes)
    means = {tensor: one.means for tensor, one in base.histograms.items()}
    chosen = base.quantizable if nodes is None else nodes
    model = bias_corrected(base.model, scheme, means, chosen)
    ranges = with_corrected(model, base.ranges(method, symmetric=scheme.symmetric))
    return quantize_stage(model, ranges, scheme, chosen)


def errors(stage: Stage, preparation: str, scheme: Scheme) -> dict[str, float]:
    """What a preparation comes to with each method; none where it changes nothing."""
    if preparation.startswith(BALANCED) and evened(stage, preparation).model == stage.model:
        return {}

    def measured() -> dict[str, float]:
        names = [f"{preparation} {method}" for method in METHODS]
        return {name: stage.error(in_8_bits(stage, name, scheme)) for name in names}

    found: dict[str, float] = stage.once(f"errors.{scheme.name}.{preparation.replace(' ', '-')}", measured)
    return found


def method_of(how: str) -> Method:
    """The method in "balanced mse"."""
    method: Method = how.split()[-1]  # type: ignore[assignment]
    return method


def _balanced(stage: Stage) -> Stage:
    peaks = {tensor: one.peaks for tensor, one in stage.histograms.items()}
    model = balanced(stage.model, peaks, stage.quantizable)
    if model == stage.model:
        return stage
    histograms = histograms_of(model, stage.feeds)
    return dataclasses.replace(stage, variant=BALANCED, model=model, histograms=histograms, variants={})

"""Decides whether a prediction may be given, and what a reader must know about it."""

from __future__ import annotations

from dataclasses import dataclass

from edge_mer.types.predictions import Status


@dataclass(frozen=True)
class Evidence:
    """What is known about one window.

    Attributes:
        withheld_for: Reasons that forbid an estimate.
        degraded_for: Reasons that weaken it.
        is_finite: The model's outputs are numbers.
    """

    withheld_for: tuple[str, ...] = ()
    degraded_for: tuple[str, ...] = ()
    is_finite: bool = True


def judge(evidence: Evidence) -> tuple[Status, tuple[str, ...]]:
    """Status and reasons: withheld beats degraded beats ok."""
    if evidence.withheld_for:
        return "withheld", evidence.withheld_for
    if not evidence.is_finite:
        return "withheld", ("output_not_finite",)
    if evidence.degraded_for:
        return "degraded", evidence.degraded_for
    return "ok", ()

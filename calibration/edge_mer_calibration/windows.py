"""Calibration windows: real or simulated sessions through the device's own preprocessing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.errors import DataError
from edge_mer.runtime.collect import collect
from edge_mer.runtime.pipeline import PipelineSetup, StepTrace
from edge_mer.runtime.simulated import n_lead_in, simulated
from edge_mer.sources.registry import open_source
from edge_mer.types.model import Encoder, ModelSpec, Words

Feed = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class WindowSet:
    """Windows to calibrate on, in a fixed order.

    Attributes:
        feeds: Stage -> its inputs, one feed (batch = 1) per window.
        sha256: Over all of them, in order.
        n_incomplete: Steps that were left out because a modality was missing in them.
    """

    feeds: dict[str, list[Feed]]
    sha256: str
    n_incomplete: int

    @property
    def n_windows(self) -> int:
        """How many there are."""
        return max(len(feeds) for feeds in self.feeds.values())


def default_sources(model: ModelSpec, n_windows: int, first_person: int, n_people: int) -> list[str]:
    """Simulated people, each long enough for their share of whole windows."""
    n_hops = -(-n_windows // n_people)
    n_steps = model.fusion.n_steps + n_lead_in(model) + n_hops * model.fusion.hop
    return [simulated(model, seed=5, person=first_person + i, n_steps=n_steps) for i in range(n_people)]


def trace_sessions(setup: PipelineSetup, uris: Sequence[str]) -> list[list[StepTrace]]:
    """Play each URI as a session of its own."""
    return [collect(setup, [open_source(uri)]) for uri in uris]


def choose_windows(model: ModelSpec, sessions: list[list[StepTrace]], n_windows: int) -> WindowSet:
    """Spread `n_windows` evenly over all whole windows of the sessions.

    Raises:
        DataError: Too few whole windows, or one that holds something else than numbers.
    """
    whole = [trace for session in sessions for trace in session if _is_whole(model, trace)]
    n_incomplete = sum(not trace.is_real for session in sessions for trace in session)
    if len(whole) < n_windows:
        raise DataError(
            "not enough calibration windows",
            expected=f"{n_windows} whole windows of {float(model.step) * model.fusion.n_steps:.1f} s",
            found=f"{len(whole)}, and {n_incomplete} steps in which a modality is missing",
            hint="give longer or more sessions with --data, or fewer --windows",
        )
    chosen = [whole[int(i)] for i in np.linspace(0, len(whole) - 1, n_windows).round()]
    feeds: dict[str, list[Feed]] = {
        encoder.stage: _encoder_feeds(encoder, chosen, sessions, n_windows) for encoder in model.encoders
    }
    feeds[model.fusion.stage] = [_fusion_feed(model, trace) for trace in chosen]
    return WindowSet(
        {stage: _checked(stage, feeds[stage]) for stage in model.stages}, _sha256(feeds), n_incomplete
    )


def held_windows(model: ModelSpec, sessions: list[list[StepTrace]], n_most: int) -> WindowSet:
    """Up to `n_most` whole windows of other sessions.

    Raises:
        DataError: There is not even one.
    """
    n_whole = sum(_is_whole(model, trace) for session in sessions for trace in session)
    return choose_windows(model, sessions, max(1, min(n_most, n_whole)))


def _encoder_feeds(
    encoder: Encoder, chosen: list[StepTrace], sessions: list[list[StepTrace]], n_windows: int
) -> list[Feed]:
    """The step tensors of the chosen windows; of words, utterances from all of the sessions."""
    name, stage = encoder.input.name, encoder.stage
    if not isinstance(encoder.preprocess, Words):
        return [{name: trace.inputs[stage]} for trace in chosen]
    spoken = [one for session in sessions for trace in session for one in trace.spoken.get(stage, ())]
    if not spoken:
        raise DataError(f"nothing is said in the calibration sessions, and {stage} reads words")
    picked = np.linspace(0, len(spoken) - 1, min(n_windows, len(spoken))).round()
    return [{name: spoken[int(i)].utterance.ids} for i in picked]


def _is_whole(model: ModelSpec, trace: StepTrace) -> bool:
    """Whether it ends a full window as a device sees it: of encoded steps, at the end of a hop."""
    fusion = model.fusion
    ends_window = trace.index >= fusion.n_steps - 1 and (trace.index + 1) % fusion.hop == 0
    return ends_window and trace.is_real and bool(trace.present.all())


def _fusion_feed(model: ModelSpec, trace: StepTrace) -> Feed:
    feed: Feed = {
        spec.name: trace.features[encoder.stage]
        for encoder, spec in zip(model.encoders, model.fusion.inputs, strict=False)
    }
    if model.fusion.has_present_input:
        feed[model.fusion.inputs[-1].name] = trace.present[np.newaxis]
    return feed


def _checked(stage: str, feeds: list[Feed]) -> list[Feed]:
    for index, feed in enumerate(feeds):
        for name, array in feed.items():
            n_bad = int(array.size - np.isfinite(array).sum())
            if n_bad:
                raise DataError(
                    f"calibration window {index}: {stage}.{name} has {n_bad} values that are no numbers"
                )
    return feeds


def _sha256(feeds: dict[str, list[Feed]]) -> str:
    digest = hashlib.sha256()
    for stage in sorted(feeds):
        for feed in feeds[stage]:
            for name in sorted(feed):
                digest.update(np.ascontiguousarray(feed[name]).tobytes())
    return digest.hexdigest()

"""When a device is too hot or too busy: what is done about it, step by step, and when it is taken back."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edge_mer.bundle.manifest import Manifest, kind_of
from edge_mer.bundle.read import Bundle
from edge_mer.clock import NS_PER_S
from edge_mer.config import ReliefConfig
from edge_mer.errors import UsageError
from edge_mer.runtime.build import unfaithful
from edge_mer.runtime.pipeline_setup import PipelineSetup
from edge_mer.runtime.window import Relief
from edge_mer.types.model import FaceClip, ModelSpec
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Modality

LOOK_BACK_NS = 10 * NS_PER_S
"""Pressure is judged by what was predicted in so much time."""

BUSY_SHARE, CALM_SHARE = 0.9, 0.5
"""Of a hop: whoever works longer on it is busy, less is calm."""

MOST_PATIENCE = 32
"""A step is taken back after so many times `calm_s` at the latest."""

COOLER_C = 8.0
"""So far below the limit a device has cooled down."""

ToCandidate = Callable[[str | None], None]
"""Begins to change to a candidate of the bundle that serves; None: to the one that was chosen."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pressure:
    """How hard it is for a device.

    Attributes:
        hottest_c: Of its thermal zones; None where there are none.
        busy: Share of a declared hop that the work on it takes at the median; None without predictions.
        n_overloaded: Hops that there was no time for, lately.
    """

    hottest_c: float | None
    busy: float | None
    n_overloaded: int


class PressureMeter:
    """Watches predictions for how much work they are."""

    def __init__(self) -> None:
        self._last: list[tuple[int, float, bool]] = []

    def take(self, prediction: Prediction, now_ns: int) -> None:
        """Note one."""
        took, is_overloaded = prediction.latency_ms, "overloaded" in prediction.reasons
        work_ms = took.preprocess + took.infer + took.postprocess
        kept = [one for one in self._last if now_ns - one[0] < LOOK_BACK_NS]
        self._last = [*kept, (now_ns, work_ms, is_overloaded)]

    def read(self, hop_ms: float, now_ns: int, temperatures_c: Sequence[float]) -> Pressure:
        """How hard it is now; any thread may ask."""
        last = [one for one in self._last if now_ns - one[0] < LOOK_BACK_NS]
        works = sorted(work_ms for _, work_ms, is_overloaded in last if not is_overloaded)
        return Pressure(
            max(temperatures_c, default=None),
            works[len(works) // 2] / hop_ms if works else None,
            sum(is_overloaded for *_, is_overloaded in last),
        )


def plan_of(model: ModelSpec, setup: PipelineSetup, cheaper: str | None) -> list[Relief]:
    """What can be done, from the least to the most.

    First the hop grows, then the cheaper candidate runs, then modalities are left out: those that the bundle
    declares a policy for, pictures of faces first, which are most of the work. One modality always stays.

    Args:
        model: Declares policies for what is missing.
        setup: Policies that replace them, and whether people are followed, whose faces must stay.
        cheaper: The candidate that needs less work; None: there is none.
    """
    steps = [Relief(), Relief(hop_factor=2)]
    if cheaper is not None:
        steps.append(Relief(hop_factor=2, cheaper=True))
    spared = frozenset[Modality]()
    for encoder in sorted(model.encoders, key=lambda one: not isinstance(one.preprocess, FaceClip)):
        policy = setup.missing.get(encoder.modality) or encoder.missing or "abstain"
        is_followed = setup.people is not None and isinstance(encoder.preprocess, FaceClip)
        if policy == "abstain" or is_followed or len(spared) + 1 == len(model.encoders):
            continue
        spared |= {encoder.modality}
        steps.append(Relief(hop_factor=2, cheaper=cheaper is not None, spared=spared))
    return steps


class ReliefControl:
    """Which step of the plan is right.

    Args:
        config: The limits.
        n_steps: Of the plan.
    """

    def __init__(self, config: ReliefConfig, n_steps: int) -> None:
        self._config, self._n_steps = config, n_steps
        self.level, self.why = 0, ""
        self._since_ns: int | None = None
        self._calm_since_ns: int | None = None
        self._patience = 1
        self._eased_ns: int | None = None

    def look(self, pressure: Pressure, now_ns: int) -> bool:
        """Take a look; True when the level is another one now. One step at a time, up or down."""
        why = self._too_much(pressure)
        self._since_ns = (self._since_ns or now_ns) if why else None
        is_calm = not why and self._is_calm(pressure)
        self._calm_since_ns = (self._calm_since_ns or now_ns) if is_calm and self.level else None
        if self._since_ns is not None and now_ns - self._since_ns >= self._config.after_s * NS_PER_S:
            self._since_ns = now_ns
            self._be_patient(now_ns)
            return self._go(min(self.level + 1, self._n_steps - 1), why)
        calm_ns = self._config.calm_s * NS_PER_S * self._patience
        if self._calm_since_ns is not None and now_ns - self._calm_since_ns >= calm_ns:
            self._calm_since_ns = self._eased_ns = now_ns
            return self._go(self.level - 1, self.why)
        return False

    def _be_patient(self, now_ns: int) -> None:
        """What was taken back too soon is taken back later the next time."""
        calm_ns = self._config.calm_s * NS_PER_S * self._patience
        was_too_soon = self._eased_ns is not None and now_ns - self._eased_ns < calm_ns
        self._patience = min(2 * self._patience, MOST_PATIENCE) if was_too_soon else 1

    def _go(self, level: int, why: str) -> bool:
        is_other = level != self.level
        self.level, self.why = level, why if level else ""
        return is_other

    def _too_much(self, pressure: Pressure) -> str:
        if pressure.hottest_c is not None and pressure.hottest_c >= self._config.hottest_c:
            return (
                f"{pressure.hottest_c:.0f} degrees Celsius, at most {self._config.hottest_c:.0f} are wanted"
            )
        if pressure.n_overloaded:
            return f"there was no time for {pressure.n_overloaded} of the last hops"
        if pressure.busy is not None and pressure.busy >= BUSY_SHARE:
            return f"the work takes {100 * pressure.busy:.0f} % of the time"
        return ""

    def _is_calm(self, pressure: Pressure) -> bool:
        is_cool = pressure.hottest_c is None or pressure.hottest_c <= self._config.hottest_c - COOLER_C
        return is_cool and pressure.busy is not None and pressure.busy <= CALM_SHARE


class ReliefDesk:
    """Spares a device as the pressure on it wants it, while one bundle serves.

    Args:
        config: The limits.
        bundle: What serves.
        setup: What it runs on.
        chosen: The candidate that was chosen for it, which may be another one than runs now.
        note: Writes a step into the audit log: its level, and why.

    Attributes:
        bundle_id: Of what serves.
        chosen: The candidate that was chosen for it.
    """

    def __init__(
        self,
        config: ReliefConfig,
        bundle: Bundle,
        setup: PipelineSetup,
        chosen: str,
        note: Callable[[int, str], None],
    ) -> None:
        self.bundle_id, self.chosen = bundle.bundle_id, chosen
        # what a server computes in fewer bits spares nothing here
        self._cheaper = cheaper_candidate(bundle.manifest, chosen) if setup.server is None else None
        self._note = note
        self._plan = plan_of(setup.model, setup, self._cheaper)
        self._control, self._meter = ReliefControl(config, len(self._plan)), PressureMeter()
        self._asked_cheaper = setup.precision == self._cheaper

    def take(self, prediction: Prediction, now_ns: int) -> None:
        """Note how much work a prediction was."""
        self._meter.take(prediction, now_ns)

    def to_dict(self) -> dict[str, object]:
        """For JSON: which step is taken, and why."""
        return {"level": self._control.level, "why": self._control.why}

    def look(
        self,
        setup: PipelineSetup,
        temperatures_c: Sequence[float],
        now_ns: int,
        to_candidate: ToCandidate | None,
    ) -> Relief:
        """Take a look at the device.

        Args:
            setup: What runs.
            temperatures_c: Of its thermal zones.
            now_ns: The clock's time.
            to_candidate: Is called when another candidate should run; None: not now.

        Returns:
            How the session should spare it.
        """
        hop_ms = float(setup.model.step * setup.hop_steps) * 1000 * self._wanted.hop_factor
        if self._control.look(self._meter.read(hop_ms, now_ns, temperatures_c), now_ns):
            level, why = self._control.level, self._control.why or "the device is calm again"
            _log.warning("relief: step %d of %d: %s", level, len(self._plan) - 1, why)
            self._note(level, why)
        wanted, is_cheaper = self._wanted, setup.precision == self._cheaper
        if wanted.cheaper != self._asked_cheaper and to_candidate is not None:
            with contextlib.suppress(UsageError):  # another change was faster: the next look asks again
                if wanted.cheaper != is_cheaper:
                    to_candidate(self._cheaper if wanted.cheaper else None)
                self._asked_cheaper = wanted.cheaper  # what is refused then is not asked for again and again
        return replace(wanted, cheaper=is_cheaper)

    @property
    def _wanted(self) -> Relief:
        return self._plan[self._control.level]


def cheaper_candidate(manifest: Manifest, precision: str) -> str | None:
    """A candidate that is less work for a processor than this one; None: there is none."""
    name = "int8-cpu"
    is_of_use = kind_of(precision) == "fp32" and name in manifest.candidates
    return name if is_of_use and not unfaithful(manifest, name) else None

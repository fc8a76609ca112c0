"""The last steps of one person, and what the model says of them.

Features lie in rings, and every hop runs the fusion over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import Clock
from edge_mer.engine.standby import Origin, origin_of
from edge_mer.errors import AwayError
from edge_mer.postprocess.certainty import confidence, intervals
from edge_mer.postprocess.decode import decode
from edge_mer.postprocess.gate import Evidence, judge
from edge_mer.preprocess.quality import Quality
from edge_mer.preprocess.words import Utterance
from edge_mer.runtime.blank import encode_blank
from edge_mer.runtime.pipeline_setup import PipelineSetup
from edge_mer.sync.features import FeatureRing, Slot
from edge_mer.sync.windower import Step
from edge_mer.types.evaluation import SubsetFindings
from edge_mer.types.model import Encoder, FaceClip, MissingPolicy, Words
from edge_mer.types.predictions import Latency, ModalityStatus, Prediction, SyncQuality
from edge_mer.types.signals import Modality, StreamSpec

Array = NDArray[np.generic]
Samples = NDArray[np.float32]
Raw = dict[str, Samples]
NS_PER_MS = 1_000_000


@dataclass(frozen=True)
class Spoken:
    """An utterance that was encoded, with its words' times.

    Attributes:
        utterance: Its tokens.
        times_ns: (word, 2) int64, start and end.
    """

    utterance: Utterance
    times_ns: NDArray[np.int64]


@dataclass(frozen=True)
class StepTrace:
    """What happened inside one step, for proofs and calibration; arrays are copies.

    Attributes:
        index: The step.
        inputs: Stage -> its step tensor (batch = 1), of words the step's feature (1, feature); only
            stages whose modality was there.
        features: Stage -> the fusion's window of its features, (1, L, feature); within a hop, where the
            fusion does not look, the newest one alone, (1, 1, feature).
        present: (modality, L) bool.
        n_used: Steps that the fusion looked at; 0 when it did not run.
        raw: Output name -> raw numbers for this step, of the output's `value_shape`; empty when the
            fusion did not run.
        is_real: Every modality was there in this step.
        spoken: Stage -> utterances encoded since the last step.
    """

    index: int
    inputs: dict[str, NDArray[np.float32]]
    features: dict[str, NDArray[np.float32]]
    present: NDArray[np.bool_]
    n_used: int
    raw: Raw
    is_real: bool
    spoken: dict[str, list[Spoken]] = field(default_factory=dict)


@dataclass
class Found:
    """What one encoder's step held.

    `origin` made the feature in a server's place; of one that is `lost` nobody could, for want of the server.
    """

    slot: Slot
    feature: NDArray[np.float32] | None
    coverage: float
    newest_ns: int | None = None
    skew_ns: int = 0
    switched: bool = False
    unaligned: bool = False
    settling: bool = False
    quality: Quality | None = None
    origin: Origin | None = None
    lost: bool = False

    def lose(self) -> None:
        """There was something, and nobody to encode it."""
        self.slot, self.feature, self.lost = "absent", None, True

    def copy(self) -> Found:
        """The same, to be changed."""
        return Found(**vars(self))


@dataclass
class Timing:
    """The work of a hop; `before_ns` of it was done before its last step began."""

    start_ns: int = 0
    preprocess_ns: int = 0
    infer_ns: int = 0
    before_ns: int = 0
    capture_ns: int | None = None

    def start_step(self, now_ns: int, early: Timing, capture_ns: int | None) -> None:
        """A step begins; `early` is the work that was done for it while its data came."""
        self.preprocess_ns += early.preprocess_ns
        self.infer_ns += early.infer_ns
        self.before_ns = self.preprocess_ns + self.infer_ns
        self.start_ns, self.capture_ns = now_ns, capture_ns


class LiveStreams(Protocol):
    """What a live session knows of its streams, by their names."""

    def state(self, stream: str) -> str | None:
        """How its source is, e.g. "stalled"."""

    def clock_uncertainty_ns(self, stream: str) -> int | None:
        """How far off the clock may be that stamps it; None while nothing is known."""

    def is_clock_known(self, stream: str) -> bool:
        """Whether that clock is known well enough."""


@dataclass(frozen=True)
class Relief:
    """How a pipeline spares a device that is too hot or too busy.

    Attributes:
        hop_factor: Predict after so many hops instead of each.
        spared: Modalities that are left out, as if they were missing.
        cheaper: A cheaper candidate runs than the one that was chosen.
    """

    hop_factor: int = 1
    spared: frozenset[Modality] = frozenset()
    cheaper: bool = False


@dataclass
class Common:
    """What all windows of a session have in common.

    Attributes:
        setup: Model and engines.
        streams: Those that the model looks at.
        clock: Where the time comes from.
        start_ns: The clock's time at the session's zero; None: a recording, as fast as it goes.
        utc_start: Wall time of that zero.
        utc_synchronised: The host said that its wall clock follows a reference.
        live: Says how the streams of live sources are; None: a recording.
        stamps_ns: Says how well each sampled stream's times are known.
        blanks: Stage -> what its encoder makes of nothing, once that was asked for.
        relief: How the device is spared now; may be set by any thread.
    """

    setup: PipelineSetup
    streams: Mapping[Modality, StreamSpec]
    clock: Clock
    start_ns: int | None
    utc_start: datetime
    utc_synchronised: bool
    live: LiveStreams | None
    stamps_ns: Callable[[], list[int]]
    blanks: dict[str, Samples] = field(default_factory=dict)
    relief: Relief = Relief()


class Window:
    """The last L steps of one person.

    Args:
        common: What it shares with the others.
        person: Who it is, where several are followed; each then has memory of their own for features. None:
            they lie in the fusion engine's inputs.
    """

    def __init__(self, common: Common, person: str | None = None) -> None:
        self._common, self._setup, self._model = common, common.setup, common.setup.model
        self._clock, self._live, self._streams = common.clock, common.live, common.streams
        self._start_ns, self._person = common.start_ns, person
        self._fusion = self._setup.engines[self._model.fusion.stage]
        self._rings = {
            encoder.stage: _fresh_ring(self._fusion.inputs[spec.name], is_shared=person is None)
            for encoder, spec in zip(self._model.encoders, self._model.fusion.inputs, strict=False)
        }
        self._n_done = 0
        self._switched = False
        self._unaligned: list[bool] = [False] * self._model.fusion.n_steps
        self._origins: list[frozenset[Origin | None]] = [frozenset()] * self._model.fusion.n_steps
        self._lost: list[bool] = [False] * self._model.fusion.n_steps
        self._fused_by: set[Origin | None] = set()
        self._held_by: dict[str, Origin | None] = {}
        self._states: dict[Modality, str | None] = {}

    # -- what comes in -------------------------------------------------------------------------

    def take(self, encoder: Encoder, found: Found, timing: Timing) -> None:
        """What one encoder found in the step that begins or goes on; `end_step` ends it."""
        ring = self._rings[encoder.stage]
        if found.switched:
            ring.clear()
        if found.slot == "present":
            self._held_by[encoder.stage] = found.origin
        else:
            self._stand_in(encoder, found, timing)
        ring.push(found.feature, found.slot)

    def end_step(
        self, step: Step, found: dict[str, Found], timing: Timing, *, is_hop: bool
    ) -> tuple[Prediction | None, int, Raw]:
        """All that was found was taken; at the end of a hop, fuse and predict.

        Returns:
            The prediction, how many steps it looked at, and the model's raw numbers.
        """
        self._unaligned = [*self._unaligned[1:], any(one.unaligned for one in found.values())]
        made_by = frozenset(one.origin for one in found.values() if one.feature is not None)
        self._origins = [*self._origins[1:], made_by]
        self._lost = [*self._lost[1:], any(one.lost for one in found.values())]
        self._switched |= any(one.switched for one in found.values())
        told: tuple[Prediction | None, int, Raw] = (None, 0, Raw())
        if is_hop:
            told = self._fuse_step(step, found, timing)
            self._switched = False
        self._n_done += 1
        return told

    def drop_step(
        self, step: Step, found: dict[str, Found], timing: Timing, why: tuple[str, ...], *, is_hop: bool
    ) -> Prediction | None:
        """Nothing was worked on; at the end of a hop, say why."""
        for stage in found:
            self._rings[stage].push(None, "absent")
        self._unaligned = [*self._unaligned[1:], False]
        self._origins, self._lost = [*self._origins[1:], frozenset()], [*self._lost[1:], False]
        self._fused_by = set()
        prediction = None
        if is_hop:
            self._states = self._ask_states()
            prediction = self._predict(step, found, Raw(), why, timing)
        self._n_done += 1
        return prediction

    def _fuse_step(self, step: Step, found: dict[str, Found], timing: Timing) -> tuple[Prediction, int, Raw]:
        self._states, self._fused_by = self._ask_states(), set()
        withheld = self._why_withheld(found)
        n_used = 0 if withheld else self._n_usable()
        if not withheld and n_used == 0:
            withheld = ("warming_up",) if self._n_done + 1 < self._n_steps else ("window_has_gaps",)
            if any(self._lost):
                withheld = (*withheld, "server_away")
        raw = Raw()
        if not withheld:
            try:
                raw = self._fuse(n_used, timing)
            except AwayError:
                withheld = ("server_away",)
        return self._predict(step, found, raw, withheld, timing), n_used, raw

    def _stand_in(self, encoder: Encoder, found: Found, timing: Timing) -> None:
        """What the missing-modality policy puts in the place of an absent step."""
        policy = self._policy(encoder)
        if policy == "zero_feature":
            found.slot = "filled"
        elif policy == "blank_input":
            began_ns = self._clock.now_ns()
            try:
                found.feature, found.origin = self._blank_feature(encoder)
                found.slot = "filled"
            except AwayError:
                found.lose()
            timing.infer_ns += self._clock.now_ns() - began_ns
        elif policy == "hold" and encoder.hold_max_age is not None:
            held = self._rings[encoder.stage].held(int(encoder.hold_max_age / self._model.step))
            if held is not None:
                found.slot, found.feature = "filled", held
                found.origin = self._held_by.get(encoder.stage)

    def _blank_feature(self, encoder: Encoder) -> tuple[Samples, Origin | None]:
        """What an encoder makes of nothing; encoded once a session, but again what a server should have."""
        if (known := self._common.blanks.get(encoder.stage)) is not None:
            return known, None
        blank, origin = encode_blank(encoder, self._setup.engines[encoder.stage])
        if origin is None:
            self._common.blanks[encoder.stage] = blank
        return blank, origin

    def _policy(self, encoder: Encoder) -> MissingPolicy:
        """Never measured means abstain."""
        return self._setup.missing.get(encoder.modality) or encoder.missing or "abstain"

    # -- the window ----------------------------------------------------------------------------

    @property
    def _n_steps(self) -> int:
        return self._model.fusion.n_steps

    def _why_withheld(self, found: dict[str, Found]) -> tuple[str, ...]:
        if any(one.lost for one in found.values()):
            return ("server_away",)
        if all(one.slot != "present" for one in found.values()):
            if any(one.settling for one in found.values()):
                return ("warming_up",)
            return tuple(f"{encoder.modality}_missing" for encoder in self._model.encoders)
        absent = [e for e in self._model.encoders if found[e.stage].slot == "absent"]
        reasons = [f"{encoder.modality}_missing" for encoder in absent if self._policy(encoder) != "mask"]
        most_ms = self._model.max_skew_ms
        if most_ms is not None and _skew_ms(found) > most_ms:
            reasons.append("bad_sync")
        return tuple(reasons)

    def _n_usable(self) -> int:
        """Steps, counted back from the last, that the fusion may look at; 0 = it may not run."""
        if self._model.fusion.has_present_input:
            return self._n_steps
        n = 0
        for slots in zip(*(reversed(ring.slots) for ring in self._rings.values()), strict=True):
            if any(slot not in ("present", "filled") for slot in slots):
                break
            n += 1
        return n if n == self._n_steps or self._model.fusion.warm_up in ("shorten", "pad") else 0

    def _present(self) -> NDArray[np.bool_]:
        return np.array([ring.present for ring in self._rings.values()], np.bool_)

    def _fuse(self, n_used: int, timing: Timing) -> Raw:
        began_ns = self._clock.now_ns()
        feed: dict[str, Array] = {}
        for encoder, spec in zip(self._model.encoders, self._model.fusion.inputs, strict=False):
            rows = self._rings[encoder.stage].buffer[:, self._n_steps - n_used :]
            feed[spec.name] = self._padded(encoder, rows) if self._is_padded else rows
        if self._model.fusion.has_present_input:
            name = self._model.fusion.inputs[-1].name
            feed[name] = self._fusion.inputs[name]
            feed[name][0] = self._present()
        outputs = self._fusion.run(feed)
        self._fused_by.add(origin_of(outputs))
        timing.infer_ns += self._clock.now_ns() - began_ns
        names = zip(self._model.outputs, self._model.fusion.outputs, strict=True)
        last = n_used - 1 if self._is_padded else -1
        return {
            output.name: np.array(spec.step_of(outputs[spec.name][0], last), np.float32)
            for output, spec in names
        }

    @property
    def _is_padded(self) -> bool:
        return self._model.fusion.warm_up == "pad"

    def _padded(self, encoder: Encoder, rows: Samples) -> Samples:
        """A window with the features of nothing behind the steps that are there; (1, n, D) -> (1, L, D)."""
        n_lacking = self._n_steps - rows.shape[1]
        if n_lacking == 0:
            return rows
        feature, origin = self._blank_feature(encoder)
        self._fused_by.add(origin)
        blank = np.broadcast_to(feature, (1, n_lacking, encoder.feature))
        return np.concatenate([rows, blank], axis=1)

    def _why_degraded(self, found: dict[str, Found], made_by: set[Origin | None]) -> tuple[str, ...]:
        reasons: list[str] = []
        if self._n_done + 1 < self._n_steps:
            reasons.append("warming_up")
        for encoder in self._model.encoders:
            slots = self._rings[encoder.stage].slots
            if isinstance(encoder.preprocess, FaceClip) and (self._switched or "cleared" in slots):
                reasons.append("face_switched")
            if slots[-1] in ("absent", "filled"):
                reasons.append(f"{encoder.modality}_missing")
            elif "absent" in slots or "filled" in slots:
                reasons.append(f"{encoder.modality}_gap")
        if any(self._unaligned):
            reasons.append("unaligned_face")
        if any(self._lost) or any(one is not None for one in made_by):
            reasons.append("server_away")
        reasons += self._reliefs()
        return (*reasons, *self._troubles())

    def _made_by(self) -> set[Origin | None]:
        """All that made what this prediction is made of; None: what was to make it."""
        return self._fused_by.union(*self._origins) or {None}

    def _names(self, made_by: set[Origin | None]) -> tuple[str, str]:
        """Engine and precision of this prediction; both where there are two, what was to run first."""
        usual = Origin(self._setup.engine_name, self._setup.precision)
        others = sorted(one for one in made_by if one is not None)
        all_of_them = [usual, *others] if None in made_by else others
        engines = dict.fromkeys(one.engine for one in all_of_them)
        return "+".join(engines), "+".join(dict.fromkeys(one.precision for one in all_of_them))

    def _reliefs(self) -> list[str]:
        """How the device is spared."""
        relief, reasons = self._common.relief, list[str]()
        if relief.hop_factor > 1:
            reasons.append("hop_lengthened")
        if relief.cheaper:
            reasons.append("cheaper_candidate")
        for modality in sorted(relief.spared):
            reasons.append(f"{modality}_spared")
        return reasons

    def _ask_states(self) -> dict[Modality, str | None]:
        if self._live is None:
            return {}
        return {modality: self._live.state(stream.name) for modality, stream in self._streams.items()}

    def _troubles(self) -> tuple[str, ...]:
        """What is wrong with live sources."""
        reasons = []
        for modality, state in self._states.items():
            if state == "stalled":
                reasons.append(f"{modality}_stalled")
            elif state == "wrong_rate":
                reasons.append(f"{modality}_wrong_rate")
            elif state == "restarting":
                reasons.append(f"{modality}_restarting")
        if not self._are_clocks_known():
            reasons.append("clock_unknown")
        return tuple(reasons)

    # -- what goes out -------------------------------------------------------------------------

    def _predict(
        self,
        step: Step,
        found: dict[str, Found],
        raw: Raw,
        withheld: tuple[str, ...],
        timing: Timing,
    ) -> Prediction:
        began_ns = self._clock.now_ns()
        estimates = decode(self._model.outputs, raw) if raw else None
        made_by = self._made_by()
        engine, precision = self._names(made_by)
        measured = self._measured(precision) if estimates is not None else None
        affect = None if estimates is None else estimates.affect
        if affect is not None and measured is not None:
            affect = replace(affect, interval=intervals(self._model.outputs, raw, measured))
        if withheld:
            withheld = (*withheld, *self._troubles())
        status, reasons = judge(
            Evidence(withheld, self._why_degraded(found, made_by), estimates is not None or bool(withheld))
        )
        if status == "withheld" and self._switched:
            reasons = (*reasons, "face_switched")
        return Prediction(
            window_index=step.index // self._setup.hop_steps,
            t_start_ns=self._model.step_start_ns(step.index - min(self._n_done, self._n_steps - 1)),
            t_end_ns=step.t_end_ns,
            utc=(self._common.utc_start + timedelta(microseconds=step.t_end_ns // 1000)).isoformat(),
            utc_synchronised=self._common.utc_synchronised,
            status=status,
            reasons=reasons,
            affect=affect,
            pain=None if estimates is None else estimates.pain,
            emotion=None if estimates is None else estimates.emotion,
            modalities={
                e.modality: _modality_status(found[e.stage], step, self._states.get(e.modality))
                for e in self._model.encoders
            },
            sync=self._sync_quality(found),
            latency_ms=self._latency(step, timing, self._clock.now_ns() - began_ns),
            engine=engine,
            precision=precision,
            bundle_id=self._setup.bundle_id,
            confidence=None if measured is None else confidence(self._model.outputs, raw, measured),
            person=self._person,
        )

    def _sync_quality(self, found: dict[str, Found]) -> SyncQuality:
        names = [stream.name for stream in self._streams.values()]
        clocks = [] if self._live is None else [self._live.clock_uncertainty_ns(name) for name in names]
        known = [clock for clock in clocks if clock is not None]
        most_ns = max([*known, *self._common.stamps_ns()], default=0)
        most_ms = None if len(known) < len(clocks) else most_ns / NS_PER_MS
        return SyncQuality(_skew_ms(found), most_ms, warming_up=not self._are_clocks_known())

    def _are_clocks_known(self) -> bool:
        live = self._live
        return live is None or all(live.is_clock_known(stream.name) for stream in self._streams.values())

    def _measured(self, precision: str) -> SubsetFindings | None:
        """What was found for the modalities that are there in the whole window; None if nothing was.

        One that is there in some steps only counts as missing, which errs on the careful side.
        """
        if self._setup.findings is None or precision != self._setup.precision:
            return None
        n_there = min(self._n_done + 1, self._n_steps)
        is_whole = {
            encoder.modality: set(self._rings[encoder.stage].slots[-n_there:]) == {"present"}
            for encoder in self._model.encoders
        }
        found = self._setup.findings.of(tuple(modality for modality, whole in is_whole.items() if whole))
        policies = {self._policy(e) for e in self._model.encoders if not is_whole[e.modality]}
        return found if found is not None and policies <= {found.stand_in} else None

    def _latency(self, step: Step, timing: Timing, postprocess_ns: int) -> Latency:
        wait_ns = None if self._start_ns is None else timing.start_ns - self._start_ns - step.t_end_ns
        work_ns = timing.preprocess_ns + timing.infer_ns - timing.before_ns + postprocess_ns
        return Latency(
            capture=None if timing.capture_ns is None else timing.capture_ns / NS_PER_MS,
            wait=None if wait_ns is None else wait_ns / NS_PER_MS,
            preprocess=timing.preprocess_ns / NS_PER_MS,
            infer=timing.infer_ns / NS_PER_MS,
            postprocess=postprocess_ns / NS_PER_MS,
            end_to_end=(work_ns + (wait_ns or 0)) / NS_PER_MS,
        )

    def trace(
        self, step: Step, found: dict[str, Found], n_used: int, raw: Raw, spoken: dict[str, list[Spoken]]
    ) -> StepTrace:
        """What happened inside a step that has ended."""
        there = [e for e in self._model.encoders if found[e.stage].slot == "present"]
        n_kept = 1 if (step.index + 1) % self._setup.hop_steps else self._n_steps
        return StepTrace(
            index=step.index,
            inputs={e.stage: self._step_tensor(e, found[e.stage]) for e in there},
            features={stage: ring.buffer[:, -n_kept:].copy() for stage, ring in self._rings.items()},
            present=self._present(),
            n_used=n_used if raw else 0,
            raw=dict(raw),
            is_real=len(there) == len(self._model.encoders),
            spoken=spoken,
        )

    def _step_tensor(self, encoder: Encoder, found: Found) -> Samples:
        if isinstance(encoder.preprocess, Words):
            return np.array([found.feature], np.float32)
        return self._setup.engines[encoder.stage].read_input(encoder.input.name).view(np.float32)


def _fresh_ring(given: Array, *, is_shared: bool) -> FeatureRing:
    buffer = given if is_shared else np.empty_like(given)
    buffer[...] = 0
    return FeatureRing(buffer.view(np.float32))


def _modality_status(found: Found, step: Step, source: str | None) -> ModalityStatus:
    age_ms = None if found.newest_ns is None else (step.t_end_ns - found.newest_ns) / NS_PER_MS
    return ModalityStatus(
        present=found.slot == "present",
        coverage=round(found.coverage, 4),
        age_ms=age_ms,
        source=source,
        quality=found.quality,
    )


def _skew_ms(found: dict[str, Found]) -> float:
    skews = [one.skew_ns for one in found.values() if one.coverage > 0]
    return (max(skews) - min(skews)) / NS_PER_MS if skews else 0.0

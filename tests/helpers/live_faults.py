"""A session of camera, microphone and skin conductance under a clock of its own, and what may befall it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.errors import LostError
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.session import SessionHooks, SessionReport, run_session
from edge_mer.sinks.base import Sink
from edge_mer.types.model import Encoder, FaceClip, Fusion, LogMel, ModelSpec, Signal, TensorSpec
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import Chunk, ClockOffset, StreamSpec
from tests.helpers.fake_session import FakeSink
from tests.helpers.numpy_engines import SCALE, tiny_engines
from tests.helpers.tiny_model import (
    FEATURE,
    STEP,
    audio_encoder,
    feature_spec,
    tiny_clip,
    tiny_log_mel,
    tiny_model,
    visual_encoder,
)
from tests.helpers.tiny_session import AUDIO, VISUAL, SquareDetector, TinySession, frame_of

MS = NS_PER_S // 1000
EDA_HZ = 30
HOP_STEPS = 4
HOP_NS = int(HOP_STEPS * STEP * NS_PER_S)
N_HOPS = 10
START_NS = 5_000 * NS_PER_S
SPEED = 50
"""So much faster than in life a session runs here."""

EDA = StreamSpec(
    "test/eda", "eda", ("sample", "channel"), (None, 1), "float32", float(EDA_HZ), "uS", ("eda",)
)

Arrival = tuple[int, Chunk | Exception]
"""When something comes, on the session's time, and what."""


class FastClock(ManualClock):
    """Sleeps in earnest, but not as long."""

    def sleep_until_ns(self, t_ns: int) -> None:
        """Jump to `t_ns`, after a part of the time until then."""
        time.sleep(max(0, t_ns - self.now_ns()) / NS_PER_S / SPEED)
        super().sleep_until_ns(t_ns)


def model() -> ModelSpec:
    """Face, voice and skin; a fusion that takes a mask."""
    return model_of(STEP, tiny_clip(), tiny_log_mel(), EDA_HZ)


def model_of(step: Fraction, clip: FaceClip, log_mel: LogMel, eda_hz: int) -> ModelSpec:
    """The same with other steps."""
    n_samples = int(step * eda_hz)
    eda = Encoder(
        stage="eda",
        modality="eda",
        input=TensorSpec(name="eda", axes=("batch", "channel", "sample"), shape=("batch", 1, n_samples)),
        output=feature_spec(),
        period=step,
        span=step,
        preprocess=Signal(rate_hz=eda_hz, unit="uS"),
        missing="mask",
    )
    tiny = tiny_model(visual="mask", audio="mask")
    n_steps = tiny.fusion.n_steps
    axes = ("batch", "steps", "feature")
    inputs = [
        TensorSpec(name=n, axes=axes, shape=("batch", n_steps, FEATURE)) for n in ("face", "voice", "skin")
    ]
    mask = TensorSpec(
        name="present", axes=("batch", "modality", "steps"), shape=("batch", 3, n_steps), dtype="bool"
    )
    fusion = Fusion(
        n_steps=n_steps,
        hop=HOP_STEPS,
        inputs=(*inputs, mask),
        outputs=tiny.fusion.outputs,
        has_present_input=True,
        warm_up="mask",
    )
    encoders = (
        visual_encoder(clip, missing="mask", period=step, span=step),
        audio_encoder(log_mel, missing="mask", period=step, span=step),
        eda,
    )
    return tiny.model_copy(update={"step": step, "encoders": encoders, "fusion": fusion})


def fused(*inputs: NDArray[np.generic]) -> tuple[NDArray[np.generic], ...]:
    """Valence of the face and arousal of voice and skin, of the steps that are there."""
    *windows, present = inputs
    means = []
    for index, window in enumerate(windows):
        steps, mask = window[:, :, 0] * SCALE, present[:, index]
        mean = (steps * mask).sum(axis=1) / np.maximum(1, mask.sum(axis=1))
        means.append(np.repeat(mean[:, np.newaxis], window.shape[1], axis=1).astype(np.float32))
    return means[0], means[1] + means[2]


@dataclass
class Sensor:
    """Gives what its script says, at the session's time at which it comes.

    Attributes:
        spec: Its stream.
        script: In order of arrival. An exception is raised once, and needs the sensor opened again.
        looks: Looks at its remote clock, and when they were taken.
    """

    spec: StreamSpec
    clock: ManualClock
    script: list[Arrival]
    looks: list[tuple[int, ClockOffset]] = field(default_factory=list)
    is_live: bool = True
    ended: bool = False
    n_opened: int = 0

    @property
    def uri(self) -> str:
        return self.spec.name

    @property
    def specs(self) -> tuple[StreamSpec, ...]:
        return (self.spec,)

    def ensure_ready(self) -> None:
        self.n_opened += 1

    def start(self) -> None:
        """What comes while it is not open is lost."""
        now_ns = self.clock.now_ns() - START_NS
        self.script = [one for one in self.script if one[0] >= now_ns]

    def read(self, timeout_ms: int) -> Chunk | None:
        until_ns = self.clock.now_ns() + timeout_ms * MS
        if not self.script or START_NS + self.script[0][0] > until_ns:
            self.clock.sleep_until_ns(until_ns)
            return None
        comes_ns, what = self.script.pop(0)
        self.clock.sleep_until_ns(START_NS + comes_ns)
        if isinstance(what, Exception):
            raise what
        moved_ns = 0 if what.time_basis == "remote" else START_NS
        return replace(what, t_ns=moved_ns + what.t_ns, arrived_ns=START_NS + comes_ns)

    def clock_offsets(self) -> list[ClockOffset]:
        now_ns = self.clock.now_ns() - START_NS
        due = [look for taken_ns, look in self.looks if taken_ns <= now_ns]
        self.looks = [one for one in self.looks if one[0] > now_ns]
        return due

    def ensure_stopped(self) -> None: ...


@dataclass
class Scene:
    """What the three sensors give; a fault changes some of it."""

    clock: FastClock = field(default_factory=lambda: FastClock(START_NS))
    n_hops: int = N_HOPS

    def __post_init__(self) -> None:
        session = TinySession(self._n_steps)
        parts = {"visual": VISUAL, "audio": AUDIO, "eda": EDA}
        scripts: dict[str, list[Arrival]] = {name: [] for name in parts}
        for chunk in (*session.chunks(), *self._skin()):
            end_ns = chunk.t_ns + (0 if chunk.modality == "visual" else 20 * MS)
            scripts[chunk.modality].append((end_ns + 5 * MS, chunk))
        self.sensors = {
            name: Sensor(
                replace(spec, shape=(None, None, 3)) if name == "visual" else spec, self.clock, scripts[name]
            )
            for name, spec in parts.items()
        }

    @property
    def _n_steps(self) -> int:
        """Sensors go on for longer than anybody looks."""
        return (self.n_hops + 3) * HOP_STEPS

    def _skin(self) -> Iterator[Chunk]:
        t = np.arange(int(self._n_steps * STEP * EDA_HZ)) / EDA_HZ
        level = (4 + np.sin(t) + 0.3 * np.sin(7 * t)).astype(np.float32)
        for seq, value in enumerate(level):
            yield Chunk(EDA.name, "eda", seq, seq * NS_PER_S // EDA_HZ, np.array([[value]], np.float32))

    def change(self, name: str, what: Callable[[list[Arrival]], list[Arrival]]) -> None:
        """Another script of one sensor, in the order of arrival."""
        self.sensors[name].script = sorted(what(self.sensors[name].script), key=lambda one: one[0])

    def map(self, name: str, hops: range, what: Callable[[Chunk], Chunk | None]) -> None:
        """Another chunk, or none, for each that was captured in `hops`."""

        def mapped(script: list[Arrival]) -> list[Arrival]:
            found = []
            for comes_ns, chunk in script:
                if isinstance(chunk, Chunk) and chunk.t_ns // HOP_NS in hops:
                    changed = what(chunk)
                    found += [] if changed is None else [(comes_ns, changed)]
                else:
                    found.append((comes_ns, chunk))
            return found

        self.change(name, mapped)

    def play(
        self,
        on_prediction: Callable[[Prediction], None] = lambda _: None,
        beside: Sequence[Sink] = (),
        *,
        alone: bool = False,
    ) -> Played:
        """Run the session to its end.

        Args:
            on_prediction: Called with each.
            beside: Sinks beside the one that gathers what came.
            alone: Only those.
        """
        setup = PipelineSetup(model(), tiny_engines(model(), fused), SquareDetector())
        sink, report = FakeSink(), SessionReport()
        hooks = SessionHooks(
            on_prediction=on_prediction, should_stop=lambda: report.n_predictions >= self.n_hops
        )
        sensors = list(self.sensors.values())
        run_session(
            setup, sensors, [*([] if alone else [sink]), *beside], self.clock, report, fast=False, hooks=hooks
        )
        return Played(sink.written, report, {name: one.n_opened - 1 for name, one in self.sensors.items()})


@dataclass(frozen=True)
class Played:
    """What came of a session.

    Attributes:
        predictions: All, of hop 0 to the last.
        report: What was counted.
        n_restarts: Sensor -> times that it was opened again.
    """

    predictions: Sequence[Prediction]
    report: SessionReport
    n_restarts: dict[str, int]

    def first(self, is_it: Callable[[Prediction], bool], since_hop: int) -> int | None:
        """Hops from `since_hop` until `is_it` holds for the first time."""
        hits = [p.window_index for p in self.predictions if p.window_index >= since_hop and is_it(p)]
        return hits[0] - since_hop if hits else None


@dataclass(frozen=True)
class Fault:
    """Something that befalls a session in hop 4.

    Attributes:
        name: What it is called.
        what: What happens, for the page.
        change: Has it happen.
        shows: What predictions then show, for the page.
        is_shown: The same of a prediction; None: nothing may show at all.
        within: Hops within which it shows; 0: in the hop itself.
        is_well_from: Hop from which on predictions are well again; None: not before the session's end.
        reasons: Reasons that the fault may lead to.
        counted: Counters that are not 0 afterwards.
    """

    name: str
    what: str
    change: Callable[[Scene], None]
    shows: str
    is_shown: Callable[[Prediction], bool] | None
    within: int = 0
    is_well_from: int | None = 7
    reasons: frozenset[str] = frozenset()
    counted: tuple[str, ...] = ()


HIT = range(4, 6)
"""Hops that a fault lasts."""


def _moved(name: str, change: Callable[[Chunk], Chunk | None]) -> Callable[[Scene], None]:
    return lambda scene: scene.map(name, HIT, change)


def _filled(value: float) -> Callable[[Chunk], Chunk]:
    return lambda chunk: replace(chunk, data=np.full_like(chunk.data, value))


def _nothing(chunk: Chunk) -> Chunk | None:
    return None


def _lost(name: str) -> Callable[[Scene], None]:
    """Unplugged at the beginning of hop 4, and nothing more comes of that time."""

    def lose(scene: Scene) -> None:
        scene.map(name, range(4, 5), _nothing)
        scene.change(name, lambda script: [*script, (4 * HOP_NS + 100 * MS, LostError("the device is gone"))])

    return lose


def _half(scene: Scene) -> None:
    """From hop 4 on only every other piece of sound comes: the device runs at half its rate."""
    scene.map("audio", range(4, N_HOPS), lambda chunk: chunk if chunk.seq % 2 else None)


def _twice(scene: Scene) -> None:
    for name in scene.sensors:
        scene.change(name, lambda script: [*script, *((at + 30 * MS, c) for at, c in script if _in_hit(c))])


def _shuffled(scene: Scene) -> None:
    """Every fifth piece comes 90 ms later, after others."""

    def late(script: list[Arrival]) -> list[Arrival]:
        return [(at + 90 * MS if _in_hit(c) and c.seq % 5 == 0 else at, c) for at, c in script]

    for name in scene.sensors:
        scene.change(name, late)


def _in_hit(chunk: Chunk | Exception) -> bool:
    return isinstance(chunk, Chunk) and chunk.t_ns // HOP_NS in HIT


def _remote(jump_ns: int) -> Callable[[Scene], None]:
    """Skin conductance is stamped by another machine, whose clock is set anew at the beginning of hop 4."""

    def put(scene: Scene) -> None:
        offset_ns = 86_400 * NS_PER_S

        def remote_ns(t_ns: int) -> int:
            return t_ns + offset_ns + (jump_ns if t_ns >= 4 * HOP_NS else 0)

        def stamped(chunk: Chunk) -> Chunk:
            return replace(chunk, t_ns=remote_ns(chunk.t_ns), time_basis="remote")

        scene.map("eda", range(scene.n_hops), stamped)
        scene.sensors["eda"].looks = [
            (at, ClockOffset(EDA.name, remote_ns(at), START_NS + at, 200_000))
            for at in range(10 * MS, scene.n_hops * HOP_NS, 200 * MS)
        ]

    return put


def _drifting(scene: Scene) -> None:
    """A microphone whose clock is 400 ppm fast, stamped when its pieces come."""

    def drift(script: list[Arrival]) -> list[Arrival]:
        found: list[Arrival] = []
        for at, chunk in script:
            assert isinstance(chunk, Chunk)
            t_ns = round(chunk.t_ns / 1.0004)
            found.append((t_ns + at - chunk.t_ns, replace(chunk, t_ns=t_ns, time_basis="arrival")))
        return found

    scene.change("audio", drift)


def _clipped(chunk: Chunk) -> Chunk:
    return replace(chunk, data=np.sign(chunk.data).astype(np.float32))


def _somebody(person: int | None) -> Callable[[Chunk], Chunk]:
    return lambda chunk: replace(chunk, data=frame_of(person))


def _enlarged(chunk: Chunk) -> Chunk:
    return replace(chunk, data=chunk.data.repeat(2, axis=0).repeat(2, axis=1))


def _quality(name: str, quality: str) -> Callable[[Prediction], bool]:
    def is_it(prediction: Prediction) -> bool:
        found = prediction.modalities[name]
        return not found.present and found.quality == quality

    return is_it


def _reason(*reasons: str) -> Callable[[Prediction], bool]:
    return lambda prediction: any(reason in prediction.reasons for reason in reasons)


def _gone(name: str, *also: str) -> frozenset[str]:
    return frozenset({f"{name}_missing", f"{name}_gap", *also})


_LIVE = ("stalled", "restarting")

FAULTS = (
    Fault(
        "stall",
        "the camera gives nothing for two hops",
        _moved("visual", _nothing),
        "`visual_missing` with `visual_stalled` or `visual_restarting`; the camera is opened again",
        _reason("visual_stalled", "visual_restarting"),
        reasons=_gone("visual", *(f"visual_{one}" for one in _LIVE)),
    ),
    Fault(
        "end",
        "the microphone's stream breaks off, and comes back a hop later",
        _lost("audio"),
        "`audio_missing`, `audio_restarting`; the microphone is opened again",
        _reason("audio_restarting", "audio_missing"),
        reasons=_gone("audio", *(f"audio_{one}" for one in _LIVE)),
        counted=("n_gaps",),
    ),
    Fault(
        "wrong rate",
        "the microphone gives half of its samples from then on",
        _half,
        "`audio_missing`, `audio_wrong_rate`; after five seconds it is opened again",
        _reason("audio_wrong_rate"),
        within=1,
        is_well_from=None,
        reasons=_gone("audio", "audio_wrong_rate", *(f"audio_{one}" for one in _LIVE)),
        counted=("n_gaps",),
    ),
    Fault(
        "duplicate",
        "all chunks of two hops come twice",
        _twice,
        "nothing; counted",
        None,
        counted=("n_duplicate",),
    ),
    Fault(
        "reorder", "every fifth chunk of two hops comes 90 ms late, behind others", _shuffled, "nothing", None
    ),
    Fault(
        "clock jump forward",
        "a remote sensor's clock is set forward by 20 s",
        _remote(20 * NS_PER_S),
        "`eda_missing` until three looks at the clock agree",
        _reason("eda_missing", "eda_gap", "clock_unknown"),
        is_well_from=7,
        reasons=_gone("eda", "clock_unknown"),
    ),
    Fault(
        "clock jump back",
        "a remote sensor's clock is set back by 20 s",
        _remote(-20 * NS_PER_S),
        "`eda_missing` until three looks at the clock agree",
        _reason("eda_missing", "eda_gap", "clock_unknown"),
        is_well_from=7,
        reasons=_gone("eda", "clock_unknown"),
    ),
    Fault(
        "drift",
        "the microphone's clock is fast by 400 ppm",
        _drifting,
        "nothing; samples are resampled",
        None,
    ),
    Fault(
        "NaN",
        "skin conductance is not a number",
        _moved("eda", _filled(float("nan"))),
        "`eda_missing`, quality `not_a_number`",
        _quality("eda", "not_a_number"),
        within=1,
        reasons=_gone("eda"),
    ),
    Fault(
        "saturation",
        "sound is driven to full scale",
        _moved("audio", _clipped),
        "`audio_missing`, quality `clipped`",
        _quality("audio", "clipped"),
        reasons=_gone("audio"),
    ),
    Fault(
        "lead-off",
        "the electrodes of skin conductance come off",
        lambda scene: scene.map("eda", range(4, 8), _filled(0.002)),
        "`eda_missing`, quality `lead_off`, after two seconds",
        _quality("eda", "lead_off"),
        within=2,
        is_well_from=9,
        reasons=_gone("eda"),
    ),
    Fault(
        "silence",
        "the microphone gives zeros",
        _moved("audio", _filled(0.0)),
        "`audio_missing`, quality `silent`",
        _quality("audio", "silent"),
        reasons=_gone("audio"),
    ),
    Fault(
        "black frames",
        "the lens is covered",
        _moved("visual", lambda chunk: replace(chunk, data=np.zeros_like(chunk.data))),
        "`visual_missing`, quality `no_face`",
        _quality("visual", "no_face"),
        reasons=_gone("visual"),
    ),
    Fault(
        "face lost",
        "the person leaves the picture for two hops",
        _moved("visual", _somebody(None)),
        "`visual_missing`, quality `no_face`",
        _quality("visual", "no_face"),
        reasons=_gone("visual"),
    ),
    Fault(
        "person switched",
        "another person sits down",
        lambda scene: scene.map("visual", range(4, N_HOPS), _somebody(1)),
        "`face_switched`; the window of the face begins anew",
        _reason("face_switched"),
        within=1,
        is_well_from=7,
        reasons=_gone("visual", "face_switched"),
    ),
    Fault(
        "resolution change",
        "the camera's pictures become twice as wide and high",
        lambda scene: scene.map("visual", range(4, N_HOPS), _enlarged),
        "nothing",
        None,
    ),
)

"""A pipeline that follows several people: a window for each of them, and one way for what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from edge_mer.clock import Clock
from edge_mer.errors import UsageError
from edge_mer.preprocess.people import PeopleClipMaker
from edge_mer.preprocess.visual import ClipReport
from edge_mer.runtime.pipeline import Pipeline, TimedFrames
from edge_mer.runtime.pipeline_setup import PipelineSetup
from edge_mer.runtime.window import Found, LiveStreams, StepTrace, Timing, Window
from edge_mer.sync.windower import Step
from edge_mer.types.model import Encoder, FaceClip
from edge_mer.types.predictions import Prediction
from edge_mer.types.signals import StreamSpec


@dataclass
class _Person:
    """Somebody who is followed.

    Attributes:
        name: Such as "p1"; "" where nobody is.
        window: The last steps.
        found: What the last clip of their face held.
        timing: The work for their next prediction.
    """

    name: str
    window: Window
    found: Found
    timing: Timing = field(default_factory=Timing)


class PeoplePipeline(Pipeline):
    """Fused inference over one session, for each face that is followed.

    What is not of a face, such as the sound of the room, is encoded once a step, and goes into everybody's
    window. Somebody's window begins with the step in which they were first followed.

    Args:
        setup: Model, engines, detector, and how many `people` at most.
        specs: The session's streams.
        clock: Where the time comes from.
        start_ns: As of `Pipeline`.
        on_step: None: a step has tensors of several people.
        lateness_ns: As of `Pipeline`.
        live: As of `Pipeline`.
        first_step: As of `Pipeline`.

    Raises:
        SpecMismatchError: A stream does not fit what the model declares.
        UsageError: Two streams of one modality, or none that the model looks at; steps are asked for.
    """

    def __init__(
        self,
        setup: PipelineSetup,
        specs: Iterable[StreamSpec],
        clock: Clock,
        start_ns: int | None = None,
        on_step: Callable[[StepTrace], None] | None = None,
        lateness_ns: int | None = None,
        live: LiveStreams | None = None,
        first_step: int = 0,
    ) -> None:
        super().__init__(setup, specs, clock, start_ns, None, lateness_ns, live, first_step)
        if setup.people is None or self._detector is None or on_step is not None:
            raise UsageError(
                "several people cannot be followed here",
                expected="a face detector, and nobody who asks for the tensors of steps",
                hint="leave out people, or the redaction",
            )
        self._face, self._clip = next(
            (encoder, encoder.preprocess)
            for encoder in self._model.encoders
            if isinstance(encoder.preprocess, FaceClip)
        )
        self._maker = PeopleClipMaker(self._clip, self._detector, setup.people, gates=setup.gates)
        self._people: dict[str, _Person] = {}
        self._nobody = _Person("", self._window, self._nothing()[self._face.stage])
        self._looked_at = ""

    def _run_step(self, step: Step) -> list[Prediction]:
        """Encode what is shared, then the face of each; at the end of a hop, predict for each."""
        shared, early, self._early = Timing(), self._early, Timing()
        found = {e.stage: self._encode(e, step, shared) for e in self._model.encoders if e is not self._face}
        if step.index % self._face.repeat == 0:
            self._look(step, shared)
        told: list[Prediction | None] = []
        for person in list(self._people.values()) or [self._nobody]:
            began_ns = self._clock.now_ns() - shared.preprocess_ns - shared.infer_ns
            person.timing.start_step(began_ns, early, self._capture_ns)
            person.timing.preprocess_ns += shared.preprocess_ns
            person.timing.infer_ns += shared.infer_ns
            told.append(self._run_person(person, step, found))
        if self._is_hop(step):
            for person in (*self._people.values(), self._nobody):
                person.timing = Timing()
        return [prediction for prediction in told if prediction is not None]

    def _run_person(self, person: _Person, step: Step, shared: dict[str, Found]) -> Prediction | None:
        """A step of one of them; what is shared has been found."""
        if person is self._nobody:
            found = {**shared, self._face.stage: replace(person.found)}
            return self._drop(person, step, found, ("nobody_seen",))
        if step.index % self._face.repeat == 0:
            self._looked_at = person.name
            person.found = self._encode_sensed(self._face, step, person.timing)
        found = {}
        for encoder in self._model.encoders:
            found[encoder.stage] = replace(person.found if encoder is self._face else shared[encoder.stage])
            person.window.take(encoder, found[encoder.stage], person.timing)
        return person.window.end_step(step, found, person.timing, is_hop=self._is_hop(step))[0]

    def _drop_step(self, step: Step) -> list[Prediction]:
        """Work on nothing; at the end of a hop, say so to everybody."""
        self._counted.n_dropped_steps += 1
        found = self._nothing()
        self._repeated |= found
        told: list[Prediction | None] = []
        for person in list(self._people.values()) or [self._nobody]:
            person.timing, person.found = Timing(), found[self._face.stage]
            person.timing.start_step(self._clock.now_ns(), Timing(), None)
            told.append(self._drop(person, step, found, ("overloaded",)))
        return [prediction for prediction in told if prediction is not None]

    def _drop(
        self, person: _Person, step: Step, found: dict[str, Found], why: tuple[str, ...]
    ) -> Prediction | None:
        return person.window.drop_step(step, found, person.timing, why, is_hop=self._is_hop(step))

    def _look(self, step: Step, timing: Timing) -> None:
        """Who is there: those who stayed keep their windows, newcomers get one, and the others' are gone."""
        began_ns, encoder = self._clock.now_ns(), self._face
        frames = _timed(step, encoder)
        names = self._maker.look(frames, self._windower.end_ns(encoder, step.index))
        self._counted.n_people += sum(name not in self._people for name in names)
        self._people = {name: self._people.get(name) or self._newcomer(name) for name in names}
        has_pictures = any(frame is not None for frame in frames)
        self._nobody.found = replace(self._nobody.found, quality="no_face" if has_pictures else None)
        timing.preprocess_ns += self._clock.now_ns() - began_ns

    def _newcomer(self, name: str) -> _Person:
        return _Person(name, Window(self._common, name), self._nothing()[self._face.stage])

    def _make_clip(self, encoder: Encoder, frames: TimedFrames) -> ClipReport:
        """The clip of whom is looked at; its frames were searched for all."""
        return self._maker.make(self._looked_at, self._write_clip[encoder.stage])


def _timed(step: Step, encoder: Encoder) -> TimedFrames:
    return [None if one is None else (one.t_ns, one.pixels) for one in step.frames[encoder.modality]]

"""Recordings joined with their labels: are both whole, and which label belongs to which step?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import ArrayLike, NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.errors import DataError, EdgeMerError
from edge_mer.labels.manifest import Recording
from edge_mer.labels.problems import Problem, demand
from edge_mer.labels.track import NO_TIMES, LabelTrack, Range, read_track
from edge_mer.runtime.collect import trace_steps
from edge_mer.runtime.pipeline import PipelineSetup, StepTrace
from edge_mer.sources.base import Source
from edge_mer.sources.file import FileSource
from edge_mer.sources.file_frames import is_still
from edge_mer.sources.file_open import expand, open_container, open_regular, used_streams
from edge_mer.sources.registry import open_source
from edge_mer.sources.signal import SignalSource
from edge_mer.sources.sim import EMOTIONS, SimSource
from edge_mer.sources.sim_settings import SimSettings
from edge_mer.types.model import AffectOutput, ModelSpec, Output, to_ns

MAX_PACKET_JUMP_S = 10
"""Where the times of a file's packets jump by more, or go back, it is played to measure it."""

_MAX_PACKET_BACK_S = Fraction(1, 10)
_SIM_EMOTIONS = (0.0, len(EMOTIONS) - 1.0)


Labels = dict[str, NDArray[np.float32]]
"""Output name -> (steps,) float32, the label at each step's end; NaN where there is none."""


class Truth(Protocol):
    """What a recording is labelled with."""

    def at(self, t_ns: ArrayLike, max_distance_ns: int) -> dict[str, NDArray[np.float32]]:
        """Output name -> float32 of the shape of `t_ns`; NaN where no label is as near as asked."""
        ...


@dataclass(frozen=True)
class LabelledSession:
    """One recording as the model saw it.

    Attributes:
        person: Who it is.
        traces: One per step, in order.
        labels: Of each step.
    """

    person: str
    traces: list[StepTrace]
    labels: Labels

    @property
    def steps(self) -> NDArray[np.int64]:
        """(steps,), which they are."""
        return np.array([trace.index for trace in self.traces], np.int64)


@dataclass(frozen=True)
class Extent:
    """How long a source plays, and when its pictures were taken; None where it has none."""

    duration_ns: int
    frames_ns: NDArray[np.int64] | None = None


def ranges_of(model: ModelSpec) -> dict[str, Range]:
    """Output name -> smallest and largest label: of levels and classes, the numbers of the first and last."""
    return {output.name: _range_of(output) for output in model.outputs}


def _range_of(output: Output) -> Range:
    if isinstance(output, AffectOutput):
        return output.low, output.high
    return 0.0, output.value_shape[0] - 1.0


def check(recordings: Iterable[Recording], ranges: Mapping[str, Range]) -> list[Problem]:
    """Everything that is wrong with recordings and their labels, as far as can be told without playing.

    Args:
        recordings: As a manifest names them.
        ranges: Output name -> smallest and largest label.
    """
    problems: list[Problem] = []
    for recording in recordings:
        extents: list[Extent] = []
        for uri in recording.sources:
            try:
                extents.append(measure(uri))
            except EdgeMerError as error:
                problems.append(_as_problem(uri, error))
        if recording.labels is None:
            problems += _check_truth(recording, ranges)
            continue
        is_whole = len(extents) == len(recording.sources)
        _, found = _read(recording, recording.labels, ranges, extents if is_whole else None)
        problems += found
    return problems


def truth_of(recording: Recording, ranges: Mapping[str, Range] | None = None) -> Truth:
    """The labels of a recording: of its file, or of the person that is simulated.

    Args:
        recording: As a manifest names it.
        ranges: Output name -> smallest and largest label; None takes all columns as they are.

    Raises:
        DataError: The labels cannot be used; one message with every problem.
    """
    if recording.labels is None:
        demand([] if ranges is None else _check_truth(recording, ranges), f"recording {recording.name}")
        return _SimTruth(_simulated(recording), ranges)
    # How long it is matters to `check`; only a label file with a row per picture needs the sources again.
    track, problems = _read_track(recording.labels, ranges, recording.label_rate_hz)
    if any(problem.what == NO_TIMES for problem in problems):
        extents = [measure(uri) for uri in recording.sources]
        track, problems = _read(recording, recording.labels, ranges, extents)
    demand(problems, f"recording {recording.name}")
    return track


def collect_labelled(
    setup: PipelineSetup, recording: Recording, opened: Callable[[str], Source] = open_source
) -> LabelledSession:
    """Play a recording through the device's own runtime, and find the label of each step.

    A step's label is the one that is nearest to the step's end, if it is within one step.

    Args:
        setup: Model and engines.
        recording: As a manifest names it; its sources start together.
        opened: From a URI to its source.

    Raises:
        DataError: The labels or a source cannot be used, or there was not even one step.
        UsageError: The sources do not fit the model.
    """
    traces: list[StepTrace] = []
    _, labels = play_labelled(setup, recording, traces.append, opened)
    return LabelledSession(recording.person, traces, labels)


def play_labelled(
    setup: PipelineSetup,
    recording: Recording,
    on_step: Callable[[StepTrace], None],
    opened: Callable[[str], Source] = open_source,
    first_step: int = 0,
    from_ns: int = 0,
    end_step: int | None = None,
) -> tuple[NDArray[np.int64], Labels]:
    """The same, step by step, or a part of it.

    Args:
        setup: Model and engines.
        recording: As a manifest names it; its sources start together.
        on_step: Given one trace per step, in order.
        opened: From a URI to its source.
        first_step: Where to begin; the first step of a hop.
        from_ns: What was captured before is left out.
        end_step: Where to end, without it; None: where the sources end.

    Returns:
        (steps,) int64, which steps they were, and their labels.

    Raises:
        DataError: The labels or a source cannot be used, or there was not even one step.
        UsageError: The sources do not fit the model.
    """
    model = setup.model
    truth = truth_of(recording, ranges_of(model))
    steps: list[int] = []

    def take(trace: StepTrace) -> None:
        steps.append(trace.index)
        on_step(trace)

    sources = [opened(uri) for uri in recording.sources]
    trace_steps(setup, sources, take, first_step, from_ns, end_step)
    ends_ns = np.array([model.step_end_ns(step) for step in steps], np.int64)
    return np.array(steps, np.int64), truth.at(ends_ns, to_ns(model.step))


def measure(uri: str) -> Extent:
    """How long a recorded source plays, decoding as little as can be.

    Raises:
        DataError: It cannot be used, or does not end by itself.
        UsageError: There is no such source.
    """
    source = open_source(uri)
    if source.is_live:
        raise DataError(f"{uri} is live, and labels belong to a recording", hint="record it to a file first")
    if isinstance(source, SimSource):
        return Extent(to_ns(_settings(uri).duration_s))
    if isinstance(source, SignalSource):
        return Extent(source.measure_ns())
    try:
        source.start()
        extent = _packet_extent(source) if isinstance(source, FileSource) else None
    finally:
        source.ensure_stopped()
    return extent or _played_extent(source)


# -- labels -------------------------------------------------------------------------------------


def _read(
    recording: Recording, labels: Path, ranges: Mapping[str, Range] | None, extents: list[Extent] | None
) -> tuple[LabelTrack, list[Problem]]:
    """Read the label file; `extents` is None where not all sources can be measured."""
    videos = [extent.frames_ns for extent in extents or () if extent.frames_ns is not None]
    track, problems = _read_track(
        labels,
        ranges,
        recording.label_rate_hz,
        frames_ns=videos[0] if videos else None,
        duration_ns=max((extent.duration_ns for extent in extents), default=None) if extents else None,
    )
    if extents is None:
        problems = [problem for problem in problems if problem.what != NO_TIMES]
    return track, problems


def _read_track(
    labels: Path,
    ranges: Mapping[str, Range] | None,
    rate_hz: Fraction | None,
    frames_ns: NDArray[np.int64] | None = None,
    duration_ns: int | None = None,
) -> tuple[LabelTrack, list[Problem]]:
    """As `read_track`; numbers of classes, where they are asked for, are whole besides."""
    track, problems = read_track(
        labels, ranges, rate_hz=rate_hz, frames_ns=frames_ns, duration_ns=duration_ns
    )
    return track, [*problems, *(_check_classes(labels, track) if ranges else [])]


def _check_classes(labels: Path, track: LabelTrack) -> list[Problem]:
    """There is nothing between two classes."""
    numbers = np.asarray(track.values.get("emotion", ()), np.float64)
    broken = numbers[np.isfinite(numbers) & (numbers != np.rint(numbers))]
    if not broken.size:
        return []
    what = f"{broken.size} labels of emotion are no number of a class, such as {broken[0]:g}"
    return [Problem(str(labels), None, what, hint="number the classes 0, 1, 2 and so on")]


def _check_truth(recording: Recording, ranges: Mapping[str, Range]) -> list[Problem]:
    """A recording without a label file must be a simulated person who knows what is asked."""
    uri = next((uri for uri in recording.sources if uri.startswith("sim:")), None)
    if uri is None:
        return []  # the manifest's own problem
    try:
        known = _simulated(recording).truth(0)
    except EdgeMerError:
        return []  # told where it was measured
    missing = [name for name in ranges if name not in known]
    if ranges.get("emotion", _SIM_EMOTIONS) != _SIM_EMOTIONS:
        missing.append("emotion of these classes")
    what = f"a simulated person has no {', '.join(missing)}, only {', '.join(known)}"
    return [Problem(uri, None, what, hint="use another model, or labelled recordings")] if missing else []


def _simulated(recording: Recording) -> SimSource:
    for uri in recording.sources:
        if uri.startswith("sim:"):
            return SimSource(uri.removeprefix("sim:"))
    raise DataError(
        f"recording {recording.name} has no labels", hint="give a label file; only sim: knows its own truth"
    )


def _settings(uri: str) -> SimSettings:
    return SimSettings.parse(uri.removeprefix("sim:"))


class _SimTruth:
    """What a simulated person felt, at any time; pain, there 0 to 1, in the range that is asked for."""

    def __init__(self, source: SimSource, ranges: Mapping[str, Range] | None) -> None:
        self._source = source
        self._names = None if ranges is None else set(ranges)
        self._factors = {"pain": np.float32(ranges["pain"][1])} if ranges and "pain" in ranges else {}
        self._duration_ns = to_ns(_settings(source.uri).duration_s)

    def at(self, t_ns: ArrayLike, max_distance_ns: int) -> dict[str, NDArray[np.float32]]:
        """The truth; outside the session that of its nearest moment, if that is near enough."""
        asked_ns = np.asarray(t_ns, np.int64)
        inside_ns = np.clip(asked_ns, 0, self._duration_ns)
        is_near = np.abs(asked_ns - inside_ns) <= max_distance_ns
        return {
            name: np.where(is_near, values * self._factors.get(name, np.float32(1)), np.float32(np.nan))
            for name, values in self._source.truth(inside_ns).items()
            if self._names is None or name in self._names
        }


def _as_problem(uri: str, error: EdgeMerError) -> Problem:
    """A source that cannot be used; told with its path, as far as it has one."""
    scheme, _, rest = uri.partition(":")
    path = rest.partition("?")[0] if scheme == "signal" else rest if scheme in ("file", "mcap") else uri
    parts = [error.what]
    parts += [f"expected {error.expected}"] if error.expected else []
    parts += [f"found {error.found}"] if error.found else []
    return Problem(path, None, "; ".join(parts), hint=error.hint or "")


# -- lengths ------------------------------------------------------------------------------------


@dataclass
class _Packets:
    """The packets of one stream, by their times in its time base."""

    time_base_s: Fraction
    times: list[int] = field(default_factory=list)
    end: int = 0
    last: int | None = None

    def follows(self, time: int) -> bool:
        """Whether a packet's decoding time continues the stream."""
        step_s = (time - (time if self.last is None else self.last)) * self.time_base_s
        self.last = time
        return -_MAX_PACKET_BACK_S <= step_s <= MAX_PACKET_JUMP_S


def _packet_extent(source: FileSource) -> Extent | None:
    """By the packets in the file, without decoding them; None where they do not say it all."""
    path = expand(source.uri.removeprefix("file:"))
    with open_regular(path) as file, open_container(file, path) as container:
        streams = used_streams(container, path)
        if any(is_still(stream) for stream in streams):
            return None
        found = {stream.index: _Packets(stream.time_base or Fraction(1)) for stream in streams}
        try:
            for packet in container.demux(*streams):
                if not packet.size or packet.is_discard:
                    continue
                track = found[packet.stream_index]
                if packet.pts is None or packet.is_corrupt:
                    return None
                if packet.dts is not None and not track.follows(packet.dts):
                    return None
                track.times.append(packet.pts)
                track.end = max(track.end, packet.pts + (packet.duration or 0))
        except av.FFmpegError:
            return None
        video = next((found[stream.index] for stream in streams if isinstance(stream, VideoStream)), None)
        codecs = {stream.codec_context.name for stream in streams}
    if "vp8" in codecs:  # has packets that are not shown, and only the decoder tells which
        return None
    return _placed(source, video, list(found.values()))


def _placed(source: FileSource, video: _Packets | None, tracks: list[_Packets]) -> Extent | None:
    """The packets on the time axis of the session, on which the first picture is where it is played."""
    tracks = [track for track in tracks if track.times]
    has_picture = any(spec.modality == "visual" for spec in source.specs)
    if not tracks or has_picture != bool(video and video.times):
        return None
    if video is None:
        zero_s = min(min(track.times) * track.time_base_s for track in tracks)
        return Extent(_end_ns(tracks, zero_s))
    times = np.unique(np.array(video.times, np.int64))
    first_ns = _first_picture_ns(source)
    if times.size != len(video.times) or first_ns is None:
        return None
    since_first = (times - times[0]).tolist()
    base = video.time_base_s * NS_PER_S
    frames_ns = np.array([first_ns + round(time * base) for time in since_first], np.int64)
    zero_s = int(times[0]) * video.time_base_s - Fraction(first_ns, NS_PER_S)
    step_ns = int(np.median(np.diff(frames_ns))) if frames_ns.size > 1 else 0
    return Extent(max(_end_ns(tracks, zero_s), int(frames_ns[-1]) + step_ns), frames_ns)


def _end_ns(tracks: list[_Packets], zero_s: Fraction) -> int:
    return max(round((track.end * track.time_base_s - zero_s) * NS_PER_S) for track in tracks)


def _first_picture_ns(source: Source) -> int | None:
    while (chunk := source.read(0)) is not None:
        if chunk.modality == "visual":
            return chunk.t_ns
    return None


def _played_extent(source: Source) -> Extent:
    """By playing it; for what only its decoder knows."""
    end_ns = 0
    frames_ns: list[int] = []
    with contextlib.ExitStack() as at_end:
        at_end.callback(source.ensure_stopped)
        source.start()
        periods_ns = {spec.name: NS_PER_S / spec.rate_hz if spec.rate_hz else 0.0 for spec in source.specs}
        has_picture = any(spec.modality == "visual" for spec in source.specs)
        while not source.ended:
            chunk = source.read(1000)
            if chunk is None:
                continue
            if chunk.modality == "visual":
                frames_ns.append(chunk.t_ns)
            end_ns = max(end_ns, chunk.t_ns + round(chunk.n_samples * periods_ns[chunk.stream]))
    return Extent(end_ns, np.array(frames_ns, np.int64) if has_picture else None)

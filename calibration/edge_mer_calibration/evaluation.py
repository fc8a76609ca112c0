"""How right a bundle is about people with known labels: per precision, and per subset of modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_mer.bundle.read import Bundle
from edge_mer.corpus.crew import Alone, Crew
from edge_mer.corpus.cut import Piece
from edge_mer.corpus.progress import Progress, Say
from edge_mer.errors import DataError, UsageError
from edge_mer.labels.manifest import Recording
from edge_mer.labels.problems import Problem
from edge_mer.runtime.setup import cpu_precisions
from edge_mer.runtime.simulated import n_lead_in, simulated
from edge_mer.types.model import ModelSpec
from edge_mer_calibration.against_fp32 import Difference, difference
from edge_mer_calibration.corruption import Corruption
from edge_mer_calibration.estimating import PLAYED, Estimated, Estimating, Looked, Take
from edge_mer_calibration.guesses import guesses
from edge_mer_calibration.judging import CorruptedRow, Judged, Row, judge, judge_corrupted
from edge_mer_calibration.kept_estimates import KeptEstimates
from edge_mer_calibration.metrics import Estimate
from edge_mer_calibration.scoring import People, Scored

FIRST_PERSON = 50_000
"""Simulated people from here on are for judging only: no recipe learns from them."""

MIN_PEOPLE = 2


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Attributes:
        model: Its name.
        bundle_id: Of the bundle.
        n_people: People.
        rows: Per precision and subset of modalities, all of them first.
        baselines: What one can guess without any sensor -> output -> measure -> value: "constant" is the mean
            label, or the frequency of each class, of the other people; "time" that of theirs within 30 s
            of the same time since the start.
        gain: Precision -> output -> first measure of all modalities minus that of the best single one.
        corrupted: Per corruption and precision.
        differences: Every other precision minus FP32; empty where FP32 was not judged.
        failed: Name of a recording that could not be used -> why.
        problems: What is wrong with recordings and does not forbid to use them.
    """

    model: str
    bundle_id: str
    n_people: int
    rows: tuple[Row, ...]
    baselines: dict[str, Scored]
    gain: dict[str, dict[str, Estimate]]
    corrupted: tuple[CorruptedRow, ...] = ()
    differences: tuple[Difference, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, ready for JSON."""
        found = asdict(self)
        for row in found["rows"]:
            for kind in ("interval", "sharpness"):
                row[kind] = {output: one.model_dump() for output, one in row[kind].items()}
        return found


def simulated_people(model: ModelSpec, n_people: int, n_steps: int) -> list[Recording]:
    """Sessions of simulated people that no shipped recipe learns from."""
    steps = n_steps + n_lead_in(model)
    return [
        Recording(
            name=f"person-{person}",
            person=str(person),
            sources=(simulated(model, seed=99, person=person, n_steps=steps),),
            labels=None,
            label_rate_hz=None,
            split=None,
        )
        for person in range(FIRST_PERSON, FIRST_PERSON + n_people)
    ]


def evaluate_bundle(
    bundle: Bundle,
    face_detector: Path | None,
    recordings: Sequence[Recording],
    precisions: Sequence[str],
    say: Say,
    corruptions: Sequence[Corruption] = (),
    crew: Crew | None = None,
    kept: KeptEstimates | None = None,
) -> Evaluation:
    """Play labelled recordings once, and once more with each corruption; judge every precision and subset.

    A recording that cannot be used is left out, and listed.

    Args:
        bundle: The bundle.
        face_detector: YuNet's ONNX file; None: OpenCV's cascades find faces, if the model looks at them.
        recordings: With labels.
        precisions: Which candidates; empty = all that run on a CPU.
        say: Told what is being done.
        corruptions: What is done to the recordings, one after the other.
        crew: Who plays them; None: this process.
        kept: What was played before; None: nothing was, and nothing is kept.

    Raises:
        UsageError: No such precision, a corruption of what the model does not look at, or fewer than two
            people.
        DataError: Fewer than two people are left of more.
        EdgeMerError: The bundle cannot be used.
    """
    model = bundle.manifest.model
    names = _precisions(bundle, precisions)
    _check_corruptions(model, corruptions)
    players = _Players(Estimating(bundle, tuple(names), face_detector), crew or Alone(), say, kept)
    players.look(recordings)
    sessions = players.play(None)
    worse = {one.text: players.play(one) for one in corruptions}
    usable = [name for name in sessions if all(name in one for one in worse.values())]
    found = [sessions[name] for name in usable]
    n_people = len({one.person for one in found})
    if n_people < MIN_PEOPLE:
        raise _too_few(n_people, players.failed)
    people = People.of(found)
    judged: dict[str, Judged] = {}
    for name in names:
        say(f"judging {name}", 0, 0)
        said = bundle.manifest.candidates[name].findings
        judged[name] = judge(model, name, people, [one.found[name] for one in found], said)
    corrupted: list[CorruptedRow] = []
    for text, others in worse.items():
        again = [others[name] for name in usable]
        for name in names:
            said_now = [one.found[name] for one in again]
            corrupted.append(judge_corrupted(model, judged[name], text, People.of(again), said_now))
    return Evaluation(
        model=model.name,
        bundle_id=bundle.manifest.bundle_id,
        n_people=people.n,
        rows=tuple(row for one in judged.values() for row in one.rows),
        baselines=guesses(model, people, judged[names[0]].found),
        gain={name: one.gain for name, one in judged.items()},
        corrupted=tuple(corrupted),
        differences=_differences(model, judged),
        failed=players.failed,
        problems=tuple(players.problems),
    )


def _too_few(n: int, failed: Mapping[str, str]) -> UsageError | DataError:
    left_out = "; ".join(f"{name} was left out: {error}" for name, error in [*failed.items()][:5])
    kind = DataError if failed else UsageError
    return kind(
        "an evaluation needs at least two people",
        expected="two or more",
        found=("none" if n == 0 else "one") + (f" ({left_out})" if failed else ""),
    )


class _Players:
    """Has recordings played, whole or in pieces.

    Args:
        how: They are played.
        crew: Who plays them.
        say: Told what is being done.
        kept: What was played before.

    Attributes:
        failed: Name of the recording -> why it was left out.
        problems: What else is wrong with recordings.
    """

    def __init__(self, how: Estimating, crew: Crew, say: Say, kept: KeptEstimates | None) -> None:
        self._how, self._crew, self._say, self._kept = how, crew, say, kept
        self._pieces: dict[str, list[Piece]] = {}
        self.failed: dict[str, str] = {}
        self.problems: list[Problem] = []

    def look(self, recordings: Sequence[Recording]) -> None:
        """Look at recordings and their labels before any is played."""
        progress = Progress(self._say, "looking at recordings", [1.0] * len(recordings))
        looked: dict[int, Looked] = {}
        for done in self._crew.each(self._how, recordings):
            if isinstance(done.result, Looked):
                looked[done.number] = done.result
            else:
                self.failed[recordings[done.number].name] = done.error
            progress.ended(done.number, is_good=not done.error)
        for number, one in sorted(looked.items()):
            self._pieces[recordings[number].name] = one.pieces
            self.problems += one.problems

    def play(self, corruption: Corruption | None) -> dict[str, Estimated]:
        """Name of the recording -> what it came to; those that failed are not among them."""
        found: dict[str, Estimated] = {}
        parts: dict[str, dict[int, Estimated | None]] = {}
        jobs: list[tuple[str, Piece]] = []
        for name, pieces in self._pieces.items():
            before = None if self._kept is None else self._kept.read(pieces[0].recording, corruption)
            if before is None:
                jobs += [(name, piece) for piece in pieces]
            else:
                found[name] = before
        jobs.sort(key=lambda job: -job[1].seconds)  # the longest first: nobody waits for it at the end
        what = "playing" if corruption is None else f"playing with {corruption.text}"
        progress = Progress(self._say, what, [piece.seconds for _, piece in jobs])
        for done in self._crew.each(self._how, [Take(piece, corruption) for _, piece in jobs]):
            name, piece = jobs[done.number]
            if done.error:
                self.failed[name] = done.error
            own = parts.setdefault(name, {})
            own[piece.number] = done.result if isinstance(done.result, Estimated) else None
            if len(own) == len(self._pieces[name]):
                whole = [part for _, part in sorted(own.items()) if part is not None]
                if len(whole) == len(own):
                    found[name] = Estimated.joined(whole)
                    if self._kept is not None:
                        self._kept.write(piece.recording, corruption, found[name])
                del parts[name]
            progress.ended(done.number, is_good=not done.error)
        return {name: found[name] for name in self._pieces if name in found}


def _differences(model: ModelSpec, judged: Mapping[str, Judged]) -> tuple[Difference, ...]:
    if PLAYED not in judged:
        return ()
    reference = judged[PLAYED]
    return tuple(
        difference(model, name, (one.whole, reference.whole), (one.found, reference.found))
        for name, one in judged.items()
        if name != PLAYED
    )


def _check_corruptions(model: ModelSpec, corruptions: Sequence[Corruption]) -> None:
    for one in corruptions:
        if not set(one.modalities) & set(model.modalities):
            raise UsageError(
                f"{one.text} changes nothing that model {model.name} looks at",
                expected=f"a corruption of {' or '.join(model.modalities)}",
                found=" or ".join(one.modalities),
            )


def _precisions(bundle: Bundle, asked: Sequence[str]) -> list[str]:
    able = cpu_precisions(bundle.manifest.candidates)
    for name in asked:
        if name not in able:
            raise UsageError(f"{name} cannot be evaluated here", expected=" or ".join(able))
    return list(asked) or [str(name) for name in able]

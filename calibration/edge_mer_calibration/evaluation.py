"""How right a bundle is about people with known labels: per precision, and per subset of modalities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edge_mer.bundle.read import Bundle
from edge_mer.errors import UsageError
from edge_mer.labels.manifest import Recording
from edge_mer.preprocess.face import FaceDetector
from edge_mer.runtime.labelled import LabelledSession, collect_labelled
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.setup import cpu_precisions, open_setup
from edge_mer.runtime.simulated import n_lead_in, simulated
from edge_mer.sources.base import Source
from edge_mer.sources.registry import open_source
from edge_mer.types.model import ModelSpec
from edge_mer_calibration.against_fp32 import Difference, difference
from edge_mer_calibration.corruption import Corruption
from edge_mer_calibration.guesses import guesses
from edge_mer_calibration.judging import CorruptedRow, Judged, Row, judge, judge_corrupted
from edge_mer_calibration.metrics import Estimate
from edge_mer_calibration.scoring import People, Scored

FIRST_PERSON = 50_000
"""Simulated people from here on are for judging only: no recipe learns from them."""

PLAYED = "fp32"
"""Sessions are played once, in this precision."""

Say = Callable[[str], None]


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
    """

    model: str
    bundle_id: str
    n_people: int
    rows: tuple[Row, ...]
    baselines: dict[str, Scored]
    gain: dict[str, dict[str, Estimate]]
    corrupted: tuple[CorruptedRow, ...] = ()
    differences: tuple[Difference, ...] = ()

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
    detector: FaceDetector | None,
    recordings: Sequence[Recording],
    precisions: Sequence[str],
    say: Say,
    corruptions: Sequence[Corruption] = (),
) -> Evaluation:
    """Play labelled recordings once, and once more with each corruption; judge every precision and subset.

    Args:
        bundle: The bundle.
        detector: Finds faces, if the model looks at them.
        recordings: With labels.
        precisions: Which candidates; empty = all that run on a CPU.
        say: Told what is being done.
        corruptions: What is done to the recordings, one after the other.

    Raises:
        DataError: A recording cannot be used.
        UsageError: No such precision, or a corruption of what the model does not look at.
    """
    model = bundle.manifest.model
    names = _precisions(bundle, precisions)
    _check_corruptions(model, corruptions)
    setup = open_setup(bundle, PLAYED, detector)
    people = _played(setup, recordings, say)
    engines = {name: open_setup(bundle, name, detector).engines for name in names}
    judged: dict[str, Judged] = {}
    for name in names:
        say(f"judging {name}")
        said = bundle.manifest.candidates[name].findings
        judged[name] = judge(model, engines[name], name, people, played=name == PLAYED, findings=said)
    corrupted: list[CorruptedRow] = []
    for corruption in corruptions:
        worse = _played(setup, recordings, say, corruption)
        for name in names:
            corrupted.append(
                judge_corrupted(
                    model, engines[name], judged[name], corruption.text, worse, played=name == PLAYED
                )
            )
    return Evaluation(
        model=model.name,
        bundle_id=bundle.manifest.bundle_id,
        n_people=people.n,
        rows=tuple(row for one in judged.values() for row in one.rows),
        baselines=guesses(model, people, judged[names[0]].found),
        gain={name: one.gain for name, one in judged.items()},
        corrupted=tuple(corrupted),
        differences=_differences(model, judged),
    )


def _differences(model: ModelSpec, judged: Mapping[str, Judged]) -> tuple[Difference, ...]:
    if PLAYED not in judged:
        return ()
    reference = judged[PLAYED]
    return tuple(
        difference(model, name, (one.whole, reference.whole), (one.found, reference.found))
        for name, one in judged.items()
        if name != PLAYED
    )


def _played(
    setup: PipelineSetup, recordings: Sequence[Recording], say: Say, corruption: Corruption | None = None
) -> People:
    def opened(uri: str) -> Source:
        source = open_source(uri)
        return source if corruption is None else corruption.applied(source)

    sessions: list[LabelledSession] = []
    what = "" if corruption is None else f" with {corruption.text}"
    for number, recording in enumerate(recordings, 1):
        say(f"playing {recording.name}{what}, {number} of {len(recordings)}")
        sessions.append(collect_labelled(setup, recording, opened))
    return People.of(sessions)


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

"""What verbs that play many recordings share: who plays them; and `edge-mer run --corpus`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_mer.bundle.read import open_bundle
from edge_mer.cli.common import err, out, progress
from edge_mer.corpus.crew import Alone, Crew
from edge_mer.corpus.player import Playing
from edge_mer.corpus.playing import LIST, TABLES, Played, play_corpus
from edge_mer.corpus.progress import duration
from edge_mer.errors import DataError, UsageError
from edge_mer.labels.manifest import Recording, read_manifest
from edge_mer.labels.problems import demand, summary
from edge_mer.types.model import MissingPolicy
from edge_mer.types.signals import Modality

RAY_HELP = (
    "Share the recordings among the workers of a Ray cluster: its address, or auto for the one that this "
    "machine belongs to, or else one that is started here."
)
WORKERS_HELP = "Of --ray: how many workers. Default: one for each processor."

_MOST_TOLD = 20


def crew_of(ray: str | None, workers: int | None) -> Crew:
    """Who plays recordings: this process, or workers of a cluster.

    Raises:
        UsageError: Workers without a cluster.
        MissingError: Ray is not installed, or there is no such cluster.
    """
    if ray is None:
        if workers is not None:
            raise UsageError("--workers are those of a cluster", hint="add --ray auto")
        return Alone()
    from edge_mer.corpus.ray_crew import RayCrew

    return RayCrew(ray, workers)


def tell_failed(failed: dict[str, str]) -> None:
    """One line for each recording that was left out."""
    for name, error in list(failed.items())[:_MOST_TOLD]:
        err.print(f"{name} was left out: {error}", markup=False)
    if len(failed) > _MOST_TOLD:
        err.print(f"and {len(failed) - _MOST_TOLD} more.")


def left_out(failed: dict[str, str], of: int) -> DataError:
    """What the verb ends with where some recordings were left out; told once everything else is done."""
    return DataError(
        f"{len(failed)} of {of} recordings could not be used, and were left out",
        hint="mend or remove them, and run the same command again: what is done is not done again",
    )


def tell_replaced(crew: Crew) -> None:
    """How many workers died."""
    if n := crew.n_replaced:
        err.print(f"{n} {'worker' if n == 1 else 'workers'} died and {'was' if n == 1 else 'were'} replaced.")


def run_corpus(
    bundle: Path,
    manifest: Path | None,
    to: Path | None,
    ray: str | None,
    workers: int | None,
    others: Sequence[str],
    *,
    precision: str | None,
    missing: dict[Modality, MissingPolicy],
    hop: int | None,
    face_detector: Path | None,
    people: int | None,
) -> None:
    """Play all recordings of a manifest into a folder of tables.

    Args:
        bundle: Its folder.
        manifest: Names the recordings.
        to: The folder.
        ray: A cluster's address; None: play here.
        workers: How many.
        others: Options that were given, and have no place here.
        precision: Instead of the one that `build-engine` chose.
        missing: Policies that replace the declared ones.
        hop: Steps between two predictions.
        face_detector: YuNet's ONNX file.
        people: How many are followed at once.

    Raises:
        UsageError: The options do not fit each other.
        DataError: The manifest cannot be used, or some recordings could not.
        EdgeMerError: The bundle, an engine or the cluster cannot be used.
    """
    if manifest is None or to is None:
        lacking = "--corpus MANIFEST" if manifest is None else "--out DIR"
        raise UsageError(
            "to play a corpus takes a manifest and a folder", expected=lacking, hint=f"add {lacking}"
        )
    if others:
        raise UsageError(f"--corpus and {' and '.join(others)} exclude each other", hint="leave one out")
    recordings = _recordings(manifest)
    playing = Playing(open_bundle(bundle), precision, missing, face_detector, hop, people)
    with crew_of(ray, workers) as crew:
        with progress() as say:
            played = play_corpus(playing, recordings, to, crew, say)
        tell_replaced(crew)
    _tell(played, to)
    if played.failed:
        raise left_out(played.failed, played.n_recordings)


def _recordings(manifest: Path) -> list[Recording]:
    recordings, problems = read_manifest(manifest, is_labelled=False)
    demand(problems, f"recordings of {manifest}")
    if told := summary(problems):
        err.print(told)
    return recordings


def _tell(played: Played, to: Path) -> None:
    if played.n_before:
        err.print(f"{played.n_before} of {played.n_recordings} were played before.")
    tell_failed(played.failed)
    statuses = ", ".join(f"{n} {status}" for status, n in sorted(played.n_by_status.items()))
    if played.n_by_reason:
        reasons = ", ".join(f"{reason} {n}" for reason, n in played.n_by_reason.most_common())
        err.print(f"Reasons: {reasons}")
    n_good = played.n_recordings - len(played.failed)
    out.print(
        f"{played.n_predictions} predictions ({statuses}) of {n_good} recordings in {to / TABLES}; "
        f"{duration(played.seconds)} were played now. All recordings are listed in {to / LIST}.",
        markup=False,
    )

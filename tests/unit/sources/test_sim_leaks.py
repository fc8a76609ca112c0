"""What is felt is told by faces, voices and bodies alone: not by labels, times, sizes or beginnings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_mer.sources.sim import SimSource
from edge_mer.sources.sim_body import BODY_SIGNALS, Body
from edge_mer.sources.sim_course import Course
from edge_mer.types.signals import Chunk

SENSORS = "streams=visual+audio+eda+ecg+rsp+skt"
N_SESSIONS = 300


def read_all(rest: str) -> list[Chunk]:
    source, chunks = SimSource(rest), []
    source.start()
    while chunk := source.read(0):
        chunks.append(chunk)
    return chunks


def correlation(values: list[float], courses: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Absolute correlations of one number per session with what is felt: (n_courses,)."""
    felt = np.array(courses)
    found: NDArray[np.float64] = np.array(
        [abs(np.corrcoef(values, felt[:, k])[0, 1]) for k in range(felt.shape[1])]
    )
    return found


def felt_at_first(course: Course) -> NDArray[np.float64]:
    """Valence, arousal and pain, mean over the first two seconds: (3,)."""
    t_s = np.linspace(0, 2, 9)
    means: NDArray[np.float64] = np.stack((*course.felt(t_s), course.pain_at(t_s))).mean(axis=1)
    return means


def test_labels_do_not_depend_on_what_is_felt() -> None:
    def labels(seed: int) -> list[object]:
        return [
            (chunk.stream, chunk.modality, chunk.seq, chunk.t_ns, chunk.time_basis, chunk.data.shape)
            for chunk in read_all(f"seed={seed}&pain=1&duration_s=0.6&fps=5&{SENSORS}")
        ]

    assert labels(1) == labels(2) == labels(31)
    specs = {SimSource(f"seed={seed}&pain={seed % 2}&{SENSORS}+text").specs for seed in range(6)}
    assert len(specs) == 1


def test_the_seed_s_number_says_nothing() -> None:
    felt = [felt_at_first(Course(seed, 0, 20.0, with_pain=True)) for seed in range(N_SESSIONS)]
    assert correlation(list(map(float, range(N_SESSIONS))), felt).max() < 0.15


def test_where_a_body_begins_says_little() -> None:
    """Between people, levels differ by far more than by what is felt."""
    first: dict[str, list[float]] = {signal: [] for signal in BODY_SIGNALS}
    felt = []
    for session in range(N_SESSIONS):
        course = Course(session, session, 20.0, with_pain=True)
        body = Body(session, session, course, noise=1.0)
        felt.append(felt_at_first(course))
        for signal in BODY_SIGNALS:
            first[signal].append(float(body.sensed(signal, np.array([0.0, 0.01]), 0)[0]))
    for name, values in first.items():
        assert correlation(values, felt).max() < 0.2, name


def test_a_person_s_levels_are_not_set_by_the_course() -> None:
    """With the responses taken away, the level at the start says nothing even within one person."""
    quiet = Course(0, 0, 20.0, with_pain=False)
    levels, felt = [], []
    for seed in range(N_SESSIONS):
        # another session's body on the same course: what is left differs by the seed alone
        levels.append(float(Body(seed, 3, quiet, noise=0.0).curve("eda", np.array([0.0, 0.01]))[0]))
        felt.append(felt_at_first(Course(seed, 3, 20.0, with_pain=True)))
    assert np.std(levels) > 0
    assert correlation(levels, felt).max() < 0.2


def test_the_first_picture_is_not_lit_by_what_is_felt() -> None:
    corners, felt = [], []
    for session in range(50):
        source = SimSource(f"seed={session}&person=4&streams=visual&width=128&height=128&duration_s=0.1")
        source.start()
        chunk = source.read(0)
        assert chunk is not None
        corners.append(float(chunk.data[:20].astype(np.float64).mean()))
        felt.append(felt_at_first(Course(session, 4, 20.0, with_pain=False))[:2])
    assert np.std(corners) > 1
    assert correlation(corners, felt).max() < 0.3


def test_sessions_differ_by_seed_and_by_person() -> None:
    def first(rest: str) -> dict[str, bytes]:
        chunks = read_all(f"{rest}&duration_s=0.3&fps=5&{SENSORS}")
        return {chunk.modality: chunk.data.tobytes() for chunk in reversed(chunks)}

    one, other_seed, other_person = first("seed=1"), first("seed=2"), first("seed=1&person=1")
    for modality, data in one.items():
        assert data != other_seed[modality], modality
        assert data != other_person[modality], modality

"""Long recordings are cut where nothing is remembered, and nobody can tell that they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from edge_mer.bundle.read import open_bundle
from edge_mer.clock import NS_PER_S
from edge_mer.corpus.cut import Cutter, Piece, memory_ns
from edge_mer.corpus.player import Playing, play
from edge_mer.labels.manifest import Recording
from edge_mer.runtime.pipeline_setup import PipelineSetup
from tests.helpers.broken_off import write_film
from tests.helpers.bundle import ensure_bundle
from tests.helpers.tiny_model import tiny_model


@pytest.fixture(scope="module")
def setup() -> PipelineSetup:
    return Playing(open_bundle(ensure_bundle())).opened()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """5 s from 0, 16 and 32 s on."""
    path = write_film(tmp_path_factory.mktemp("film") / "film.mkv", [(0, 1), (16, 1), (32, 1)], shown_s=5)
    return Recording("film", "ann", (f"file:{path}",), None)


def rows(setup: PipelineSetup, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    found = [one.to_dict() for piece in pieces for one in play(setup, piece)]
    return [{k: v for k, v in one.items() if k not in ("utc", "latency_ms")} for one in found]


def test_pieces_are_to_the_last_bit_what_the_whole_is(setup: PipelineSetup, film: Recording) -> None:
    pieces = Cutter(setup.model, setup.hop_steps, least_s=5).do(film)
    assert [piece.number for piece in pieces] == [0, 1, 2]
    assert [round(piece.seconds) for piece in pieces] == [16, 16, 5]
    whole = rows(setup, [Piece(film)])
    assert rows(setup, pieces) == whole
    statuses = [one["status"] for one in whole]
    assert statuses.count("withheld") > 60  # the breaks are told, by one piece or the other
    assert statuses.count("ok") > 20


def test_a_piece_needs_its_lead(setup: PipelineSetup, film: Recording) -> None:
    """Begun with its data, a window is taken for one at the start of a session."""
    piece = Cutter(setup.model, setup.hop_steps, least_s=5).do(film)[-1]
    assert rows(setup, [replace(piece, first_step=piece.begin_step)]) != rows(setup, [piece])


@pytest.mark.parametrize("how", ["short", "asked", "simulated"])
def test_what_stays_whole(setup: PipelineSetup, film: Recording, how: str) -> None:
    cutter = Cutter(setup.model, setup.hop_steps, least_s=300 if how == "short" else 5, cuts=how != "asked")
    if how == "simulated":
        film = replace(film, sources=("sim:seed=1&duration_s=60",))
    (piece,) = cutter.do(film)
    assert piece.is_whole
    assert piece.seconds == pytest.approx(60 if how == "simulated" else 37, abs=0.1)


def test_a_break_that_is_remembered_cuts_nothing(setup: PipelineSetup, tmp_path: Path) -> None:
    path = write_film(tmp_path / "short.mkv", [(0, 1), (8, 1)], shown_s=6)
    recording = Recording("short", "ann", (f"file:{path}",), None)
    assert len(Cutter(setup.model, setup.hop_steps, least_s=5).do(recording)) == 1


def test_all_sources_must_pause(setup: PipelineSetup, film: Recording, tmp_path: Path) -> None:
    other = write_film(tmp_path / "other.mkv", [(0, 2)], shown_s=20)
    both = replace(film, sources=(*film.sources, f"file:{other}"))
    assert len(Cutter(setup.model, setup.hop_steps, least_s=5).do(both)) == 1


def test_memory_is_the_longest_of_all_there_is() -> None:
    model = tiny_model()
    first = memory_ns(model)
    assert first is not None
    held = model.encoders[0].model_copy(update={"missing": "hold", "hold_max_age": Fraction(30)})
    longer = memory_ns(model.model_copy(update={"encoders": (held, *model.encoders[1:])}))
    assert longer is not None
    assert longer > 30 * NS_PER_S > first

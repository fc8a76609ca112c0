"""What every source must do, run over all registered ones."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edge_mer.sources.base import Source
from edge_mer.sources.registry import SOURCES, open_source
from edge_mer.types.signals import Chunk
from tests.helpers.media import video_from_image
from tests.helpers.recordings import SPECS, chunks_of, write_recording

LIVE = {"brainflow", "camera", "csi", "http", "https", "lsl", "mic", "rtsp", "serial", "sim-live", "tcp"}
"""Held to what a live source must do by tests of their own, each with real components."""


@pytest.fixture(params=sorted(set(SOURCES) - LIVE))
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A small session of each source."""
    if request.param == "sim":
        return "sim:seed=1&person=1&duration_s=1"
    if request.param == "file":
        import cv2

        picture, video = tmp_path / "grey.png", tmp_path / "grey.mp4"
        cv2.imwrite(str(picture), np.full((64, 96, 3), 128, np.uint8))
        video_from_image(picture, video, 1.0, 25)
        return f"file:{video}"
    if request.param == "mcap":
        return f"mcap:{write_recording(tmp_path / 'a.mcap', [chunks_of(SPECS, 3), chunks_of(SPECS, 5)[15:]])}"
    if request.param == "signal":
        table = tmp_path / "bio.csv"
        table.write_text("gsr\n" + "".join(f"{row % 7}\n" if row % 90 else "\n" for row in range(1, 300)))
        return f"signal:{table}?modality=eda&column=gsr&rate_hz=512"
    if request.param == "transcript":
        words = tmp_path / "words.jsonl"
        said = [[{"word": word, "start": at, "end": at + 0.5} for word in ("so", "mo")] for at in range(3)]
        words.write_text("".join(json.dumps({"words": utterance}) + "\n" for utterance in said))
        return f"transcript:{words}"
    raise AssertionError(f"no example for source {request.param}")


def everything(source: Source) -> list[Chunk]:
    source.ensure_ready()
    source.start()
    chunks = []
    while not source.ended:
        if (chunk := source.read(1000)) is not None:
            chunks.append(chunk)
    source.ensure_stopped()
    return chunks


def test_chunks_are_as_their_specs_say(uri: str) -> None:
    source = open_source(uri)
    chunks = everything(source)
    specs = {spec.name: spec for spec in source.specs}
    assert {chunk.stream for chunk in chunks} == set(specs)
    for chunk in chunks:
        spec = specs[chunk.stream]
        assert chunk.modality == spec.modality
        assert spec.dtype == ("str" if chunk.data.dtype.kind == "U" else chunk.data.dtype)
        assert chunk.data.ndim == len(spec.axes) == len(spec.shape)
        assert chunk.data.flags.c_contiguous
        sizes = zip(spec.shape, chunk.data.shape, strict=True)
        assert all(wanted in (None, size) for wanted, size in sizes)


def test_each_stream_is_in_order_and_counted(uri: str) -> None:
    source = open_source(uri)
    chunks = everything(source)
    for spec in source.specs:
        own = [chunk for chunk in chunks if chunk.stream == spec.name]
        assert [chunk.seq for chunk in own] == list(range(len(own)))
        assert all(a.t_ns < b.t_ns for a, b in pairwise(own))
        assert own[0].t_ns >= 0
    if any(spec.rate_hz is not None for spec in source.specs):  # an irregular stream begins when it does
        assert min(chunk.t_ns for chunk in chunks) == 0


def test_stopping_twice_or_early_is_harmless(uri: str) -> None:
    source = open_source(uri)
    source.ensure_stopped()
    source = open_source(uri)
    source.ensure_ready()
    source.start()
    source.read(1000)
    source.ensure_stopped()
    source.ensure_stopped()


def test_its_uri_opens_it_again(uri: str) -> None:
    first = everything(open_source(uri))
    second = everything(open_source(open_source(uri).uri))
    assert len(first) == len(second)
    assert all(
        np.array_equal(a.data, b.data) and a.t_ns == b.t_ns for a, b in zip(first, second, strict=True)
    )


def test_it_says_that_it_can_wait(uri: str) -> None:
    assert open_source(uri).is_live is False

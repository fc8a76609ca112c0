"""What is done to recordings: as much of it as was asked for, where it was asked for, each time the same."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mer.errors import UsageError
from edge_mer.sources.registry import open_source
from edge_mer.types.signals import Chunk, Modality
from edge_mer_calibration.corruption import KINDS, Corruption

SIM = "sim:seed=3&person=2&duration_s={}&streams={}"


def played(text: str | None, duration_s: float, *streams: Modality) -> list[Chunk]:
    source = open_source(SIM.format(duration_s, "+".join(streams)))
    if text is not None:
        source = Corruption.parse(text).applied(source)
    source.ensure_ready()
    source.start()
    chunks = []
    while not source.ended:
        if (chunk := source.read(0)) is not None:
            chunks.append(chunk)
    source.ensure_stopped()
    return chunks


def both(text: str, duration_s: float, stream: Modality) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A stream as it is, and as it becomes."""
    before, after = (
        np.concatenate([chunk.data.astype(np.float64) for chunk in played(one, duration_s, stream)])
        for one in (None, text)
    )
    return before, after


@pytest.mark.parametrize("text", ["noise=5", "blur=2", "dark=0.3", "cover=0.2", "skew=audio:200"])
def test_it_changes_its_own_stream_and_no_other_and_always_alike(text: str) -> None:
    clean, first, again = (played(one, 0.5, "visual", "audio") for one in (None, text, text))
    mine = Corruption.parse(text).modalities
    assert [chunk.stream for chunk in clean] == [chunk.stream for chunk in first]
    for before, after, once_more in zip(clean, first, again, strict=True):
        np.testing.assert_array_equal(after.data, once_more.data)
        assert after.data.dtype == before.data.dtype
        assert after.data.shape == before.data.shape
        is_same = np.array_equal(before.data, after.data) and before.t_ns == after.t_ns
        assert is_same == (before.modality not in mine)


@pytest.mark.parametrize("decibels", [20, 0])
def test_noise_is_so_far_below_the_sound(decibels: float) -> None:
    before, after = both(f"noise={decibels}", 20, "audio")
    ratio = 10 * np.log10(np.mean(before**2) / np.mean((after - before) ** 2))
    assert ratio == pytest.approx(decibels, abs=2.0)


def test_less_light_is_a_share_of_it() -> None:
    before, after = both("dark=0.25", 0.2, "visual")
    np.testing.assert_allclose(after, before / 4, atol=0.5)


def test_a_blur_takes_the_edges_and_leaves_the_light() -> None:
    before, after = both("blur=3", 0.2, "visual")
    assert after.mean() == pytest.approx(before.mean(), rel=0.01)
    assert np.abs(np.diff(after, axis=1)).mean() < 0.5 * np.abs(np.diff(before, axis=1)).mean()


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_a_cover_has_its_share_of_the_picture(share: float) -> None:
    pictures = [chunk.data for chunk in played(f"cover={share}", 0.2, "visual")]
    grey = np.mean([(picture == 128).all(axis=2) for picture in pictures])
    assert grey == pytest.approx(share, abs=0.02)
    height, width = pictures[0].shape[:2]
    assert (pictures[0][height // 2, width // 2] == 128).all()


def test_artefacts_come_as_often_as_was_asked_and_last_a_second_or_so() -> None:
    before, after = both("artefacts=6", 300, "eda")
    is_off = (after - before)[:, 0] > 1e-3 * before.std()
    starts = np.flatnonzero(np.diff(is_off.astype(int)) == 1)
    assert len(starts) == pytest.approx(30, abs=5)
    assert is_off.mean() == pytest.approx(6 * 1.25 / 60, rel=0.2)
    assert (after - before).min() >= -1e-5
    assert (after - before).max() > 2 * before.std()


def test_the_size_of_chunks_changes_no_artefact() -> None:
    """A bump that reaches over the end of a chunk goes on in the next."""
    _, after = both("artefacts=60", 30, "eda")
    assert np.abs(np.diff(after[:, 0])).max() < 0.35 * (after.max() - after.min())


def test_skew_stamps_one_stream_later() -> None:
    clean, late = (played(one, 0.5, "visual", "audio") for one in (None, "skew=visual:250"))
    assert {b.t_ns - a.t_ns for a, b in zip(clean, late, strict=True) if a.modality == "visual"} == {
        250_000_000
    }
    assert {b.t_ns - a.t_ns for a, b in zip(clean, late, strict=True) if a.modality == "audio"} == {0}


@pytest.mark.parametrize(
    "text",
    [
        "noise",
        "noise=loud",
        "noise=-30",
        "noise=nan",
        "dark=1.5",
        "blur=",
        "skew=200",
        "skew=text:200",
        "skew=visual:-1",
        "artefacts=0",
    ],
)
def test_an_amount_out_of_its_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Corruption.parse(text)
    assert caught.value.expected == f"{text.partition('=')[0]}={KINDS[text.partition('=')[0]].unit}"


def test_what_nobody_knows_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        Corruption.parse("niose=3")
    assert caught.value.hint == "did you mean noise"
    assert all(kind in str(caught.value.expected) for kind in KINDS)

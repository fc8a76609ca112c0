"""EDF files: written here by the published layout, with units, pauses, and everything wrong with them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mer.errors import DataError, UsageError
from edge_mer.sources.registry import open_source
from edge_mer.sources.signal import SignalSource
from edge_mer.types.signals import Chunk

NS = 1_000_000_000
LOW, HIGH = -32_768, 32_767


@dataclass(frozen=True)
class Signal:
    """What is written; `stored` holds the file's own numbers, record after record."""

    label: str
    unit: str
    low: str
    high: str
    stored: NDArray[np.int16]
    digital: tuple[int, int] = (LOW, HIGH)


def edf(
    signals: Sequence[Signal],
    n_records: int,
    record_s: str = "1",
    reserved: str = "",
    onsets: Sequence[str] | None = None,
    n_told: int | None = None,
) -> bytes:
    """A file by the published layout; `onsets` makes it EDF+ with its time-keeping annotations."""
    labels = [signal.label for signal in signals] + (["EDF Annotations"] if onsets else [])
    n = len(labels)
    notes = 16  # samples in a record
    per_record = [len(signal.stored) // n_records for signal in signals] + ([notes] if onsets else [])
    head = ("0", 8), ("X X X X", 80), ("Startdate X X X X", 80), ("01.01.26", 8), ("00.00.00", 8)
    head += (str(256 * (n + 1)), 8), (reserved, 44), (str(n_records if n_told is None else n_told), 8)
    head += (record_s, 8), (str(n), 4)
    last: tuple[tuple[str, ...], ...] = (("", "", "-1", "1", str(LOW), str(HIGH)),) if onsets else ()
    described = [
        *((s.label, s.unit, s.low, s.high, str(s.digital[0]), str(s.digital[1])) for s in signals),
        *(("EDF Annotations", *one[1:]) for one in last),
    ]
    columns: list[tuple[Sequence[str], int]] = [
        ([one[0] for one in described], 16),
        ([""] * n, 80),
        *(([one[i] for one in described], 8) for i in range(1, 6)),
        ([""] * n, 80),
        ([str(count) for count in per_record], 8),
        ([""] * n, 32),
    ]
    text = "".join(value.ljust(size) for value, size in head)
    text += "".join(value.ljust(size) for values, size in columns for value in values)
    data = text.encode("latin-1")
    for k in range(n_records):
        for signal, count in zip(signals, per_record, strict=False):
            data += signal.stored[k * count : (k + 1) * count].astype("<i2").tobytes()
        if onsets:
            data += f"{onsets[k]}\x14\x14\0".encode().ljust(2 * notes, b"\0")
    return data


STORED = np.random.default_rng(3).integers(LOW, HIGH + 1, 40).astype(np.int16)
ECG = Signal("ECG II", "uV", "-3276.8", "3276.7", STORED)
EDA = Signal("GSR", "uS", "0", "40", STORED[:12], (0, 4000))


def play(path: Path, keys: str) -> tuple[SignalSource, list[Chunk]]:
    source = open_source(f"signal:{path}?{keys}")
    assert isinstance(source, SignalSource)
    chunks: list[Chunk] = []
    try:
        source.start()
        while (chunk := source.read(0)) is not None:
            chunks.append(chunk)
    finally:
        source.ensure_stopped()
    return source, chunks


def values(chunks: list[Chunk]) -> NDArray[np.float32]:
    return np.concatenate([np.asarray(chunk.data, np.float32) for chunk in chunks])[:, 0]


def written(tmp_path: Path, data: bytes, name: str = "night.edf") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_signals_in_the_units_of_their_modalities(tmp_path: Path) -> None:
    path = written(tmp_path, edf([ECG, EDA], 4, "0.5"))
    source, chunks = play(path, "modality=ecg&column=ECG%20II".replace("%20", " "))
    np.testing.assert_allclose(values(chunks), STORED * 1e-4, atol=1e-6)  # 0.1 uV a step, in mV
    (spec,) = source.specs
    assert (spec.name, spec.rate_hz, spec.unit, spec.channels) == ("night.edf/ecg", 20.0, "mV", ("ECG II",))
    assert [chunk.t_ns for chunk in chunks] == [int(i) * NS // 20 for i in range(0, 40, 2)]
    assert source.measure_ns() == 2 * NS

    source, chunks = play(path, "modality=eda&column=2")
    np.testing.assert_allclose(values(chunks), STORED[:12] * 0.01, rtol=1e-5)
    assert source.specs[0].rate_hz == 6.0
    _, chunks = play(path, "modality=eda&column=ECG II&unit=uS&scale=2")
    np.testing.assert_allclose(values(chunks), STORED * 0.2, rtol=1e-5)


def test_pauses_of_a_discontinuous_recording_stay(tmp_path: Path) -> None:
    onsets = ["+10.25", "+11.25", "+15.5", "+16.5"]
    path = written(tmp_path, edf([ECG], 4, "1", "EDF+D", onsets))
    source, chunks = play(path, "modality=ecg&column=ECG II")
    begins = [chunk.t_ns for chunk in chunks if chunk.seq == 0 or chunk.t_ns % NS == NS // 4]
    assert begins == [0, 5 * NS + NS // 4, 6 * NS + NS // 4]
    np.testing.assert_allclose(values(chunks), STORED * 1e-4, atol=1e-6)
    assert source.measure_ns() == 7 * NS + NS // 4
    # a continuous one has no pauses, whatever its annotations say
    path = written(tmp_path, edf([ECG], 4, "1", "EDF+C", onsets))
    assert play(path, "modality=ecg&column=1")[0].measure_ns() == 4 * NS


def test_a_recording_that_was_never_closed(tmp_path: Path) -> None:
    path = written(tmp_path, edf([ECG], 4, n_told=-1) + b"\0\0\0")
    assert len(values(play(path, "modality=ecg&column=1")[1])) == 40


def test_another_ending(tmp_path: Path) -> None:
    path = written(tmp_path, edf([ECG], 4), "night.rec")
    assert len(values(play(path, "modality=ecg&column=1&layout=edf")[1])) == 40


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"x" * 1000, "no EDF file.*something else"),
        (b"\xffBIOSEMI" + b" " * 1000, "a BDF file"),
        (edf([ECG], 4)[:100], "no EDF file"),
        (edf([ECG], 4)[:400], "a part of one"),
        (edf([ECG], 4)[:-1], "was cut off. Expected: 4 records.*Found: 3"),
        (edf([ECG], 4, "0"), "records of more than 0 s"),
        (edf([ECG], 4, "nan"), "a number as the length of a record"),
        (edf([ECG], 4, "1e-9"), "to 100000 Hz"),
        (edf([replace(ECG, low="5", high="5")], 4), "a range for the values"),
        (edf([replace(ECG, high="1e60")], 4), "larger ones"),
        (edf([replace(ECG, digital=(5, 5))], 4), "a range for the values"),
        (edf([replace(ECG, unit="")], 4), "unit of ecg is not known.*unit=mV"),
        (edf([replace(ECG, unit="bpm")], 4), "Found: unit 'bpm'"),
        (edf([ECG, ECG], 4), "several signals 'ECG II'"),
        (edf([replace(ECG, label="EKG II")], 4), "did you mean EKG II"),
        (edf([ECG], 4, "1", "EDF+D", ["+1", "+0.5", "+3", "+4"]), "begins before the one before"),
        (edf([ECG], 4, "1", "EDF+D"), "record 1 does not say when"),
    ],
)
def test_wrong_files(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(DataError, match=f"(?s){said}"):
        play(written(tmp_path, data), "modality=ecg&column=ECG II")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("modality=ecg", "no column"),
        ("modality=ecg&column=1&rate_hz=4", "does not go with layout=edf"),
        ("modality=ecg&column=1&unit=uV", "not delivered in uV"),
    ],
)
def test_wrong_uris(keys: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_source(f"signal:night.edf?{keys}")


WHOLE = edf([ECG, EDA], 4, "1", "EDF+D", ["+0", "+1", "+2", "+9"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255)), max_size=6),
    length=st.integers(0, len(WHOLE)),
    keep_length=st.booleans(),
)
def test_a_spoilt_file_is_read_or_refused(
    tmp_path: Path, changes: list[tuple[int, int]], length: int, keep_length: bool
) -> None:
    data = bytearray(WHOLE)
    for position, value in changes:
        data[position] = value
    path = written(tmp_path, bytes(data if keep_length else data[:length]))
    found: list[Any] = []
    with contextlib.suppress(DataError):
        found = play(path, "modality=ecg&column=1")[1]
    for chunk in found:
        assert np.isfinite(chunk.data).all()
        assert chunk.t_ns >= 0

"""One signal of an EDF or EDF+ file, with its unit and with the pauses of a discontinuous recording.

The header is read with bounds. Who was recorded, and when, is passed over.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edge_mer.clock import NS_PER_S
from edge_mer.errors import DataError
from edge_mer.sources import units
from edge_mer.sources.file_open import open_regular, shown
from edge_mer.types.signals import UNITS, Modality

MAX_SIGNALS = 512
MAX_RECORD_BYTES = 1 << 26

ANNOTATIONS = "EDF Annotations"

_HEAD_BYTES = 256
_FIELDS = (
    ("label", 16),
    ("transducer", 80),
    ("unit", 8),
    ("low", 8),
    ("high", 8),
    ("digital_low", 8),
    ("digital_high", 8),
    ("filter", 80),
    ("n_samples", 8),
    ("reserved", 32),
)
_SAMPLE_BYTES = 2
_MAX_ONSET_S = 10**9
_MAX_VALUE = 1e30
_RATES_HZ = (Fraction(1, 100), Fraction(100_000))
_NUMBER = r"[-+]?([0-9]{1,8}(\.[0-9]{0,7})?|\.[0-9]{1,7})([eE][-+]?[0-9]{1,2})?"
_ONSET = re.compile(rb"([+-][0-9]{1,12}(?:\.[0-9]{1,12})?)(?:\x15[0-9.]*)?\x14\x14")


@dataclass(frozen=True)
class EdfSignal:
    """One signal, as the header has it.

    Attributes:
        label: Its name.
        unit: Its physical dimension.
        low: Physical value of `digital_low`.
        high: Physical value of `digital_high`.
        digital_low: Lowest number in the file.
        digital_high: Highest number in the file.
        n_samples: In a record.
        offset_bytes: Where its samples begin in a record.
    """

    label: str
    unit: str
    low: float
    high: float
    digital_low: int
    digital_high: int
    n_samples: int
    offset_bytes: int


class EdfTable:
    """An open file, its header read and its signal found.

    Args:
        path: The file.
        column: Label of the signal, or its number from 1.
        modality: What it is.
        scale: Multiplies its values.
        is_unit_known: Values times `scale` are in the modality's unit, whatever the header says.

    Attributes:
        declared_rate_hz: Samples per second.

    Raises:
        DataError: The file is no EDF, was cut off, has no such signal, or one in another unit.
    """

    def __init__(
        self, path: Path, column: str, modality: Modality, scale: float, *, is_unit_known: bool
    ) -> None:
        self._path = path
        with contextlib.ExitStack() as on_failure:
            self._file = on_failure.enter_context(open_regular(path, "EDF file"))
            self._header = _Header.read(self._file, path)
            self._signal = signal = _find(self._header.signals, column, path)
            self.declared_rate_hz: Fraction = signal.n_samples / self._header.record_s
            self._factor = scale * (1.0 if is_unit_known else _factor(signal, modality, path))
            _refuse_odd_numbers(signal, self.declared_rate_hz, self._factor, path)
            on_failure.pop_all()

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def samples(self, rate_hz: Fraction) -> Iterator[tuple[int, float]]:
        """Time in ns and value of every sample, in order.

        Args:
            rate_hz: `declared_rate_hz`.

        Raises:
            DataError: The disk failed, or a record has no time or begins before the one before has ended.
        """
        signal, last_ns = self._signal, -1
        slope = (signal.high - signal.low) / (signal.digital_high - signal.digital_low)
        for number, (start_ns, record) in enumerate(self._records(), 1):
            if start_ns <= last_ns:
                raise DataError(
                    f"{shown(self._path)}, record {number} begins before the one before has ended",
                    hint="check the program that wrote it",
                )
            first = signal.offset_bytes
            stored = np.frombuffer(record, "<i2", signal.n_samples, first).astype(np.float64)
            values = ((stored - signal.digital_low) * slope + signal.low) * self._factor
            for index, value in enumerate(values.tolist()):
                last_ns = start_ns + index * NS_PER_S * rate_hz.denominator // rate_hz.numerator
                yield last_ns, value

    def _records(self) -> Iterator[tuple[int, bytes]]:
        """When each record begins, from the first one's start, and its bytes."""
        header, zero_s = self._header, Fraction(0)
        self._file.seek(header.header_bytes)
        for number in range(header.n_records):
            try:
                record = self._file.read(header.record_bytes)
            except OSError as error:
                raise DataError(
                    f"{shown(self._path)} cannot be read on", found=error.strerror, hint="check the disk"
                ) from error
            if len(record) < header.record_bytes:
                raise _cut_off(self._path, header.n_records, number)
            start_s = header.record_s * number
            if header.is_discontinuous:
                onset_s = self._onset_s(record, number)
                zero_s = onset_s if number == 0 else zero_s
                start_s = onset_s - zero_s
            yield int(start_s * NS_PER_S), record

    def _onset_s(self, record: bytes, number: int) -> Fraction:
        for signal in self._header.all_signals:
            if signal.label == ANNOTATIONS:
                end_bytes = signal.offset_bytes + signal.n_samples * _SAMPLE_BYTES
                found = _ONSET.match(record, signal.offset_bytes, end_bytes)
                if found and abs(Fraction(found[1].decode())) < _MAX_ONSET_S:
                    return Fraction(found[1].decode())
        raise DataError(
            f"{shown(self._path)}, record {number + 1} does not say when it begins",
            expected="a time-keeping annotation, as EDF+D has it",
            hint="check the program that wrote it",
        )


@dataclass(frozen=True)
class _Header:
    """What stands at the front of a file.

    Attributes:
        all_signals: Signals, and the annotations of EDF+.
        n_records: Whole records in the file.
        record_s: How long one is.
        is_discontinuous: Whether there may be pauses between records.
    """

    all_signals: tuple[EdfSignal, ...]
    n_records: int
    record_s: Fraction
    is_discontinuous: bool

    @property
    def signals(self) -> tuple[EdfSignal, ...]:
        return tuple(signal for signal in self.all_signals if signal.label != ANNOTATIONS)

    @property
    def header_bytes(self) -> int:
        return _HEAD_BYTES * (len(self.all_signals) + 1)

    @property
    def record_bytes(self) -> int:
        return sum(signal.n_samples for signal in self.all_signals) * _SAMPLE_BYTES

    @classmethod
    def read(cls, file: BinaryIO, path: Path) -> _Header:
        """From the front of the file.

        Raises:
            DataError: It is no EDF, or was cut off.
        """
        head = file.read(_HEAD_BYTES)
        if len(head) < _HEAD_BYTES or head[:8].rstrip() != b"0":
            what = "a BDF file" if head[:8] == b"\xffBIOSEMI" else "something else"
            raise _no_edf(path, "an EDF or EDF+ file", what)
        n_signals = _whole(head[252:256], path, "the number of signals", 1, MAX_SIGNALS)
        _whole(
            head[184:192], path, "the header's length", low=(size := _HEAD_BYTES * (n_signals + 1)), high=size
        )
        record_s = Fraction(_number(head[244:252], path, "the length of a record"))
        if not 0 < record_s < 10**6:
            raise _no_edf(path, "records of more than 0 s", f"{float(record_s):g} s")
        block = file.read(_HEAD_BYTES * n_signals)
        if len(block) < _HEAD_BYTES * n_signals:
            raise _no_edf(path, "a whole header", "a part of one")
        signals = _signals(block, n_signals, path)
        n_told = _whole(head[236:244], path, "the number of records", -1, 10**8)
        found = cls(signals, n_told, record_s, head[192:197] == b"EDF+D")
        return found._with_counted(os.fstat(file.fileno()).st_size, path)

    def _with_counted(self, file_bytes: int, path: Path) -> _Header:
        """The number of records told, or, of a recording that was never closed, those that are there."""
        if not 0 < self.record_bytes <= MAX_RECORD_BYTES:
            raise _no_edf(path, f"records of 1 to {MAX_RECORD_BYTES} bytes", str(self.record_bytes))
        n_there = max(0, file_bytes - self.header_bytes) // self.record_bytes
        if n_there < self.n_records:
            raise _cut_off(path, self.n_records, n_there)
        n_records = n_there if self.n_records < 0 else self.n_records
        return _Header(self.all_signals, n_records, self.record_s, self.is_discontinuous)


def _signals(block: bytes, n_signals: int, path: Path) -> tuple[EdfSignal, ...]:
    """The header keeps all labels together, then all units, and so on."""
    columns: dict[str, list[bytes]] = {}
    position = 0
    for name, size in _FIELDS:
        columns[name] = [block[position + i * size : position + (i + 1) * size] for i in range(n_signals)]
        position += size * n_signals
    found: list[EdfSignal] = []
    offset_bytes = 0
    for i in range(n_signals):
        label = columns["label"][i].decode("latin-1").strip()
        where = f"signal {i + 1}"
        n_samples = _whole(
            columns["n_samples"][i], path, f"{where}, samples in a record", 0, MAX_RECORD_BYTES
        )
        low, high = (float(_number(columns[name][i], path, where)) for name in ("low", "high"))
        digital = [
            _whole(columns[f"digital_{end}"][i], path, where, -32_768, 32_767) for end in ("low", "high")
        ]
        unit = columns["unit"][i].decode("latin-1").strip()
        found.append(EdfSignal(label, unit, low, high, digital[0], digital[1], n_samples, offset_bytes))
        offset_bytes += n_samples * _SAMPLE_BYTES
    return tuple(found)


def _find(signals: tuple[EdfSignal, ...], column: str, path: Path) -> EdfSignal:
    labels = [signal.label for signal in signals]
    if labels.count(column) == 1:
        found = signals[labels.index(column)]
    elif column.isdecimal() and 1 <= int(column) <= len(signals):
        found = signals[int(column) - 1]
    else:
        near = difflib.get_close_matches(column, labels, n=1)
        raise DataError(
            f"{shown(path)} has {'several signals' if column in labels else 'no signal'} {column!r}",
            expected="one of " + ", ".join(labels[:20]),
            hint=f"did you mean {near[0]}?" if near and column not in labels else "give its number, from 1",
        )
    return found


def _refuse_odd_numbers(signal: EdfSignal, rate_hz: Fraction, factor: float, path: Path) -> None:
    if signal.digital_low >= signal.digital_high or signal.low == signal.high:
        raise _no_edf(path, f"a range for the values of signal {signal.label!r}", "none")
    if max(abs(signal.low), abs(signal.high)) * abs(factor) > _MAX_VALUE:
        raise _no_edf(path, f"values of signal {signal.label!r} up to {_MAX_VALUE:g}", "larger ones")
    low_hz, high_hz = _RATES_HZ
    if not low_hz <= rate_hz <= high_hz:
        raise _no_edf(path, f"{float(low_hz)} to {float(high_hz):g} Hz", f"{float(rate_hz):g} Hz")


def _factor(signal: EdfSignal, modality: Modality, path: Path) -> float:
    hint = f"write unit={UNITS[modality]} if you know that it is, with scale= where it is not yet"
    return units.demand_factor(modality, signal.unit, f"{shown(path)}, signal {signal.label!r}", hint)


def _number(text: bytes, path: Path, what: str) -> str:
    number = text.decode("latin-1").strip()
    if not re.fullmatch(_NUMBER, number):
        raise _no_edf(path, f"a number as {what}", repr(number))
    return number


def _whole(text: bytes, path: Path, what: str, low: int, high: int) -> int:
    number = text.decode("latin-1").strip()
    if not re.fullmatch(r"[-+]?[0-9]{1,8}", number) or not low <= int(number) <= high:
        expected = str(low) if low == high else f"{low} to {high}"
        raise _no_edf(path, f"{expected} as {what}", repr(number))
    return int(number)


def _no_edf(path: Path, expected: str, found: str) -> DataError:
    return DataError(
        f"{shown(path)} is no EDF file that can be used",
        expected=expected,
        found=found,
        hint="check that this is the right file, or export it again",
    )


def _cut_off(path: Path, n_told: int, n_there: int) -> DataError:
    return DataError(
        f"{shown(path)} was cut off",
        expected=f"{n_told} records, as its header says",
        found=f"{n_there}",
        hint="copy it again",
    )

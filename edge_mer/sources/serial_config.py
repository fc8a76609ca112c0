"""How the packets of a serial sensor are framed, and what their fields are: a JSON file, or keys of a URI."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edge_mer.errors import DataError, UsageError
from edge_mer.sources import units
from edge_mer.sources.file_open import expand, open_regular, shown
from edge_mer.types.signals import UNITS, Modality

MAX_CONFIG_BYTES = 1 << 16
MAX_PACKET_BYTES = 4096
MAX_FIELDS = 256

_CODES = set("bBhHiIqQfdx0123456789")
_COUNTERS = {"B": 1, "H": 2, "I": 4}

FieldName = Annotated[int, Field(ge=1, le=MAX_FIELDS)] | Annotated[str, Field(min_length=1, max_length=100)]
"""A field's number from 1 on, or in JSON lines its key."""


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SerialStream(_Declared):
    """One biosignal in the packets.

    Attributes:
        modality: What it is: eda, ecg, emg, ppg, rsp or skt.
        fields: Where its samples are in a packet, oldest first: numbers from 1 on, in JSON lines keys.
        rate_hz: Samples per second; by default the packets' rate times the number of fields. Where only some
            packets carry the signal, say it.
        unit: Of the values after scale and offset; what has a fixed factor to the modality's unit is
            converted, e.g. uV to mV.
        scale: Multiplies a field.
        offset: Is added then.
    """

    modality: Modality
    fields: tuple[FieldName, ...] = Field(min_length=1, max_length=64)
    rate_hz: float | None = Field(default=None, gt=0, le=100_000)
    unit: str | None = Field(default=None, max_length=40)
    scale: float = Field(default=1.0, allow_inf_nan=False)
    offset: float = Field(default=0.0, allow_inf_nan=False)

    @field_validator("modality")
    @classmethod
    def _is_biosignal(cls, modality: Modality) -> Modality:
        if modality not in units.BIOSIGNALS:
            raise ValueError(f"a sensor's modality is one of {', '.join(units.BIOSIGNALS)}, not {modality}")
        return modality

    @field_validator("scale")
    @classmethod
    def _is_no_zero(cls, scale: float) -> float:
        if scale == 0:
            raise ValueError("a scale is any number but 0")
        return scale

    @model_validator(mode="after")
    def _has_known_unit(self) -> SerialStream:
        if units.factor(self.modality, self.written_unit) is None:
            expected = f"{UNITS[self.modality]} or a unit with a fixed factor to it"
            raise ValueError(f"the unit of {self.modality} is {expected}, not {self.unit!r}; see scale")
        return self

    @property
    def written_unit(self) -> str:
        """The unit after scale and offset."""
        return self.unit or UNITS[self.modality]

    def value(self, raw: float) -> float:
        """A field in the modality's unit."""
        return (raw * self.scale + self.offset) * (units.factor(self.modality, self.written_unit) or 1.0)


class SerialConfig(_Declared):
    """A serial sensor.

    Attributes:
        baud: Bits per second.
        framing: "csv" and "json" are lines of text, "binary" packets of one length.
        rate_hz: Packets per second.
        separator: Between the cells of a CSV line; blanks around cells do no harm.
        n_cells: Cells of a CSV line, and other lines are bad; by default there must be as many as are needed.
        sync: The bytes with which a binary packet begins, in hexadecimal digits.
        format: What follows them, as Python's `struct` writes it, with "<" or ">" at its front.
        checksum: What follows that; "crc16-ccitt" has polynomial 0x1021 and begins with 0xFFFF, "crc8" has
            polynomial 0x07 and begins with 0, "crc16-modbus" is Modbus' one. Of two bytes, the order is that
            of `format`.
        checksum_over: "payload" is what `format` describes; "all" takes the sync bytes too.
        counter: The field that counts packets up by one, by which lost ones are seen.
        counter_modulo: It begins again at 0 after this less one; in binary packets the field's size says so.
        streams: What the packets carry; each modality once.
    """

    baud: int = Field(default=115_200, ge=50, le=12_000_000)
    framing: Literal["csv", "json", "binary"] = "csv"
    rate_hz: float | None = Field(default=None, gt=0, le=100_000)
    separator: str = Field(default=",", min_length=1, max_length=1)
    n_cells: int | None = Field(default=None, ge=1, le=MAX_FIELDS)
    sync: str = ""
    format: str = ""
    checksum: Literal["none", "xor8", "sum8", "crc8", "crc16-ccitt", "crc16-modbus"] = "none"
    checksum_over: Literal["payload", "all"] = "payload"
    counter: FieldName | None = None
    counter_modulo: int | None = Field(default=None, ge=2, le=1 << 32)
    streams: tuple[SerialStream, ...] = Field(min_length=1, max_length=len(units.BIOSIGNALS))

    @model_validator(mode="after")
    def _is_whole(self) -> SerialConfig:
        modalities = [stream.modality for stream in self.streams]
        if len(set(modalities)) < len(modalities):
            raise ValueError("each modality is one stream: " + ", ".join(modalities))
        for stream in self.streams:
            if stream.rate_hz is None and self.rate_hz is None:
                raise ValueError(f"{stream.modality} has no rate: give rate_hz, the packets per second")
        if self.framing == "binary":
            self._check_binary()
        elif self.sync or self.format or self.checksum != "none":
            raise ValueError("sync, format and checksum belong to framing binary")
        self._check_fields()
        return self

    def _check_binary(self) -> None:
        try:
            bytes.fromhex(self.sync)
        except ValueError:
            raise ValueError(f"sync is written in hexadecimal digits, e.g. a55a, not {self.sync!r}") from None
        if not 1 <= len(bytes.fromhex(self.sync)) <= 16:
            raise ValueError("a binary packet needs sync, the 1 to 16 bytes with which it begins, e.g. a55a")
        if self.format[:1] not in ("<", ">") or not set(self.format[1:]) <= _CODES or len(self.format) > 100:
            raise ValueError(f"format is e.g. <HhhB: < or >, then b B h H i I q Q f d x, not {self.format!r}")
        try:
            size_bytes = struct.calcsize(self.format)
        except (struct.error, OverflowError):
            size_bytes = MAX_PACKET_BYTES + 1
        if not 1 <= size_bytes <= MAX_PACKET_BYTES:
            raise ValueError(f"format {self.format!r} is no packet of 1 to {MAX_PACKET_BYTES} bytes")

    def _check_fields(self) -> None:
        names = [name for stream in self.streams for name in stream.fields]
        names += [] if self.counter is None else [self.counter]
        wanted = str if self.framing == "json" else int
        for name in names:
            if not isinstance(name, wanted):
                how = "keys" if wanted is str else "numbers from 1 on"
                raise ValueError(f"fields of framing {self.framing} are {how}, not {name!r}")
        numbers = [name for name in names if isinstance(name, int)]
        n_fields = self.n_cells if self.framing == "csv" else len(self.codes)
        if self.framing != "json" and n_fields is not None and max(numbers) > n_fields:
            raise ValueError(f"there is no field {max(numbers)}, a packet has {n_fields}")
        if self.framing == "binary" and isinstance(self.counter, int):
            if self.codes[self.counter - 1] not in _COUNTERS:
                raise ValueError(f"the counter, field {self.counter}, is no B, H or I in {self.format!r}")
        elif self.counter is not None and self.counter_modulo is None:
            raise ValueError("a counter in a line needs counter_modulo, e.g. 65536")

    @property
    def codes(self) -> str:
        """One letter of `struct` per field of a binary packet."""
        found, count = "", ""
        for letter in self.format[1:]:
            if letter.isdigit():
                count += letter
                continue
            found += "" if letter == "x" else letter * int(count or 1)
            count = ""
        return found

    @property
    def modulo(self) -> int | None:
        """After so many packets the counter is 0 again; None without a counter."""
        if self.counter_modulo is None and isinstance(self.counter, int) and self.framing == "binary":
            return int(256 ** _COUNTERS[self.codes[self.counter - 1]])
        return None if self.counter is None else self.counter_modulo

    def rate_of(self, stream: SerialStream) -> float:
        """Samples per second."""
        return stream.rate_hz or (self.rate_hz or 0.0) * len(stream.fields)

    @classmethod
    def of(cls, values: dict[str, Any], where: str) -> SerialConfig:
        """Check what a file or a URI says.

        Raises:
            UsageError: It describes no sensor; the message says what is wrong with which part.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UsageError(
                f"{where} describes no serial sensor",
                found="; ".join(_said(one) for one in error.errors()[:5]),
                hint="see docs/how-to-sensors.md",
            ) from None

    @classmethod
    def read(cls, path: str) -> SerialConfig:
        """Read a JSON file.

        Raises:
            DataError: It cannot be read, or holds no JSON object.
            UsageError: As `of`.
        """
        file = expand(path)
        with open_regular(file, "JSON file") as opened:
            text = opened.read(MAX_CONFIG_BYTES + 1)
        return cls.of(_object(text, file), shown(file))


def _object(text: bytes, file: Path) -> dict[str, Any]:
    try:
        found = json.loads(text) if len(text) <= MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{shown(file)} is no JSON", found=str(error), hint="see docs/how-to-sensors.md"
        ) from None
    if not isinstance(found, dict):
        raise DataError(
            f"{shown(file)} describes no serial sensor",
            expected=f"one JSON object of at most {MAX_CONFIG_BYTES} bytes",
            hint="see docs/how-to-sensors.md",
        )
    return found


def _said(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"] if not isinstance(part, str) or "[" not in part)
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message

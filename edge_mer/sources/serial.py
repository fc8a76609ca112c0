"""`serial:` is a biosensor on a serial line: lines of text, or binary packets, as a description says.

serial:/dev/ttyUSB0?config=sensor.json
serial:/dev/ttyACM0?baud=115200&rate_hz=32&eda=1&eda.scale=0.001&skt=2
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edge_mer.clock import Clock, MonotonicClock
from edge_mer.errors import DataError, LostError, MissingError, UsageError
from edge_mer.sources import units
from edge_mer.sources.base import Attached
from edge_mer.sources.capture import Put
from edge_mer.sources.file_open import expand
from edge_mer.sources.live import LiveSource
from edge_mer.sources.serial_chunks import PacketChunks, spec_of
from edge_mer.sources.serial_config import SerialConfig
from edge_mer.sources.serial_packets import PacketCounts, packets
from edge_mer.types import uri_keys
from edge_mer.types.signals import StreamSpec

INSTALL = "pip install 'edge-mer[bio]'"

_EXAMPLE = "serial:/dev/ttyUSB0?config=sensor.json, or serial:/dev/ttyUSB0?rate_hz=32&eda=1"
_LOOK_S = 0.1
_MAX_BLOCK_BYTES = 4096
_OF_SENSOR = tuple(name for name in SerialConfig.model_fields if name != "streams")
_OF_STREAM = ("rate_hz", "unit", "scale", "offset")


class SerialSource(LiveSource):
    """A serial sensor: a stream "serial/MODALITY" per biosignal, samples (n, 1) float32 in its unit.

    What came at once is one chunk per stream, stamped by its arrival. What is no packet is counted and left
    out.

    Args:
        rest: The URI after `serial:`, "PATH?" and keys: `config`, a file, or those of `SerialConfig`.
        clock: Stamps what comes.

    Attributes:
        counts: What became of the bytes since `start`.

    Raises:
        UsageError: No path, or keys that describe no sensor.
    """

    def __init__(self, rest: str, clock: Clock | None = None) -> None:
        super().__init__(f"serial:{rest}", clock or MonotonicClock())
        self._settings = SerialSettings.parse(rest)
        self._config: SerialConfig | None = None
        self._port: Any = None
        self.counts = PacketCounts()

    @property
    def settings(self) -> SerialSettings:
        """What the URI asks for."""
        return self._settings

    @property
    def path(self) -> Path | None:
        """The file that describes the sensor; None where the URI does."""
        return None if self._settings.config is None else expand(self._settings.config)

    def _open(self) -> tuple[StreamSpec, ...]:
        settings = self._settings
        self._config = config = settings.described()
        self._port = _opened(settings.port, config.baud)
        return tuple(spec_of(stream, config.rate_of(stream)) for stream in config.streams)

    def _begin(self) -> None:
        with self._as_lost():
            self._port.reset_input_buffer()

    def _capture(self, put: Put, should_stop: threading.Event) -> None:
        if self._config is None:  # it is opened before it is started
            return
        cutter = packets(self._config)
        self.counts = cutter.counts
        chunks = PacketChunks(self._config, self._settings.latency_ns, cutter.counts)
        with self._as_lost():
            while not should_stop.is_set():
                waiting_bytes = min(max(1, self._port.in_waiting), _MAX_BLOCK_BYTES)
                block = self._port.read(waiting_bytes)
                arrived_ns = self._clock.now_ns()
                for chunk in chunks.take(cutter.feed(block), arrived_ns):
                    put(chunk)

    def _close(self) -> None:
        port, self._port = self._port, None
        with contextlib.suppress(OSError):
            port.close()

    @contextlib.contextmanager
    def _as_lost(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # pyserial's own are, too
            raise LostError(
                f"serial sensor {self._settings.port} is gone",
                found=str(error),
                hint="plug it in again, and check the cable",
            ) from error


@dataclass(frozen=True)
class SerialSettings:
    """What a `serial:` URI asks for.

    Attributes:
        port: The device, e.g. "/dev/ttyUSB0".
        config: The file that describes the sensor; None where the URI does.
        sensor: What the URI says of it, as `SerialConfig` takes it.
        latency_ns: How long before its arrival a packet was complete.
    """

    port: str
    config: str | None
    sensor: dict[str, Any]
    latency_ns: int

    @classmethod
    def parse(cls, rest: str) -> SerialSettings:
        """Read the part of a URI after `serial:`.

        Raises:
            UsageError: No path, or keys that describe no sensor.
        """
        port, values = uri_keys.read("serial", rest, _key, _EXAMPLE)
        if not port:
            raise UsageError(f"serial:{rest}: no device", expected=f"e.g. {_EXAMPLE}")
        latency_ns = uri_keys.latency_ns(values)
        values.pop("latency_ms", None)
        config = values.pop("config", None)
        if (config is None) == (not values):
            both = "neither config nor keys" if config is None else f"both config and {', '.join(values)}"
            raise UsageError(
                f"serial:{rest}: {both} describe the sensor", expected="one of them", hint=f"e.g. {_EXAMPLE}"
            )
        settings = cls(port, config, _nested(values), latency_ns)
        if config is None:
            settings.described()
        return settings

    def described(self) -> SerialConfig:
        """The sensor.

        Raises:
            DataError: The file cannot be read.
            UsageError: What is described is no sensor.
        """
        if self.config is not None:
            return SerialConfig.read(self.config)
        return SerialConfig.of(self.sensor, f"serial:{self.port}")


def _key(name: str) -> uri_keys.Key | None:
    modality, _, attribute = name.partition(".")
    if name == "latency_ms":
        return uri_keys.LATENCY_MS
    is_stream = modality in units.BIOSIGNALS and (name == modality or attribute in _OF_STREAM)
    return uri_keys.text() if is_stream or name in (*_OF_SENSOR, "config") else None


def _nested(values: dict[str, str]) -> dict[str, Any]:
    """The keys of a URI as a file has them: {"eda": "1", "eda.scale": "2"} -> one stream."""
    is_json = values.get("framing") == "json"

    def field(text: str) -> int | str:
        return int(text) if text.isdecimal() and not is_json else text

    sensor: dict[str, Any] = {name: values[name] for name in _OF_SENSOR if name in values}
    if "counter" in sensor:
        sensor["counter"] = field(sensor["counter"])
    streams = {name: {"modality": name} for name in units.BIOSIGNALS if _is_named(name, values)}
    for name, text in values.items():
        modality, _, attribute = name.partition(".")
        if modality in streams:
            stream: dict[str, Any] = streams[modality]
            stream[attribute or "fields"] = text if attribute else [field(part) for part in text.split(",")]
    return {**sensor, "streams": list(streams.values())}


def _is_named(modality: str, values: dict[str, str]) -> bool:
    return any(name.partition(".")[0] == modality for name in values)


def _pyserial() -> Any:
    try:
        import serial
    except ImportError as error:
        raise MissingError(
            "serial sensors need pyserial", found=str(error), hint=f"install it with: {INSTALL}"
        ) from error
    return serial


def _opened(port: str, baud: int) -> Any:
    pyserial = _pyserial()
    try:
        return pyserial.Serial(port, baud, timeout=_LOOK_S, exclusive=True)
    except ValueError as error:
        raise DataError(f"serial port {port} cannot be used at {baud} baud", found=str(error)) from error
    except OSError as error:
        hints = {
            errno.EACCES: "let this user open it: sudo usermod -aG dialout $USER, then log in again",
            errno.EBUSY: "close the other program that holds it",
            errno.EAGAIN: "close the other program that holds it",
        }
        ports = ", ".join(one.uri.removeprefix("serial:").partition("?")[0] for one in attached())
        raise MissingError(
            f"serial port {port} cannot be opened",
            expected=f"a serial device; attached are {ports or 'none'}",
            found=str(error),
            hint=hints.get(error.errno or 0, "check the path, and that the sensor is plugged in"),
        ) from error


def attached() -> list[Attached]:
    """The serial ports of this machine."""
    try:
        _pyserial()
    except MissingError as error:
        return [Attached("serial:/dev/ttyUSB0?config=sensor.json", "serial ports", str(error))]
    from serial.tools.list_ports import comports

    note = "describe its packets in a file, see docs/how-to-sensors.md"
    return [
        Attached(f"serial:{quote(port.device)}?config=sensor.json", str(port.description), note)
        for port in sorted(comports(), key=lambda port: str(port.device))
    ]

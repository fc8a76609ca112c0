"""What `edge-mer daemon` is told in its TOML file, and how it is checked."""

from __future__ import annotations

import difflib
import ipaddress
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import quote, unquote

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails

from edge_mer.errors import UsageError
from edge_mer.types.alarms import AlarmRule
from edge_mer.types.model import MissingPolicy
from edge_mer.types.signals import Modality

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

MAX_CONFIG_BYTES = 1 << 18
LINK_NAME = "link.sock"

Right = Literal["read", "acknowledge", "swap"]
"""What a token allows: to see, to acknowledge alarms, to change the bundle."""

UNIX = "unix:"

NETWORK_SINKS = ("mqtt", "mqtts", "lsl", "ros2", "fhir+https", "fhir+http")
"""Schemes of sinks that belong to the gateway; all others write files, beside the sensors."""


_FILE_KEYS = ("ca_file", "certificate", "key", "password_file", "token_file")
"""Keys of network sinks' URIs that name files, which lie beside the configuration like any other."""


def _from_folder(path: Path, info: ValidationInfo) -> Path:
    """Relative paths are counted from the file's own folder."""
    folder = (info.context or {}).get("folder", Path())
    return Path(folder, path.expanduser())


def _socket_from_folder(place: str, info: ValidationInfo) -> str:
    if not place.startswith(UNIX):
        return place
    return f"{UNIX}{_from_folder(Path(place.removeprefix(UNIX)), info)}"


def _sink_from_folder(uri: str, info: ValidationInfo) -> str:
    named, separator, query = uri.partition("?")
    if not separator or named.partition(":")[0] not in NETWORK_SINKS:
        return uri
    return f"{named}?{'&'.join(_key_from_folder(part, info) for part in query.split('&'))}"


def _key_from_folder(part: str, info: ValidationInfo) -> str:
    name, _, value = part.partition("=")
    if name not in _FILE_KEYS or not value:
        return part
    return f"{name}={quote(str(_from_folder(Path(unquote(value)), info)))}"


def _engine_from_folder(uri: str, info: ValidationInfo) -> str:
    named, separator, query = uri.partition("?")
    parts = (_key_from_folder(part, info) for part in query.split("&"))
    return f"{named}?{'&'.join(parts)}" if separator else uri


ConfigPath = Annotated[Path, AfterValidator(_from_folder)]
"""A path, which is relative to the configuration's folder."""

Place = Annotated[str, AfterValidator(_socket_from_folder)]
"""Where to listen."""

SinkUri = Annotated[str, AfterValidator(_sink_from_folder)]
"""A sink's URI."""

EngineUri = Annotated[str, AfterValidator(_engine_from_folder)]
"""An inference server's URI."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)


class RecordConfig(_Section):
    """What is kept of what sensors give.

    Attributes:
        file: An MCAP file; its name gets the time at which each session begins, e.g.
            "session-20261122T201500Z.mcap" for "session.mcap".
        redact: Of "faces", "voice" and "words", what is kept as features only.
    """

    file: ConfigPath
    redact: tuple[Literal["faces", "voice", "words"], ...] = ()


class TokenConfig(_Section):
    """Who may do what over HTTP.

    Attributes:
        name: For the audit log.
        sha256: Of the token, as `edge-mer daemon token` shows it; the token itself is kept nowhere.
        may: "read", "acknowledge", "swap".
    """

    name: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    may: tuple[Right, ...] = ("read",)


class HttpConfig(_Section):
    """The HTTP interface and the live page.

    Attributes:
        listen: "address:port", "[::1]:port" or "unix:/path"; [] turns HTTP off. Addresses that others can
            reach need a certificate and a token.
        certificate: Of TLS: a PEM file, with the chain.
        key: Its private key.
        hosts: Names by which it may be called, beside localhost and the addresses it listens at.
        tokens: Who may do what; none: whoever can reach the address may do everything.
        max_bundle_mb: The largest bundle that may be sent.
    """

    listen: tuple[Place, ...] = ("127.0.0.1:8080",)
    certificate: ConfigPath | None = None
    key: ConfigPath | None = None
    hosts: tuple[str, ...] = ()
    tokens: tuple[TokenConfig, ...] = ()
    max_bundle_mb: int = Field(default=2048, ge=1, le=16384)

    @model_validator(mode="after")
    def _lets_nobody_in(self) -> HttpConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        names = [token.name for token in self.tokens]
        if len(set(names)) < len(names):
            raise ValueError("two tokens have the same name")
        if len(set(self.listen)) < len(self.listen):
            raise ValueError("listen names one place twice")
        for place in self.listen:
            if is_local(place):
                continue
            lacking = [
                what
                for what, is_there in (("certificate and key", self.certificate), ("tokens", self.tokens))
                if not is_there
            ]
            if lacking:
                raise ValueError(f"{place} can be reached by others, so it needs {' and '.join(lacking)}")
        return self


class BundlesConfig(_Section):
    """Which bundles may run.

    Attributes:
        trusted_keys: Public keys, PEM files; where there are any, a bundle must be signed by one of them.
    """

    trusted_keys: tuple[ConfigPath, ...] = ()


class ReliefConfig(_Section):
    """What is done when the device is too hot or too busy.

    Attributes:
        on: Predict less often, take a cheaper candidate, leave out modalities; else: nothing is done.
        hottest_c: No thermal zone should be hotter, in degrees Celsius.
        after_s: How long it is too much before the next step is taken.
        calm_s: How long it is calm before a step is taken back.
        thermal_dir: The kernel's thermal zones; another folder where a container has them.
    """

    on: bool = True
    hottest_c: float = Field(default=85.0, ge=20, le=130)
    after_s: float = Field(default=10.0, ge=1, le=3600)
    calm_s: float = Field(default=60.0, ge=1, le=86_400)
    thermal_dir: ConfigPath = Path("/sys/class/thermal")


def _state_dir() -> Path:
    return Path(os.environ.get("STATE_DIRECTORY", "/var/lib/edge-mer").split(":")[0])


def _run_dir() -> Path:
    return Path(os.environ.get("RUNTIME_DIRECTORY", "/run/edge-mer").split(":")[0])


class DaemonConfig(_Section):
    """Everything that the daemon is told.

    Attributes:
        bundle: The bundle's folder, until another one is swapped in.
        sources: Sensors, e.g. "camera:0", "mic:default".
        sinks: Where predictions go, e.g. "jsonl:out.jsonl", "mqtts://broker/ward3/bed5?ca_file=ca.pem".
        precision: The candidate to run instead of the one that `build-engine` chose.
        engine: An inference server that runs the stages, and this device while it is away, e.g.
            "triton://gpu-box:8001/jmt?deadline_ms=100".
        hop: Steps between two predictions instead of those that the model declares.
        people: Follow up to so many faces at once, 1 to 8.
        face_detector: YuNet's ONNX file; without it OpenCV's cascades find faces.
        missing: Modality -> what stands in for it when it is not there.
        state_dir: Keeps bundles, alarms and the audit log; systemd's StateDirectory by default.
        run_dir: Holds the socket between the two processes; systemd's RuntimeDirectory by default.
        record: Keep what sensors give; nothing is kept without it.
        http: The HTTP interface and the live page.
        bundles: Which bundles may run.
        relief: What is done when the device is too hot or too busy.
        alarms: When to raise an alarm.
    """

    bundle: ConfigPath
    sources: tuple[str, ...] = Field(min_length=1)
    sinks: tuple[SinkUri, ...] = ()
    precision: str | None = None
    engine: EngineUri | None = None
    hop: int | None = Field(default=None, ge=1)
    people: int | None = Field(default=None, ge=1, le=8)
    face_detector: ConfigPath | None = None
    missing: Mapping[Modality, MissingPolicy] = Field(default_factory=dict)
    state_dir: ConfigPath = Field(default_factory=_state_dir)
    run_dir: ConfigPath = Field(default_factory=_run_dir)
    record: RecordConfig | None = None
    http: HttpConfig = Field(default_factory=HttpConfig)
    bundles: BundlesConfig = Field(default_factory=BundlesConfig)
    relief: ReliefConfig = Field(default_factory=ReliefConfig)
    alarms: tuple[AlarmRule, ...] = ()

    @property
    def network_sinks(self) -> tuple[str, ...]:
        """Sinks that the gateway writes."""
        return tuple(uri for uri in self.sinks if uri.partition(":")[0] in NETWORK_SINKS)

    @property
    def file_sinks(self) -> tuple[str, ...]:
        """Sinks that the process writes which infers."""
        return tuple(uri for uri in self.sinks if uri not in self.network_sinks)

    @property
    def link_path(self) -> Path:
        """The socket between the two processes."""
        return self.run_dir / LINK_NAME


def read_config(path: Path) -> DaemonConfig:
    """The configuration in a file.

    Raises:
        UsageError: No file, no TOML, or something in it that is not known or not allowed; all of it is named.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise OSError(f"it is larger than {MAX_CONFIG_BYTES} bytes")
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(
            f"cannot read configuration {path}",
            found=getattr(error, "strerror", None) or str(error),
            expected="a file in TOML",
            hint="docs/configuration.md shows one",
        ) from error
    try:
        return DaemonConfig.model_validate(values, context={"folder": path.resolve().parent})
    except ValidationError as error:
        problems = [_told(one) for one in error.errors()]
        raise UsageError(
            f"configuration {path}: {'; '.join(problems)}",
            hint="mend it, and check it: edge-mer daemon --check",
        ) from error


def is_local(place: str) -> bool:
    """Whether only this machine can reach a place to listen at.

    Raises:
        ValueError: It is none.
    """
    if place.startswith(UNIX):
        return True
    host, _ = host_and_port(place)
    return ipaddress.ip_address(host).is_loopback


def host_and_port(place: str) -> tuple[str, int]:
    """The parts of "127.0.0.1:8080" or "[::1]:8080".

    Raises:
        ValueError: It is nothing like that.
    """
    host, _, port = place.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
        if not 0 < int(port) < 65536:
            raise ValueError(port)
    except ValueError as error:
        raise ValueError(
            f"{place!r} is no place to listen at: write 127.0.0.1:8080, [::1]:8080 or unix:/path"
        ) from error
    return host, int(port)


_EXPECTED = {
    "tuple_type": "a list, in [ ]",
    "path_type": "a path, in quotes",
    "string_type": "a text, in quotes",
}


def _told(problem: ErrorDetails) -> str:
    """One problem, with the key that it is about."""
    where = _dotted(problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(problem["loc"])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        told = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return f"unknown key {where} ({told})"
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["type"] in _EXPECTED:
        return f"{where}: expected {_EXPECTED[problem['type']]}"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}" if where else problem["msg"]


def _dotted(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _keys_beside(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that are known where an unknown one stands."""
    section: type[BaseModel] = DaemonConfig
    for part in loc[:-1]:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a type is, or holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)

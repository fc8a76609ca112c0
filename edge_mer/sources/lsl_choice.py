"""Which stream of the Lab Streaming Layer a URI asks for, and what is taken of it."""

from __future__ import annotations

from dataclasses import dataclass

from edge_mer.errors import DataError, UsageError
from edge_mer.sources import units
from edge_mer.types import uri_keys
from edge_mer.types.signals import UNITS, Modality

TYPES: dict[str, Modality] = {
    "eda": "eda",
    "gsr": "eda",
    "ecg": "ecg",
    "ekg": "ecg",
    "emg": "emg",
    "ppg": "ppg",
    "bvp": "ppg",
    "rsp": "rsp",
    "resp": "rsp",
    "respiration": "rsp",
    "skt": "skt",
    "temp": "skt",
    "temperature": "skt",
    "text": "text",
    "markers": "text",
}
"""Type of a stream or channel, in small letters -> modality."""

EXAMPLE = "lsl:type=EDA"
_PREDICATES = ("name", "type", "hostname", "source_id", "uid")
_MODALITIES: tuple[Modality, ...] = (*units.BIOSIGNALS, "text")


@dataclass(frozen=True)
class LslSettings:
    """What an `lsl:` URI asks for.

    Attributes:
        predicate: Which stream, as LSL writes it, e.g. "type='EDA' and name='Shimmer'".
        modality: What it is; None: as the stream says itself.
        channel: Label of the channel, or its number from 1; None: the only one that carries the modality.
        unit: Unit of the channel; None: as the stream says itself.
        latency_ns: How long before the stream's stamps its device measured.
    """

    predicate: str
    modality: Modality | None
    channel: str | None
    unit: str | None
    latency_ns: int

    @classmethod
    def parse(cls, rest: str) -> LslSettings:
        """Read the part of a URI after `lsl:`.

        Raises:
            UsageError: An unknown or repeated key, or nothing that says which stream.
        """
        values = uri_keys.read_query(f"lsl:{rest}", rest, KEYS, EXAMPLE)
        wanted = {name: values[name] for name in _PREDICATES if name in values}
        if not wanted:
            raise UsageError(
                f"lsl:{rest}: nothing says which stream",
                expected=f"one or more of {', '.join(_PREDICATES)}",
                hint=f"e.g. {EXAMPLE}; list what there is with: edge-mer sources",
            )
        return cls(
            predicate=" and ".join(f"{name}={value}" for name, value in wanted.items()),
            modality=values.get("modality"),
            channel=values.get("channel"),
            unit=values.get("unit"),
            latency_ns=uri_keys.latency_ns(values),
        )


def _quoted(given: str) -> str | None:
    """A value in quotes, whether it came in some or not; XPath has no way to write one with both kinds."""
    text = given[1:-1] if len(given) > 1 and given[0] == given[-1] and given[0] in "'\"" else given
    if not text or ("'" in text and '"' in text):
        return None
    return f'"{text}"' if "'" in text else f"'{text}'"


KEYS = {
    **{name: uri_keys.Key("a text without one of both kinds of quotes", _quoted) for name in _PREDICATES},
    "modality": uri_keys.one_of(*_MODALITIES),
    "channel": uri_keys.text("a label, or a number from 1"),
    "unit": uri_keys.text(),
    "latency_ms": uri_keys.LATENCY_MS,
}


@dataclass(frozen=True)
class Channel:
    """What a stream says of one of its channels; "" where it says nothing."""

    label: str
    unit: str
    type: str


@dataclass(frozen=True)
class Description:
    """What a stream says of itself.

    Attributes:
        name: Its name.
        type: Its type, e.g. "EDA".
        rate_hz: Nominal samples per second; 0 for an irregular stream.
        is_text: Whether it carries strings.
        channels: One each.
    """

    name: str
    type: str
    rate_hz: float
    is_text: bool
    channels: tuple[Channel, ...]


@dataclass(frozen=True)
class Chosen:
    """What is taken of a stream.

    Attributes:
        modality: What it is.
        index: Number of the channel from 0.
        factor: To the modality's unit.
    """

    modality: Modality
    index: int
    factor: float


def choose(found: Description, settings: LslSettings) -> Chosen:
    """The channel that a URI asks for, or the only one that there is to take.

    Raises:
        DataError: The stream says too little of itself, or something else than the URI.
    """
    modality = settings.modality or _modality(found, settings)
    if (modality == "text") != found.is_text:
        raise DataError(
            f"lsl stream {found.name!r} cannot be {modality}",
            expected="strings for text, numbers for all else",
            found="strings" if found.is_text else "numbers",
        )
    index = _channel(found, settings, modality)
    if modality == "text":
        return Chosen("text", index, 1.0)
    unit = settings.unit or found.channels[index].unit
    hint = f"write unit={UNITS[modality]} if you know that it is"
    factor = units.demand_factor(modality, unit, f"lsl stream {found.name!r}", hint)
    return Chosen(modality, index, factor)


def _modality(found: Description, settings: LslSettings) -> Modality:
    if found.is_text:
        return "text"
    said = TYPES.get(found.type.lower())
    if settings.channel is not None:
        channel = found.channels[_named(found, settings.channel)]
        said = TYPES.get(channel.type.lower(), said)
    if said is None:
        raise DataError(
            f"lsl stream {found.name!r} does not say what it is",
            expected=f"a type such as {', '.join(UNITS)}",
            found=f"type {found.type!r}, {_labels(found)}",
            hint="write modality=, and channel= where there are several",
        )
    return said


def _channel(found: Description, settings: LslSettings, modality: Modality) -> int:
    if settings.channel is not None:
        return _named(found, settings.channel)
    if len(found.channels) == 1:
        return 0
    fitting = [i for i, channel in enumerate(found.channels) if TYPES.get(channel.type.lower()) == modality]
    if len(fitting) == 1:
        return fitting[0]
    raise DataError(
        f"lsl stream {found.name!r} has {len(found.channels)} channels",
        expected=f"one of type {modality}",
        found=_labels(found),
        hint="write channel=LABEL or channel=NUMBER",
    )


def _named(found: Description, channel: str) -> int:
    labels = [one.label for one in found.channels]
    if labels.count(channel) == 1:
        return labels.index(channel)
    if channel.isdecimal() and 1 <= int(channel) <= len(labels):
        return int(channel) - 1
    raise DataError(
        f"lsl stream {found.name!r} has no channel {channel!r}",
        expected=_labels(found),
        hint="check channel=",
    )


def _labels(found: Description) -> str:
    channels = (one.label or str(number) for number, one in enumerate(found.channels[:20], 1))
    return f"channels {', '.join(channels)}"

"""Which rows of a board's data a URI asks for, and what is certain where it asks for none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_mer.errors import UsageError
from edge_mer.sources import units
from edge_mer.types import uri_keys
from edge_mer.types.signals import UNITS, Modality

ROWS: dict[Modality, str] = {
    "eda": "eda_channels",
    "ecg": "ecg_channels",
    "emg": "emg_channels",
    "ppg": "ppg_channels",
    "skt": "temperature_channels",
}
"""What BrainFlow's description of a board calls the rows that may carry a modality."""

KNOWN_UNITS: dict[Modality, str] = {"ecg": "uV", "emg": "uV", "ppg": "1"}
"""What BrainFlow says of every board: electrodes in uV, light in no unit."""

BOARD_UNITS: dict[str, dict[Modality, str]] = {"SYNTHETIC_BOARD": {"eda": "uS", "skt": "degC"}}
"""What is known of one board. The synthetic one measures nothing, so its numbers may be called anything."""

EXAMPLE = "brainflow:cyton?serial_port=/dev/ttyUSB0&ecg=1"
_EXG = ("eeg_channels", "eog_channels", *ROWS.values())


@dataclass(frozen=True)
class BrainFlowSettings:
    """What a `brainflow:` URI asks for.

    Attributes:
        board: Name or number of the board.
        params: BrainFlow's own input parameters, e.g. {"serial_port": "/dev/ttyUSB0"}.
        channels: Modality -> which of the board's channels of that kind, from 1 on.
        units: Modality -> the unit in which the board gives it.
        latency_ns: How long before BrainFlow's stamps the board measured.
    """

    board: str
    params: dict[str, str]
    channels: dict[Modality, int]
    units: dict[Modality, str]
    latency_ns: int

    @classmethod
    def parse(cls, rest: str) -> BrainFlowSettings:
        """Read the part of a URI after `brainflow:`.

        Raises:
            UsageError: No board, an unknown or repeated key, or a value that is not allowed.
        """
        board, values = uri_keys.read("brainflow", rest, _KEYS, EXAMPLE)
        if not board:
            raise UsageError(f"brainflow:{rest}: no board", expected=f"e.g. {EXAMPLE}")
        return cls(
            board=board,
            params={name: values[name] for name in PARAMS if name in values},
            channels={modality: values[modality] for modality in ROWS if modality in values},
            units={modality: values[f"{modality}.unit"] for modality in ROWS if f"{modality}.unit" in values},
            latency_ns=uri_keys.latency_ns(values),
        )


PARAMS = {
    **{name: uri_keys.text() for name in ("serial_port", "mac_address", "other_info", "serial_number")},
    **{name: uri_keys.text() for name in ("file", "file_aux", "file_anc")},
    **{name: uri_keys.text() for name in ("ip_address", "ip_address_aux", "ip_address_anc")},
    **{name: uri_keys.whole(1, 65_535) for name in ("ip_port", "ip_port_aux", "ip_port_anc")},
    "ip_protocol": uri_keys.whole(0, 3),
    "timeout": uri_keys.whole(1, 60),
    "master_board": uri_keys.whole(-100, 10_000),
}
_KEYS: dict[str, uri_keys.Key] = {
    **PARAMS,
    **{modality: uri_keys.whole(1, 64) for modality in ROWS},
    **{f"{modality}.unit": uri_keys.text() for modality in ROWS},
    "latency_ms": uri_keys.LATENCY_MS,
}


@dataclass(frozen=True)
class Row:
    """One stream of a board: where its samples are.

    Attributes:
        modality: What they are.
        preset: BrainFlow's name of the part of the board, e.g. "DEFAULT".
        index: Row of the board's data.
        rate_hz: Samples per second.
        factor: To the modality's unit.
    """

    modality: Modality
    preset: str
    index: int
    rate_hz: float
    factor: float


def rows(
    board: str, presets: Mapping[str, Mapping[str, Any]], settings: BrainFlowSettings
) -> tuple[Row, ...]:
    """The streams that a URI asks for; where it asks for none, all that are certain.

    Certain is a row that the board describes as one kind of signal only, in a unit that is known.

    Args:
        board: BrainFlow's name of it.
        presets: Its description, by preset.
        settings: What the URI asks for.

    Raises:
        UsageError: The board has no such channel, or the unit must be said, or nothing is certain.
    """
    chosen = {
        modality: settings.channels.get(modality, 1) for modality in (*settings.channels, *settings.units)
    }
    if not chosen:
        chosen = {modality: 1 for modality in ROWS if _is_certain(board, presets, modality)}
    if not chosen:
        raise UsageError(
            f"board {board}: no channel is certain to be a biosignal",
            expected="modality and number of each channel, e.g. ecg=1",
            found=_offers(presets),
            hint=f"e.g. {EXAMPLE}",
        )
    return tuple(
        _row(board, presets, modality, chosen[modality], settings) for modality in ROWS if modality in chosen
    )


def _is_certain(board: str, presets: Mapping[str, Mapping[str, Any]], modality: Modality) -> bool:
    if _unit(board, modality) is None:
        return False
    for description in presets.values():
        mine = description.get(ROWS[modality], [])
        if mine:
            return not any(mine[0] in description.get(kind, []) for kind in _EXG if kind != ROWS[modality])
    return False


def _unit(board: str, modality: Modality) -> str | None:
    return {**KNOWN_UNITS, **BOARD_UNITS.get(board, {})}.get(modality)


def _row(
    board: str,
    presets: Mapping[str, Mapping[str, Any]],
    modality: Modality,
    number: int,
    settings: BrainFlowSettings,
) -> Row:
    there = [
        (name, description, index)
        for name, description in presets.items()
        for index in description.get(ROWS[modality], [])
    ]
    if number > len(there):
        raise UsageError(
            f"board {board} has no {modality} channel {number}",
            expected=f"1 to {len(there)}" if there else "one of those that it has",
            found=None if there else _offers(presets),
        )
    unit = settings.units.get(modality) or _unit(board, modality)
    if unit is None:
        raise UsageError(
            f"board {board}: BrainFlow does not say in which unit it gives {modality}",
            expected=f"{UNITS[modality]}, or a unit with a fixed factor to it",
            hint=f"see the board's own documentation, and write e.g. {modality}.unit={UNITS[modality]}",
        )
    name, description, index = there[number - 1]
    factor = units.demand_factor(modality, unit, f"board {board}", f"write {modality}.unit={UNITS[modality]}")
    return Row(modality, name, int(index), float(description["sampling_rate"]), factor)


def _offers(presets: Mapping[str, Mapping[str, Any]]) -> str:
    counts = {
        modality: sum(len(description.get(kind, [])) for description in presets.values())
        for modality, kind in ROWS.items()
    }
    return ", ".join(f"{n} {modality}" for modality, n in counts.items() if n) or "no biosignal"

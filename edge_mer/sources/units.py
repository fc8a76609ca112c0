"""Units as devices and files write them, and the factor to the unit of a modality."""

from __future__ import annotations

import re

from edge_mer.errors import DataError
from edge_mer.types.signals import UNITS, Modality

BIOSIGNALS: tuple[Modality, ...] = ("eda", "ecg", "emg", "ppg", "rsp", "skt")

UNITLESS: tuple[Modality, ...] = ("ppg", "rsp")
"""Their amplitude depends on the sensor: any unit is as good as any other."""

_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_LONG = {"micro": "u", "milli": "m", "nano": "n", "kilo": "k"}
_NAMES = {"volts": "V", "volt": "V", "siemens": "S", "mho": "S"}
_CELSIUS = ("degc", "c", "°c", "celsius", "degreecelsius", "degreescelsius", "cel")


def factor(modality: Modality, unit: str) -> float | None:
    """What turns values in `unit` into those in the modality's own; None where nothing does for sure.

    Args:
        modality: A biosignal.
        unit: As a device or a file writes it, e.g. "uV", "microvolts", "µS".
    """
    if modality in UNITLESS:
        return 1.0
    if modality == "skt":
        return 1.0 if re.sub(r"[\s_]", "", unit).lower() in _CELSIUS else None
    ours, theirs = _parsed(UNITS[modality]), _parsed(unit)
    if ours is None or theirs is None or ours[1] != theirs[1]:
        return None
    return float(f"{theirs[0] / ours[0]:.12g}")  # 1e-6 / 1e-3 is 0.001, not 0.00099999


def demand_factor(modality: Modality, unit: str, stream: str, hint: str) -> float:
    """The same.

    Raises:
        DataError: There is none.
    """
    found = factor(modality, unit)
    if found is None:
        raise DataError(
            f"{stream}: the unit of {modality} is not known for sure",
            expected=f"{UNITS[modality]}, or a unit with a fixed factor to it",
            found=f"unit {unit!r}" if unit else "no unit",
            hint=hint,
        )
    return found


def _parsed(unit: str) -> tuple[float, str] | None:
    """Factor to the base unit, and the base unit: ("uV" or "microvolts") -> (1e-6, "V")."""
    short = unit.strip().replace("µ", "u").replace("μ", "u")
    for name, prefix in _LONG.items():
        if short.lower().startswith(name):
            short = prefix + short[len(name) :]
    for name, base in _NAMES.items():
        if short.lower().endswith(name):
            short = short[: -len(name)] + base
    match = re.fullmatch(r"([kmun]?)([VS])", short)
    return (_PREFIXES[match[1]], match[2]) if match else None

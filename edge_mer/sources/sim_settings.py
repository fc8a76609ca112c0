"""The keys of a `sim:` URI: what a simulated session may be asked for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from edge_mer.errors import UsageError
from edge_mer.types.signals import Modality

STREAMS: tuple[Modality, ...] = ("visual", "audio", "eda", "ecg", "ppg", "rsp", "skt", "text")
"""Every stream there is, in the order in which a source names them."""

_WORN = ("eda", "ecg", "ppg", "rsp", "skt")
_MAX_ID = 2**63 - 1


@dataclass(frozen=True)
class SimSettings:
    """What a `sim:` URI asks for.

    Attributes:
        seed: Chooses what is felt and done in the session, together with `person`.
        person: Chooses face, voice, body and room.
        duration_s: Length of the session in seconds.
        fps: Pictures per second.
        width: Width of the pictures in pixels.
        height: Height of the pictures in pixels.
        switch_s: When another person takes the seat; None = never.
        switch_person: Who that is.
        streams: The streams that are there, a part of `STREAMS` in its order.
        eda_hz: Samples of skin conductance per second.
        ecg_hz: Samples of the electrocardiogram per second.
        ppg_hz: Samples of the pulse wave per second.
        rsp_hz: Samples of the breath per second.
        skt_hz: Samples of the skin temperature per second.
        pain: 1 = there are painful stimuli; 0 = there are none.
        occlusion: Share of the time in which something covers a part of the face.
        noise: Factor of what camera, room and electrodes add; 1 = as usual.
        gaps: Share of the time in which a stream drops out, each on its own.
        people: How many persons there are: `person`, `person` + 1 and so on.
    """

    seed: int = 0
    person: int = 0
    duration_s: Fraction = Fraction(20)
    fps: Fraction = Fraction(30)
    width: int = 192
    height: int = 160
    switch_s: Fraction | None = None
    switch_person: int | None = None
    streams: tuple[Modality, ...] = ("visual", "audio")
    eda_hz: Fraction = Fraction(32)
    ecg_hz: Fraction = Fraction(250)
    ppg_hz: Fraction = Fraction(64)
    rsp_hz: Fraction = Fraction(32)
    skt_hz: Fraction = Fraction(4)
    pain: int = 0
    occlusion: Fraction = Fraction(0)
    noise: Fraction = Fraction(1)
    gaps: Fraction = Fraction(0)
    people: int = 1

    @classmethod
    def parse(cls, rest: str) -> SimSettings:
        """Read the part of a URI after `sim:`, e.g. "seed=3&duration_s=20"; "" gives the defaults.

        Raises:
            UsageError: An unknown or repeated key, or a value that is not allowed.
        """
        values: dict[str, Any] = {}
        for part in rest.split("&") if rest else ():
            key, separator, text = part.partition("=")
            if key not in _KEYS:
                raise _unknown_key(rest, key)
            if not separator or key in values:
                what = "is given twice" if separator else "has no value"
                raise UsageError(
                    f"sim:{rest}: {key} {what}", expected=f"{key}=VALUE once, {_KEYS[key].allowed}"
                )
            values[key] = _KEYS[key].read(text)
        settings = cls(**values)
        settings._check_switch(rest)
        settings._check_people(rest)
        return settings

    def _check_switch(self, rest: str) -> None:
        if (self.switch_s is None) != (self.switch_person is None):
            raise UsageError(f"sim:{rest}: a change of person needs both switch_s and switch_person")
        if self.switch_s is not None and not 0 < self.switch_s < self.duration_s:
            raise UsageError(
                f"sim:{rest}: switch_s lies outside the session",
                expected=f"more than 0 and less than duration_s={_text(self.duration_s)}",
                found=_text(self.switch_s),
            )
        if self.switch_s is not None and self.switch_person == self.person:
            raise UsageError(
                f"sim:{rest}: switch_person is the person already there", expected="another number"
            )

    def _check_people(self, rest: str) -> None:
        worn = [stream for stream in self.streams if stream in _WORN]
        if self.people > 1 and worn:
            raise UsageError(
                f"sim:{rest}: sensors of the body are worn by one person, here are {self.people}",
                expected="people=1, or streams=visual+audio+text",
                found="+".join(worn),
            )

    def __str__(self) -> str:
        pairs = ((key, getattr(self, key)) for key in _KEYS)
        return "sim:" + "&".join(f"{key}={_text(value)}" for key, value in pairs if value is not None)


@dataclass(frozen=True)
class _Key:
    """A key of the URI: what it may be, and how its text is read (None = not allowed)."""

    name: str
    allowed: str
    convert: Callable[[str], Any]

    def read(self, text: str) -> Any:
        value = self.convert(text)
        if value is None:
            raise UsageError(f"sim: cannot use {self.name}={text}", expected=f"{self.name} = {self.allowed}")
        return value


def _whole(name: str, low: int, high: int) -> _Key:
    def convert(text: str) -> int | None:
        good = re.fullmatch(r"[0-9]{1,19}", text) and low <= int(text) <= high
        return int(text) if good else None

    return _Key(name, f"a whole number from {low} to {high}", convert)


def _fraction(name: str, low: Fraction, high: Fraction) -> _Key:
    def convert(text: str) -> Fraction | None:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}|/0*[1-9][0-9]{0,8})?", text):
            return None
        return Fraction(text) if low <= Fraction(text) <= high else None

    allowed = f"a number (20, 29.97 or 30000/1001), from {_text(low)} to {_text(high)}"
    return _Key(name, allowed, convert)


def _text(value: object) -> str:
    """A value as a URI has it: a decimal number where that is exact, else "numerator/denominator"."""
    if isinstance(value, Fraction):
        decimal = f"{float(value):.9f}".rstrip("0").rstrip(".")
        return decimal if Fraction(decimal) == value else str(value)
    return "+".join(value) if isinstance(value, tuple) else str(value)


def _read_streams(text: str) -> tuple[Modality, ...] | None:
    """Names in the order of `STREAMS`; None for an unknown or repeated one."""
    names = text.split("+")
    known = len(set(names)) == len(names) and set(names) <= set(STREAMS)
    return tuple(name for name in STREAMS if name in names) if known else None


_KEYS = {
    key.name: key
    for key in (
        _whole("seed", 0, _MAX_ID),
        _whole("person", 0, _MAX_ID),
        _fraction("duration_s", Fraction(1, 10), Fraction(86_400)),
        _fraction("fps", Fraction(1), Fraction(240)),
        _whole("width", 128, 1280),
        _whole("height", 128, 1280),
        _fraction("switch_s", Fraction(0), Fraction(86_400)),
        _whole("switch_person", 0, _MAX_ID),
        _Key("streams", f"some of {', '.join(STREAMS)}, joined by +", _read_streams),
        _fraction("eda_hz", Fraction(1), Fraction(2048)),
        _fraction("ecg_hz", Fraction(1), Fraction(2048)),
        _fraction("ppg_hz", Fraction(1), Fraction(2048)),
        _fraction("rsp_hz", Fraction(1), Fraction(2048)),
        _fraction("skt_hz", Fraction(1), Fraction(2048)),
        _whole("pain", 0, 1),
        _fraction("occlusion", Fraction(0), Fraction(1)),
        _fraction("noise", Fraction(0), Fraction(10)),
        _fraction("gaps", Fraction(0), Fraction(9, 10)),
        _whole("people", 1, 6),
    )
}


def _unknown_key(rest: str, key: str) -> UsageError:
    near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}, {_KEYS[near[0]].allowed}" if near else "write sim:seed=3&duration_s=20"
    return UsageError(f"sim:{rest}: unknown key {key!r}", expected=f"one of {', '.join(_KEYS)}", hint=hint)

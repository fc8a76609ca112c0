"""Numbers and reasons in words that need no manual."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_MODALITIES = {
    "visual": "the face",
    "audio": "the voice",
    "text": "what was said",
    "eda": "skin conductance",
    "ecg": "the heart's electrocardiogram",
    "emg": "muscle activity",
    "ppg": "the pulse",
    "rsp": "breathing",
    "skt": "skin temperature",
}

_REASONS = {
    "warming_up": ("warming up", "The session was younger than what the model looks back on."),
    "face_switched": (
        "another person sat down",
        "Another face took the seat. What the model had seen of the face before was cleared.",
    ),
    "unaligned_face": (
        "the eyes were not found",
        "In a part of the window the eyes were not found, so the face could not be turned upright exactly.",
    ),
    "window_has_gaps": (
        "the window had gaps",
        "A part of what the model looks at was not there, and this model cannot do without it.",
    ),
    "bad_sync": (
        "the streams lay too far apart",
        "What the sensors gave was further apart in time than this model stands.",
    ),
    "clock_unknown": (
        "a clock was not known yet",
        "Another machine's clock stamps what a sensor gives, and was not known well enough.",
    ),
    "nobody_seen": (
        "nobody was seen",
        "No face had been in the picture for long enough to be somebody's.",
    ),
    "overloaded": (
        "the machine was too busy",
        "The machine had fallen too far behind, and dropped whole windows to catch up.",
    ),
    "hop_lengthened": (
        "the device was spared: fewer predictions",
        "The device was too hot or too busy, so the daemon predicted less often.",
    ),
    "cheaper_candidate": (
        "the device was spared: fewer bits",
        "The device was too hot or too busy, so the daemon ran a candidate in fewer bits.",
    ),
    "server_away": (
        "the inference server was away",
        "The server that runs the model was away, or its numbers were not right. The device stood in for it, "
        "or, where nothing does, no estimate was made.",
    ),
    "output_not_finite": ("the model gave no number", "The model's output was not a number."),
    "inference_lost": (
        "no prediction came",
        "The process that makes predictions was starting, hung, or was gone.",
    ),
}


_SOURCES = {
    "stalled": "gave nothing any more",
    "restarting": "was being opened again",
    "wrong_rate": "gave more or less than it said",
}


def modality_in_words(modality: str) -> str:
    """E.g. "the face (visual)"; a sensor without a common word keeps its name."""
    return f"{_MODALITIES[modality]} ({modality})" if modality in _MODALITIES else modality


def reason_in_words(reason: str) -> str:
    """A few words for a reason; one that is not known stays as it is."""
    if reason in _REASONS:
        return _REASONS[reason][0]
    modality, kind = _of_modality(reason)
    if kind == "missing":
        return f"{_MODALITIES.get(modality, modality)} was missing"
    if kind == "gap":
        return f"{_MODALITIES.get(modality, modality)} was missing a moment before"
    if kind == "spared":
        return f"the device was spared: without {_MODALITIES.get(modality, modality)}"
    if kind in _SOURCES:
        return f"the sensor of {_MODALITIES.get(modality, modality)} {_SOURCES[kind]}"
    return reason


def reason_explained(reason: str) -> str:
    """A sentence on a reason; "" for one that is not known."""
    if reason in _REASONS:
        return _REASONS[reason][1]
    modality, kind = _of_modality(reason)
    if kind == "missing":
        return f"Too little of {modality_in_words(modality)} was there in this step."
    if kind == "gap":
        return f"In an earlier part of the window too little of {modality_in_words(modality)} was there."
    if kind == "spared":
        return f"The device was too hot or too busy, so the daemon left out {modality_in_words(modality)}."
    if kind in _SOURCES:
        return f"The sensor of {modality_in_words(modality)} {_SOURCES[kind]}."
    return ""


def _of_modality(reason: str) -> tuple[str, str]:
    match = re.fullmatch(r"([a-z0-9]{1,20})_(missing|gap|spared|stalled|restarting|wrong_rate)", reason)
    return (match[1], match[2]) if match else ("", "")


def reasons_in_words(reasons: Sequence[str]) -> str:
    """All of them in one line."""
    return ", ".join(map(reason_in_words, reasons)) or "no reason given"


def duration(seconds: float) -> str:
    """E.g. "0.27 s", "45 s", "2 min 5 s", "24 h 0 min"."""
    if seconds < 10:
        return f"{seconds:.2f}".rstrip("0").rstrip(".") + " s"
    if seconds < 59.95:
        return f"{seconds:.1f}".rstrip("0").rstrip(".") + " s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def clock(seconds: float, decimals: int = 0) -> str:
    """A moment of the session: "0:07", "12:30", "3:05:00"; with decimals "0:07.53"."""
    units = round(abs(seconds) * 10**decimals)
    whole, rest = divmod(units, 10**decimals)
    hours, minutes, left = whole // 3600, whole // 60 % 60, whole % 60
    text = f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
    sign = "−" if seconds < 0 and units else ""
    return sign + text + (f".{rest:0{decimals}d}" if decimals else "")


def share(part: float, whole: float) -> str:
    """A percentage that never rounds something to nothing, or a part to all."""
    percent = 100.0 * part / whole if whole else 0.0
    if 0.0 < percent < 0.1:
        return "under 0.1\u00a0%"
    if 99.9 < percent < 100.0:
        return "over 99.9\u00a0%"
    return f"{percent:.1f}".removesuffix(".0") + "\u00a0%"


def number(value: float, digits: int = 2) -> str:
    """With a true minus sign; "–" for no number."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "−")


def milliseconds(value: float) -> str:
    """E.g. "0.18 ms", "5.5 ms", "51.6 ms", "1,240 ms"."""
    return three_digits(value) + ("\u00a0ms" if math.isfinite(value) else "")


def three_digits(value: float) -> str:
    """As many digits as say something: "0.18", "5.5", "51.6", "1,240"; "–" for no number."""
    if not math.isfinite(value):
        return "–"
    digits = 0 if value == 0 else 2 if abs(value) < 1 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}".replace("-", "−")


def plural(n: int, one: str, many: str | None = None) -> str:
    """E.g. "1 prediction", "12,000 predictions"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def short_id(bundle_id: str) -> str:
    """The first twelve digits of a "sha256:…"."""
    return bundle_id.removeprefix("sha256:")[:12]

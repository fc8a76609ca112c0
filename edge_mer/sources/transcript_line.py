"""One line of a transcript: a JSON object in the layout of Vosk or of Whisper, as words with times."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from edge_mer.clock import NS_PER_S
from edge_mer.errors import DataError

MAX_LINE_BYTES = 1 << 20
"""Of one line, its end not counted."""

MAX_WORDS = 10_000
"""Of one utterance."""

MAX_WORD_CHARS = 100

MAX_TIME_S = 1e9
"""Times are below this; those since 1970 are not, and are no session's."""

_ODD_CHARS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # controls, and halves of characters
_LAYOUTS = '{"result": [WORD, ...]}, {"segments": [{"words": [WORD, ...]}, ...]} or {"words": [WORD, ...]}'
_WORD = '{"word": "the", "start": 0.84, "end": 1.02}'
_ASK_FOR_TIMES = "ask the engine for times of words: SetWords(True) of Vosk, word_timestamps=True of Whisper"


class Word(NamedTuple):
    """A word and when it was said, in nanoseconds from the zero of whoever gives it."""

    text: str
    start_ns: int
    end_ns: int


Utterance = tuple[Word, ...]


def parse_line(line: bytes, where: str) -> Utterance | None:
    """The words of one line, with the engine's times.

    Args:
        line: One JSON object in UTF-8; a newline at its end does no harm.
        where: What messages call the line, e.g. "'words.jsonl', line 3".

    Returns:
        The words, none for a final line without any; None for a line that is not final yet.

    Raises:
        DataError: Anything else; the message says what was expected and found.
    """
    found = _object(line, where)
    if _is_partial(found):
        return None
    entries = _entries(found, where)
    if len(entries) > MAX_WORDS:
        raise DataError(
            f"{where}: too many words in one utterance",
            expected=f"at most {MAX_WORDS}",
            found=str(len(entries)),
            hint="write a line per utterance, as of Whisper each of its segments",
        )
    return tuple(_word(entry, f"{where}, word {number}") for number, entry in enumerate(entries, 1))


def _object(line: bytes, where: str) -> dict[str, object]:
    if len(line.removesuffix(b"\n").removesuffix(b"\r")) > MAX_LINE_BYTES:
        raise DataError(
            f"{where}: too long",
            expected=f"at most {MAX_LINE_BYTES} bytes",
            found="more",
            hint="write a line per utterance",
        )
    try:
        text = line.decode("utf-8-sig")
        found = json.loads(text, parse_int=float)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not in UTF-8", found=f"{error.reason} at byte {error.start}", hint="write it in UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: no JSON",
            expected=f"one JSON object in one line: {_LAYOUTS}",
            found=f"{text.strip()[:40]!r}",
            hint="an engine that breaks its JSON over lines needs it joined, see docs/how-to-words.md",
        ) from error
    if not isinstance(found, dict):
        raise _unknown_layout(where, _named(found))
    return found


def _is_partial(found: dict[str, object]) -> bool:
    """Whether more may come: it says so, or has nothing but that key; `false` beside words is final."""
    if "partial" not in found:
        return False
    has_words = any(isinstance(found.get(key), list) for key in ("result", "segments", "words"))
    return isinstance(found["partial"], str) or found["partial"] is True or not has_words


def _entries(found: dict[str, Any], where: str) -> list[object]:
    """Whatever stands where words should, in the layouts that are known."""
    if "result" in found:
        return _list(found["result"], "result", where)
    if "segments" in found:
        entries: list[object] = []
        for segment in _list(found["segments"], "segments", where):
            if not isinstance(segment, dict) or "words" not in segment:
                raise _unknown_layout(where, "a segment without words")
            entries += _list(segment["words"], "words", where)
        return entries
    if "words" in found:
        return _list(found["words"], "words", where)
    if found.get("text") == "":
        return []
    keys = ", ".join(repr(key[:20]) for key in list(found)[:8])
    raise _unknown_layout(where, f"an object with {keys}" if keys else "an empty object")


def _list(found: object, name: str, where: str) -> list[object]:
    if not isinstance(found, list):
        raise _unknown_layout(where, f"{_named(found)} as {name!r}")
    return found


def _unknown_layout(where: str, found: str) -> DataError:
    return DataError(f"{where}: no words with times", expected=_LAYOUTS, found=found, hint=_ASK_FOR_TIMES)


def _word(entry: object, where: str) -> Word:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: no word with its times", expected=_WORD, found=_named(entry))
    text = _text(entry.get("word", entry.get("text")), where)
    start_ns, end_ns = (_time_ns(entry.get(name), name, where) for name in ("start", "end"))
    if start_ns > end_ns:
        raise DataError(
            f"{where}: it ends before it starts",
            expected="start <= end",
            found=f"start {entry['start']}, end {entry['end']}",
        )
    return Word(text, start_ns, end_ns)


def _text(found: object, where: str) -> str:
    """A word without the blank that Whisper puts before it."""
    text = found.strip() if isinstance(found, str) else ""
    if not 1 <= len(text) <= MAX_WORD_CHARS or _ODD_CHARS.search(text):
        raise DataError(
            f"{where}: no word",
            expected=f'1 to {MAX_WORD_CHARS} characters as "word" or "text", no control characters',
            found=f"{len(text)} characters" if len(text) > MAX_WORD_CHARS else _named(found),
        )
    return text


def _time_ns(found: object, name: str, where: str) -> int:
    # JSON's whole numbers were read as float too, so that one of a million digits is infinite
    if not isinstance(found, float) or not 0 <= found < MAX_TIME_S:
        raise DataError(
            f"{where}: no time as {name!r}",
            expected=f"seconds from the engine's start, from 0 to below {MAX_TIME_S:g}",
            found=_named(found),
            hint=_ASK_FOR_TIMES,
        )
    return round(found * NS_PER_S)


def _named(found: object) -> str:
    """What a message calls a piece of JSON."""
    if found is None:
        return "nothing"
    if isinstance(found, bool):
        return "true" if found else "false"
    if isinstance(found, float):
        return f"{found:g}"
    if isinstance(found, str):
        return repr(found[:40])
    return "a list" if isinstance(found, list) else "an object"

"""Manifests: which recordings there are, who is in them, and where their labels are.

person,sources,labels,name,label_rate_hz,split              CSV, sources joined by ";"
{"person": "anna", "sources": ["a.mp4"], "labels": "a.csv"}  JSON lines

"""

from __future__ import annotations

import csv
import difflib
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

from edge_mer.labels.problems import Problem

Split = Literal["train", "valid", "test"]

KEYS = ("person", "sources", "labels", "name", "label_rate_hz", "split")
REQUIRED = ("person", "sources", "labels")

MAX_BYTES = 64 << 20
"""A longer file is no manifest."""

MAX_LABEL_RATE_HZ = 100_000

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:")  # a single letter is a drive
_TABLES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz")


@dataclass(frozen=True)
class Recording:
    """One person in one recording.

    Attributes:
        name: Unique within a manifest.
        person: Who it is; "" where the manifest does not say, which is a fatal problem.
        sources: URIs; all start together, at 0.
        labels: The label file; None for a simulated person, whose truth is known.
        label_rate_hz: Rows per second, of a label file without a time column.
        split: What the person is used for; None = whoever trains decides, by person.
    """

    name: str
    person: str
    sources: tuple[str, ...]
    labels: Path | None
    label_rate_hz: Fraction | None = None
    split: Split | None = None


@dataclass(frozen=True)
class _Row:
    line: int
    recording: Recording


def read_manifest(path: Path, *, is_labelled: bool = True) -> tuple[list[Recording], list[Problem]]:
    """Read a manifest, CSV with a header or JSON lines; nothing is raised, everything wrong is told.

    Paths start at the manifest's folder. A person whose split is given once has it in all recordings.

    Args:
        path: The file.
        is_labelled: Whether a recording needs labels.

    Returns:
        The recordings, also those with problems, as far as they name sources; and the problems.
    """
    reading = _Reading(path, REQUIRED if is_labelled else REQUIRED[:2])
    rows = reading.rows()
    if not rows and not reading.problems:
        reading.fatal(
            None, "no recording in it", f"give a header or keys, {', '.join(reading.required)}, and rows"
        )
    reading.refuse_twice("name", [(row.line, row.recording.name) for row in rows])
    reading.refuse_twice("source", [(row.line, uri) for row in rows for uri in row.recording.sources])
    splits = reading.splits(rows)
    recordings = [row.recording for row in rows]
    return [replace(one, split=splits.get(one.person, one.split)) for one in recordings], reading.problems


class _Reading:
    """Reads one manifest and gathers its problems."""

    def __init__(self, path: Path, required: tuple[str, ...]) -> None:
        self._path, self.required = path, required
        self.problems: list[Problem] = []

    def fatal(self, line: int | None, what: str, hint: str = "") -> None:
        """Note something that makes the manifest unusable."""
        self.problems.append(Problem(str(self._path), line, what, hint=hint))

    def rows(self) -> list[_Row]:
        """Every row that names sources."""
        try:
            found = [self._row(line, fields) for line, fields in self._objects()]
        except FileNotFoundError:
            self.fatal(None, "there is no such manifest", "check the path")
            return []
        except (OSError, ValueError, csv.Error) as error:  # ValueError: not UTF-8, a null character, too long
            reason = getattr(error, "strerror", None) or str(error)
            self.fatal(None, f"not readable: {reason}", "a manifest is CSV with a header, or JSON lines")
            return []
        return [row for row in found if row is not None]

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Line number and fields of every row, their text still as written."""
        if self._path.exists() and not self._path.is_file():
            raise OSError(0, "not a file")
        if self._path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES >> 20} MB")
        text = self._path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("{"):
            return self._json_objects(text)
        return self._csv_objects(text)

    def _csv_objects(self, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = [name.strip() for name in next(reader, [])]
        if not header or not self._is_good_header(header):
            return
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                self.fatal(
                    reader.line_num,
                    f"{len(cells)} cells under a header of {len(header)}",
                    'complete the row; put a cell with a comma in it between "',
                )
                continue
            fields: dict[str, Any] = dict(zip(header, (cell.strip() for cell in cells), strict=True))
            fields["sources"] = [part.strip() for part in fields["sources"].split(";") if part.strip()]
            yield reader.line_num, fields

    def _is_good_header(self, header: list[str]) -> bool:
        self._refuse_unknown(1, header)
        missing = [name for name in self.required if name not in header]
        for name in missing:
            self.fatal(1, f"no column {name!r}", f"the header needs {', '.join(self.required)}")
        twice = {name for name in header if header.count(name) > 1}
        for name in sorted(twice):
            self.fatal(1, f"two columns are named {name!r}", "keep one of them")
        return not missing and not twice

    def _json_objects(self, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for line, written in enumerate(text.split("\n"), 1):
            if not written.strip():
                continue
            try:
                fields = json.loads(written)
            except (ValueError, RecursionError) as error:
                self.fatal(line, f"no JSON: {error}", "write one object per line")
                continue
            if not isinstance(fields, dict):
                self.fatal(line, "no JSON object", 'write {"person": ..., "sources": [...], "labels": ...}')
                continue
            self._refuse_unknown(line, [*fields])
            sources = fields.get("sources")
            if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
                self.fatal(line, "sources is no list of texts", 'write "sources": ["clip.mp4"]')
                continue
            fields["sources"] = [source.strip() for source in sources if source.strip()]
            yield line, fields

    def _refuse_unknown(self, line: int, names: list[str]) -> None:
        for name in dict.fromkeys(names):
            if name not in KEYS:
                near = difflib.get_close_matches(name, KEYS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KEYS)}"
                self.fatal(line, f"unknown column or key {name!r}", hint)

    def _row(self, line: int, fields: dict[str, Any]) -> _Row | None:
        texts = {key: self._text(line, key, fields.get(key)) for key in KEYS if key != "sources"}
        if not texts["person"]:
            self.fatal(line, "no person", "say who is in it: people must not be split between train and test")
        if not fields["sources"]:
            self.fatal(line, "no sources", "give a media file, or URIs of sources")
            return None
        sources = tuple(self._uri(line, written) for written in fields["sources"])
        labels = self._resolved(texts["labels"]) if texts["labels"] else None
        self._check_labels(line, sources, labels)
        recording = Recording(
            name=texts["name"] or _name_of(fields["sources"][0]),
            person=texts["person"],
            sources=sources,
            labels=labels,
            label_rate_hz=self._rate_hz(line, texts["label_rate_hz"]),
            split=self._split(line, texts["split"]),
        )
        return _Row(line, recording)

    def _text(self, line: int, key: str, value: object) -> str:
        """A field as text; "" where it is not there."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is None or isinstance(value, str) or is_number:
            return "" if value is None else str(value).strip()
        self.fatal(line, f"{key} is neither text nor number", f'write "{key}": "..."')
        return ""

    def _uri(self, line: int, written: str) -> str:
        """The source's URI, its path as seen from where the program runs."""
        match = _SCHEME.match(written)
        scheme = match[0] if match else "mcap:" if written.lower().endswith(".mcap") else "file:"
        rest = written[len(scheme) :] if match else written
        if not match and rest.lower().endswith(_TABLES):
            self.fatal(
                line,
                f"{rest} is a table, and nothing says what is in it",
                f"write signal:{rest}?modality=eda&column=...&rate_hz=...",
            )
        if scheme in ("file:", "mcap:"):
            return f"{scheme}{self._resolved(rest)}"
        if scheme == "signal:":
            path, mark, query = rest.partition("?")
            return f"signal:{self._resolved(path)}{mark}{query}"
        return written

    def _resolved(self, written: str) -> Path:
        """A path of the manifest; "~" is the home directory."""
        return self._path.parent / os.path.expanduser(written)  # noqa: PTH111 - keeps an unknown ~user

    def _check_labels(self, line: int, sources: tuple[str, ...], labels: Path | None) -> None:
        n_simulated = sum(source.startswith("sim:") for source in sources)
        if labels is None and not n_simulated and "labels" in self.required:
            self.fatal(line, "no labels", "give a label file; only sim: sources know their own truth")
        if labels is not None and n_simulated:
            self.fatal(line, "labels for a simulated person", "leave them empty: sim: knows its own truth")
        if n_simulated > 1:
            self.fatal(line, "two simulated people in one recording", "give them a recording each")

    def _rate_hz(self, line: int, text: str) -> Fraction | None:
        if not text:
            return None
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}|/0*[1-9][0-9]{0,8})?", text):
            rate_hz = Fraction(text)
            if 0 < rate_hz <= MAX_LABEL_RATE_HZ:
                return rate_hz
        self.fatal(
            line, f"label_rate_hz {text!r} is no rate", "write rows per second, e.g. 25, 29.97 or 30000/1001"
        )
        return None

    def _split(self, line: int, text: str) -> Split | None:
        splits: dict[str, Split] = {name: name for name in get_args(Split)}
        if text and text not in splits:
            near = difflib.get_close_matches(text, splits, n=1)
            hint = f"did you mean {near[0]}?" if near else f"write {', '.join(splits)}, or nothing"
            self.fatal(line, f"no such split: {text!r}", hint)
        return splits.get(text)

    def refuse_twice(self, kind: str, found: list[tuple[int, str]]) -> None:
        """Every text may be in one place only."""
        lines: dict[str, list[int]] = {}
        for line, text in found:
            lines.setdefault(text, []).append(line)
        for text, places in lines.items():
            if len(places) > 1:
                what = f"the same {kind} more than once: {text}"
                hint = "give each recording a name of its own" if kind == "name" else "keep one of them"
                self.problems.append(
                    Problem.at_lines(str(self._path), places, what, is_fatal=True, hint=hint)
                )

    def splits(self, rows: list[_Row]) -> dict[str, Split]:
        """Person -> the split given for them."""
        chosen: dict[str, Split] = {}
        lines: dict[str, list[int]] = {}
        torn: dict[str, set[str]] = {}
        for row in rows:
            person, split = row.recording.person, row.recording.split
            if not person or split is None:
                continue
            lines.setdefault(person, []).append(row.line)
            torn.setdefault(person, set()).add(split)
            chosen.setdefault(person, split)
        for person, names in torn.items():
            if len(names) > 1:
                what = f"person {person} is in {' and '.join(sorted(names))}"
                hint = "keep a person in one split: a model that knows the person looks better than it is"
                self.problems.append(
                    Problem.at_lines(str(self._path), lines[person], what, is_fatal=True, hint=hint)
                )
                del chosen[person]
        return chosen


def _name_of(source: str) -> str:
    """A recording's name where none is given: its first source, without what is the same for all."""
    match = _SCHEME.match(source)
    if match and match[0] in ("file:", "mcap:", "signal:"):
        path = source[match.end() :]
        return path.partition("?")[0] if match[0] == "signal:" else path
    return source

"""Reads predictions from JSON lines or Parquet into columns of numbers: a day of them fits into memory."""

from __future__ import annotations

import json
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from edge_mer.errors import DataError, MissingError, UsageError
from edge_mer.types.flat import record

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

STATUSES = ("ok", "degraded", "withheld")
STAGES = ("capture", "wait", "preprocess", "infer", "postprocess", "end_to_end")
OUTPUTS = ("valence", "arousal")

MAX_LINE_BYTES = 1_000_000
MAX_RECORDS = 2_000_000
MAX_NAMES = 32
"""Modalities, levels or labels in one file."""
MAX_PEOPLE = 10_000
"""In one file."""
MAX_REASON_SETS = 1000
MAX_TEXT = 200
"""Characters of a name or a reason."""

_MAX_NS = 2**62
_HUGE = 1e30
_SYNC = ("skew_ms", "uncertainty_ms")
_WRITER = "give the file that edge-mer run wrote with --sink jsonl:FILE"


@dataclass(frozen=True)
class Records:
    """The predictions of one file, one entry per line in the order of time; NaN where there is none.

    Attributes:
        name: The file's name, without its folder, and with whom of several people they are about.
        t_ns: (n,) the moments that the predictions are for, rising.
        t_start_ns: (n,) where their windows start.
        status: (n,) index into `STATUSES`.
        reason_set: (n,) index into `reason_sets`.
        reason_sets: Every combination of reasons that came.
        values: "valence", "arousal" and "pain" (its expected level), each (n,).
        low: Lower ends of the 90 % intervals, by output; only outputs that have any.
        high: Upper ends.
        pain_levels: Level -> (n,) probability, from the lowest level up; empty when no line has pain.
        pain_scale: The scale's name; "" when no line has pain.
        emotion: Label -> (n,) probability; empty when no line has emotions.
        coverage: Modality -> (n,) 0 to 1.
        present: Modality -> (n,) 1 or 0.
        skew_ms: (n,).
        uncertainty_ms: (n,).
        latency_ms: Stage of `STAGES` -> (n,).
        bundles: Bundle id -> number of lines.
        engines: Engine -> number of lines.
        precisions: Precision -> number of lines.
        first_utc: The host's time of the first prediction.
        last_utc: Likewise of the last.
        n_synchronised: Lines whose wall clock followed a reference.
        is_cut: The last line was not whole and was left out.
    """

    name: str
    t_ns: NDArray[np.int64]
    t_start_ns: NDArray[np.int64]
    status: Ints
    reason_set: Ints
    reason_sets: tuple[tuple[str, ...], ...]
    values: dict[str, Floats]
    low: dict[str, Floats]
    high: dict[str, Floats]
    pain_levels: dict[str, Floats]
    pain_scale: str
    emotion: dict[str, Floats]
    coverage: dict[str, Floats]
    present: dict[str, Floats]
    skew_ms: Floats
    uncertainty_ms: Floats
    latency_ms: dict[str, Floats]
    bundles: dict[str, int]
    engines: dict[str, int]
    precisions: dict[str, int]
    first_utc: str
    last_utc: str
    n_synchronised: int
    is_cut: bool

    def __len__(self) -> int:
        return len(self.t_ns)

    @property
    def step_ns(self) -> int:
        """The usual distance of two predictions; of a single one, the time up to it."""
        if len(self) > 1:
            return int(np.median(np.diff(self.t_ns)))
        return int(max(self.t_ns[0], 1))

    @property
    def is_withheld(self) -> NDArray[np.bool_]:
        """(n,)."""
        withheld: NDArray[np.bool_] = self.status == STATUSES.index("withheld")
        return withheld


def read_records(path: Path, person: str | None = None) -> Records:
    """Read a file of predictions, JSON lines or Parquet, line by line.

    A last line without an end, as a killed run leaves it, is left out and `is_cut` says so.

    Args:
        path: The file.
        person: Whose predictions are read, such as "p1", where several people were followed.

    Raises:
        DataError: No such file, no predictions in it, or a line that is none; the message names the line.
        UsageError: It is about several people, and none is named, or one who is not among them.
    """
    builder = _Builder(path.name, person)
    try:
        with path.open("rb") as file:
            for line in _rows(file, path.name) if path.suffix == ".parquet" else _lines(file, path.name):
                builder.add(line)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"predictions {path} cannot be read", found=reason, hint=_WRITER) from error
    return builder.finish()


@dataclass(frozen=True)
class _Text:
    """A line, where it stands, and whether it ends as a line does."""

    where: str
    raw: bytes
    is_whole: bool


def _lines(file: BinaryIO, name: str) -> Iterator[_Text]:
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        where = f"{name}, line {number}"
        if len(raw) > MAX_LINE_BYTES:
            raise DataError(
                f"{where} is no prediction",
                expected=f"a JSON object of at most {MAX_LINE_BYTES:,} bytes",
                found="a longer line",
                hint=_WRITER,
            )
        yield _Text(where, raw, raw.endswith(b"\n"))


def _rows(file: BinaryIO, name: str) -> Iterator[_Text]:
    """The rows of a table, as the lines that they would be."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingError(
            f"{name} is Parquet", found=f"no module {error.name}", hint="pip install 'edge-mer[ray]'"
        ) from error
    number = 0
    try:
        for batch in parquet.ParquetFile(file).iter_batches():
            for row in batch.to_pylist():
                number += 1
                text = json.dumps(record(row), allow_nan=False)
                yield _Text(f"{name}, row {number}", text.encode(), is_whole=True)
    except (pyarrow.ArrowException, KeyError, ValueError) as error:
        reason = (
            f"no column {error}" if isinstance(error, KeyError) else str(error).split("\n", maxsplit=1)[0]
        )
        raise DataError(
            f"{name} holds no predictions",
            expected="a table that edge-mer run --corpus wrote",
            found=reason,
            hint=_WRITER,
        ) from error


def _parse(line: _Text) -> dict[str, Any]:
    try:
        record = json.loads(line.raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        found = _shown(line.raw.decode("utf-8", "replace").strip()) if line.raw.strip() else "an empty line"
        raise DataError(
            f"{line.where} is no prediction",
            expected="one JSON object per line",
            found=found,
            hint=_WRITER,
        ) from error
    if not isinstance(record, dict):
        raise DataError(
            f"{line.where} is no prediction",
            expected="a JSON object",
            found=_shown(json.dumps(record)),
            hint=_WRITER,
        )
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _shown(text: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in text[:61])
    return printable if len(text) <= 60 else printable[:59] + "…"


class _Column:
    """Numbers by line; lines that gave none hold NaN."""

    def __init__(self) -> None:
        self._values = array("f")

    def put(self, index: int, value: float) -> None:
        if len(self._values) != index:
            self._fill(index)
        self._values.append(value)

    def finish(self, n: int) -> Floats:
        self._fill(n)
        return np.frombuffer(self._values, np.float32)

    def _fill(self, n: int) -> None:
        if (n_missing := n - len(self._values)) > 0:
            self._values.extend([math.nan] * n_missing)


class _Table(dict[str, _Column]):
    """Columns by name, made when first asked for, of a bounded number."""

    def __missing__(self, name: str) -> _Column:
        if len(self) >= MAX_NAMES or len(name) > MAX_TEXT:
            raise DataError(
                "the predictions have too many or too long names",
                expected=f"at most {MAX_NAMES} modalities, levels or labels of {MAX_TEXT} characters",
                found=_shown(name),
                hint=_WRITER,
            )
        self[name] = made = _Column()
        return made

    def finish(self, n: int) -> dict[str, Floats]:
        return {name: column.finish(n) for name, column in self.items()}


class _Reader:
    """One record's fields, each checked when it is asked for."""

    def __init__(self, record: dict[str, Any], where: str) -> None:
        self._record = record
        self.where = where

    def get(self, path: str, may_lack: bool = False) -> Any:
        """What stands at e.g. "sync.skew_ms"."""
        if path in self._record:
            return self._record[path]
        value: Any = self._record
        for key in path.split("."):
            if not isinstance(value, dict) or key not in value:
                if may_lack:
                    return None
                self.refuse(f"lacks the field {path}", "every field that edge-mer run writes", None)
            value = value[key]
        return value

    def number(self, value: Any, *path: str, low: float = -_HUGE, high: float = _HUGE) -> float:
        """A value found at `path`, where it is a number within bounds."""
        # Once for every number of every line: the usual way out comes first.
        if (type(value) is float or type(value) is int) and low <= value <= high:
            return value
        where = _shown(".".join(path))
        if type(value) is not float and type(value) is not int:
            self.refuse(f"has a {where} that is no number", "a number", value)
        bounds = f"a number from {low:g} to {high:g}" if abs(low) < _HUGE else "a finite number"
        self.refuse(f"has a {where} that cannot be", bounds, value)

    def part(self, within: dict[str, Any], key: str, path: str) -> Any:
        """A field of an object that was found at `path`."""
        if key not in within:
            self.refuse(f"lacks the field {path}.{key}", "every field that edge-mer run writes", None)
        return within[key]

    def ns(self, path: str) -> int:
        value = self.get(path)
        if type(value) is not int or not -_MAX_NS < value < _MAX_NS:
            self.refuse(f"has a {path} that is no time", "whole nanoseconds", value)
        return int(value)

    def text(self, path: str) -> str:
        value = self.get(path)
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            self.refuse(f"has a {path} that is no text", f"at most {MAX_TEXT} characters", value)
        return str(value)

    def mapping(self, path: str, is_null_allowed: bool = False, may_lack: bool = False) -> dict[str, Any]:
        """An object; empty for null where that is allowed."""
        value = self.get(path, may_lack)
        if value is None and is_null_allowed:
            return {}
        if not isinstance(value, dict):
            self.refuse(f"has a {path} that is no object", "an object", value)
        return cast(dict[str, Any], value)

    def refuse(self, what: str, expected: str, found: Any) -> NoReturn:
        shown = None if found is None and what.startswith("lacks") else _shown(json.dumps(found))
        raise DataError(f"{self.where} {what}", expected=expected, found=shown, hint=_WRITER)


class _Builder:
    """Takes records one by one and keeps only numbers."""

    def __init__(self, name: str, person: str | None = None) -> None:
        self._name, self._person = name, person
        self._n_of: Counter[str] = Counter()
        self._is_cut = False
        self._t_ns, self._t_start_ns = array("q"), array("q")
        self._status, self._reason_set = array("b"), array("i")
        self._reason_sets: dict[tuple[str, ...], int] = {}
        self._values, self._low, self._high = _Table(), _Table(), _Table()
        self._levels, self._emotion = _Table(), _Table()
        self._pain_scale = ""
        self._coverage, self._present = _Table(), _Table()
        self._sync, self._latency = _Table(), _Table()
        self._used: dict[str, Counter[str]] = {key: Counter() for key in ("bundle_id", "engine", "precision")}
        self._utc: list[str] = []
        self._n_synchronised = 0

    def add(self, line: _Text) -> None:
        """One line; one that has no end and is no JSON is what a killed run leaves."""
        try:
            record = _parse(line)
        except DataError:
            if line.is_whole:
                raise
            self._is_cut = True
            return
        if len(self._t_ns) >= MAX_RECORDS:
            raise DataError(
                f"{self._name} is too long for one page",
                expected=f"at most {MAX_RECORDS:,} predictions",
                hint="cut it into several files, e.g. with split -l 1000000",
            )
        self._take(_Reader(record, line.where))

    def _take(self, reader: _Reader) -> None:
        if not self._is_wanted(reader):
            return
        index = len(self._t_ns)
        self._take_time(reader)
        status = reader.text("status")
        if status not in STATUSES:
            reader.refuse("has an unknown status", f"one of {', '.join(STATUSES)}", status)
        self._status.append(STATUSES.index(status))
        self._take_reasons(reader)
        is_withheld = status == "withheld"
        self._take_affect(reader, index, is_withheld)
        self._take_classes(reader, index, is_withheld)
        self._take_circumstances(reader, index)
        self._take_lineage(reader)

    def _is_wanted(self, reader: _Reader) -> bool:
        """Whether a line is about the one person that a page is about; of several nobody is mixed up."""
        person = None if reader.get("person", may_lack=True) is None else reader.text("person")
        if person is not None:
            self._n_of[person] += 1
        if len(self._n_of) > MAX_PEOPLE:
            reader.refuse("brings one more person", f"at most {MAX_PEOPLE:,} in one file", person)
        return len(self._n_of) < 2 if self._person is None else person == self._person

    def _check_person(self) -> None:
        newest = ", ".join(f"{name} ({n})" for name, n in self._n_of.most_common(MAX_NAMES))
        if self._person is None and len(self._n_of) > 1:
            raise UsageError(
                f"{self._name} is about {len(self._n_of)} people, and a page is about one",
                expected="one of them, with --person",
                found=f"predictions of {newest}",
                hint=f"add --person {self._n_of.most_common(1)[0][0]}",
            )
        if self._person is not None and self._person not in self._n_of:
            raise UsageError(
                f"{self._name} has no predictions about {self._person}",
                expected="a person that it names" if self._n_of else "no --person: it is about one, unnamed",
                found=f"predictions of {newest}" if self._n_of else None,
            )

    def _take_time(self, reader: _Reader) -> None:
        t_ns, t_start_ns = reader.ns("t_end_ns"), reader.ns("t_start_ns")
        if self._t_ns and t_ns <= self._t_ns[-1]:
            reader.refuse(
                "goes back in time; a file holds one run", f"t_end_ns of more than {self._t_ns[-1]}", t_ns
            )
        self._t_ns.append(t_ns)
        self._t_start_ns.append(t_start_ns)

    def _take_reasons(self, reader: _Reader) -> None:
        found = reader.get("reasons")
        if not isinstance(found, list) or len(found) > MAX_NAMES:
            reader.refuse("has reasons that are no list", f"a list of at most {MAX_NAMES} texts", found)
        if not all(isinstance(reason, str) and len(reason) <= MAX_TEXT for reason in found):
            reader.refuse("has a reason that is no text", f"at most {MAX_TEXT} characters", found)
        number = self._reason_sets.setdefault(tuple(found), len(self._reason_sets))
        if number >= MAX_REASON_SETS:
            reader.refuse(
                "brings one more combination of reasons", f"at most {MAX_REASON_SETS} in one file", found
            )
        self._reason_set.append(number)

    def _take_affect(self, reader: _Reader, index: int, is_withheld: bool) -> None:
        affect = reader.mapping("affect", is_null_allowed=True)
        if affect and is_withheld:
            reader.refuse("is withheld and has an estimate", "affect null", affect)
        if not affect:
            return
        for output in OUTPUTS:
            value = reader.part(affect, output, "affect")
            if value is not None:
                self._values[output].put(index, reader.number(value, "affect", output))
        if affect.get("interval") is not None:
            self._take_interval(reader, index)

    def _take_interval(self, reader: _Reader, index: int) -> None:
        for output, ends in reader.mapping("affect.interval").items():
            if not isinstance(ends, list) or len(ends) != 2:
                reader.refuse(f"has an interval of {_shown(output)} that is none", "[low, high]", ends)
            low, high = (reader.number(end, "affect.interval", output) for end in ends)
            if low > high:
                reader.refuse("has an interval upside down", "[low, high]", ends)
            self._low[output].put(index, low)
            self._high[output].put(index, high)

    def _take_classes(self, reader: _Reader, index: int, is_withheld: bool) -> None:
        pain, emotion = reader.mapping("pain", True, True), reader.mapping("emotion", True, True)
        if is_withheld and (pain or emotion):
            reader.refuse("is withheld and has an estimate", "pain and emotion null", pain or emotion)
        if pain:
            scale, levels = reader.text("pain.scale"), reader.mapping("pain.level_probs")
            self._pain_scale = self._pain_scale or scale
            self._put_all(reader, index, "pain.level_probs", levels, self._levels)
            if scale != self._pain_scale:
                reader.refuse("is on another scale of pain", self._pain_scale, scale)
            expected = reader.get("pain.expected")
            top = len(levels) - 1
            self._values["pain"].put(
                index, reader.number(expected, "pain.expected", low=-0.001, high=top + 0.001)
            )
        if emotion:
            self._put_all(reader, index, "emotion", emotion, self._emotion)

    def _put_all(self, reader: _Reader, index: int, path: str, given: dict[str, Any], table: _Table) -> None:
        """Probabilities; the names of the first record are those of all."""
        if not given or (table and list(table) != list(given)):
            known = ", ".join(table) or "at least one name"
            reader.refuse(f"has other names in {path}", known, ", ".join(map(str, given)))
        for name, value in given.items():
            table[name].put(index, reader.number(value, path, name, low=-0.001, high=1.001))

    def _take_circumstances(self, reader: _Reader, index: int) -> None:
        for modality, state in reader.mapping("modalities").items():
            if not isinstance(state, dict) or type(state.get("present")) is not bool:
                reader.refuse(
                    f"does not say whether {_shown(modality)} was present", "present and coverage", state
                )
            coverage = state.get("coverage")
            coverage = reader.number(coverage, "modalities", modality, "coverage", low=0.0, high=1.001)
            self._present[modality].put(index, state["present"])
            self._coverage[modality].put(index, coverage)
        sync, latency = reader.mapping("sync"), reader.mapping("latency_ms")
        for name in _SYNC:
            self._sync[name].put(index, reader.number(reader.part(sync, name, "sync"), "sync", name))
        for stage in STAGES:
            value = reader.part(latency, stage, "latency_ms")
            if value is not None:
                self._latency[stage].put(index, reader.number(value, "latency_ms", stage))

    def _take_lineage(self, reader: _Reader) -> None:
        for key, counter in self._used.items():
            counter[reader.text(key)] += 1
            if len(counter) > MAX_NAMES:
                reader.refuse(f"brings one more {key}", f"at most {MAX_NAMES} in one file", reader.get(key))
        self._utc = [*self._utc[:1], reader.text("utc")]
        self._n_synchronised += reader.get("utc_synchronised") is True

    def finish(self) -> Records:
        n = len(self._t_ns)
        self._check_person()
        if n == 0:
            raise DataError(
                f"{self._name} holds no prediction",
                expected="one JSON object per line",
                found="a first line that is cut off" if self._is_cut else "an empty file",
                hint=_WRITER,
            )
        nothing = np.full(n, np.nan, np.float32)
        sync, latency = self._sync.finish(n), self._latency.finish(n)
        return Records(
            name=self._name if self._person is None else f"{self._name}, {self._person}",
            t_ns=np.frombuffer(self._t_ns, np.int64),
            t_start_ns=np.frombuffer(self._t_start_ns, np.int64),
            status=np.frombuffer(self._status, np.int8),
            reason_set=np.frombuffer(self._reason_set, np.int32),
            reason_sets=tuple(self._reason_sets),
            values=self._values.finish(n),
            low=self._low.finish(n),
            high=self._high.finish(n),
            pain_levels=self._levels.finish(n),
            pain_scale=self._pain_scale,
            emotion=self._emotion.finish(n),
            coverage=self._coverage.finish(n),
            present=self._present.finish(n),
            skew_ms=sync["skew_ms"],
            uncertainty_ms=sync["uncertainty_ms"],
            latency_ms={stage: latency.get(stage, nothing) for stage in STAGES},
            bundles=dict(self._used["bundle_id"]),
            engines=dict(self._used["engine"]),
            precisions=dict(self._used["precision"]),
            first_utc=_tidy_utc(self._utc[0]),
            last_utc=_tidy_utc(self._utc[-1]),
            n_synchronised=self._n_synchronised,
            is_cut=self._is_cut,
        )


def _tidy_utc(text: str) -> str:
    """Without fractions of a second and with "UTC", where it is a time at all."""
    try:
        moment = datetime.fromisoformat(re.sub(r"Z$", "+00:00", text))
    except ValueError:
        return text
    return moment.strftime("%Y-%m-%d %H:%M:%S") + (" UTC" if not moment.utcoffset() else f" {moment:%z}")

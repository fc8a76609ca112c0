"""What several verbs share: options, detector, tables."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from edge_mer.errors import UsageError
from edge_mer.preprocess.face import FaceDetector
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.setup import looks_at_faces
from edge_mer.types.model import MissingPolicy, ModelSpec
from edge_mer.types.signals import Modality

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 100)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def detector_for(model: ModelSpec, yunet: Path | None) -> FaceDetector | None:
    """The face detector that a model needs: YuNet when its ONNX is given, else OpenCV's cascades."""
    return open_face_detector(yunet) if looks_at_faces(model) else None


class _Lines:
    """What is being done, line by line: each thing once, however many parts it has."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, what: str, done: int = 0, of: int = 0) -> None:
        if what != self._last:
            err.print(what, markup=False)
        self._last = what


class _Bar:
    """What is being done, in one changing line, with a bar where one knows how many parts it has."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._last = bar, ""
        self._task = bar.add_task("starting", total=None)

    def __call__(self, what: str, done: int = 0, of: int = 0) -> None:
        if what != self._last:
            self._bar.reset(self._task, total=of or None)
        self._last = what
        self._bar.update(self._task, description=escape(what), completed=done, total=of or None)


@contextlib.contextmanager
def progress() -> Iterator[_Lines | _Bar]:
    """Say what is being done: on a terminal in one changing line with a bar, else line by line on stderr."""
    if not err.is_terminal:
        yield _Lines()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        yield _Bar(bar)


def parse_missing(values: Sequence[str]) -> dict[Modality, MissingPolicy]:
    """Policies such as "audio=mask".

    Raises:
        UsageError: Not of that form, or no such policy.
    """
    policies: dict[Modality, MissingPolicy] = {}
    known_modalities = {name: name for name in get_args(Modality)}
    known_policies = {name: name for name in get_args(MissingPolicy)}
    for value in values:
        modality, _, policy = value.partition("=")
        if modality not in known_modalities or policy not in known_policies:
            raise UsageError(
                f"--missing {value} is not a policy",
                expected=f"MODALITY=POLICY with POLICY one of {', '.join(known_policies)}",
                hint="e.g. --missing audio=mask",
            )
        policies[known_modalities[modality]] = known_policies[policy]
    return policies


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    """A plain table; columns after the first are aligned right.

    The first one wraps only where it would take more than half of the terminal from the others.
    """
    is_long = max((len(row[0]) for row in rows), default=0) > out.width // 2
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0 and not is_long)
    for row in rows:
        made.add_row(*row)
    return made

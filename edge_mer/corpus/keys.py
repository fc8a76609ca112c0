"""What results depend on, so that nothing is done again that is done."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edge_mer.errors import EdgeMerError
from edge_mer.sources.registry import open_source


def files_of(sources: Iterable[str], others: Iterable[Path] = ()) -> list[list[int] | None]:
    """Size and time of change of each file that is read; None where there is none.

    Args:
        sources: URIs.
        others: Further files.
    """
    found: list[list[int] | None] = []
    for path in [*map(_path, sources), *others]:
        try:
            stat = None if path is None else Path(path).stat()
        except (OSError, ValueError):  # ValueError: a null character
            stat = None
        found.append(None if stat is None else [stat.st_size, stat.st_mtime_ns])
    return found


def _path(uri: str) -> Path | None:
    try:
        return getattr(open_source(uri), "path", None)
    except EdgeMerError:  # it is told where it is to be played
        return None

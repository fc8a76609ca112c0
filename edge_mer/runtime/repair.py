"""Mends a recording that was cut or spoilt: what of it is whole, in a file that any reader of MCAP takes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from edge_mer.clock import NS_PER_S
from edge_mer.errors import DataError, UsageError
from edge_mer.sinks.mcap_file import McapFile
from edge_mer.sources.file_open import as_data_error, open_regular
from edge_mer.sources.recorded_parts import PartReader
from edge_mer.sources.replay import head_of
from edge_mer.types.recording import PartHead


@dataclass(frozen=True)
class Mended:
    """What came of a repair.

    Attributes:
        is_changed: False: the file was whole, and was left alone.
        n_messages: Messages that were kept.
        n_lost: Parts in the middle, of half a second or less each, that are not.
        was_cut: The end is lost.
        duration_s: From the session's zero to the last message.
    """

    is_changed: bool
    n_messages: int
    n_lost: int
    was_cut: bool
    duration_s: float


def repair(path: Path, to: Path | None = None) -> Mended:
    """Write what of a recording is whole anew, with an end and a summary.

    Args:
        path: The recording.
        to: A new file; None: the mended file takes the recording's place, once it is whole itself.

    Raises:
        DataError: Nothing of it can be read.
        UsageError: The mended file cannot be written.
    """
    with open_regular(path, "recording") as file, as_data_error(path):
        reader = PartReader(file)
        if to is None and (found := _as_it_is(reader, path)) is not None:
            return found
        target = path.with_name(f"{path.name}.mended") if to is None else to
        try:
            mended = _rewritten(reader, path, target)
            if to is None:
                target.replace(path)
        except OSError as error:
            raise UsageError(
                f"cannot write {target}",
                found=error.strerror,
                hint="give --out a new file on a disk with room for it",
            ) from error
    return mended


def _as_it_is(reader: PartReader, path: Path) -> Mended | None:
    """What is to be said of a file that lacks nothing; None for another."""
    head = head_of(reader, path)
    n_messages = end_ns = 0
    for part in reader:
        n_messages += len(part.messages)
        end_ns = max([end_ns, *(message.publish_time for message in part.messages)])
    if not (reader.has_end and reader.has_summary) or reader.n_lost:
        return None
    seconds = max(0, end_ns - head.session.utc_zero_ns) / NS_PER_S
    return Mended(False, n_messages, 0, reader.was_cut, seconds)


def _rewritten(reader: PartReader, path: Path, target: Path) -> Mended:
    head = head_of(reader, path)
    try:
        file = McapFile(target)
    except FileExistsError as error:
        raise UsageError(f"{target} exists", hint="give --out a new file") from error
    try:
        n_messages, end_ns = _copied(reader, head, file)
    except BaseException:
        with contextlib.suppress(OSError):
            file.abandon()
        target.unlink(missing_ok=True)
        raise
    seconds = (end_ns - head.session.utc_zero_ns) / NS_PER_S
    return Mended(True, n_messages, reader.n_lost, reader.was_cut, seconds)


def _copied(reader: PartReader, head: PartHead, file: McapFile) -> tuple[int, int]:
    """Copy every whole part; returns the number of messages, and the time of the last."""
    zero_ns = head.session.utc_zero_ns
    n_messages, end_ns, n_dropped = 0, zero_ns, 0
    file.begin(head.session, head.channels)
    for part in reader:
        n_dropped = part.head.n_dropped
        file.go_on_as(part.head)
        for one in part.messages:
            if one.channel_id not in part.head.channels:
                raise DataError("a message of no channel", found=f"channel {one.channel_id}")
            file.add(one.channel_id, one.log_time, one.publish_time, one.data, one.sequence)
            end_ns = max(end_ns, one.publish_time)
        n_messages += len(part.messages)
        file.flush(n_dropped)
    file.finish(end_ns, n_dropped, was_cut=reader.was_cut)
    return n_messages, end_ns

"""An audit log that is written, cut, full, changed and read."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from edge_mer.audit import FIRST, MAX_LINE_BYTES, TORN, AuditLog, check_audit, kept_files, read_audit
from edge_mer.clock import ManualClock
from edge_mer.errors import DataError, UsageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def write(path: Path, *events: str, **settings: Any) -> str:
    """One record each; the newest hash."""
    with AuditLog(path, ManualClock(start_ns=7), **settings) as log:
        for event in events:
            log.append(event, "ward-3", {"n": 1})
        return log.newest


def events(path: Path) -> list[str]:
    return [record["event"] for record in read_audit(path)]


def test_a_record_says_when_what_and_who(path: Path) -> None:
    write(path, "alarm.acknowledged")
    [record] = read_audit(path)
    assert record == {
        "n": 0,
        "utc": ManualClock().utc().isoformat(),
        "monotonic_ns": 7,
        "event": "alarm.acknowledged",
        "who": "ward-3",
        "details": {"n": 1},
        "previous": FIRST,
    }
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_goes_on_where_it_ended(path: Path) -> None:
    write(path, "a", "b")
    newest = write(path, "c")
    checked = check_audit(path)
    assert (checked.n_records, checked.first, checked.newest) == (3, 0, newest)
    assert (checked.n_torn, checked.breaks) == (0, ())
    assert [record["n"] for record in read_audit(path)] == [0, 1, 2]


def test_it_is_only_appended_to_and_on_the_disk_before_the_call_returns(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    with AuditLog(path, ManualClock()) as log:
        for event in "abc":
            before = path.read_bytes()
            log.append(event)
            assert path.read_bytes().startswith(before)
            assert synced[-1] == path.stat().st_size > len(before)


@pytest.mark.parametrize("line", range(4))
def test_a_record_that_was_changed_is_found(path: Path, line: int) -> None:
    newest = write(path, *"abcd")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b"ward-3", b"ward-4")
    path.write_bytes(b"".join(lines))
    checked = check_audit(path)
    if line == 3:  # nothing comes after it, but somebody may have kept its hash
        assert checked.breaks == ()
        assert checked.newest != newest
    else:
        assert [found.line for found in checked.breaks] == [line + 2]


@pytest.mark.parametrize("change", ["out", "twice", "moved", "no record"])
def test_a_record_taken_out_put_in_or_moved_is_found(path: Path, change: str) -> None:
    write(path, *"abcd")
    a, b, c, d = path.read_bytes().splitlines(keepends=True)
    changed = {
        "out": [a, c, d],
        "twice": [a, b, b, c, d],
        "moved": [a, c, b, d],
        "no record": [a, b"x\n", c, d],
    }
    path.write_bytes(b"".join(changed[change]))
    breaks = check_audit(path).breaks
    assert breaks
    assert breaks[0].line in (2, 3)


def test_a_log_without_its_begin_says_where_it_begins_and_a_forged_begin_is_found(path: Path) -> None:
    write(path, *"abcd")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[2:]))
    checked = check_audit(path)
    assert (checked.first, checked.n_records, checked.breaks) == (2, 2, ())
    path.write_bytes(lines[1].replace(b'"n":1,"pre', b'"n":0,"pre') + lines[2])
    assert [found.line for found in check_audit(path).breaks] == [1, 2]


def test_a_cut_anywhere_in_the_last_record_loses_just_that_and_is_marked(tmp_path: Path) -> None:
    write(tmp_path / "whole", *"ab")
    whole = (tmp_path / "whole").read_bytes()
    begin = whole.index(b"\n") + 1
    for n_bytes in range(begin, len(whole) + 1):
        path = tmp_path / f"audit-{n_bytes}"
        path.write_bytes(whole[:n_bytes])
        assert check_audit(path).breaks == ()
        write(path, "next")
        is_torn = begin < n_bytes < len(whole) - 1  # without its end of line alone it is whole
        kept = ["a"] if n_bytes < len(whole) - 1 else ["a", "b"]
        assert events(path) == [*kept, *([TORN] if is_torn else []), "next"]
        checked = check_audit(path)
        assert (checked.breaks, checked.n_torn) == ((), int(is_torn))
        assert path.read_bytes().startswith(whole[:n_bytes])


def test_zeros_and_power_cuts_while_mending_are_tolerated(path: Path) -> None:
    write(path, "a")
    with path.open("ab") as stream:
        stream.write(b"\0" * 4096 + b"\n" + b'{"details":{"n_by')
    assert check_audit(path).breaks == ()
    write(path, "b")
    assert events(path) == ["a", TORN, "b"]
    checked = check_audit(path)
    assert (checked.n_torn, checked.breaks) == (1, ())


def test_what_a_torn_line_held_cannot_be_changed_later(path: Path) -> None:
    write(path, "a")
    with path.open("ab") as stream:
        stream.write(b'{"details":')
    write(path, "b")
    path.write_bytes(path.read_bytes().replace(b'{"details":\n', b'{"details";\n'))
    assert [found.line for found in check_audit(path).breaks] == [2]


@pytest.mark.parametrize("data", [b"my notes\n", b"x" * (5 * MAX_LINE_BYTES), b"1\n2\n"], ids=range(3))
def test_a_file_that_is_something_else_is_left_alone(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(DataError, match="is no audit log"):
        AuditLog(path)
    assert path.read_bytes() == data


def test_nothing_but_a_record_about_it_explains_a_torn_line(path: Path) -> None:
    write(path, "a")
    with path.open("ab") as stream:
        stream.write(b'{"details":')
    write(path)
    path.write_bytes(path.read_bytes().replace(TORN.encode(), b"login"))
    assert [found.what for found in check_audit(path).breaks] == ["this is no record"]


def test_numbers_follow_each_other(path: Path) -> None:
    write(path, "a", "b")
    path.write_bytes(path.read_bytes().replace(b'"n":1,"prev', b'"n":2,"prev'))
    assert [found.what for found in check_audit(path).breaks] == ["record 2 where 1 follows"]


def test_a_full_file_gets_a_number_and_the_chain_goes_on(path: Path) -> None:
    names = [f"event-{index}" for index in range(40)]
    newest = write(path, *names, max_bytes=2000)
    files = kept_files(path)
    assert [one.name for one in files[:2]] == ["audit.jsonl.000001", "audit.jsonl.000002"]
    assert all(one.stat().st_size <= 2000 for one in (*files, path))
    assert events(path) == names
    checked = check_audit(path)
    assert (checked.n_records, checked.newest, checked.breaks) == (40, newest, ())
    files[1].unlink()
    assert len(check_audit(path).breaks) == 1, "a file in the middle is missed"


def test_old_files_are_deleted_and_the_log_says_where_it_begins(path: Path) -> None:
    write(path, *[f"event-{index}" for index in range(40)], max_bytes=2000, max_files=2)
    assert len(kept_files(path)) == 2
    checked = check_audit(path)
    assert checked.first > 0
    assert (checked.first + checked.n_records, checked.breaks) == (40, ())


def test_a_power_cut_between_two_files_does_no_harm(path: Path) -> None:
    for number in (1, 2):
        write(path, "a", "b")
        path.rename(path.with_name(f"audit.jsonl.00000{number}"))
    write(path, "c")
    assert [record["n"] for record in read_audit(path)] == [0, 1, 2, 3, 4]
    assert check_audit(path).breaks == ()


def test_two_writers_are_refused(path: Path) -> None:
    with AuditLog(path), pytest.raises(UsageError, match="another process writes"):
        AuditLog(path)
    write(path, "a")


def test_many_threads_write_one_chain(path: Path) -> None:
    with AuditLog(path, max_bytes=20_000) as log:
        threads = [
            threading.Thread(target=lambda: [log.append("a", "t", {"x": "y" * 50}) for _ in range(25)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    checked = check_audit(path)
    assert (checked.n_records, checked.breaks) == (100, ())


def test_details_that_are_too_long_are_left_out_but_not_the_record(path: Path) -> None:
    with AuditLog(path) as log:
        log.append("login", "w" * 100_000, {"agent": "ä" * 100_000})
        log.append("next", details={"agent": "a" * 60_000})
        log.append("next", details={"agent": "a" * 70_000})
    assert all(len(line) <= MAX_LINE_BYTES for line in path.read_bytes().splitlines(keepends=True))
    first, second, third = read_audit(path)
    assert (len(second["details"]["agent"]), "agent" in third["details"]) == (60_000, False)
    assert first["details"]["left_out_bytes"] > 100_000
    assert (first["event"], len(first["who"]), second["event"]) == ("login", 200, "next")
    assert check_audit(path).breaks == ()


def test_a_full_disk_loses_nothing_that_was_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(path, ManualClock())
    log.append("a")
    real = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 40:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:30])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: half(descriptor, data[:60]))
        with pytest.raises(UsageError, match="No space left"):
            log.append("b")
        with pytest.raises(UsageError, match="No space left"):
            log.append("c")
    log.append("d")
    log.close()
    assert events(path) == ["a", TORN, "d"]
    assert check_audit(path).breaks == ()


def test_links_pipes_and_missing_folders_are_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"")
    (tmp_path / "link").symlink_to(elsewhere)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "nowhere/audit.jsonl", "."):
        with pytest.raises(UsageError):
            AuditLog(tmp_path / name)
    with pytest.raises(UsageError, match="cannot read"):
        check_audit(tmp_path / "missing")
    with pytest.raises(UsageError, match="cannot read"):
        list(read_audit(tmp_path / "missing"))


def test_lines_are_json_whatever_is_in_them(path: Path) -> None:
    with AuditLog(path) as log:
        log.append("swap", "line\nbreak", {"why": "\u2028 \ud800 \0"})
    assert [json.loads(line)["who"] for line in path.read_text("ascii").splitlines()] == ["line\nbreak"]
    assert check_audit(path).breaks == ()


def test_numbers_that_only_look_like_a_log_are_not_its_files(path: Path) -> None:
    write(path, "a")
    for name in ("audit.jsonl.1", "audit.jsonl.000001.bak", "audit.jsonl.x.000001"):
        path.with_name(name).write_bytes(b"other")
    assert kept_files(path) == []
    assert check_audit(path).n_records == 1

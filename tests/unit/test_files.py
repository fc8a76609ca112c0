"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_mer.files import remove_unfinished, write_atomically, write_folder


def test_a_file_is_replaced_in_one_step_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, b"one")
    with path.open("rb") as held:
        write_atomically(path, b"two")
        assert held.read() == b"one", "who reads keeps what was there"
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600


def test_data_and_name_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink()))
    write_atomically(tmp_path / "state.json", b"one")
    assert [path.parent for path in synced] == [tmp_path, tmp_path.parent]


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, b"one")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state[1].json"
    others = [
        tmp_path / name for name in ("state[1].json.bak", ".state1.json.0123abcd", ".state[1].json.swp")
    ]
    for other in others:
        other.write_bytes(b"somebody else's")
    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(SystemExit))
        killed.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            write_atomically(path, b"one")
    assert len(list(tmp_path.iterdir())) == 4
    remove_unfinished(path)
    assert sorted(tmp_path.iterdir()) == sorted(others)
    remove_unfinished(tmp_path / "nowhere" / "state.json")


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    write_folder(folder, {"a": b"1", "in/b": b"2"})
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {
        "a": b"1",
        "b": b"2",
    }
    write_folder(folder, {"c": b"3"})
    assert [path.name for path in folder.iterdir()] == ["c"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_does_not_pass_never_gets_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    write_folder(folder, {"a": b"1"})

    def refuse(written: Path) -> None:
        assert (written / "b").read_bytes() == b"2"
        raise ValueError("it is not right")

    with pytest.raises(ValueError, match="not right"):
        write_folder(folder, {"b": b"2"}, refuse)
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [folder]

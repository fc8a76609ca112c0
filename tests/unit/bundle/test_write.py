"""Writing a bundle: whole or not at all, and the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mer.bundle.manifest import FileEntry, Manifest
from edge_mer.bundle.read import MANIFEST_NAME, open_bundle
from edge_mer.bundle.write import check_free, pack_arrays, write_bundle
from edge_mer.errors import BundleError, UsageError
from tests.helpers import wire
from tests.helpers.skin_session import skin_model
from tests.helpers.tiny_bundle import stage_path, tiny_files, tiny_manifest, write_tiny_bundle


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def failing(files: Mapping[str, FileEntry]) -> Manifest:
    raise RuntimeError("in the middle")


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    written = write_tiny_bundle(tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    assert bundle.manifest == written
    assert bundle.manifest.bundle_id == written.bundle_id
    assert {name: bundle.read(name) for name in bundle.manifest.files} == tiny_files()


def test_the_folder_holds_the_files_and_the_manifest_and_nothing_else(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "b")
    assert snapshot(tmp_path / "b").keys() == {MANIFEST_NAME, *tiny_files()}
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_the_manifest_holds_the_hash_and_length_of_every_file(tmp_path: Path) -> None:
    manifest = write_tiny_bundle(tmp_path / "b")
    for name, data in tiny_files().items():
        assert manifest.files[name].sha256 == hashlib.sha256(data).hexdigest()
        assert manifest.files[name].n_bytes == len(data)


def test_others_may_read_a_bundle(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "b")
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o755


def test_the_same_bundle_is_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_tiny_bundle(tmp_path / name) for name in ("first", "second"))
    assert snapshot(tmp_path / "first") == snapshot(tmp_path / "second")
    assert first.bundle_id == second.bundle_id


def test_arrays_are_packed_to_the_same_bytes_each_time() -> None:
    arrays = {"a": np.arange(9.0), "b": np.ones((2, 3), np.uint8)}
    assert pack_arrays(arrays) == pack_arrays(arrays)


def test_an_onnx_that_not_every_target_reads_is_not_written(tmp_path: Path) -> None:
    files = {**tiny_files(), stage_path("audio"): wire.model(ir=12)}
    with pytest.raises(BundleError, match=stage_path("audio")):
        write_bundle(tmp_path / "b", files, tiny_manifest)
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_the_manifest_is_made_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="in the middle"):
        write_bundle(tmp_path / "b", tiny_files(), failing)
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_the_files_are_written_leaves_nothing(tmp_path: Path) -> None:
    """One name is a file and a folder at once."""
    files = {**tiny_files(), "golden": b"x", "golden/more": b"y"}
    with pytest.raises(OSError, match="golden"):
        write_bundle(tmp_path / "b", files, tiny_manifest)
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_bundle_that_should_have_been_replaced(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "b")
    before = snapshot(tmp_path)
    with pytest.raises(RuntimeError, match="in the middle"):
        write_bundle(tmp_path / "b", tiny_files(), failing, replace=True)
    assert snapshot(tmp_path) == before


def test_an_error_in_the_last_moment_puts_the_old_bundle_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_bundle(tmp_path / "b")
    before = snapshot(tmp_path)
    really = Path.replace

    def refuse_the_new_one(self: Path, target: Any) -> Path:
        if Path(target) == tmp_path / "b" and not (tmp_path / "b").exists():
            monkeypatch.setattr(Path, "replace", really)
            raise OSError("no more")
        return really(self, target)

    monkeypatch.setattr(Path, "replace", refuse_the_new_one)
    with pytest.raises(OSError, match="no more"):
        write_tiny_bundle(tmp_path / "b", replace=True)
    assert snapshot(tmp_path) == before


def test_a_bundle_is_not_replaced_unasked(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "b")
    with pytest.raises(UsageError, match="--replace"):
        write_tiny_bundle(tmp_path / "b")


def test_a_bundle_is_replaced_when_asked_and_no_old_file_stays(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "b")
    (tmp_path / "b" / "old.txt").write_text("old", encoding="utf-8")
    write_tiny_bundle(tmp_path / "b", replace=True)
    open_bundle(tmp_path / "b").check_files()
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("replace", [False, True])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, *, replace: bool) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(UsageError, match=r"exists already.*not replaced"):
        write_tiny_bundle(tmp_path / "b", replace=replace)
    assert (tmp_path / "b" / "thesis.txt").read_text(encoding="utf-8") == "years of work"


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_is_never_replaced(tmp_path: Path, *, replace: bool) -> None:
    (tmp_path / "b").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="exists already"):
        check_free(tmp_path / "b", replace=replace)


def test_an_empty_folder_is_a_free_place(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    write_tiny_bundle(tmp_path / "b")
    open_bundle(tmp_path / "b").check_files()


def test_without_its_parent_folder_there_is_no_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        write_tiny_bundle(tmp_path / "missing" / "b")


# -- bundle_id ------------------------------------------------------------------------------------


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict) and value:
        return [leaf for key in value for leaf in leaves(value[key], (*path, key))]
    if isinstance(value, list) and value:
        return [leaf for index, item in enumerate(value) for leaf in leaves(item, (*path, index))]
    return [path]


def other(value: Any) -> list[Any]:
    """Values that might be allowed in the place of `value`."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [value + 1, value * 0.7 + 0.13]
    if isinstance(value, str):
        return [value + "x", "0" * 64, "31/3"]
    return [1.0, "x"]


def manifest() -> Manifest:
    entries = {
        name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), n_bytes=len(data))
        for name, data in tiny_files().items()
    }
    return tiny_manifest(entries)


def test_the_identity_changes_with_every_value_of_the_manifest() -> None:
    original = manifest()
    n_changed = 0
    for path in leaves(original.model_dump(mode="json")):
        raw: Any = original.model_dump(mode="json")
        place = raw
        for key in path[:-1]:
            place = place[key]
        for value in other(place[path[-1]]):
            place[path[-1]] = value
            try:
                changed = Manifest.model_validate(raw)
            except ValueError:
                continue
            assert changed.bundle_id != original.bundle_id, f"{path} = {value!r}"
            n_changed += 1
    assert n_changed > 50


def test_the_identity_does_not_depend_on_the_order_of_keys() -> None:
    def reverse(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reverse(value[key]) for key in reversed(value)}
        return [reverse(item) for item in value] if isinstance(value, list) else value

    original = manifest()
    again = Manifest.model_validate(reverse(original.model_dump(mode="json")))
    assert again.bundle_id == original.bundle_id


def test_the_identity_survives_writing_and_reading() -> None:
    original = manifest()
    again = Manifest.model_validate(json.loads(json.dumps(original.model_dump(mode="json"))))
    assert again == original
    assert again.bundle_id == original.bundle_id


def test_a_range_of_rates_travels_and_a_model_without_one_keeps_its_identity() -> None:
    narrow, wide = (manifest().model_copy(update={"model": skin_model(hz)}) for hz in (None, (4.0, 130.5)))
    assert b"stream_hz" not in narrow.canonical()
    assert b'"stream_hz":[4.0,130.5]' in wide.canonical()
    assert Manifest.model_validate_json(wide.canonical()).canonical() == wide.canonical()


def test_the_identity_is_the_hash_of_the_canonical_manifest() -> None:
    canonical = manifest().canonical()
    assert manifest().bundle_id == "sha256:" + hashlib.sha256(canonical).hexdigest()
    assert b" " not in canonical.replace(b"A model for tests", b"")


def test_the_manifest_on_disk_hashes_to_the_identity(tmp_path: Path) -> None:
    """As anyone can check without this program."""
    written = write_tiny_bundle(tmp_path / "b")
    raw = json.loads((tmp_path / "b" / MANIFEST_NAME).read_bytes())
    assert raw.pop("bundle_id") == written.bundle_id
    text = json.dumps(raw, sort_keys=True, separators=(",", ":"))
    assert written.bundle_id == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", tiny_files())
def test_the_identity_changes_with_one_byte_of_any_file(tmp_path: Path, name: str) -> None:
    original = write_tiny_bundle(tmp_path / "a")
    files = tiny_files()
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    entries = {n: FileEntry(sha256=hashlib.sha256(d).hexdigest(), n_bytes=len(d)) for n, d in files.items()}
    assert tiny_manifest(entries).bundle_id != original.bundle_id


def test_what_is_written_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    really = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        really(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_tiny_bundle(tmp_path / "b")
    inodes = {p.stat().st_ino for p in (tmp_path / "b").rglob("*") if p.is_file()}
    assert inodes <= set(synced)

"""The cache of what was built here."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from edge_mer.engine.cache import cache_folder, cache_key, load, processor, read_file, records, store
from edge_mer.errors import BundleError, UsageError

PARTS: dict[str, Any] = {
    "bundle": "sha256:" + "0" * 64,
    "target": "cpu",
    "onnxruntime": "1.23.2",
    "edge_mer": "0.1.0",
    "processor": {"name": "Cortex-A78AE", "abilities": "0123456789abcdef"},
    "threads": 6,
}
KEY = cache_key(PARTS)
RECORD = {"precision": "int8-cpu", "threads": 2, "graph": "all", "trials": [{"hop_ms": 1.25}]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("EDGE_MER_CACHE", str(folder))
    return folder


def other(value: Any) -> Any:
    if isinstance(value, dict):
        return {**value, next(iter(value)): "another"}
    return value + 1 if isinstance(value, int) else value + "x"


# -- keys -----------------------------------------------------------------------------------------


def test_the_same_parts_give_the_same_key() -> None:
    assert cache_key(dict(reversed(PARTS.items()))) == KEY


@pytest.mark.parametrize("part", PARTS)
def test_the_key_changes_with_every_part(part: str) -> None:
    assert cache_key({**PARTS, part: other(PARTS[part])}) != KEY


@pytest.mark.parametrize("part", PARTS)
def test_the_key_changes_when_a_part_is_missing(part: str) -> None:
    assert cache_key({name: value for name, value in PARTS.items() if name != part}) != KEY


def test_the_key_changes_inside_a_part() -> None:
    processors = ({"name": "x", "abilities": "1"}, {"name": "x", "abilities": "2"})
    first, second = (cache_key({**PARTS, "processor": one}) for one in processors)
    assert first != second


def test_a_number_and_its_text_are_not_the_same_part() -> None:
    assert cache_key({**PARTS, "threads": "6"}) != KEY


def test_a_key_is_a_plain_file_name() -> None:
    assert len(KEY) == 64
    assert set(KEY) <= set("0123456789abcdef")


def test_the_processor_is_named() -> None:
    facts = processor()
    assert facts["name"]
    assert len(facts["abilities"]) == 16
    assert processor() == facts


# -- records --------------------------------------------------------------------------------------


def test_a_record_comes_back(cache: Path) -> None:
    path = store(KEY, RECORD)
    assert path == cache / "engines" / KEY / "build.json"
    assert load(KEY) == {**RECORD, "key": KEY, "files": {}}


def test_without_a_record_there_is_none() -> None:
    assert load(KEY) is None


def test_another_key_finds_nothing() -> None:
    store(KEY, RECORD)
    assert load(cache_key({**PARTS, "threads": 1})) is None


def test_a_record_under_another_key_is_not_believed(cache: Path) -> None:
    """Copied there from another device, say."""
    path = store(KEY, RECORD)
    elsewhere = cache / "engines" / "f" / "build.json"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(path.read_bytes())
    assert load("f") is None


def test_a_later_record_replaces_the_first() -> None:
    store(KEY, RECORD)
    store(KEY, {"precision": "fp32"})
    assert load(KEY) == {"precision": "fp32", "key": KEY, "files": {}}


def test_a_record_cut_anywhere_counts_as_none(cache: Path) -> None:
    path = store(KEY, RECORD)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert load(KEY) is None, f"cut after {end} bytes"


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"7", b"{}", b'{"key": 1}', b"\xff\xfe\x00", b"[" * 100_000, b'{"key": "other"}'],
    ids=["empty", "null", "list", "number", "dict", "key_1", "bytes", "deep", "other_key"],
)
def test_a_spoiled_record_counts_as_none(content: bytes) -> None:
    store(KEY, RECORD).write_bytes(content)
    assert load(KEY) is None


def test_a_folder_in_the_place_of_a_record_counts_as_none() -> None:
    path = store(KEY, RECORD)
    path.unlink()
    path.mkdir()
    assert load(KEY) is None


def test_only_this_user_may_enter_and_read() -> None:
    before = os.umask(0)
    try:
        path = store(KEY, RECORD)
    finally:
        os.umask(before)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_was_open_to_others_is_closed(cache: Path) -> None:
    folder = cache / "engines" / KEY
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    store(KEY, RECORD)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_nothing_but_the_record_is_left() -> None:
    path = store(KEY, RECORD)
    assert [p.name for p in path.parent.iterdir()] == ["build.json"]


def test_a_record_that_cannot_be_written_leaves_the_old_one() -> None:
    path = store(KEY, RECORD)
    with pytest.raises(TypeError):
        store(KEY, {"precision": object()})
    assert load(KEY) == {**RECORD, "key": KEY, "files": {}}
    assert [p.name for p in path.parent.iterdir()] == ["build.json"]


def test_an_error_in_the_middle_leaves_the_old_record(monkeypatch: pytest.MonkeyPatch) -> None:
    path = store(KEY, RECORD)

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(UsageError, match="No space left on device"):
        store(KEY, {"precision": "fp32"})
    assert load(KEY) == {**RECORD, "key": KEY, "files": {}}
    assert [p.name for p in path.parent.iterdir()] == ["build.json"]


def test_a_cache_that_cannot_be_written_is_a_matter_of_configuration(cache: Path) -> None:
    cache.write_text("no folder", encoding="utf-8")
    with pytest.raises(UsageError, match="EDGE_MER_CACHE"):
        store(KEY, RECORD)
    assert load(KEY) is None


def test_a_record_is_plain_json_for_people() -> None:
    assert json.loads(store(KEY, RECORD).read_bytes())["precision"] == "int8-cpu"


# -- where ----------------------------------------------------------------------------------------


def test_the_cache_is_where_the_user_says(cache: Path) -> None:
    assert cache_folder() == cache


def test_else_it_is_in_the_cache_of_the_desktop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGE_MER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "edge-mer"


def test_else_it_is_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGE_MER_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "edge-mer"


# -- files ----------------------------------------------------------------------------------------


def test_files_come_back_as_they_were_written(cache: Path) -> None:
    store(KEY, RECORD, {"audio.plan": b"plan", "empty.plan": b""})
    record = load(KEY)
    assert record is not None
    assert read_file(record, "audio.plan") == b"plan"
    assert read_file(record, "empty.plan") == b""
    assert stat.S_IMODE((cache / "engines" / KEY / "audio.plan").stat().st_mode) == 0o600
    assert stat.S_IMODE((cache / "host.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"pla", b"plan ", b"plam"], ids=["empty", "cut", "longer", "other"])
def test_a_file_that_was_altered_is_refused(cache: Path, content: bytes) -> None:
    store(KEY, RECORD, {"audio.plan": b"plan"})
    (cache / "engines" / KEY / "audio.plan").write_bytes(content)
    record = load(KEY)
    assert record is not None
    with pytest.raises(BundleError, match="was altered after it was built here"):
        read_file(record, "audio.plan")


def test_only_a_plain_file_of_this_user_that_no_one_else_may_write_to_is_read(cache: Path) -> None:
    store(KEY, RECORD, {"audio.plan": b"plan"})
    record, plan = load(KEY), cache / "engines" / KEY / "audio.plan"
    assert record is not None
    plan.chmod(0o620)
    with pytest.raises(BundleError, match="others may write to"):
        read_file(record, "audio.plan")
    elsewhere = plan.with_name("elsewhere")
    plan.rename(elsewhere)
    elsewhere.chmod(0o600)
    plan.symlink_to(elsewhere)
    with pytest.raises(BundleError, match="cannot read"):
        read_file(record, "audio.plan")
    plan.unlink()
    with pytest.raises(BundleError, match="No such file"):
        read_file(record, "audio.plan")
    with pytest.raises(BundleError, match="does not belong"):
        read_file(record, "fusion.plan")


def test_a_record_that_was_altered_counts_as_none() -> None:
    path = store(KEY, RECORD, {"audio.plan": b"plan"})
    record = json.loads(path.read_text(encoding="utf-8"))
    record["files"]["audio.plan"]["sha256"] = "0" * 64
    path.write_text(json.dumps(record), encoding="utf-8")
    assert load(KEY) is None
    assert list(records()) == []


def test_a_record_of_another_host_counts_as_none(cache: Path) -> None:
    store(KEY, RECORD)
    (cache / "host.key").unlink()
    assert load(KEY) is None
    store("other", {"precision": "fp32"})
    assert [one["key"] for one in records()] == ["other"]


def test_a_key_that_others_could_have_read_makes_nothing(cache: Path) -> None:
    store(KEY, RECORD)
    (cache / "host.key").chmod(0o640)
    assert load(KEY) is None
    with pytest.raises(UsageError, match="cannot write to the cache"):
        store(KEY, RECORD)


def test_records_come_oldest_first() -> None:
    for age, name in enumerate(("b", "a", "c")):
        os.utime(store(name, RECORD), ns=(age, age))
    assert [one["key"] for one in records()] == ["b", "a", "c"]

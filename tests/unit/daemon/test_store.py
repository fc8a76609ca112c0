"""Which bundle serves: over restarts, kills, and what somebody did to the disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_mer.bundle.read import open_bundle
from edge_mer.daemon.store import BundleStore
from edge_mer.errors import BundleError
from tests.helpers.daemon import variant
from tests.helpers.tiny_bundle import write_tiny_bundle


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    write_tiny_bundle(tmp_path / "configured")
    return tmp_path / "configured"


def store_of(tmp_path: Path, configured: Path) -> BundleStore:
    return BundleStore(tmp_path / "state", configured)


def brought(store: BundleStore, configured: Path, name: str) -> Path:
    """Another bundle, in its place."""
    return store.place(variant(configured, store.place_for(1), name=name))


def folders(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "state" / "bundles").iterdir() if path.is_dir()}


def test_the_configured_one_serves_until_another_does(tmp_path: Path, configured: Path) -> None:
    store = store_of(tmp_path, configured)
    assert (store.current, store.previous) == (configured, None)
    one = brought(store, configured, "one")
    assert store.current == configured
    store.take(one)
    assert (store.current, store.previous) == (one, configured)
    again = store_of(tmp_path, configured)
    assert (again.current, again.previous) == (one, configured)
    assert one.name == open_bundle(one).bundle_id.removeprefix("sha256:")[:32]


def test_it_keeps_two_and_goes_back(tmp_path: Path, configured: Path) -> None:
    store = store_of(tmp_path, configured)
    one = brought(store, configured, "one")
    store.take(one)
    two = brought(store, configured, "two")
    store.take(two)
    assert folders(tmp_path) == {one.name, two.name}
    store.take(one)
    assert (store.current, store.previous) == (one, two)
    store.take(configured)
    assert (store.current, store.previous) == (configured, one)
    assert folders(tmp_path) == {one.name}


def test_the_same_again_is_the_same(tmp_path: Path, configured: Path) -> None:
    store = store_of(tmp_path, configured)
    one = brought(store, configured, "one")
    store.take(one)
    assert brought(store, configured, "one") == one
    store.take(one)
    assert (store.current, store.previous) == (one, configured)


def test_another_configuration_wins(tmp_path: Path, configured: Path) -> None:
    store = store_of(tmp_path, configured)
    store.take(brought(store, configured, "one"))
    newer = variant(configured, tmp_path / "newer")
    again = store_of(tmp_path, newer)
    assert (again.current, again.previous) == (newer, None)


def test_what_was_spoilt_is_not_used(tmp_path: Path, configured: Path) -> None:
    store = store_of(tmp_path, configured)
    one = brought(store, configured, "one")
    store.take(one)
    two = brought(store, configured, "two")
    store.take(two)
    stage = next((two / "stages").iterdir())
    stage.write_bytes(stage.read_bytes()[:-1])
    again = store_of(tmp_path, configured)
    assert (again.current, again.previous) == (one, None)
    (one / "manifest.json").unlink()
    assert store_of(tmp_path, configured).current == configured


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"configured": 1}', '{"configured": "ID", "current": "../x", "previous": null}']
)
def test_a_record_that_nobody_wrote_is_passed_over(tmp_path: Path, configured: Path, text: str) -> None:
    store_of(tmp_path, configured)
    record = tmp_path / "state" / "bundles" / "current.json"
    record.write_text(text.replace("ID", open_bundle(configured).bundle_id))
    assert store_of(tmp_path, configured).current == configured


def test_what_a_kill_left_is_swept(tmp_path: Path, configured: Path) -> None:
    store = store_of(tmp_path, configured)
    one = brought(store, configured, "one")
    store.take(one)
    bundles = tmp_path / "state" / "bundles"
    (bundles / "incoming-7").mkdir()
    (bundles / ".incoming-8.abc").mkdir()
    (bundles / "f00d").mkdir()
    (bundles / ".current.json.xyz").write_text("{")
    again = store_of(tmp_path, configured)
    assert (bundles / "incoming-7").exists()  # another daemon may be working on it
    again.clean()
    assert {path.name for path in bundles.iterdir()} == {"current.json", one.name}
    assert json.loads((bundles / "current.json").read_text())["current"] == one.name


def test_a_bundle_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        store_of(tmp_path, tmp_path / "nothing")

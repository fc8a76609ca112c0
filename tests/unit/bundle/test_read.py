"""Reading a bundle that cannot be trusted: whatever is wrong with it, it is refused with BundleError."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mer.bundle import read
from edge_mer.bundle.read import MANIFEST_NAME, Bundle, open_bundle
from edge_mer.bundle.write import pack_arrays
from edge_mer.errors import BundleError
from tests.helpers import wire
from tests.helpers.tiny_bundle import SESSIONS, stage_path, tiny_files, write_tiny_bundle

VISUAL = stage_path("visual")
EVERY_FILE = [MANIFEST_NAME, *tiny_files()]
OPEN_DESCRIPTORS = Path("/proc/self/fd")
Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "tiny"
    write_tiny_bundle(path)
    return path


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def used(folder: Path) -> Bundle:
    """Everything that a session reads."""
    bundle = open_bundle(folder)
    bundle.check_files()
    for stage in bundle.manifest.model.stages:
        bundle.read_stage("fp32", stage)
    for name in bundle.manifest.golden.sessions:
        bundle.read_arrays(name)
    return bundle


def refused(folder: Path, use: Callable[[Path], object] = used) -> str:
    with pytest.raises(BundleError) as caught:
        use(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def manifest_of(folder: Path) -> Manifest:
    content: Manifest = json.loads((folder / MANIFEST_NAME).read_bytes())
    del content["bundle_id"]
    return content


def rewrite(folder: Path, manifest: Manifest) -> None:
    """With an identity that agrees: what a forger would do."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    identity = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    content = json.dumps({**manifest, "bundle_id": identity}, sort_keys=True, indent=1) + "\n"
    (folder / MANIFEST_NAME).write_text(content, encoding="utf-8")


def put(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and make the manifest agree: what a forger would do."""
    (folder / name).write_bytes(data)
    manifest = manifest_of(folder)
    manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "n_bytes": len(data)}
    rewrite(folder, manifest)


# -- files ----------------------------------------------------------------------------------------


def test_a_whole_bundle_is_read(folder: Path) -> None:
    bundle = used(folder)
    assert bundle.check_files() == len(tiny_files())
    assert {name: bundle.read(name) for name in tiny_files()} == tiny_files()


def test_arrays_come_back_as_they_were(folder: Path) -> None:
    arrays = open_bundle(folder).read_arrays(SESSIONS[1])
    assert arrays.keys() == {"output.valence"}
    np.testing.assert_array_equal(arrays["output.valence"], np.ones(5, np.float32))


def test_a_signature_needs_no_place_in_the_manifest(folder: Path) -> None:
    (folder / "signature.json").write_text("{}", encoding="utf-8")
    used(folder)


@pytest.mark.parametrize("name", tiny_files())
def test_one_changed_byte_is_noticed(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    assert f"{name} was altered" in refused(folder)


@pytest.mark.parametrize("name", tiny_files())
@pytest.mark.parametrize("change", [-1, 1])
def test_a_changed_length_is_noticed(folder: Path, name: str, change: int) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1] if change < 0 else data + b"\0")
    refused(folder)


@pytest.mark.parametrize("change", [1, 7, 0xFF])
def test_one_changed_byte_of_the_manifest_is_noticed(folder: Path, change: int) -> None:
    """Anywhere, white space and numbers included."""
    data = (folder / MANIFEST_NAME).read_bytes()
    for place in range(change, len(data), 37):
        changed = data[:place] + bytes([data[place] ^ change]) + data[place + 1 :]
        (folder / MANIFEST_NAME).write_bytes(changed)
        refused(folder, open_bundle)


def test_a_manifest_written_otherwise_is_noticed(folder: Path) -> None:
    """The same content in another layout was not written by edge-mer."""
    content = json.loads((folder / MANIFEST_NAME).read_bytes())
    (folder / MANIFEST_NAME).write_text(json.dumps(content), encoding="utf-8")
    assert "manifest.json was altered" in refused(folder, open_bundle)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_missing_file_is_noticed(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"{name} is missing" in refused(folder)


@pytest.mark.parametrize("name", ["note.txt", "stages/extra.onnx", "deep/er/file"])
def test_a_file_that_is_not_listed_is_refused(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("hello", encoding="utf-8")
    assert name in refused(folder)


@pytest.mark.parametrize("target", ["/etc", "/etc/passwd", "nowhere", "stages"])
def test_a_link_that_is_not_listed_is_refused(folder: Path, target: str) -> None:
    (folder / "link").symlink_to(target)
    assert "link" in refused(folder)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_symbolic_link_in_the_place_of_a_file_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    refused(folder)


def test_a_symbolic_link_in_the_place_of_a_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "stages").rename(tmp_path / "outside")
    (folder / "stages").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match="is not a plain file inside the bundle"):
        open_bundle(folder).read(VISUAL)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_hard_link_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    os.link(folder / name, tmp_path / "second")
    refused(folder)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_folder_in_the_place_of_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert "was altered or replaced" in refused(folder)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(folder)


def test_a_file_longer_than_listed_is_not_even_read(folder: Path) -> None:
    with (folder / VISUAL).open("r+b") as stream:
        stream.truncate(1 << 40)
    assert "at most" in refused(folder)


def test_reading_a_file_that_is_not_listed_is_refused(folder: Path) -> None:
    (folder / "note.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(BundleError, match="not listed"):
        open_bundle(folder).read("note.txt")


def test_no_descriptor_stays_open_after_a_refusal(folder: Path) -> None:
    (folder / VISUAL).unlink()
    (folder / VISUAL).mkdir()
    before = sum(1 for _ in OPEN_DESCRIPTORS.iterdir())
    for _ in range(20):
        refused(folder)
    assert sum(1 for _ in OPEN_DESCRIPTORS.iterdir()) <= before


@pytest.mark.parametrize("kind", ["nothing", "a file"])
def test_what_is_no_folder_is_no_bundle(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "a file":
        path.write_text("{}", encoding="utf-8")
    message = refused(path, open_bundle)
    assert f"Found: {kind}" in message
    assert "edge-mer export" in message


def test_an_empty_folder_is_no_bundle(tmp_path: Path) -> None:
    assert "manifest.json is missing" in refused(tmp_path, open_bundle)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root may enter every folder, so root becomes somebody else for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("locked", ["bundle", "parent"])
def test_a_folder_that_may_not_be_entered_is_refused(original: Path, locked: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        parent = Path(name)
        parent.chmod(0o755)
        folder = Path(shutil.copytree(original, parent / "bundle"))
        (folder if locked == "bundle" else parent).chmod(0)
        try:
            with as_nobody():
                assert "Permission denied" in refused(folder, open_bundle)
        finally:
            parent.chmod(0o755)
            folder.chmod(0o755)


def test_a_bundle_may_be_reached_over_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    used(tmp_path / "link")


# -- manifest -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "stages/../../outside",
        "/etc/passwd",
        "//etc/passwd",
        "stages\\x.onnx",
        "..\\outside",
        "",
        ".",
        "..",
        "./x",
        "stages//x",
        "stages/",
        "a\0b",
        "a\nb",
        "a\x1b[31mb",
    ],
)
def test_a_name_that_is_no_plain_path_is_refused(folder: Path, name: str) -> None:
    manifest = manifest_of(folder)
    manifest["files"][name] = {"sha256": "0" * 64, "n_bytes": 1}
    rewrite(folder, manifest)
    assert "a path that leaves the bundle" in refused(folder, open_bundle)


@pytest.mark.parametrize("name", ["x" * 5_000, "/".join(["x"] * 3_000)], ids=["long", "deep"])
def test_a_name_that_no_file_can_have_is_refused(folder: Path, name: str) -> None:
    manifest = manifest_of(folder)
    manifest["files"][name] = {"sha256": "0" * 64, "n_bytes": 1}
    rewrite(folder, manifest)
    refused(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", ""])
def test_a_name_that_is_asked_for_is_checked_too(folder: Path, name: str) -> None:
    with pytest.raises(BundleError):
        open_bundle(folder).read(name)


def test_letters_of_other_alphabets_are_plain_names(folder: Path) -> None:
    name = "stages/größe_表情.txt"
    manifest = manifest_of(folder)
    manifest["files"][name] = {"sha256": hashlib.sha256(b"x").hexdigest(), "n_bytes": 1}
    rewrite(folder, manifest)
    (folder / name).write_bytes(b"x")
    used(folder)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"not json",
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"schema_version": NaN}',
        b'{"schema_version": ' + b"9" * 10_000 + b"}",
    ],
    ids=["empty", "cut", "words", "bytes", "deep_list", "deep_dict", "nan", "long_number"],
)
def test_what_is_no_json_is_refused(folder: Path, text: bytes) -> None:
    (folder / MANIFEST_NAME).write_bytes(text)
    assert "not JSON" in refused(folder, open_bundle)


@pytest.mark.parametrize("text", [b"[]", b"null", b"7", b'"x"', b"{}", b'{"schema_version": null}'])
def test_json_that_is_no_manifest_is_refused(folder: Path, text: bytes) -> None:
    (folder / MANIFEST_NAME).write_bytes(text)
    assert "unknown manifest version" in refused(folder, open_bundle)


@pytest.mark.parametrize("version", [0, 2, "1", 1.5, None, [1]])
def test_another_schema_version_is_refused_before_anything_else_is_looked_at(
    folder: Path, version: object
) -> None:
    rewrite(folder, {"schema_version": version, "whatever": "comes"})
    message = refused(folder, open_bundle)
    assert "Expected: 1." in message
    assert f"Found: {version!r}" in message


def changed(path: str, value: object) -> Callable[[Manifest], None]:
    """A change of the manifest at a path such as "model.step"; the value `...` removes."""

    def change(manifest: Any) -> None:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
        for key in parents:
            manifest = manifest[key]
        if value is ...:
            del manifest[last]
        else:
            manifest[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("surprise", 1),
        ("model/surprise", 1),
        ("candidates/fp32/surprise", 1),
        ("model", ...),
        ("files", ...),
        ("golden", None),
        ("candidates", {}),
        ("candidates", {"fp8": {}}),
        ("candidates/fp32/stages/visual", 7),
        ("model/step", "0"),
        ("model/step", "-8/30"),
        ("model/step", "1/0"),
        ("model/step", 0.2667),
        ("model/step", "1e999999999"),
        ("model/step", "9" * 5_000),
        ("model/encoders", []),
        ("model/encoders/0/modality", "smell"),
        ("model/encoders/0/stage", "../visual"),
        ("model/encoders/0/preprocess/kind", "pickle"),
        ("model/encoders/0/preprocess/size_px", 10**9),
        ("model/encoders/1/span", "0"),
        ("model/encoders/1/preprocess/n_fft", 10**9),
        ("model/encoders/1/preprocess/win_samples", 257),
        ("model/encoders/1/preprocess/f_min_hz", 5_000),
        ("model/encoders/1/preprocess/std", 0),
        ("model/fusion/n_steps", 0),
        ("model/fusion/n_steps", 10**9),
        ("golden/sessions", ["golden/first.npz"]),
        ("files/stages~visual.fp32.onnx", {"sha256": "xyz", "n_bytes": 1}),
        ("files/x", {"sha256": "0" * 64, "n_bytes": -1}),
    ],
)
def test_a_manifest_of_another_shape_is_refused(folder: Path, path: str, value: object) -> None:
    manifest = manifest_of(folder)
    changed(path, value)(manifest)
    rewrite(folder, manifest)
    assert "manifest.json is broken" in refused(folder, open_bundle)


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999"], ids=["nan", "inf", "minus_inf", "overflow"]
)
def test_numbers_that_are_none_are_refused(folder: Path, number: str) -> None:
    manifest = manifest_of(folder)
    changed("model/encoders/1/preprocess/mean", "HERE")(manifest)
    text = json.dumps(manifest).replace('"HERE"', number)
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
    refused(folder, open_bundle)


def test_half_a_character_is_refused(folder: Path) -> None:
    manifest = manifest_of(folder)
    manifest["model"]["title"] = "\ud800"
    rewrite(folder, manifest)
    refused(folder, open_bundle)


def test_a_huge_manifest_is_refused_unread(folder: Path) -> None:
    with (folder / MANIFEST_NAME).open("ab") as stream:
        stream.truncate(read.MAX_MANIFEST_BYTES + 1)
    assert f"at most {read.MAX_MANIFEST_BYTES} bytes" in refused(folder, open_bundle)


def test_a_stage_that_no_file_holds_is_refused(folder: Path) -> None:
    manifest = manifest_of(folder)
    del manifest["files"][VISUAL]
    rewrite(folder, manifest)
    assert "used but not listed" in refused(folder, open_bundle)


def test_a_golden_session_that_is_not_listed_is_refused(folder: Path) -> None:
    manifest = manifest_of(folder)
    manifest["golden"]["sessions"].append("golden/third.npz")
    rewrite(folder, manifest)
    assert "golden/third.npz" in refused(folder, open_bundle)


@pytest.mark.parametrize("change", ["one less", "one more"])
def test_a_candidate_must_have_the_stages_of_the_model(folder: Path, change: str) -> None:
    manifest = manifest_of(folder)
    stages = manifest["candidates"]["fp32"]["stages"]
    if change == "one less":
        del stages["audio"]
    else:
        stages["more"] = VISUAL
    rewrite(folder, manifest)
    assert "does not have the model's stages" in refused(folder, open_bundle)


@settings(max_examples=80, deadline=2_000)
@given(data=st.data())
def test_random_changes_of_the_manifest_never_raise_anything_else(
    original: Path, data: st.DataObject
) -> None:
    manifest = manifest_of(original)
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = manifest
        while isinstance(place, (dict, list)) and place:
            keys = sorted(place) if isinstance(place, dict) else range(len(place))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], (dict, list)) or data.draw(st.booleans()):
                place[key] = data.draw(JSON)
                break
            place = place[key]
    try:
        text = json.dumps(manifest).encode()
        read._check_paths(original, read._parse_manifest(original, read._parse_json(original, text)))
    except BundleError:
        pass


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


# -- stages and arrays ----------------------------------------------------------------------------


def test_a_precision_that_the_bundle_lacks_is_refused(folder: Path) -> None:
    with pytest.raises(BundleError, match="one of fp32"):
        open_bundle(folder).read_stage("int8-cpu", "visual")


@pytest.mark.parametrize(
    "data",
    [wire.model(wire.block(5, wire.tensor(location="w.bin", flag=1))), wire.model(ir=12), b"no onnx"],
    ids=["external", "too_new", "no_onnx"],
)
def test_a_forged_stage_is_refused(folder: Path, data: bytes) -> None:
    put(folder, VISUAL, data)
    with pytest.raises(BundleError, match=VISUAL):
        open_bundle(folder).read_stage("fp32", "visual")


class Trap:
    """Does harm when it is unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Callable[..., None], tuple[()]]:
        return spring, ()


def spring() -> None:
    Trap.sprung = True


def npz(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


def object_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Trap()], dtype=object), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        npz({"x.npy": object_array()}),
        npz({"x.npy": pickle.dumps(Trap())}),
        npz({"x": pickle.dumps(Trap())}),
        pickle.dumps(Trap()),
        object_array(),
    ],
    ids=["object_array", "pickle_as_npy", "pickle_member", "pickle", "npy_of_objects"],
)
def test_nothing_is_unpickled(folder: Path, data: bytes) -> None:
    put(folder, SESSIONS[0], data)
    with pytest.raises(BundleError, match="holds no arrays"):
        open_bundle(folder).read_arrays(SESSIONS[0])
    assert not Trap.sprung


GOOD_NPZ = pack_arrays({"a": np.arange(1_000.0), "b": np.ones(3, np.uint8)})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no archive",
        GOOD_NPZ[:-30],
        GOOD_NPZ[:60] + b"\xff" * 40 + GOOD_NPZ[100:],
        npz({"x.npy": b""}),
        npz({"x.npy": b"\x93NUMPY\x09\x00"}),
        npz({"x.npy": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (4,)}")}),
        npz({"x.npy": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (10**17,)}")}),
        npz({"x.npy": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000000000,)}")}),
        npz({"x.npy": npy("{'descr': [('a', 'b', 'c', 'd')], 'fortran_order': False, 'shape': (1,)}")}),
        npz({"x.npy": npy("__import__('os').system('true')")}),
        npz({"x.npy": npy("(" * 100)}),
    ],
    ids=[
        *("empty", "text", "cut", "scrambled", "empty_member", "new_version", "no_body", "expression"),
        *("exabyte", "strange_type", "code", "deep"),
    ],
)
def test_broken_arrays_are_refused(folder: Path, data: bytes) -> None:
    put(folder, SESSIONS[0], data)
    with pytest.raises(BundleError, match="holds no arrays"):
        open_bundle(folder).read_arrays(SESSIONS[0])


def test_arrays_that_unpack_to_too_much_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, SESSIONS[0], pack_arrays({"zeros": np.zeros(4 << 20, np.uint8)}))
    assert (folder / SESSIONS[0]).stat().st_size < 1 << 16
    monkeypatch.setattr(read, "MAX_ARRAYS_BYTES", 1 << 20)
    with pytest.raises(BundleError, match="unpacks to"):
        open_bundle(folder).read_arrays(SESSIONS[0])


def test_an_archive_that_hides_its_size_gives_no_more_than_it_says(folder: Path) -> None:
    member = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4096,)}", b"\0" * 4_096)
    honest, lie = len(member).to_bytes(4, "little"), (200).to_bytes(4, "little")
    assert npz({"x.npy": member}).count(honest) == 2  # beside the member, and in the table of contents
    put(folder, SESSIONS[0], npz({"x.npy": member}).replace(honest, lie))
    with pytest.raises(BundleError, match="holds no arrays"):
        open_bundle(folder).read_arrays(SESSIONS[0])


@settings(max_examples=100, deadline=2_000)
@given(changes=st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 255)), min_size=1, max_size=5))
def test_random_changes_of_arrays_never_raise_anything_else(
    original: Path, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(GOOD_NPZ)
    for place, value in changes:
        data[place % len(data)] = value
    folder = tmp_path_factory.getbasetemp() / "scrambled"
    if not folder.exists():
        shutil.copytree(original, folder)
    put(folder, SESSIONS[0], bytes(data))
    with contextlib.suppress(BundleError):
        open_bundle(folder).read_arrays(SESSIONS[0])

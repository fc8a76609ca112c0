"""A bundle as one file, and tars that somebody made to do harm: refused, and nothing is left of them."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mer.bundle.read import MANIFEST_NAME, SIGNATURE_NAME, open_bundle
from edge_mer.bundle.tar import Limits, pack, pack_file, unpack
from edge_mer.errors import BundleError, UsageError
from tests.helpers.tiny_bundle import stage_path, tiny_files, write_tiny_bundle

MANIFEST = (MANIFEST_NAME, b"{}")
END = bytes(1024)
LIMITS = Limits()


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Path:
    write_tiny_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder to unpack in, so that whatever is left over is seen."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def packed(folder: Path) -> bytes:
    stream = io.BytesIO()
    pack(open_bundle(folder), stream)
    return stream.getvalue()


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname = size, kind, link
    return entry.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")


def plain(*files: tuple[str, bytes]) -> bytes:
    """A tar of these files without its end mark."""
    return b"".join(header(name, len(data)) + data + bytes(-len(data) % 512) for name, data in files)


def summed(block: bytes) -> bytes:
    """A header with a check sum that is right."""
    blank = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(blank) + block[156:]


def refused(data: bytes, place: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(BundleError) as caught:
        unpack(io.BytesIO(data), place / "new", limits)
    assert list(place.iterdir()) == [], "something was left"
    assert list(place.parent.glob("escaped*")) == []
    return str(caught.value)


# -- packing --------------------------------------------------------------------------------------


def test_what_was_packed_is_unpacked_again(bundle_folder: Path, place: Path) -> None:
    unpack(io.BytesIO(packed(bundle_folder)), place / "new")
    again = open_bundle(place / "new")
    assert again.bundle_id == open_bundle(bundle_folder).bundle_id
    assert again.check_files() == len(tiny_files())
    assert {name: again.read(name) for name in tiny_files()} == tiny_files()
    assert [path.name for path in place.iterdir()] == ["new"]


def test_the_same_bundle_is_the_same_tar(bundle_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle_folder, tmp_path / "copy"))
    os.utime(copy / MANIFEST_NAME, (1, 1))
    (copy / MANIFEST_NAME).chmod(0o600)
    assert packed(copy) == packed(bundle_folder)


def test_nothing_of_the_machine_is_in_a_tar(bundle_folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(bundle_folder))) as made:
        entries = made.getmembers()
    assert {(e.uid, e.gid, e.mtime, e.uname, e.gname, e.mode, e.type) for e in entries} == {
        (0, 0, 0, "", "", 0o644, tarfile.REGTYPE)
    }
    names = [entry.name for entry in entries]
    assert names == [MANIFEST_NAME, *sorted(tiny_files())]


def test_a_signature_travels_along_and_a_stranger_does_not(bundle_folder: Path, place: Path) -> None:
    (bundle_folder / SIGNATURE_NAME).write_text("{}", encoding="utf-8")
    (bundle_folder / "diary.txt").write_text("private", encoding="utf-8")
    unpack(io.BytesIO(packed(bundle_folder)), place / "new")
    assert (place / "new" / SIGNATURE_NAME).read_text(encoding="utf-8") == "{}"
    assert not (place / "new" / "diary.txt").exists()


def test_an_altered_bundle_is_not_packed(bundle_folder: Path, tmp_path: Path) -> None:
    (bundle_folder / stage_path("visual")).write_bytes(b"x")
    with pytest.raises(BundleError, match="was altered"):
        pack_file(open_bundle(bundle_folder), tmp_path / "x.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_tar_is_not_replaced_unasked_and_a_folder_never(bundle_folder: Path, tmp_path: Path) -> None:
    bundle = open_bundle(bundle_folder)
    n_bytes = pack_file(bundle, tmp_path / "x.tar")
    assert n_bytes == (tmp_path / "x.tar").stat().st_size == len(packed(bundle_folder))
    with pytest.raises(UsageError, match="--replace"):
        pack_file(bundle, tmp_path / "x.tar")
    pack_file(bundle, tmp_path / "x.tar", replace=True)
    with pytest.raises(UsageError, match="exists already"):
        pack_file(bundle, tmp_path, replace=True)


def test_a_tar_is_not_written_into_its_bundle_nor_nowhere(bundle_folder: Path, tmp_path: Path) -> None:
    for path in (bundle_folder / "x.tar", tmp_path / "no" / "x.tar"):
        with pytest.raises(UsageError, match="cannot write"):
            pack_file(open_bundle(bundle_folder), path)


# -- unpacking ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--format=ustar"], ["--format=v7"], ["--format=gnu", "-b", "1"]])
def test_a_tar_of_the_system_s_own_is_taken(bundle_folder: Path, place: Path, options: list[str]) -> None:
    made = place.parent / "system.tar"
    subprocess.run(["tar", *options, "-C", bundle_folder, "-cf", made, "."], check=True)
    with made.open("rb") as stream:
        unpack(stream, place / "new")
    assert open_bundle(place / "new").check_files() == len(tiny_files())


def test_only_the_owner_can_read_what_was_unpacked_and_nobody_can_run_it(place: Path) -> None:
    entry = tarfile.TarInfo("bin/run")
    entry.mode, entry.uid = 0o6777, 12345
    data = plain(MANIFEST) + entry.tobuf(tarfile.USTAR_FORMAT) + END
    unpack(io.BytesIO(data), place / "new")
    modes = {stat.S_IMODE(p.stat().st_mode) for p in [place / "new", *(place / "new").rglob("*")]}
    assert modes == {0o700, 0o600}
    assert (place / "new" / "bin/run").stat().st_uid == os.getuid()


def test_a_source_that_gives_a_byte_at_a_time_is_read_to_its_end(bundle_folder: Path, place: Path) -> None:
    class Dripping:
        def __init__(self, data: bytes) -> None:
            self.stream = io.BytesIO(data)

        def read(self, n_bytes: int) -> bytes:
            return self.stream.read(min(n_bytes, 701))

    source = Dripping(packed(bundle_folder))
    unpack(source, place / "new")
    assert source.stream.read() == b""
    open_bundle(place / "new").check_files()


@pytest.mark.parametrize(
    "name",
    [
        "../escaped",
        "/escaped",
        "a/../../escaped",
        "a/../escaped",
        "..",
        ".//escaped",
        "a//b",
        "a/./b",
        "a\\b",
        "a\nb",
        "a\x1b[2Jb",
        "",
    ],
)
def test_names_that_are_not_plain_are_refused(place: Path, name: str) -> None:
    assert "plain relative path" in refused(plain(MANIFEST, (name, b"x")) + END, place)


@pytest.mark.parametrize(
    ("kind", "called"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.CONTTYPE, "type b'7'"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
        (tarfile.GNUTYPE_LONGNAME, "long name"),
        (tarfile.GNUTYPE_LONGLINK, "long name"),
        (tarfile.XHDTYPE, "extended header"),
        (tarfile.XGLTYPE, "extended header"),
        (b"Z", "type b'Z'"),
    ],
)
def test_what_is_neither_file_nor_folder_is_refused(place: Path, kind: bytes, called: str) -> None:
    data = plain(MANIFEST) + header("escaped", 0, kind, link="../../escaped") + END
    assert called in refused(data, place)


def test_a_real_link_of_a_real_tar_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / MANIFEST_NAME).symlink_to("/etc/passwd")
    subprocess.run(["tar", "-C", tmp_path / "made", "-cf", tmp_path / "x.tar", "."], check=True)
    assert "symbolic link" in refused((tmp_path / "x.tar").read_bytes(), place)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_long_names_and_extended_headers_of_gigabytes_are_never_read(place: Path, kind: bytes) -> None:
    class Endless:
        n_bytes = 0
        first = header("long", 7 << 30, kind)

        def read(self, n_bytes: int) -> bytes:
            start, self.n_bytes = self.n_bytes, self.n_bytes + n_bytes
            return (self.first[start:] + bytes(n_bytes))[:n_bytes]

    source = Endless()
    with pytest.raises(BundleError):
        unpack(source, place / "new")
    assert source.n_bytes == 512


def test_a_name_that_comes_twice_is_refused(place: Path) -> None:
    assert "comes again" in refused(plain(MANIFEST, ("a", b"1"), ("./a", b"2")) + END, place)


@pytest.mark.parametrize(
    "files",
    [[("a", b"1"), ("a/b", b"2")], [("a/b", b"2"), ("a", b"1")]],
    ids=["below_a_file", "over_a_folder"],
)
def test_what_is_file_and_folder_at_once_is_refused(place: Path, files: list[tuple[str, bytes]]) -> None:
    assert "cannot be unpacked" in refused(plain(MANIFEST, *files) + END, place)


@pytest.mark.parametrize("size", [-1, -(2**40)])
def test_a_negative_size_is_refused(place: Path, size: int) -> None:
    block = bytearray(header("a"))
    block[124:136] = size.to_bytes(12, "big", signed=True)
    assert str(size) in refused(plain(MANIFEST) + summed(bytes(block)) + END, place)


def test_a_folder_with_content_is_refused(place: Path) -> None:
    data = plain(MANIFEST) + header("a", 512, tarfile.DIRTYPE) + bytes(512) + END
    assert "512 bytes" in refused(data, place)


# -- bounds ---------------------------------------------------------------------------------------


def test_a_file_over_the_limit_is_refused_before_it_is_read(place: Path) -> None:
    source = io.BytesIO(plain(MANIFEST) + header("a", 4001) + bytes(8192))
    with pytest.raises(BundleError, match=r"at most 4000 bytes.*4001"):
        unpack(source, place / "new", Limits(file_bytes=4000))
    assert source.tell() == len(plain(MANIFEST)) + 512
    assert list(place.iterdir()) == []


def test_files_over_the_limit_together_are_refused_before_the_last_is_read(place: Path) -> None:
    many = [(f"f{index}", bytes(4096)) for index in range(10)]
    assert "too large, from f3" in refused(plain(MANIFEST, *many), place, Limits(total_bytes=4 * 4096))


def test_too_many_entries_are_refused(place: Path) -> None:
    many = [(f"f{index}", b"") for index in range(10)]
    assert "too large, from f4" in refused(plain(MANIFEST, *many), place, Limits(n_entries=5))


def test_folders_that_no_header_names_count_too(place: Path) -> None:
    deep = "/".join("abcdefgh")
    assert f"too large, from {deep}" in refused(
        plain(MANIFEST, (f"{deep}/x", b"")), place, Limits(n_entries=8)
    )


def test_more_than_the_disk_has_room_for_is_refused_before_it_is_read(place: Path) -> None:
    spare = shutil.disk_usage(place).free - 100_000
    data = plain(MANIFEST) + header("a", 50 << 20)
    limits = Limits(spare_bytes=spare)
    assert "room for them on the disk" in refused(data, place, limits)


def test_a_disk_that_fails_is_told_and_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert "No space left" in refused(plain(MANIFEST) + END, place)


def test_whatever_stops_it_leaves_nothing(place: Path) -> None:
    class Interrupted(io.BytesIO):
        def read(self, n_bytes: int | None = -1, /) -> bytes:
            if self.tell() > 600:
                raise KeyboardInterrupt
            return super().read(n_bytes)

    with pytest.raises(KeyboardInterrupt):
        unpack(Interrupted(plain(MANIFEST, ("a", b"1")) + END), place / "new")
    assert list(place.iterdir()) == []


def test_a_folder_that_is_there_is_never_written_into(place: Path, bundle_folder: Path) -> None:
    for make in (Path.mkdir, Path.touch, lambda path: path.symlink_to(place.parent / "nowhere")):
        (place / "x").mkdir()
        target = place / "x" / "new"
        make(target)
        with pytest.raises(UsageError, match="exists already"):
            unpack(io.BytesIO(packed(bundle_folder)), target)
        shutil.rmtree(place / "x")
    with pytest.raises(UsageError, match="No such file"):
        unpack(io.BytesIO(packed(bundle_folder)), place / "no" / "new")


# -- broken ones ----------------------------------------------------------------------------------


def test_a_tar_cut_anywhere_is_refused(bundle_folder: Path, place: Path) -> None:
    whole = packed(bundle_folder)
    with tarfile.open(fileobj=io.BytesIO(whole)) as made:
        end = len(plain(*((entry.name, bytes(entry.size)) for entry in made)))
    for cut in (*range(0, end, 397), *range(end, end + 1024, 128)):
        message = refused(whole[:cut], place)
        assert "cut short" in message or "does not end" in message


def test_what_stands_behind_the_end_is_refused(place: Path) -> None:
    assert "other bytes" in refused(plain(MANIFEST) + END + b"x", place)
    assert "other bytes" in refused(plain(MANIFEST) + bytes(512) + plain(("a", b"1")) + END, place)
    assert "does not end" in refused(plain(MANIFEST) + bytes(2 << 20), place)


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress], ids=["gzip", "xz"])
def test_a_compressed_tar_is_refused(
    bundle_folder: Path, place: Path, compress: Callable[[bytes], bytes]
) -> None:
    assert "not compressed" in refused(compress(packed(bundle_folder) * 3), place)


def test_a_wrong_check_sum_is_refused(place: Path) -> None:
    data = bytearray(plain(MANIFEST) + END)
    data[0] ^= 1
    assert "bad checksum" in refused(bytes(data), place)


def test_a_name_that_is_no_text_is_refused(place: Path) -> None:
    block = bytearray(header("a"))
    block[0:2] = b"\xff\xfe"
    refused(plain(MANIFEST) + summed(bytes(block)) + END, place)


def test_a_tar_without_a_bundle_is_refused(place: Path) -> None:
    assert "holds no bundle" in refused(END, place)
    assert f"bundle/{MANIFEST_NAME}" in refused(plain((f"bundle/{MANIFEST_NAME}", b"{}")) + END, place)


NAMES = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=30),
    st.lists(st.sampled_from(["..", ".", "", "a", "b", "manifest.json", "\u202e"]), max_size=5).map("/".join),
)
KINDS = st.sampled_from([b"0", b"\0", b"5", b"1", b"2", b"3", b"6", b"L", b"K", b"S", b"x", b"g", b"7"])


def attempted(data: bytes) -> None:
    """It is refused, or all of it lies inside the new folder; nothing else is raised."""
    with tempfile.TemporaryDirectory() as outer:
        place = Path(outer) / "a" / "place"
        place.mkdir(parents=True)
        done = False
        with contextlib.suppress(BundleError):
            unpack(
                io.BytesIO(data), place / "new", Limits(n_entries=30, file_bytes=4000, total_bytes=200_000)
            )
            done = True
        everything = {path.relative_to(outer).as_posix() for path in Path(outer).rglob("*")}
        below = {name for name in everything if name.startswith("a/place/new")}
        assert everything - below == {"a", "a/place"}
        assert bool(below) == done
        for path in (place / "new").rglob("*"):
            facts = path.lstat()
            assert stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)
            assert facts.st_size <= 4096
            assert facts.st_mode & 0o077 == 0


@settings(max_examples=300, deadline=2_000)
@given(
    entries=st.lists(st.tuples(NAMES, KINDS, st.binary(max_size=600), st.integers(-3, 3)), max_size=6),
    end=st.sampled_from([END, b"", bytes(512), END + b"x"]),
)
def test_tars_of_any_entries_stay_in_their_folder(
    entries: list[tuple[str, bytes, bytes, int]], end: bytes
) -> None:
    data = b""
    for name, kind, content, lie in entries:
        with contextlib.suppress(ValueError):
            data += header(name, max(0, len(content) + lie), kind, link="/etc/passwd")
            data += content + bytes(-len(content) % 512)
    attempted(plain(MANIFEST) + data + end)


@settings(max_examples=300, deadline=2_000)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=12)), max_size=4),
    cut=st.integers(0, 1100),
    fix=st.booleans(),
)
def test_random_changes_never_raise_anything_else(
    changes: list[tuple[int, bytes]], cut: int, *, fix: bool
) -> None:
    data = bytearray(plain(MANIFEST, ("a", bytes(600)), ("b/c", b"x")) + END)
    for place, piece in changes:
        place %= len(data)
        data[place : place + len(piece)] = piece[: len(data) - place]
    if fix:
        for start in (0, 1024, 2560):
            data[start : start + 512] = summed(bytes(data[start : start + 512]))
    attempted(bytes(data[: len(data) - cut]))

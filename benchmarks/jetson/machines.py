"""Two machines that differ in nothing but the processor.

Both run Debian's Python with the same versions of the same packages: one natively on x86-64, the other for
aarch64 under qemu's user emulation. Neither needs root rights, a container or a chroot: Debian's packages are
unpacked into a folder, and wheels into another.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.jetson.tools import WORK, CheckError, call, say
from benchmarks.jetson.wheels import Target, Wheel, core_of, pip, resolve

SUITE, PYTHON, GLIBC = "bookworm", "3.11", 36
DEBIAN = ("python3", f"libpython{PYTHON}-stdlib", "libgomp1", "libstdc++6")
MIRROR = "http://deb.debian.org/debian"
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

ONNXRUNTIME = "onnxruntime==1.23.2"
"""The newest that Python 3.10 gets, as on JetPack 6; newer ones end at import under qemu 7.2."""

QEMU = "qemu-aarch64-static"
TOOLS = {QEMU: "qemu-user-static", "mmdebstrap": "mmdebstrap"}
"""Command -> package of Debian and Ubuntu."""

PROCESSORS = {
    "cortex-a76": "Armv8.2 with dot products of 8 bits, as Orin has them",
    "max": "all that this qemu knows of Armv9, with matrix products of 8 bits, as Thor has them",
}
"""Names that qemu gives them."""

_APT_LIMIT_S, _ROOT_LIMIT_S = 900, 900
_ASK_LIMIT_S = 60


@dataclass(frozen=True)
class Machine:
    """Something that runs Python.

    Attributes:
        name: In messages and file names.
        python: What starts its Python.
        packages: Folders that it imports from.
    """

    name: str
    python: tuple[str, ...]
    packages: tuple[Path, ...]

    def run(self, what: str, *arguments: str, limit_s: float) -> str:
        """What its Python prints.

        Raises:
            CheckError: It failed.
        """
        env = {
            "PYTHONPATH": os.pathsep.join(map(str, self.packages)),
            "PYTHONNOUSERSITE": "1",
            "EDGE_MER_CACHE": str(WORK / "cache" / self.name),
        }
        return call(f"{self.name}: {what}", [*self.python, *arguments], limit_s=limit_s, env=env)


def install_tools() -> None:
    """Install the system packages that are missing.

    Raises:
        CheckError: That is not possible here.
    """
    if platform.machine() != "x86_64":
        raise CheckError(
            f"this compares aarch64 with x86-64, and needs an x86-64 machine: {platform.machine()}"
        )
    missing = [package for command, package in TOOLS.items() if shutil.which(command) is None]
    if not KEYS.exists():
        missing.append("debian-archive-keyring")
    if not missing:
        return
    say(f"installing {', '.join(missing)}")
    apt = ["apt-get", "--quiet"] if os.geteuid() == 0 else ["sudo", "--non-interactive", "apt-get", "--quiet"]
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    hint = f"Install them yourself: sudo apt-get install --no-install-recommends {' '.join(missing)}"
    install = [*apt, "install", "--yes", "--no-install-recommends", *missing]
    for what, command in {"apt-get update": [*apt, "update"], "installing packages": install}.items():
        call(what, command, limit_s=_APT_LIMIT_S, env=env, hint=hint)


def qemu_version() -> str:
    """As Debian numbers it."""
    said = call("qemu's version", [QEMU, "--version"], limit_s=_ASK_LIMIT_S).splitlines()[0]
    return said.removeprefix("qemu-aarch64 version ").strip()


def known_processors() -> list[str]:
    """Those of `PROCESSORS` that this qemu has; older ones lack some."""
    command = [QEMU, "-cpu", "help"]  # lists them, and calls that an error
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ASK_LIMIT_S)
    return [name for name in PROCESSORS if name in done.stdout.split()]


def machines(wheel: Path) -> tuple[Machine, dict[str, Machine]]:
    """The x86-64 machine, and one per processor that qemu knows; made or taken from the last time."""
    core = _unpacked(wheel)
    wheels = resolve([*core_of(wheel), ONNXRUNTIME], Target(PYTHON, GLIBC))
    native_root, native_site = _root("amd64"), _site("x86_64", wheels)
    root, site = _root("arm64"), _site("aarch64", wheels)
    libraries = [native_root / "lib/x86_64-linux-gnu", native_root / "usr/lib/x86_64-linux-gnu"]
    loader = str(libraries[0] / "ld-linux-x86-64.so.2")
    native = (
        loader,
        "--library-path",
        ":".join(map(str, libraries)),
        f"{native_root}/usr/bin/python{PYTHON}",
    )
    emulated = {
        name: Machine(
            name, (QEMU, "-cpu", name, "-L", str(root), f"{root}/usr/bin/python{PYTHON}"), (core, site)
        )
        for name in known_processors()
    }
    return Machine("x86-64", native, (core, native_site)), emulated


def _unpacked(wheel: Path) -> Path:
    """edge-mer alone, installed by pip; it is the same for both."""
    folder = WORK / "edge-mer"
    shutil.rmtree(folder, ignore_errors=True)
    pip("installing the wheel", "install", "--quiet", "--no-deps", "--target", str(folder), str(wheel))
    return folder


def _root(architecture: str) -> Path:
    """Debian's Python and the libraries that wheels expect, unpacked."""
    folder = WORK / f"root-{architecture}"
    made_of = {"suite": SUITE, "packages": DEBIAN}
    if _is_made(folder, made_of):
        return folder
    say(f"unpacking Debian {SUITE}'s Python for {architecture}")
    archive, part = WORK / f"root-{architecture}.tar", _emptied(folder)
    # nothing runs inside while packages are only unpacked, so no rights and no emulation are needed
    options = ["--mode=chrootless", "--variant=extract", f"--architectures={architecture}", "--quiet"]
    command = ["mmdebstrap", *options, f"--include={','.join(DEBIAN)}", SUITE, str(archive), _mirror()]
    hint = f"It needs a Debian mirror, {_mirror()}, with {SUITE}."
    call(f"unpacking Debian for {architecture}", command, limit_s=_ROOT_LIMIT_S, hint=hint)
    untar = [
        "tar",
        "--extract",
        f"--file={archive}",
        f"--directory={part}",
        "--exclude=./dev",
        "--no-same-owner",
    ]
    call(f"unpacking {archive.name}", untar, limit_s=300)
    archive.unlink()
    return _finished(folder, part, made_of)


def _site(machine: str, wheels: list[Wheel]) -> Path:
    """These versions for `machine`, installed by pip."""
    folder = WORK / f"site-{machine}"
    pins = [f"{one.name}=={one.version}" for one in wheels]
    if _is_made(folder, {"pins": pins}):
        return folder
    say(f"installing {len(pins)} wheels for {machine}")
    part = _emptied(folder)
    options = ["--quiet", "--no-deps", "--no-compile", "--target", str(part)]
    options += Target(PYTHON, GLIBC, machine).options()
    pip(f"installing wheels for {machine}", "install", *options, *pins)
    return _finished(folder, part, {"pins": pins})


def _mirror() -> str:
    """The mirror that this machine's apt takes Debian from; of other systems Debian's own."""
    wanted = ["Created-By: Packages", "Origin: Debian", "Label: Debian"]
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ASK_LIMIT_S)
    return next(iter(done.stdout.split()), MIRROR)


def _is_made(folder: Path, made_of: object) -> bool:
    stamp = folder / "made-of.json"
    return stamp.exists() and stamp.read_text(encoding="utf-8") == json.dumps(made_of)


def _emptied(folder: Path) -> Path:
    """A folder beside `folder`, to be made whole before it takes its name."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def _finished(folder: Path, part: Path, made_of: object) -> Path:
    (part / "made-of.json").write_text(json.dumps(made_of), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    return part.rename(folder)

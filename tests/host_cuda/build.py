"""Builds what runs the real PyCUDA and the real kernels on a machine without a GPU, into build/host-cuda.

    site/               PyCUDA from its sources, NVRTC and CUDA's headers, from their packages
    lib/libcuda.so.1    the host driver
    lib/libkernels.so   the kernels, compiled by g++; libkernels-asan.so: with AddressSanitizer

What is there already, and made of the same sources by the same Python, is not made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
KERNELS = ROOT / "edge_mer" / "preprocess" / "kernels"
OUT = ROOT / "build" / "host-cuda"
SITE, LIB = OUT / "site", OUT / "lib"

PYCUDA = "pycuda==2026.1"
PACKAGES = (
    "nvidia-cuda-runtime==13.0.*",  # cuda.h
    "nvidia-cuda-profiler-api==13.0.*",  # cudaProfiler.h, which PyCUDA includes
    "nvidia-cuda-nvrtc==13.0.*",
    "pytools>=2024",
    "platformdirs>=4",
    "mako>=1.3",
)
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
INCLUDE = SITE / "nvidia" / "cu13" / "include"
SETTINGS = f"""
USE_SHIPPED_BOOST = True
CUDA_INC_DIR = [{str(INCLUDE)!r}]
CUDA_ENABLE_CURAND = False
CUDADRV_LIB_DIR = [{str(LIB)!r}]
CXXFLAGS = ["-O0", "-g0", "-w"]
LDFLAGS = ["-Wl,--no-as-needed", {str(LIB / "libcuda.so.1")!r}]
"""
"""What PyCUDA's configure.py would write: no random numbers, headers from a package, quickly compiled."""

SHARED = (
    "-std=c++17",
    "-O2",
    "-g1",
    "-fno-strict-aliasing",
    "-fPIC",
    "-shared",
    "-Wall",
    "-Wno-unknown-pragmas",
    f"-I{HERE}",
)


def main() -> None:
    """Build all that is not there."""
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        LIB.mkdir(exist_ok=True)
        once("site", (PYCUDA, *PACKAGES, SETTINGS, sys.version), make_site)
        sources = [
            path.read_text(encoding="utf-8") for folder in (HERE, KERNELS) for path in sources_in(folder)
        ]
        once("driver", (PYCUDA, sys.version, *sources), make_driver)
        once("kernels", sources, make_kernels)


def sources_in(folder: Path) -> list[Path]:
    """Sources in C and CUDA C++."""
    return sorted(path for path in folder.glob("*") if path.suffix in (".h", ".cpp", ".cu"))


def once(name: str, ingredients: Iterable[str], make: Callable[[], None]) -> None:
    """Make a part, unless it was made of the same ingredients."""
    stamp, wanted = OUT / f"{name}.stamp", hashlib.sha256("\0".join(ingredients).encode()).hexdigest()
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"host-cuda: making its {name}", flush=True)  # noqa: T201
        make()
        stamp.write_text(wanted, encoding="utf-8")


def make_site() -> None:
    """The packages, and PyCUDA, which is linked with a library that is empty as yet."""
    run(*PIP, "install", "--upgrade", "--target", SITE, *PACKAGES)
    for stale in (OUT / "driver.stamp", LIB / "libcuda.so.1", LIB / "libcuda.so"):
        stale.unlink(missing_ok=True)
    run("g++", "-shared", "-Wl,-soname,libcuda.so.1", "-o", LIB / "libcuda.so.1", "-x", "c++", "/dev/null")
    (LIB / "libcuda.so").symlink_to("libcuda.so.1")
    # PyCUDA looks for its settings at home: not the user's, nor is what is built so for anybody else.
    home = OUT / "home"
    home.mkdir(exist_ok=True)
    (home / ".aksetup-defaults.py").write_text(SETTINGS, encoding="utf-8")
    variables = {"XDG_CONFIG_HOME": str(Path.home() / ".config"), **os.environ, "HOME": str(home)}
    pycuda = ("--no-cache-dir", "--upgrade", "--no-deps", "--no-binary", "pycuda", PYCUDA)
    run(*PIP, "install", "--target", SITE, *pycuda, env=variables)


def make_driver() -> None:
    """The host driver; what PyCUDA wants beyond it is there too, and says that it is not supported."""
    (extension,) = (SITE / "pycuda").glob("_driver*.so")
    wanted = names(run("nm", "-D", "--undefined-only", extension))
    object_file, rest = OUT / "driver.o", OUT / "rest.c"
    run("g++", *SHARED, f"-I{INCLUDE}", "-c", "-o", object_file, HERE / "driver.cpp")
    missing = wanted - names(run("nm", "--defined-only", object_file))
    rest.write_text(
        "".join(f"int {name}(void) {{ return 801; }}\n" for name in sorted(missing)), encoding="utf-8"
    )
    rest_object = OUT / "rest.o"
    run("gcc", "-fPIC", "-c", "-o", rest_object, rest)
    soname = "-Wl,-soname,libcuda.so.1"
    run("g++", "-shared", soname, "-o", LIB / "libcuda.so.1", object_file, rest_object, "-ldl")


def names(symbols: str) -> set[str]:
    """Functions of CUDA's driver among what `nm` lists."""
    return set(re.findall(r"\b(cu[A-Z]\w*)$", symbols, flags=re.MULTILINE))


def make_kernels() -> None:
    """Both libraries of kernels."""
    for name, options in (("kernels", ()), ("kernels-asan", ("-fsanitize=address",))):
        library = LIB / f"lib{name}.so"
        run("g++", *SHARED, *options, f"-I{KERNELS}", "-o", library, HERE / "kernels.cpp")


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a command and return what it printed; its errors end the build."""
    words = [str(part) for part in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        sys.exit(f"host-cuda: {' '.join(words)} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


if __name__ == "__main__":
    main()

"""Makes .venv-gpu, where `make gpu-check` runs: this Python's own packages, PyTorch among them, and PyCUDA.

    python3 benchmarks/gpu/install.py

It needs the standard library only. PyCUDA is compiled against the toolkit whose nvcc is found: $CUDA_ROOT,
$CUDA_HOME, the PATH, or /usr/local/cuda. pip's own variables hold, so that a machine without a network
installs from a folder: PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels make gpu-check.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import site
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-gpu"
PYTHON = VENV / "bin" / "python"
WORK = ROOT / "build" / "gpu"

PYCUDA = "pycuda>=2024.1"
PYCUDA_NEEDS = ("pytools>=2024", "platformdirs>=4", "mako>=1.3")
TESTS = ("pytest>=8", "hypothesis>=6.100")
SETTINGS = """\
USE_SHIPPED_BOOST = True
CUDA_ROOT = {root!r}
CUDA_INC_DIR = [{include!r}]
CUDADRV_LIB_DIR = [{lib!r}]
CUDA_ENABLE_CURAND = False
CXXFLAGS = ["-O0", "-g0", "-w"]
"""
"""What PyCUDA's configure.py would write: no random numbers, and quickly compiled."""


def main() -> int:
    """The exit code."""
    began_s = time.monotonic()
    toolkit = find_toolkit()
    if toolkit is None:
        return refuse(
            "there is no nvcc: install a CUDA toolkit, or say where it is: CUDA_ROOT=folder make gpu-check"
        )
    driver = find_driver()
    if driver is None:
        return refuse("there is no GPU here: no libcuda.so.1 of an NVIDIA driver is found")
    settings = SETTINGS.format(root=str(toolkit), include=str(toolkit / "include"), lib=str(WORK / "lib"))
    ingredients = [
        settings,
        sys.version,
        sys.prefix,
        PYCUDA,
        *TESTS,
        (ROOT / "pyproject.toml").read_text(encoding="utf-8"),
    ]
    stamp, wanted = VENV / "stamp", hashlib.sha256("\0".join(ingredients).encode()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return 0
    print(f"Making .venv-gpu with {sys.executable}; PyCUDA is compiled against {toolkit}", flush=True)
    try:
        make_venv()
        pip("-e", str(ROOT), *TESTS, *PYCUDA_NEEDS)
        add_nvrtc()
        build_pycuda(settings, driver)
    except subprocess.CalledProcessError as error:
        return refuse(f"{' '.join(map(str, error.cmd))} failed, as it says above", code=1)
    stamp.write_text(wanted, encoding="utf-8")
    print(f"Made in {time.monotonic() - began_s:.0f} s", flush=True)
    return 0


def refuse(why: str, code: int = 5) -> int:
    """Say why nothing can be made; the exit code."""
    print(f"make gpu-check could not be made: {why}", file=sys.stderr)
    return code


def find_toolkit() -> Path | None:
    """The folder that holds bin/nvcc."""
    named = [Path(os.environ[name]) for name in ("CUDA_ROOT", "CUDA_HOME") if os.environ.get(name)]
    found = [Path(nvcc).resolve().parents[1] for nvcc in [shutil.which("nvcc")] if nvcc]
    for folder in (*named, *found, Path("/usr/local/cuda")):
        if (folder / "bin" / "nvcc").exists() and (folder / "include" / "cuda.h").exists():
            return folder
    return None


def find_driver() -> Path | None:
    """The driver's library, as the system loads it."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return next((Path(line.split(maxsplit=5)[5]) for line in lines if "/libcuda.so" in line), None)


def make_venv() -> None:
    """An environment that sees what this Python sees, also where this one is an environment itself."""
    has_pip = (
        importlib.util.find_spec("ensurepip") is not None
    )  # Debian's Python may lack it; then this one's serves
    venv.create(VENV, system_site_packages=True, clear=True, with_pip=has_pip)
    inside = next(VENV.glob("lib/python*/site-packages"))
    outside = [folder for folder in site.getsitepackages() if Path(folder).is_dir()]
    (inside / "outside.pth").write_text("\n".join(outside) + "\n", encoding="utf-8")


def pip(*arguments: str, env: dict[str, str] | None = None) -> None:
    """Install into it; pip's own settings and variables hold."""
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, cwd=ROOT, env=env)


def add_nvrtc() -> None:
    """NVRTC of the driver's CUDA, unless one is found."""
    look = [str(PYTHON), "-c", "from edge_mer.nvrtc import nvrtc_version; nvrtc_version()"]
    if subprocess.run(look, cwd=ROOT, stderr=subprocess.DEVNULL, check=False).returncode == 0:
        return
    version = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    major, minor = version.value // 1000, version.value % 1000 // 10
    pip(f"nvidia-cuda-nvrtc{'-cu12' if major == 12 else ''}=={major}.{minor}.*")


def build_pycuda(settings: str, driver: Path) -> None:
    """From its sources: what pip may have kept was built for another CUDA."""
    home, libraries = WORK / "home", WORK / "lib"
    for folder in (home, libraries):
        folder.mkdir(parents=True, exist_ok=True)
    link = libraries / "libcuda.so"
    link.unlink(missing_ok=True)
    link.symlink_to(driver)
    # PyCUDA looks for its settings at home: not the user's.
    (home / ".aksetup-defaults.py").write_text(settings, encoding="utf-8")
    kept = {"XDG_CONFIG_HOME": str(Path.home() / ".config"), **os.environ}
    pip("--no-cache-dir", "--ignore-installed", "--no-deps", PYCUDA, env={**kept, "HOME": str(home)})


if __name__ == "__main__":
    sys.exit(main())

"""The vendor's own Python bindings of TensorRT, without TensorRT: what calls to it are checked against.

    python tests/helpers/tensorrt_bindings.py        into build/tensorrt/VERSION, for every version

The bindings are plain wheels; they load as soon as ten C functions exist, which a few lines of C give them.
From what they say of themselves a stub file is made, which mypy reads, and a list of their classes and
functions, which the double of TensorRT is held against. Both are the vendor's texts, and stay out of the
repository.
"""

from __future__ import annotations

import ast
import fcntl
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "tensorrt"
PACKAGES = {"10.3.0": "tensorrt-cu12-bindings==10.3.0", "11.4.0": "tensorrt-cu13-bindings==11.4.0.106"}
"""The oldest version in the field, that of JetPack 6, and the newest."""

_FUNCTIONS = """
void *createInferBuilder_INTERNAL(void *l, int v) { return 0; }
void *createInferRefitter_INTERNAL(void *e, void *l, int v) { return 0; }
void *createInferRuntime_INTERNAL(void *l, int v) { return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void *r, void *l, int v) { return 0; }
void *createNvOnnxParser_INTERNAL(void *n, void *l, int v) { return 0; }
void *getBuilderPluginRegistry(int c) { return 0; }
void *getPluginRegistry(void) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
int getInferLibVersion(void) { return 0; }
int initLibNvInferPlugins(void *l, const char *n) { return 0; }
"""
_LIST = """
import json, sys
import tensorrt_bindings.tensorrt as trt

def members(one):
    found = {}
    for name in dir(one):
        if name.startswith("__") and name != "__init__":
            continue
        value = getattr(one, name)
        found[name] = members(value) if isinstance(value, type) else (getattr(value, "__doc__", None) or "")
    return found

json.dump({n: members(v) for n, v in vars(trt).items() if isinstance(v, type)}, sys.stdout)
"""


def main() -> None:
    """Make what is not there for every version."""
    for version in PACKAGES:
        print(f"TensorRT {version}: {typings(version)}")  # noqa: T201


def is_there(version: str) -> bool:
    """Whether they were made before; without network and gcc they cannot be."""
    return (OUT / version / "classes.json").exists()


def typings(version: str) -> Path:
    """The folder for MYPYPATH: `tensorrt/__init__.pyi` of that version."""
    folder = _made(version)
    return folder / "typings"


def listed(version: str) -> dict[str, dict[str, object]]:
    """Class -> its members, with what the bindings say of each."""
    found: dict[str, dict[str, object]] = json.loads((_made(version) / "classes.json").read_text("utf-8"))
    return found


def _made(version: str) -> Path:
    folder = OUT / version
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "classes.json").exists():
            _make(version, folder)
    return folder


def _make(version: str, folder: Path) -> None:
    run = folder / "run"
    _call(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), PACKAGES[version])
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(run)
    source = folder / "functions.c"
    source.write_text(_FUNCTIONS, encoding="utf-8")
    major = version.split(".")[0]
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        name = f"lib{library}.so.{major}"
        _call("gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(run / name), str(source))
    loads = {**os.environ, "LD_LIBRARY_PATH": str(run), "PYTHONPATH": str(run)}
    generate = (sys.executable, "-m", "pybind11_stubgen", "tensorrt_bindings", "--ignore-all-errors")
    _call(*generate, "-o", str(folder / "raw"), env=loads, check=False)
    raw = folder / "raw" / "tensorrt_bindings" / "tensorrt.pyi"
    stub = folder / "typings" / "tensorrt" / "__init__.pyi"
    stub.parent.mkdir(parents=True, exist_ok=True)
    stub.write_text(_mended(raw.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / "classes.json").write_text(_call(sys.executable, "-c", _LIST, env=loads), encoding="utf-8")


def _mended(text: str) -> str:
    """The same stubs as a module called tensorrt, without the few lines that are no Python."""
    lines = text.replace("tensorrt_bindings.tensorrt", "tensorrt").splitlines()
    while True:
        try:
            ast.parse("\n".join(lines))
        except SyntaxError as error:
            wrong = lines[(error.lineno or 1) - 1]
            indent = wrong[: len(wrong) - len(wrong.lstrip())]
            method = re.search(r"def (\w+)\(", wrong)
            any_call = "(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any: ..."
            lines[(error.lineno or 1) - 1] = f"{indent}def {method.group(1)}{any_call}" if method else ""
        else:
            return "\n".join(lines) + "\n"


def _call(*command: str, env: dict[str, str] | None = None, check: bool = True) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if check and done.returncode:
        sys.exit(f"{' '.join(command[:4])} … failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()

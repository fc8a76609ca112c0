"""What PyCUDA's own classes and functions say of themselves, as stubs: what calls to it are checked against.

    python tests/helpers/pycuda_bindings.py          into build/pycuda/typings, for MYPYPATH

PyCUDA brings no types. Its compiled half writes a signature into each docstring; its Python half has some
that Python can read. It is loaded as `make host-cuda` has built it.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "pycuda" / "typings"

_PLAIN = {"int", "float", "bool", "str", "bytes", "None"}
_SIGNATURE = re.compile(r"^\s*\w+\((?P<arguments>.*)\) -> (?P<result>\w+) :$", re.MULTILINE)
_ARGUMENT = re.compile(r"(?P<optional>\[,? *)?\((?P<type>\w+)\)(?P<name>\w+)")
_HEADER = "from typing import Any, overload\n"


def main() -> None:
    """Make them anew."""
    run = [sys.executable, str(ROOT / "tests" / "host_cuda" / "run.py"), sys.executable, __file__, "--inside"]
    found = subprocess.run(run, capture_output=True, text=True, check=False)
    if found.returncode:
        sys.exit(f"PyCUDA does not load: make host-cuda\n{found.stderr[-2000:]}")
    folder = OUT / "pycuda"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.pyi").write_text("", encoding="utf-8")
    (folder / "driver.pyi").write_text(found.stdout, encoding="utf-8")
    print(f"PyCUDA: {OUT}")  # noqa: T201


def stubs() -> str:
    """`pycuda/driver.pyi`."""
    import pycuda.driver as driver

    members = {name: one for name, one in vars(driver).items() if not name.startswith("_")}
    classes = {name for name, one in members.items() if isinstance(one, type)}
    lines = [_HEADER]
    for name, one in members.items():
        if isinstance(one, type):
            lines += _class(name, one, classes)
        elif callable(one):
            lines += _function(name, one, classes)
    return "\n".join(lines) + "\n"


def _class(name: str, one: type, classes: set[str]) -> Iterator[str]:
    bases = [base.__name__ for base in one.__bases__ if base.__name__ in classes and base is not one]
    if not bases and issubclass(one, BaseException):
        bases = ["Exception"]
    yield f"class {name}({', '.join(bases)}):"
    yield "    _: None"
    for member, value in vars(one).items():
        is_hidden = member.startswith("_") and member not in ("__init__", "__int__")
        if is_hidden or not member.isidentifier():
            continue
        static = isinstance(value, staticmethod)
        if isinstance(value, property):
            yield f"    @property\n    def {member}(self) -> {_result(value.fget, classes)}: ..."
        elif callable(getattr(one, member)):
            yield from (f"    {line}" for line in _function(member, getattr(one, member), classes, static))
        else:
            yield f"    {member}: {_type(type(value).__name__, classes)}"


def _result(getter: Any, classes: set[str]) -> str:
    signature = _SIGNATURE.search(getter.__doc__ or "")
    return _type(signature["result"], classes) if signature else "Any"


def _function(name: str, one: Any, classes: set[str], static: bool = False) -> Iterator[str]:
    """One definition; several where it takes several kinds of arguments."""
    found = list(_SIGNATURE.finditer(one.__doc__ or ""))
    if not found:
        yield from ["@staticmethod"] if static else []
        yield f"def {name}{_python(one)} -> {'None' if name == '__init__' else 'Any'}: ..."
        return
    for signature in found:
        yield from ["@overload"] if len(found) > 1 else []
        yield from ["@staticmethod"] if static else []
        arguments = ", ".join(
            f"{one['name']}: {_type(one['type'], classes)}{' = ...' if one['optional'] else ''}"
            for one in _ARGUMENT.finditer(signature["arguments"])
        )
        result = "None" if name == "__init__" else _type(signature["result"], classes)
        yield f"def {name}({arguments}) -> {result}: ..."


def _python(one: Any) -> str:
    """Arguments of a function that is written in Python; of another, any."""
    try:
        parameters = inspect.signature(one).parameters.values()
    except (TypeError, ValueError):
        return "(*args: Any, **kwargs: Any)"
    written = [
        f"{p.replace(annotation=p.empty, default=p.empty)}: Any{'' if p.default is p.empty else ' = ...'}"
        for p in parameters
    ]
    return f"({', '.join(written)})"


def _type(name: str, classes: set[str]) -> str:
    return name if name in classes or name in _PLAIN else "Any"


if __name__ == "__main__":
    if "--inside" in sys.argv:
        sys.stdout.write(stubs())
    else:
        main()

"""Writes `docs/configuration.md` from the declarations in `edge_mer.config`.

.venv/bin/python tests/helpers/make_config_reference.py
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from edge_mer.config import DaemonConfig  # noqa: E402

PAGE = ROOT / "docs" / "configuration.md"

_HEAD = """\
# Reference of the daemon's configuration

<!-- Written by tests/helpers/make_config_reference.py; do not edit. -->

`edge-mer daemon --config FILE` reads one [TOML](https://toml.io) file. `edge-mer daemon --check` says
whether it can be carried out, and names everything that is wrong with it at once. What it does is in
[How to run the daemon](how-to-daemon.md).

- A key that is not known is refused, and the nearest one is named.
- Relative paths are counted from the file's own folder, also those in `unix:` and in keys such as `ca_file=`.
  Only files that sinks write are counted from the folder in which the daemon was started; of
  [a service](how-to-systemd.md) that is its state's.
- On SIGHUP a running daemon reads it again. If anything in it is wrong, all stays as it was.

The least that is needed:

```toml
bundle = "bundle"
sources = ["camera:0", "mic:default"]
```
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_sections(DaemonConfig, "", "The top")])


def _sections(section: type[BaseModel], name: str, title: str) -> Iterator[str]:
    told = _attributes(section)
    yield f"## {title}\n"
    yield (inspect.getdoc(section) or "").split("\n\n")[0] + "\n"
    yield "| Key | What it is | Default |\n|---|---|---|"
    inner: list[tuple[type[BaseModel], str, str]] = []
    for key, field in section.model_fields.items():
        held = _section_in(field.annotation)
        if held is not None:
            is_many = get_origin(field.annotation) is tuple
            path = f"{name}.{key}".lstrip(".")
            inner.append((held, path, f"`[[{path}]]`" if is_many else f"`[{path}]`"))
            yield f"| `{key}` | {told[key]} See [below](#{path.replace('.', '')}). | |"
            continue
        default = field.get_default(call_default_factory=field.default_factory is not None)
        text = "needed" if default is PydanticUndefined else _toml(default)
        yield f"| `{key}` | {_kind(field.annotation)}. {told[key]} | {text} |"
    yield ""
    for one in inner:
        yield from _sections(*one)


def _attributes(section: type[BaseModel]) -> dict[str, str]:
    """Attribute -> what its class says of it."""
    text = (inspect.getdoc(section) or "").partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", text, re.MULTILINE)
    return {name: _capital(" ".join(told.split())) for name, told in found}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return _kind(next(one for one in get_args(annotation) if one is not type(None)))
    if get_origin(annotation) is tuple:
        one = _kind(get_args(annotation)[0])
        return one.replace("One of", "Some of") if one.startswith("One of") else f"List of {one.lower()}s"
    if get_origin(annotation) is Literal:
        return "One of " + ", ".join(f'"{one}"' for one in get_args(annotation))
    if inspect.isclass(annotation) and issubclass(annotation, Path):
        return "Path"
    if get_origin(annotation) is not None and issubclass(get_origin(annotation), Mapping):
        return "Table"
    return {str: "Text", int: "Whole number", float: "Number", bool: "true or false"}[annotation]


def _toml(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (tuple, list)):
        return "`[" + ", ".join(f'"{one}"' for one in value) + "]`"
    if isinstance(value, Mapping):
        return "`{}`"
    return f'`"{value}"`' if isinstance(value, (str, Path)) else f"`{value:g}`"


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

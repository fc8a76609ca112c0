"""The live page: a few files of the package, by name; no path of a request ever meets the file system."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


@dataclass(frozen=True)
class PageFile:
    """A file as it is sent.

    Attributes:
        content: Its bytes.
        media_type: What they are.
    """

    content: bytes
    media_type: str


def read_page() -> dict[str, PageFile]:
    """Path of a request -> what it gets."""
    folder = files("edge_mer.gateway") / "page"
    found = {path: (folder / name, media_type) for path, (name, media_type) in _FILES.items()}
    return {
        path: PageFile(file.read_bytes(), media_type)
        for path, (file, media_type) in found.items()
        if file.is_file()
    }

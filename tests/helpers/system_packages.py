"""System packages that some tests need, and the one line that brings those that are missing."""

from __future__ import annotations

import shutil

import pytest

PACKAGES = {
    "ffmpeg": "ffmpeg",
    "pulseaudio": "pulseaudio",
    "paplay": "pulseaudio-utils",
    "socat": "socat",
    "faketime": "faketime",
}
"""Command -> Debian package."""


def needs(command: str) -> pytest.MarkDecorator:
    """Skip a test, naming the package, where `command` is absent."""
    return pytest.mark.skipif(
        shutil.which(command) is None, reason=f"needs the system package {PACKAGES[command]}"
    )


def missing() -> list[str]:
    """Packages whose commands are absent."""
    return [package for command, package in PACKAGES.items() if shutil.which(command) is None]


if __name__ == "__main__":
    if packages := missing():
        names = " ".join(packages)
        print(f"Tests were skipped for want of {names}. This brings them:")  # noqa: T201
        print(f"  sudo apt-get install --no-install-recommends {names}")  # noqa: T201

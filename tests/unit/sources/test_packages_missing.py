"""Live sources where the package that reads them is not installed."""

from __future__ import annotations

import sys

import pytest

from edge_mer.errors import MissingError
from edge_mer.sources import brainflow, lsl, microphone, serial
from edge_mer.sources.registry import open_source

PACKAGES = {
    "mic:default": ("pyaudio", "edge-mer[mic]", microphone.attached),
    "serial:/dev/ttyUSB0?eda=1&rate_hz=4": ("serial", "edge-mer[bio]", serial.attached),
    "brainflow:synthetic": ("brainflow", "edge-mer[bio]", brainflow.attached),
    "lsl:type=EDA": ("pylsl", "edge-mer[bio]", lsl.attached),
}


@pytest.mark.parametrize("uri", PACKAGES)
def test_what_to_install_is_said(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, extra, attached = PACKAGES[uri]
    monkeypatch.setitem(sys.modules, package, None)
    source = open_source(uri)
    with pytest.raises(MissingError) as caught:
        source.ensure_ready()
    assert f"pip install '{extra}'" in (caught.value.hint or "")
    assert caught.value.exit_code == 5
    source.ensure_stopped()
    (device,) = attached()
    assert f"pip install '{extra}'" in device.note

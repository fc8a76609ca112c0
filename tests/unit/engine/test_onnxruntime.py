"""An engine of ONNX Runtime gives back what it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_mer.bundle.read import open_bundle
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.runtime.setup import open_setup
from tests.helpers.process import n_threads


def test_what_is_closed_is_freed_although_it_is_still_known(shared_bundle: Path) -> None:
    """A session knows the engines that it began with; a daemon that changed them does not pay for it."""
    before = n_threads()
    setup = open_setup(open_bundle(shared_bundle), "fp32", None, OrtOptions(threads=2))
    assert n_threads() == before + len(setup.engines), "each has a thread beside the one that calls it"
    setup.close()
    assert n_threads() == before
    setup.close()
    engine = next(iter(setup.engines.values()))
    with pytest.raises(RuntimeError, match="was closed"):
        engine.infer()

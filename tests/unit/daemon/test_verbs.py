"""Verbs in processes of their own, as a change of bundle calls them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edge_mer.daemon.verbs import Verbs
from edge_mer.errors import BundleError, MissingError


def test_what_a_verb_refuses_is_said_with_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="edge-mer verify refused it"):
        Verbs().run(["verify", str(tmp_path)], 60)


def test_one_that_is_broken_off_is_not_blamed(shared_bundle: Path) -> None:
    verbs = Verbs()
    threading.Timer(0.2, verbs.stop).start()
    with pytest.raises(MissingError, match="was broken off"):
        verbs.run(["verify", str(shared_bundle), "--precision", "fp32"], 60)
    with pytest.raises(MissingError, match="was not begun"):
        verbs.run(["verify", str(shared_bundle)], 60)

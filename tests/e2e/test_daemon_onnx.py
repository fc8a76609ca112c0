"""Bundles that are whole and must not serve all the same: the daemon finds out, and goes on as it was.

They keep a core busy, so they are not among the live tests, which want one in time.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="alters graphs with onnx: pip install 'edge-mer[export]'")

from edge_mer.bundle.read import open_bundle
from tests.helpers.altered_fusion import FUSION, altered, as_slow_as, not_finite
from tests.helpers.daemon import are_whole, ask_to_swap, running, variant, write_config

pytestmark = pytest.mark.workbench

SLOW_S = 0.9
"""More than three hops."""

RELIEF = "[relief]\nafter_s = 1\ncalm_s = 1\n"


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("not finite", "verify refused it"),
        pytest.param(
            "slow", "too slow for this device", marks=pytest.mark.slow
        ),  # to prove it takes two minutes
    ],
)
def test_the_old_one_goes_on(kind: str, why: str, shared_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(shared_bundle)
    nodes_of = not_finite if kind == "not finite" else as_slow_as(SLOW_S)
    bad = variant(shared_bundle, tmp_path / "bad", {FUSION: altered(bundle, nodes_of)})
    config = write_config(tmp_path, shared_bundle)
    with running(config) as (daemon, listener):
        listener.wait_for_more(3)
        asked = ask_to_swap(config.parent / "run" / "link.sock", bad)
        assert isinstance(asked, dict), asked
        listener.wait_for(lambda: listener.swap["state"] in ("refused", "kept", "rolled_back"), 300)
        assert listener.swap["state"] == "refused"
        assert why in listener.swap["why"], listener.swap
        listener.wait_for_more(3)
        assert are_whole(listener.records, bundle.hop_s)
        assert {one["bundle_id"] for one in listener.records} == {bundle.bundle_id}
        assert daemon.stop() < 2


def test_a_device_that_is_too_slow_takes_the_cheaper_candidate_and_stays_with_it(
    shared_bundle: Path, tmp_path: Path
) -> None:
    slow = variant(
        shared_bundle, tmp_path / "slow", {FUSION: altered(open_bundle(shared_bundle), as_slow_as(SLOW_S))}
    )
    config = write_config(tmp_path, slow, RELIEF)
    with running(config) as (daemon, listener):
        listener.wait_for(lambda: any("overloaded" in one["reasons"] for one in listener.records))
        listener.wait_for(lambda: any("hop_lengthened" in one["reasons"] for one in listener.records))
        listener.wait_for(lambda: listener.hellos[-1]["model"]["precision"] == "int8-cpu")
        listener.wait_for(lambda: listener.healths[-1]["relief"]["level"] == 0)
        listener.wait_for(lambda: listener.swap["state"] == "refused")  # in fp32 it would be too slow again
        assert "too slow for this device" in listener.swap["why"]
        begin = len(listener.records)
        listener.wait_for_more(5)
        last = listener.records[begin:]
        assert are_whole(last, open_bundle(slow).hop_s)
        assert {reason for one in last for reason in one["reasons"]} == {"cheaper_candidate"}
        assert {one["status"] for one in last} == {"degraded"}
        assert daemon.stop() < 2

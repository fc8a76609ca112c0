"""The recorded cases: their made-up weights are the numbers with which they were recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import parity

MAX_BYTES = 200_000
"""Of one file in the tree."""


@pytest.mark.parametrize(
    ("key", "shape", "gain", "first"),
    [
        ("fc.weight", (2, 3), 1.0, [0.2372858, -1.107218, 0.9859039]),
        ("fc.weight", (2, 3), 2.5, [0.5932145, -2.768044, 2.46476]),
        ("conv.weight", (2, 1, 3, 3), 1.4, [0.04205857, 0.1167937, -0.4009149]),
        ("conv.weight_v", (2, 2, 5), 1.0, [-0.001447877, -0.1939878, -0.3970158]),
        ("conv.weight_g", (2, 1, 1), 1.0, [1.134485, 2.139072]),
        ("bn.weight", (3,), 1.0, [0.8834848, 1.058427, 1.053343]),
        ("fc.bias", (3,), 2.0, [0.05059005, 0.03095442, 0.2167537]),
        ("bn.running_mean", (3,), 1.0, [-0.03549142, 0.1166199, 0.1564243]),
        ("bn.running_var", (3,), 1.0, [0.9915664, 1.148289, 0.8516194]),
        ("scale.weight", (), 3.0, [-0.193185]),
    ],
)
def test_weights_are_the_recorded_ones(
    key: str, shape: tuple[int, ...], gain: float, first: list[float]
) -> None:
    found = parity.weight(key, shape, gain)
    assert found.shape == shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.ravel(found)[:3], first, rtol=1e-6)


def test_another_key_gives_other_numbers() -> None:
    assert not np.allclose(parity.weight("a.weight", (4, 4)), parity.weight("b.weight", (4, 4)))


@pytest.mark.parametrize(
    "name", sorted(file.stem for file in (parity.OWN_FOLDER / "cases").glob("*.npz")), ids=str
)
def test_a_case_in_the_tree_is_small_and_whole(name: str) -> None:
    for suffix in ("json", "npz"):
        assert (parity.OWN_FOLDER / "cases" / f"{name}.{suffix}").stat().st_size <= MAX_BYTES
    content, arrays = parity.description(name), parity.arrays(name)
    for kind, prefix in (("inputs", "in_"), ("outputs", "out_")):
        declared = {f"{prefix}{key}": tuple(shape) for key, shape in content[kind].items()}
        assert {key: tuple(arrays[key].shape) for key in declared} == declared
    assert content["tolerance"] > 0


def test_an_absent_case_is_skipped_and_named() -> None:
    with pytest.raises(pytest.skip.Exception, match=r"cases/no_such_case\.json \(set EDGE_MER_TEST_PARITY"):
        parity.description("no_such_case")


def test_the_tree_comes_first_and_other_folders_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cases").mkdir()
    for name in ("vggish", "another"):
        (tmp_path / "cases" / f"{name}.json").write_text(json.dumps({"case": "from elsewhere"}))
    monkeypatch.setattr(parity, "OTHER_FOLDER", tmp_path)
    assert parity.description("vggish")["case"] == "vggish"
    assert parity.description("another")["case"] == "from elsewhere"
    assert {"vggish", "another"} <= set(parity.cases())

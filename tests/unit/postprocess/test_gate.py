"""Whether a prediction may be given."""

from __future__ import annotations

import itertools

import pytest

from edge_mer.postprocess.gate import Evidence, judge


def test_without_any_doubt_it_is_ok() -> None:
    assert judge(Evidence()) == ("ok", ())


def test_a_weakness_degrades_it() -> None:
    evidence = Evidence(degraded_for=("warming_up", "visual_gap"))
    assert judge(evidence) == ("degraded", ("warming_up", "visual_gap"))


def test_a_reason_against_it_withholds_it() -> None:
    assert judge(Evidence(withheld_for=("audio_missing",))) == ("withheld", ("audio_missing",))


def test_an_output_that_is_no_number_withholds_it() -> None:
    assert judge(Evidence(is_finite=False)) == ("withheld", ("output_not_finite",))


@pytest.mark.parametrize(
    ("withheld", "degraded", "finite"), list(itertools.product([(), ("a",)], [(), ("b",)], [True, False]))
)
def test_whatever_is_not_ok_has_a_reason_and_what_is_ok_has_none(
    withheld: tuple[str, ...], degraded: tuple[str, ...], *, finite: bool
) -> None:
    status, reasons = judge(Evidence(withheld, degraded, finite))
    assert (status == "ok") == (not reasons)
    assert (status == "withheld") == bool(withheld or not finite)

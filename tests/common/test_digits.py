"""Digits: a mean is written as finely as its deviation."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nbcore.common.digits import MOST, digits_of, shown


@given(mean=st.floats(-1e12, 1e12), deviation=st.floats(1e-3, 1e12))
def test_a_mean_is_written_to_a_small_part_of_its_deviation(mean: float, deviation: float) -> None:
    digits = digits_of(mean, deviation)
    assert 6 <= digits <= MOST
    assert abs(float(f"{mean:.{digits}g}") - mean) <= 1e-5 * max(deviation, abs(mean) * 1e-10)


@given(st.floats(1e-300, 1e300))
def test_a_score_keeps_three_digits_whatever_its_units(value: float) -> None:
    assert abs(float(shown(value)) - value) <= 0.051 * value


def test_scores_near_one_have_three_decimals() -> None:
    assert [shown(v) for v in (0.0, 0.7234, -1.25, 312.0)] == [
        "0.000",
        "0.723",
        "-1.250",
        "312.000",
    ]

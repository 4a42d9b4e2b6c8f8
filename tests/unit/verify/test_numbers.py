from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpq.verify.numbers import downward, downward_above, spelled, upward, upward_within


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(1, 17))
def test_what_is_shown_encloses_the_value(value: float, digits: int) -> None:
    assert Decimal(downward(value, digits)) <= Decimal(value) <= Decimal(upward(value, digits))


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        (0.0, "0", "0"),
        (1.0, "1", "1"),
        (0.123456789, "0.12345", "0.12346"),
        (-0.123456789, "-0.12346", "-0.12345"),
        (123456.7, "123450", "123460"),
        (1.5e-9, "1.4999e-9", "1.5000e-9"),
        (2.0**-40, "9.0949e-13", "9.0950e-13"),
        (float("inf"), "∞", "∞"),
    ],
)
def test_examples(value: float, low: str, high: str) -> None:
    assert (downward(value), upward(value)) == (low, high)


@given(
    st.floats(1e-300, 1e300) | st.integers(1, 10**4).map(float),
    st.floats(1e-5, 10) | st.sampled_from([1 / 256, 0.1, 3.0]),
    st.integers(1, 17),
)
def test_what_is_shown_in_units_encloses_the_exact_quotient(value: float, unit: float, digits: int) -> None:
    exact = Fraction(value) / Fraction(unit)
    assert Fraction(downward(value, digits, unit)) <= exact <= Fraction(upward(value, digits, unit))


def test_a_quotient_that_float64_rounds_to_few_digits() -> None:
    # float64 has 4.92 and 267 for quotients that lie above and below.
    assert (0.038376 / 0.0078, 26.7 / 0.1) == (4.92, 267.0)
    assert upward(0.038376, 4, 0.0078) == "4.921"
    assert downward(26.7, 4, 0.1) == "266.9"


@given(st.floats(0, 1e6), st.floats(0, 1e-3))
def test_a_verdict_shows_enough_digits(value: float, more: float) -> None:
    limit = value + more
    within, above = upward_within(value, limit), downward_above(limit, value)
    assert Decimal(value) <= Decimal(within)
    assert Decimal(above) <= Decimal(limit)
    if more > 1e-9 * value:
        assert Decimal(within) <= Decimal(limit)
        assert Decimal(above) > Decimal(value)


def test_a_bound_next_to_its_tolerance() -> None:
    assert upward_within(0.02884343, 0.0288435) == "0.0288435"
    assert upward_within(0.02884343, 0.03) == "0.028844"
    assert downward_above(0.02884343, 0.02884341) == "0.02884342"
    assert [spelled(x) for x in (0.03, 1.0, 1e-5, 0.02884341)] == ["0.03", "1", "1e-05", "0.02884341"]

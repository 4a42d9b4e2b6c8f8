from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpq.verify.numbers import downward, upward


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

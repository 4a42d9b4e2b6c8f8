"""The primitives against exact rational arithmetic and against C's definitions written out."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milpq.errors import AccumulatorOverflowError, TargetError
from milpq.rounding import arithmetic

INT32 = st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-1000, 1000))
MULTIPLIER = st.integers(0, 2**31 - 1)


def array(value: int) -> np.ndarray:
    return np.array([value], dtype=np.int64)


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def half_away(value: Fraction) -> int:
    return half_up(value) if value >= 0 else -half_up(-value)


@given(INT32, MULTIPLIER)
def test_high_multiply_is_gemmlowps(value: int, multiplier: int) -> None:
    product = value * multiplier
    nudge = 2**30 if product >= 0 else 1 - 2**30
    # C divides towards zero.
    quotient = abs(product + nudge) // 2**31
    expected = quotient if product + nudge >= 0 else -quotient
    found = arithmetic.saturating_rounding_doubling_high_multiply(array(value), array(multiplier))
    assert found[0] == expected


@given(INT32, st.integers(0, 31))
def test_shifts_round_as_they_say(value: int, exponent: int) -> None:
    real = Fraction(value, 2**exponent)
    shifted = {
        arithmetic.rounding_divide_by_power_of_two: half_away(real),
        arithmetic.half_up_shift_right: half_up(real),
        arithmetic.half_even_shift_right: round(real),
        arithmetic.toward_zero_shift_right: math.trunc(real),
    }
    for function, expected in shifted.items():
        assert function(array(value), array(exponent))[0] == expected, function.__name__


@given(INT32, MULTIPLIER, st.integers(-31, 30))
def test_single_rounding_rounds_once(value: int, multiplier: int, shift: int) -> None:
    real = Fraction(value * multiplier) * Fraction(2) ** (shift - 31)
    if abs(real) >= 2**30:
        return
    assert arithmetic.single_rounding(array(value), array(multiplier), array(shift))[0] == half_up(real)


@given(INT32, MULTIPLIER, st.integers(-31, 30))
def test_double_rounding_stays_in_its_band(value: int, multiplier: int, shift: int) -> None:
    if abs(value) * 2 ** max(shift, 0) >= 2**31:
        return
    real = Fraction(value * multiplier) * Fraction(2) ** (shift - 31)
    band = Fraction(1, 2) + Fraction(1, 2 ** (max(-shift, 0) + 1))
    for function in (arithmetic.double_rounding, arithmetic.ruy_x86_rounding):
        assert abs(int(function(array(value), array(multiplier), array(shift))[0]) - real) <= band


@settings(max_examples=500)
@given(st.floats(2.0**-40, 2.0**29))
def test_quantized_multiplier_is_the_nearest(factor: float) -> None:
    multiplier, shift = (int(value[0]) for value in arithmetic.quantize_multiplier(np.array([factor])))
    if factor < 2.0**-32:
        assert (multiplier, shift) == (0, 0)
        return
    assert 2**30 <= multiplier < 2**31
    scaled = Fraction(factor) * Fraction(2) ** (31 - shift)
    assert abs(scaled - multiplier) <= Fraction(1, 2)


def test_quantized_multiplier_carries() -> None:
    """A fraction that rounds up to one becomes one half with the next shift."""
    multiplier, shift = arithmetic.quantize_multiplier(np.array([1.0 - 2.0**-40, 0.0]))
    assert multiplier.tolist() == [2**30, 0]
    assert shift.tolist() == [1, 0]


@pytest.mark.parametrize("factor", [np.nan, np.inf, -1.0, 2.0**31])
def test_impossible_factors_are_refused(factor: float) -> None:
    with pytest.raises(TargetError):
        arithmetic.quantize_multiplier(np.array([factor]))


@pytest.mark.parametrize("function", [arithmetic.double_rounding, arithmetic.ruy_x86_rounding])
def test_a_left_shift_that_wraps_is_refused(function: object) -> None:
    assert callable(function)
    assert function(array(2**28 - 1), array(2**30), array(3))[0] == 2**30 - 4
    with pytest.raises(AccumulatorOverflowError, match="larger output scale"):
        function(array(2**28), array(2**30), array(3))
    with pytest.raises(AccumulatorOverflowError):
        function(array(2**31), array(2**30), array(-3))


def test_float32_rounding_half_away_does_not_add_one_half() -> None:
    value = np.array([0.49999997, -0.49999997, 0.5, -0.5, 2.5, -2.5, 8388609.0], dtype=np.float32)
    rounded = arithmetic.round_half_away(value)
    assert rounded.dtype == np.float32
    assert rounded.tolist() == [0, 0, 1, -1, 3, -3, 8388609]


def test_float32_requantization_clips_before_it_rounds() -> None:
    found = arithmetic.float32_half_even(np.array([-(2**31), 5, 7, 2**31 - 1]), np.float32([0.5]), -10, 10)
    assert found.tolist() == [-10, 2, 4, 10]

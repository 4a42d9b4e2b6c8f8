"""Requantizers whose numbers the model file states."""

from __future__ import annotations

import numpy as np
import pytest

from milpq.errors import AccumulatorOverflowError, TargetError
from milpq.rounding.requantizers import explicit_requantizer, power_of_two_requantizer


def test_explicit_roundings_differ_on_ties() -> None:
    quarter = np.array([2**30]), np.array([-1])
    accumulators = np.array([[-6, -5, -2, -1, 1, 2, 5, 6]])
    found = {
        rounding: explicit_requantizer(*quarter, rounding, 0, -128, 127)(accumulators)[0].tolist()
        for rounding in ("double", "single", "ruy-x86")
    }
    assert found == {
        "double": [-2, -1, -1, 0, 1, 1, 2, 2],
        "single": [-1, -1, 0, 0, 0, 1, 1, 2],
        "ruy-x86": [-1, -1, 0, 0, 1, 1, 2, 2],
    }


def test_zero_point_and_limits_come_last() -> None:
    requantize = explicit_requantizer(np.array([2**30]), np.array([1]), "double", 10, 10, 15)
    assert requantize(np.array([[-7, 0, 3, 9]])).tolist() == [[10, 10, 13, 15]]


def test_a_shift_may_point_left() -> None:
    requantize = power_of_two_requantizer(np.array([-2, 1]), "half-up", 1, -128, 127)
    assert requantize(np.array([[3], [3]])).tolist() == [[13], [3]]
    with pytest.raises(AccumulatorOverflowError):
        requantize(np.array([[2**29], [0]]))


def test_rounding_constant_may_not_leave_the_accumulator() -> None:
    requantize = power_of_two_requantizer(np.array([20]), "half-up", 0, -128, 127)
    with pytest.raises(AccumulatorOverflowError):
        requantize(np.array([[2**31 - 1]]))
    assert power_of_two_requantizer(np.array([20]), "floor", 0, -128, 127)(np.array([[2**31 - 1]])) == 127


@pytest.mark.parametrize(
    ("multiplier", "shift", "rounding"),
    [
        ([2**31], [0], "double"),
        ([-1], [0], "double"),
        ([1], [31], "double"),
        ([1], [-32], "double"),
        ([1, 2], [0], "double"),
        ([], [], "double"),
        ([1], [0], "stochastic"),
    ],
)
def test_impossible_statements_are_refused(multiplier: list[int], shift: list[int], rounding: str) -> None:
    with pytest.raises(TargetError):
        explicit_requantizer(np.array(multiplier), np.array(shift), rounding, 0, -128, 127)


def test_unknown_shift_rounding_lists_the_known() -> None:
    with pytest.raises(TargetError, match="half-up, floor, half-even, half-away, toward-zero"):
        power_of_two_requantizer(np.array([1]), "up", 0, -128, 127)
    with pytest.raises(TargetError, match="shift"):
        power_of_two_requantizer(np.array([63]), "floor", 0, -128, 127)

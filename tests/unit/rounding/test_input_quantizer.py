"""The input quantizer as a function of real numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milpq.errors import InvalidNetworkError, RegionError, TargetError
from milpq.rounding.input_quantizer import RULES, InputQuantizer

SCALES = np.float32([0.1, 0.25, 1 / 3]).astype(np.float64)


def quantizer(rule: str = "half-away", zero_point: int = -5) -> InputQuantizer:
    return InputQuantizer.from_rule(rule, SCALES, np.full(3, zero_point), -128, 127)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_equals_the_float32_formula_on_rounded_reals(rule: str) -> None:
    found = quantizer(rule)
    assert (found.inputs, found.level_lower, found.level_upper) == (3, -123, 132)
    x = np.random.default_rng(0).normal(0, 20, (20_000, 3))
    # Multiples of half a scale, where rules differ, and their float64 neighbours.
    x[:5000] = np.round(x[:5000] / SCALES * 2) / 2 * SCALES
    x[5000:6000] = np.nextafter(x[:1000], np.inf)
    x[6000:7000] = np.nextafter(x[:1000], -np.inf)
    expected = np.clip(RULES[rule](x.astype(np.float32), SCALES.astype(np.float32), -5), -123, 132)
    np.testing.assert_array_equal(found(x), expected)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_cells_contain_what_maps_to_them_and_nothing_beyond(rule: str) -> None:
    found = quantizer(rule)
    levels = np.repeat(np.arange(-123, 133)[:, None], 3, axis=1)
    lower, upper = found.cell(levels)
    assert np.isneginf(lower[0]).all()
    assert np.isposinf(upper[-1]).all()
    np.testing.assert_array_equal(lower[1:], upper[:-1])
    # Strictly inside the level is right; at the ends, both sides of the threshold are next to each other.
    np.testing.assert_array_equal(found(np.nextafter(lower[1:], np.inf)), levels[1:])
    np.testing.assert_array_equal(found(np.nextafter(upper[:-1], -np.inf)), levels[:-1])
    at = found(lower[1:])
    assert ((at == levels[1:]) | (at == levels[:-1])).all()


def test_a_tie_of_the_conversion_goes_to_the_even_float32() -> None:
    found = quantizer()
    for threshold in found.thresholds[0, ::17].tolist():
        nearest = float(np.float32(threshold))
        exact = Fraction(threshold)
        other = Fraction(float(np.nextafter(np.float32(nearest), np.float32(np.inf * (threshold - nearest)))))
        assert abs(exact - Fraction(nearest)) == abs(exact - other)
        row = np.full((1, 3), threshold)
        assert found(row)[0, 0] == found(row.astype(np.float32).astype(np.float64))[0, 0]


@settings(deadline=None)
@given(st.floats(-60, 60), st.floats(0, 60))
def test_level_range_holds_every_level_in_between(start: float, length: float) -> None:
    found = quantizer("rint-mul")
    lower, upper = np.full(3, start), np.full(3, start + length)
    smallest, largest = found.level_range(lower, upper)
    inside = found(np.linspace(lower, upper, 101))
    assert (smallest <= inside).all()
    assert (inside <= largest).all()


def test_thresholds_rebuild_the_quantizer() -> None:
    found = quantizer("rint-div")
    again = InputQuantizer(found.thresholds, found.level_lower)
    x = np.random.default_rng(1).normal(0, 20, (1000, 3))
    np.testing.assert_array_equal(found(x), again(x))
    with pytest.raises(ValueError, match="read-only"):
        found.thresholds[0, 0] = 0.0


def test_one_level_may_never_be_taken() -> None:
    """A scale so large that the largest float32 stays below the upper levels."""
    scale = np.array([2.0**124])
    found = InputQuantizer.from_rule("half-away", scale, np.array([0]), -128, 127)
    assert np.isinf(found.thresholds).sum() == 255 - 2 * 16
    assert found(np.array([3.0e38])).tolist() == [14]


@pytest.mark.parametrize("x", [np.nan, np.inf, -np.inf, 2.0**31])
def test_inputs_that_runtimes_wrap_are_refused(x: float) -> None:
    with pytest.raises(RegionError, match="narrow"):
        quantizer()(np.full((1, 3), x))


def test_levels_out_of_range_have_no_cell() -> None:
    with pytest.raises(RegionError, match=r"\[-123, 132\]"):
        quantizer().cell(np.full(3, 133))


def test_mistakes_are_named() -> None:
    with pytest.raises(TargetError, match="half-away, rint-div, rint-mul"):
        InputQuantizer.from_rule("nearest", SCALES, np.zeros(3), -128, 127)
    with pytest.raises(InvalidNetworkError, match="scale"):
        InputQuantizer.from_rule("rint-div", np.array([0.1]), np.zeros(1), -128, 127)
    with pytest.raises(InvalidNetworkError, match="scale"):
        InputQuantizer.from_rule("rint-div", np.array([-1.0]), np.zeros(1), -128, 127)
    with pytest.raises(InvalidNetworkError, match="zero points"):
        InputQuantizer.from_rule("rint-div", SCALES, np.arange(3), -128, 127)
    with pytest.raises(InvalidNetworkError, match="one per input"):
        InputQuantizer.from_rule("rint-div", SCALES, np.arange(2), -128, 127)
    with pytest.raises(InvalidNetworkError, match="no step"):
        InputQuantizer.from_rule("rint-div", SCALES, np.zeros(3), 5, 5)
    with pytest.raises(InvalidNetworkError, match="halfway"):
        InputQuantizer(np.array([[0.5]]), 0)
    with pytest.raises(InvalidNetworkError, match="order"):
        InputQuantizer(quantizer().thresholds[:, ::-1], 0)
    with pytest.raises(InvalidNetworkError, match="2-d"):
        InputQuantizer(np.zeros(3), 0)
    with pytest.raises(InvalidNetworkError, match="reach"):
        InputQuantizer(quantizer().thresholds, 0, np.zeros(3))

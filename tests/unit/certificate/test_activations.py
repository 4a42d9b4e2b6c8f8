"""Bands, images and chords of the float side's activations against enclosures in fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from milpq.certificate.activations import CELLS, Activation, band, line
from milpq.network.curves import CURVES

PAIRS = [(name, width) for name in sorted(CURVES) for width in (0.0, 1e-9, 0.01, 1.0, 30.0)]


def intervals(width: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    lower = rng.normal(size=(20, 1)) * np.array([0.1] * 5 + [1.0] * 10 + [10.0] * 5)[:, None]
    lower[0], lower[1] = 0.0, -width
    return lower, lower + width * rng.uniform(0, 1, lower.shape)


def points(lower: float, upper: float) -> list[Fraction]:
    low, high = Fraction(lower), Fraction(upper)
    return [low + (high - low) * Fraction(k, 9) for k in range(10)]


def whole(name: str) -> Activation:
    return Activation(CURVES[name].lower, CURVES[name].upper, CURVES[name])


@pytest.mark.parametrize(("name", "width"), PAIRS)
def test_bands_and_images_hold_their_curve(name: str, width: float) -> None:
    phi, value = whole(name), intervals(width)
    low, high = phi.image(value)
    slope = phi.secant(value)
    centre, radius = band(phi.graph(value), slope)
    for row, ends in enumerate(zip(*value, strict=True)):
        k, c, r = (Fraction(float(part[row, 0])) for part in (slope, centre, radius))
        for x in points(float(ends[0][0]), float(ends[1][0])):
            least, most = CURVES[name].enclose(x, x)
            assert c - r <= least - k * x and most - k * x <= c + r
            assert Fraction(float(low[row, 0])) <= least and most <= Fraction(float(high[row, 0]))
    if 0 < width <= 1.0:
        # Of second order in the width, but for what values in float64 are off by.
        assert (radius[:, 0] <= 0.1 * (value[1] - value[0])[:, 0] ** 2 + 1e-13).all()


@pytest.mark.parametrize(("name", "width"), PAIRS)
def test_no_chord_between_lines_misses_the_curve(name: str, width: float) -> None:
    phi, value = whole(name), intervals(width)
    lines, low, high, _ = phi.graph(value)
    assert len(lines) == CELLS + 1
    for row in range(len(value[0])):
        for k in range(CELLS):
            x, y = (Fraction(float(end[row, 0])) for end in (lines[k], lines[k + 1]))
            for share in (Fraction(1, 7), Fraction(1, 2), Fraction(9, 10)):
                least, most = CURVES[name].enclose(x + share * (y - x), x + share * (y - x))
                chords = [
                    (1 - share) * Fraction(float(end[k, row, 0]))
                    + share * Fraction(float(end[k + 1, row, 0]))
                    for end in (low, high)
                ]
                assert chords[0] <= least and most <= chords[1]


@pytest.mark.parametrize("slope", [0.0, -3.0, 1e9, 1e300, np.inf, np.nan])
@pytest.mark.parametrize("name", ["clamp", *sorted(CURVES)])
def test_a_line_of_any_slope_holds_its_values_and_is_no_wider_than_a_level_one(
    name: str, slope: float
) -> None:
    phi, value = Activation(-0.3, 0.4) if name == "clamp" else whole(name), intervals(2.0)
    given = np.full_like(value[0], slope)
    with np.errstate(invalid="ignore", over="ignore"):
        along, centre, radius = line(phi.graph(value), given, phi.image(value))
    if not np.isfinite(slope):
        assert not np.isfinite(radius).any()  # a bound that is no number proves nothing
        return
    low, high = phi.image(value)
    assert (radius <= 0.5 * (high - low) * (1 + 1e-8) + 1e-12).all()
    for row, ends in enumerate(zip(*value, strict=True)):
        k, c, r = (Fraction(float(part[row, 0])) for part in (along, centre, radius))
        for x in points(float(ends[0][0]), float(ends[1][0])):
            clamped = min(max(x, Fraction(-0.3)), Fraction(0.4))
            least, most = (clamped, clamped) if name == "clamp" else CURVES[name].enclose(x, x)
            assert c - r <= least - k * x and most - k * x <= c + r


def test_slopes_of_clamps_and_of_the_identity() -> None:
    ends = np.full((1, 1), -1.0), np.full((1, 1), 2.0)
    assert [float(slope[0, 0]) for slope in Activation(0.0, 6.0).slopes(ends, ends)] == [0.0, 1.0]
    assert [float(slope[0, 0]) for slope in Activation(-np.inf, np.inf).slopes(ends, ends)] == [1.0, 1.0]

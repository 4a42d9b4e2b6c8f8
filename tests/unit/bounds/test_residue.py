"""Residue bands against every accumulator of a range."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from milpq.bounds.forward import activation_bounds, residue_band
from milpq.bounds.relaxation import _saturation_planes, relax
from milpq.bounds.residue import Residue
from milpq.bounds.values import Interval, ValueBounds
from milpq.merge import MergedActivation
from milpq.rounding.step import NEVER, StepFunction

CLAMPS = [(0.0, np.inf), (-np.inf, np.inf), (0.0, 6.0), (-np.inf, 0.5), (-0.7, 0.9), (3.0, 4.0), (-9.0, -8.0)]
REACH = 60


def random_node(seed: int, lower: float, upper: float) -> MergedActivation:
    """Return a step of five neurons in three rows, with jumps, thresholds never met and scales of their own."""
    rng = np.random.default_rng(seed)
    columns = int(rng.integers(1, 12))
    thresholds = np.sort(rng.integers(-REACH // 2, REACH // 2, size=(3, columns)), axis=1)
    thresholds[0, : rng.integers(0, 3)] = -NEVER
    thresholds[1, columns - int(rng.integers(0, 3)) :] = NEVER
    values = np.cumsum(rng.integers(0, 3, size=(3, columns + 1)), axis=1) - rng.integers(0, 12)
    rows = np.array([0, 1, 2, 1, 2])
    scale_in = np.array([0.1, 0.2, 0.07, 0.2, 0.11])
    scale_out = np.array([0.5, 0.4, 0.3, 0.4, 0.3])
    return MergedActivation(
        "step", 0, 5, lower, upper, StepFunction(thresholds, values, rows), scale_in, scale_out
    )


def direct(node: MergedActivation, residue: Residue, low: int, high: int):
    """Return (level, base) of every accumulator of a range, shape (accumulators, neurons)."""
    accumulators = np.repeat(np.arange(low, high + 1)[:, None], node.size, axis=1)
    level = node.scale_out * node.step(accumulators)
    base = np.clip(node.scale_in * accumulators, node.lower, node.upper)
    return level, np.clip(base, residue.saturation_lower, residue.saturation_upper)


@pytest.mark.parametrize(("lower", "upper"), CLAMPS)
@pytest.mark.parametrize("seed", range(3))
def test_bands_are_tight_over_every_range(seed, lower, upper):
    node = random_node(seed, lower, upper)
    residue = Residue.of(node)
    level, base = direct(node, residue, -REACH, REACH)
    ends = np.array([(low, high) for low in range(-REACH, REACH, 3) for high in range(low, REACH + 1, 2)])
    first, last = (np.repeat(ends[:, [side]], node.size, axis=1) for side in (0, 1))
    band, image, steps = residue.band(first, last)
    plateau = node.step.plateau(np.repeat(np.arange(-REACH, REACH + 1)[:, None], node.size, axis=1))
    for index, (low, high) in enumerate(ends + REACH):
        stray = (level - base)[low : high + 1]
        assert (band.lower[index] <= stray.min(axis=0)).all() and (
            band.upper[index] >= stray.max(axis=0)
        ).all()
        np.testing.assert_allclose(band.lower[index], stray.min(axis=0), atol=1e-12)
        np.testing.assert_allclose(band.upper[index], stray.max(axis=0), atol=1e-12)
        np.testing.assert_allclose(image.lower[index], level[low], atol=1e-12)
        np.testing.assert_allclose(image.upper[index], level[high], atol=1e-12)
        assert (image.lower[index] <= level[low]).all() and (image.upper[index] >= level[high]).all()
        np.testing.assert_array_equal(steps[index], plateau[high] - plateau[low])


def test_accumulators_keep_every_integer_at_the_ends():
    residue = Residue.of(random_node(0, 0.0, np.inf))
    whole = np.repeat(np.arange(-3000, 3000)[:, None], 5, axis=1) * 715827
    real = whole * residue.scale_in
    low, high = residue.accumulators(Interval(real, real))
    assert (low <= whole).all() and (high >= whole).all()
    assert (high - low <= 1).all()
    wide = np.full((1, 5), 1e300)
    low, high = residue.accumulators(Interval(-wide, wide))
    assert (low < -(2**31)).all() and (high > 2**31).all() and (np.abs(high) < NEVER).all()


def test_wide_ranges_keep_the_integers_at_both_ends():
    residue = Residue.of(random_node(0, 0.0, np.inf))
    whole = np.repeat(np.arange(-3000, 3000)[:, None], 5, axis=1) * 715827
    low, high = residue.accumulators(Interval((whole - 9) * residue.scale_in, whole * residue.scale_in))
    assert (low <= whole - 9).all() and (high >= whole).all()


@pytest.mark.parametrize(("lower", "upper"), CLAMPS)
def test_bands_hold_in_exact_arithmetic(lower, upper):
    """Levels and accumulators in real units have more bits than float64; the bands are rounded outwards."""
    node = random_node(1, lower, upper)
    residue = Residue.of(node)
    inside = np.repeat(np.arange(-REACH, REACH + 1)[:, None], node.size, axis=1)
    number = np.vectorize(Fraction, otypes=[object])
    level = number(node.scale_out) * number(node.step(inside))
    base = np.clip(number(node.scale_in) * number(inside), lower, upper)
    stray = level - np.clip(base, residue.saturation_lower, residue.saturation_upper)
    for low, high in [
        (low, low + wide) for low in range(-REACH, REACH - 40, 7) for wide in (0, 1, 3, 17, 40)
    ]:
        first, last = np.full((1, node.size), low), np.full((1, node.size), high)
        band, image, _ = residue.band(first, last)
        here = slice(low + REACH, high + REACH + 1)
        for side, exact in ((band, stray[here]), (image, level[here])):
            assert (side.lower[0] <= exact.min(axis=0)).all() and (exact.max(axis=0) <= side.upper[0]).all()


def source_bounds(rng: np.random.Generator, node: MergedActivation):
    """Return bounds on a source from a few points, and the points: a of shape (points, neurons), accumulators."""
    low, high = np.sort(rng.integers(-REACH, REACH + 1, size=2))
    accumulators = np.concatenate(
        [np.full((1, 5), low), rng.integers(low, high + 1, size=(60, 5)), np.full((1, 5), high)]
    )
    v = accumulators * node.scale_in
    d = rng.uniform(*np.sort(rng.uniform(-3, 3, size=2)), size=v.shape) * rng.choice([0.01, 1.0])
    a = v - d
    slack = 1e-13

    def around(x) -> Interval:
        return Interval(x.min(axis=0)[None] - slack, x.max(axis=0)[None] + slack)

    return ValueBounds(around(a), around(v), around(d)), a, v, d, accumulators


@pytest.mark.parametrize(("lower", "upper"), CLAMPS)
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("carry", [False, True])
def test_images_and_planes_hold_with_rounding_and_saturation(seed, lower, upper, carry):
    rng = np.random.default_rng(100 + seed)
    node = random_node(seed, lower, upper)
    residue = Residue.of(node)
    for _ in range(5):
        source, a, v, d, accumulators = source_bounds(rng, node)
        band = residue_band(node, residue, source)
        h = np.clip(a, lower, upper)
        phi = np.clip(v, lower, upper)
        delta = node.scale_out * node.step(accumulators) - h
        image = activation_bounds(node, band, source)
        assert (image.difference.lower <= delta + 1e-13).all() and (
            image.difference.upper >= delta - 1e-13
        ).all()
        planes = _saturation_planes(node, band, source.quantized_side)
        cut = np.clip(phi, residue.saturation_lower, residue.saturation_upper) - phi
        assert (
            planes.lower.slope_a * a + planes.lower.slope_d * d + planes.lower.offset <= cut + 1e-12
        ).all()
        assert (
            planes.upper.slope_a * a + planes.upper.slope_d * d + planes.upper.offset >= cut - 1e-12
        ).all()
        relaxed = relax(node, band, source, carry_difference=carry)
        for strip, value in ((relaxed.float_side, h), (relaxed.difference, delta)):
            centre = strip.slope_a * a + strip.slope_d * d + strip.offset
            radius = strip.slope_a_radius * a + strip.slope_d_radius * d + strip.offset_radius
            assert (centre - radius <= value + 1e-12).all() and (centre + radius >= value - 1e-12).all()

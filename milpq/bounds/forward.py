"""One layer forward: interval images of merged nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, Float64Array, Int64Array, Matrix, gamma
from milpq.bounds.curves import curve_difference, image
from milpq.bounds.outward import affine_image, down, largest, up
from milpq.bounds.prepared import Sizes
from milpq.bounds.residue import Residue
from milpq.bounds.values import Interval, ValueBounds
from milpq.merge.domain import Cubes
from milpq.merge.nodes import MergedActivation, MergedAffine
from milpq.merge.problem import Problem


@dataclass(frozen=True, slots=True, eq=False)
class ResidueBand:
    """What the step of a node can add, over the reachable accumulators; shapes (cubes, neurons).

    `steps` counts the thresholds inside the range: 0 where the step is decided.  `saturation_lower` and
    `saturation_upper`, shape (neurons,), are the real values of the extreme codes.
    """

    residue: Interval
    image: Interval
    steps: Int64Array
    saturation_lower: Float64Array
    saturation_upper: Float64Array


def input_bounds(problem: Problem, cubes: Cubes) -> ValueBounds:
    """Return the bounds on the input value of each cube."""
    float_side = Interval(cubes.lower, cubes.upper)
    integer = problem.domain.integer
    if integer is None:
        quantized = float_side
    else:
        scale = integer.scale
        quantized = Interval(down(scale * cubes.level_lower), up(scale * cubes.level_upper))
    return ValueBounds(float_side, quantized, Interval(*problem.domain.difference(cubes)))


def affine_bounds(node: MergedAffine, sizes: tuple[Sizes, ...], values: list[ValueBounds]) -> ValueBounds:
    """Return the interval image of a merged affine node; the difference both as itself and as ``v − a``."""
    float_side = AffineSum(node.float_bias)
    quantized = AffineSum(node.quantized_bias, node.quantized_bias_error)
    difference = AffineSum(node.difference_bias, node.difference_bias_error)
    for term, size in zip(node.terms, sizes, strict=True):
        source = values[term.source]
        float_side.add(term.float_matrix, size.float_matrix, source.float_side)
        quantized.add(term.quantized_matrix, size.quantized_matrix, source.quantized_side)
        difference.add(term.quantized_matrix, size.quantized_matrix, source.difference)
        difference.add(term.difference_matrix, size.difference_matrix, source.float_side)
    return closed(ValueBounds(float_side.interval(), quantized.interval(), difference.interval()), node.name)


def closed(value: ValueBounds, what: str) -> ValueBounds:
    """Return the bounds after each of ``a``, ``v`` and ``d`` has been bounded by the other two."""
    a, v, d = value.float_side, value.quantized_side, value.difference
    d = d.intersect(Interval(down(v.lower - a.upper), up(v.upper - a.lower)), f"the difference of {what!r}")
    v = v.intersect(
        Interval(down(a.lower + d.lower), up(a.upper + d.upper)), f"the quantized side of {what!r}"
    )
    a = a.intersect(Interval(down(v.lower - d.upper), up(v.upper - d.lower)), f"the float side of {what!r}")
    return ValueBounds(a, v, d)


def residue_band(node: MergedActivation, residue: Residue | None, source: ValueBounds) -> ResidueBand | None:
    """Return what rounding adds to the clamp of a node over what bounds leave reachable; None where nothing."""
    if residue is not None:
        band = residue.band(*residue.accumulators(source.quantized_side))
        return ResidueBand(*band, residue.saturation_lower, residue.saturation_upper)
    if node.inexact is None:
        return None
    v = source.quantized_side
    near = node.inexact.band(v.lower, v.upper)
    # Such an operation keeps no table of steps, is never settled, and does not saturate.
    return ResidueBand(
        Interval(near.residue_lower, near.residue_upper),
        Interval(near.lower, near.upper),
        np.full(v.lower.shape, np.iinfo(np.int64).max),
        np.full(node.size, -np.inf),
        np.full(node.size, np.inf),
    )


def activation_bounds(node: MergedActivation, band: ResidueBand | None, source: ValueBounds) -> ValueBounds:
    """Return the interval image of a merged activation.

    *Soundness:* ``φ`` is nondecreasing and 1-Lipschitz, so for ``d >= 0`` its difference lies in ``[0, d]``;
    for a fixed ``d < 0`` the map ``a ↦ φ(a + d) − φ(a)`` falls, stays and rises again, so its maximum lies at
    an end.  Curves: see `milpq.bounds.curves`.
    """
    if node.curve is None:
        float_side, clamped, difference = _clamp_images(node, source)
    else:
        a, v, d = source.float_side, source.quantized_side, source.difference
        float_side, clamped = image(node.curve, a), image(node.curve, v)
        difference = curve_difference(node.curve, a, v, d)
        apart = Interval(down(clamped.lower - float_side.upper), up(clamped.upper - float_side.lower))
        difference = difference.intersect(apart, f"the difference of {node.name!r}")
    if band is None:
        return ValueBounds(float_side, clamped, difference)
    cut = saturation(band, clamped)
    difference = Interval(
        down(difference.lower + cut.lower + band.residue.lower, 3)
        - 4 * UNIT_ROUNDOFF * largest(difference.lower, cut.lower),
        up(difference.upper + cut.upper + band.residue.upper, 3)
        + 4 * UNIT_ROUNDOFF * largest(difference.upper, cut.upper),
    )
    apart = Interval(down(band.image.lower - float_side.upper), up(band.image.upper - float_side.lower))
    return ValueBounds(
        float_side, band.image, difference.intersect(apart, f"the difference of {node.name!r}")
    )


def _clamp_images(node: MergedActivation, source: ValueBounds) -> tuple[Interval, Interval, Interval]:
    """Return the images of ``a`` and of ``v`` under the clamp, and bounds on their difference."""
    a, v, d = source.float_side, source.quantized_side, source.difference

    def clamp(value: Float64Array) -> Float64Array:
        return np.clip(value, node.lower, node.upper)

    float_side = Interval(clamp(a.lower), clamp(a.upper))
    clamped = Interval(clamp(v.lower), clamp(v.upper))

    def moved(start: Float64Array, by: Float64Array) -> tuple[Float64Array, Float64Array]:
        return clamp(down(start + by)) - clamp(start), clamp(up(start + by)) - clamp(start)

    apart_upper, apart_lower = up(clamped.upper - float_side.lower), down(clamped.lower - float_side.upper)
    ends = moved(a.lower, d.upper)[1], moved(a.upper, d.upper)[1]
    upper = np.where(d.upper >= 0, d.upper, up(np.maximum(*ends)))
    ends = moved(a.lower, d.lower)[0], moved(a.upper, d.lower)[0]
    lower = np.where(d.lower <= 0, d.lower, down(np.minimum(*ends)))
    return float_side, clamped, Interval(np.maximum(lower, apart_lower), np.minimum(upper, apart_upper))


def saturation(band: ResidueBand, clamped: Interval) -> Interval:
    """Return bounds on ``base(v) − φ(v)``: what the code range cuts off, nonincreasing in ``φ(v)``."""
    low, high = band.saturation_lower, band.saturation_upper
    at_upper = np.clip(clamped.upper, low, high) - clamped.upper
    at_lower = np.clip(clamped.lower, low, high) - clamped.lower
    return Interval(down(at_upper), up(at_lower))


class AffineSum:
    """Collects centre and radius of a sum of affine images and a bias."""

    def __init__(self, bias: Float64Array, error: Float64Array | float = 0.0) -> None:
        self._parts: list[Float64Array] = [bias[None, :]]
        self._radius: Float64Array = np.zeros((1, len(bias))) + error

    def add(self, matrix: Matrix, size: Matrix, source: Interval) -> None:
        """Add the image of an interval under a matrix, of which `size` holds the absolute values."""
        product, spread = affine_image(matrix, size, source.lower, source.upper)
        self._parts.append(product)
        self._radius = self._radius + spread

    def interval(self) -> Interval:
        """Return the sum, rounded outwards."""
        total = sum(self._parts[1:], self._parts[0])
        magnitude = sum((np.abs(part) for part in self._parts), np.zeros((1, 1)))
        radius = up(self._radius + gamma(len(self._parts) + 2) * magnitude, 2 * len(self._parts) + 2)
        return Interval(down(total - radius), up(total + radius))

"""Backward substitution: linear functionals of a layer, rewritten over the input and bounded there.

A batch of functionals is held as coefficients on the float side ``h`` (or ``a``) and on the difference ``δ``
(or ``d``) of merged values, plus an offset; what is computed is an upper bound of each.  Every rewriting of
the coefficients rounds; the discrepancy multiplies variables with known bounds, so it is added to the offset
at once: *the float coefficients then describe an exact inequality*, and no error has to be carried along.

References: Zhang et al., *Efficient Neural Network Robustness Certification with General Activation
Functions* (CROWN), for one network; the substitution of ``(h, δ)`` pairs is this project's.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, Float64Array, gamma
from milpq.bounds.coefficients import (
    Coefficients,
    dense,
    dot,
    magnitude,
    plus,
    product,
    product_or_none,
    tilted,
    work,
)
from milpq.bounds.hull import Points
from milpq.bounds.outward import TINY, largest
from milpq.bounds.prepared import Sizes
from milpq.bounds.relaxation import Band, Relaxation
from milpq.bounds.settled import Settled
from milpq.bounds.values import Interval, ValueBounds
from milpq.merge.nodes import MergedActivation, MergedAffine, MergedNode
from milpq.network.nodes import apply_matrix

_BAND_SLACK = 64 * UNIT_ROUNDOFF


class Functionals:
    """Upper-bounded linear functionals, shape (cubes, functionals), while they are substituted backwards.

    For every value the pair of its coefficients (on the float side, on the difference); None for zero.  `work` adds
    up what the products cost (`milpq.bounds.coefficients.work`).
    """

    def __init__(self, cubes: int, count: int) -> None:
        self.offset: Float64Array = np.zeros((cubes, count))
        self._slack: Float64Array = np.zeros((cubes, count))
        self.work = 0.0
        self._on: dict[int, tuple[Coefficients | None, Coefficients | None]] = {}

    def add(self, value: int, on_float: Coefficients | None, on_difference: Coefficients | None) -> None:
        """Add coefficients on a value."""
        if value in self._on:
            known = self._on[value]
            on_float, on_difference = plus(known[0], on_float), plus(known[1], on_difference)
        self._on[value] = on_float, on_difference

    def substitute_affine(
        self, value: int, node: MergedAffine, sizes: tuple[Sizes, ...], values: list[ValueBounds]
    ) -> None:
        """Rewrite the coefficients on an affine node's value over its sources.

        ``C_a a + C_d d = (C_a W + C_d ΔW) h + C_d Ŵ δ + C_a b + C_d Δb``
        """
        on_float, on_difference = self._on.pop(value, (None, None))
        if on_float is None and on_difference is None:
            return
        width = sum(term.float_matrix.shape[1] for term in node.terms) + node.size
        error = gamma(width + 16)
        weight_float, weight_difference = affine_weights(node, sizes, values)
        if on_float is not None:
            self.offset = self.offset + dot(on_float, node.float_bias)
            self._slack = self._slack + error * dot(magnitude(on_float), weight_float)
        if on_difference is not None:
            size = magnitude(on_difference)
            self.offset = self.offset + dot(on_difference, node.difference_bias)
            self._slack = self._slack + dot(size, error * weight_difference + node.difference_bias_error)
        for term in node.terms:
            for coefficients, matrices in (
                (on_float, (term.float_matrix,)),
                (on_difference, (term.difference_matrix, term.quantized_matrix)),
            ):
                if coefficients is not None:
                    self.work += sum(work(coefficients, matrix) for matrix in matrices)
            new_float = None if on_float is None else product(on_float, term.float_matrix)
            new_difference = None
            if on_difference is not None:
                new_float = plus(new_float, product_or_none(on_difference, term.difference_matrix))
                new_difference = product(on_difference, term.quantized_matrix)
            self.add(term.source, new_float, new_difference)
        self._slack = self._slack + 4 * UNIT_ROUNDOFF * np.abs(self.offset)

    def substitute_activation(self, value: int, node: MergedActivation, planes: Relaxation) -> None:
        """Replace ``h`` and ``δ`` of an activation by their planes in ``(a, d)``, the side by each sign."""
        on_float, on_difference = self._on.pop(value, (None, None))
        new_float: Coefficients | None = None
        new_difference: Coefficients | None = None
        for coefficients, band, has_difference in (
            (on_float, planes.float_side, False),
            (on_difference, planes.difference, True),
        ):
            if coefficients is None:
                continue
            size = magnitude(coefficients)
            if band.slope_a.any() or band.slope_a_radius.any():
                new_float = plus(new_float, tilted(coefficients, size, band.slope_a, band.slope_a_radius))
            if has_difference:
                new_difference = tilted(coefficients, size, band.slope_d, band.slope_d_radius)
            self._bend(coefficients, size, band)
        if new_float is not None or new_difference is not None:
            self.add(node.source, new_float, new_difference)

    def _bend(self, coefficients: Coefficients, size: Coefficients, band: Band) -> None:
        self.offset = self.offset + (dot(coefficients, band.offset) + dot(size, band.offset_radius))
        error = _BAND_SLACK + gamma(2 * coefficients.shape[-1])
        self._slack = self._slack + error * dot(size, band.weight) + 4 * UNIT_ROUNDOFF * np.abs(self.offset)

    def forget_differences(self, kept: Container[int]) -> None:
        """Drop coefficients on differences of all but the kept values, for differences that are zero."""
        for value, (on_float, on_difference) in list(self._on.items()):
            if on_difference is None or value in kept:
                continue
            if on_float is None:
                del self._on[value]
            else:
                self._on[value] = on_float, None

    def substitute_open(
        self,
        value: int,
        source: int,
        settled: Settled,
        bounds: ValueBounds,
        slopes: tuple[Float64Array, Float64Array],
        points: Points,
        sizes: Float64Array,
    ) -> None:
        """Replace ``h`` and ``δ`` of an activation by slopes of any choice in ``(a, d)`` at its open neurons.

        ``C_h h + C_δ δ <= γ a + η d + m`` with ``m`` the largest ``C_h h + C_δ δ − γ a − η d`` over points
        whose hull holds the graph; settled neurons are rewritten exactly.

        Parameters
        ----------
        slopes : pair of float64, shape (cubes, functionals, open)
            ``γ`` and ``η``.
        points : Points
            Of one node for all functionals, or of one for each.
        sizes : float64, shape (open,)
            At least ``|a| + |v| + |d| + |h| + |z|``.

        *Soundness:* the points and the maximum err by at most 64 roundings of `sizes` times the coefficients.
        """
        on_float, on_difference = self._on.pop(value, (None, None))
        if on_float is None and on_difference is None:
            return
        none = np.zeros((*self.offset.shape, len(settled.h_slope)))
        on_float = none if on_float is None else dense(on_float)
        on_difference = none if on_difference is None else dense(on_difference)
        weight = np.abs(on_float) + np.abs(on_difference)
        self.offset = self.offset + (
            dot(on_float, settled.h_offset) + dot(on_difference, settled.delta_offset)
        )
        reach = sum(
            largest(side.lower, side.upper)
            for side in (bounds.float_side, bounds.quantized_side, bounds.difference)
        )
        offsets = np.abs(settled.h_offset) + np.abs(settled.delta_offset)
        error = gamma(4 * weight.shape[-1] + 32)
        self._slack = self._slack + error * dot(weight, reach + offsets[None])
        new_float = on_float * settled.h_slope + on_difference * settled.delta_a
        new_difference = on_difference * settled.delta_d
        at = settled.neurons
        if len(at):
            gamma_, eta = slopes
            on_h, on_delta = on_float[:, :, at], on_difference[:, :, at]
            best = _largest_at(points, on_h, on_delta, gamma_, eta)
            self.offset = self.offset + best.sum(axis=2)
            tilt = np.abs(on_h) + np.abs(on_delta) + np.abs(gamma_) + np.abs(eta)
            error = (64 + 2 * len(at)) * UNIT_ROUNDOFF
            self._slack = self._slack + error * dot(tilt, sizes)
            new_float[:, :, at], new_difference[:, :, at] = gamma_, eta
        self._slack = self._slack + 8 * UNIT_ROUNDOFF * np.abs(self.offset)
        self.add(source, new_float, new_difference)

    def upper(self, values: list[ValueBounds]) -> Float64Array:
        """Return the upper bounds, over the bounds on the values that have coefficients by now."""
        parts = [
            (coefficients, interval)
            for value, pair in self._on.items()
            for coefficients, interval in zip(
                pair, (values[value].float_side, values[value].difference), strict=True
            )
            if coefficients is not None
        ]
        for coefficients, interval in parts:
            middle = 0.5 * interval.lower + 0.5 * interval.upper
            radius = np.maximum(interval.upper - middle, middle - interval.lower)
            size = magnitude(coefficients)
            self.offset = self.offset + (dot(coefficients, middle) + dot(size, radius))
            error = gamma(2 * coefficients.shape[-1] + 16)
            weight = 2 * largest(interval.lower, interval.upper)
            self._slack = self._slack + error * dot(size, weight) + 4 * UNIT_ROUNDOFF * np.abs(self.offset)
        # The slack is a sum of nonnegative numbers: 1e-9 covers all its own rounding.
        return self.offset + (self._slack * (1 + 1e-9) + 4 * UNIT_ROUNDOFF * np.abs(self.offset) + TINY)


def affine_weights(
    node: MergedAffine, sizes: tuple[Sizes, ...], values: list[ValueBounds]
) -> tuple[Float64Array, Float64Array]:
    """Return what roundings scale with: ``|W||h| + |b|`` and ``|Ŵ||δ| + |ΔW||h| + |Δb|``, (cubes, neurons)."""
    weight_float = np.abs(node.float_bias)[None, :]
    weight_difference = np.abs(node.difference_bias)[None, :]
    for term, size in zip(node.terms, sizes, strict=True):
        source = values[term.source]
        reach = largest(source.float_side.lower, source.float_side.upper)
        gap = largest(source.difference.lower, source.difference.upper)
        weight_float = weight_float + apply_matrix(size.float_matrix, reach)
        weight_difference = (
            weight_difference
            + apply_matrix(size.quantized_matrix, gap)
            + apply_matrix(size.difference_matrix, reach)
        )
    return weight_float * (1 + 1e-9), weight_difference * (1 + 1e-9)


def substitute(
    functionals: Functionals,
    start: int,
    nodes: tuple[MergedNode, ...],
    sizes: tuple[tuple[Sizes, ...], ...],
    values: list[ValueBounds],
    relaxations: dict[int, Relaxation],
    stop: int = 0,
) -> Float64Array:
    """Substitute functionals on values up to `start` back to the values up to `stop`; return their upper bounds.

    Parameters
    ----------
    values : list of ValueBounds
        Bounds on all values below `start`.
    relaxations : dict from value to its Relaxation, for all activations up to `start`
    stop : int
        What is left on this value and those before it is bounded by their own bounds: 0 goes back to the input.
    """
    for value in range(start, stop, -1):
        node = nodes[value - 1]
        if isinstance(node, MergedAffine):
            functionals.substitute_affine(value, node, sizes[value - 1], values)
        else:
            functionals.substitute_activation(value, node, relaxations[value])
    return functionals.upper(values)


def two_sided(bounds: Float64Array) -> Interval:
    """Return the interval of functionals given upper bounds of them and then of their negations."""
    half = bounds.shape[1] // 2
    return Interval(-bounds[:, half:], bounds[:, :half])


def _largest_at(
    points: Points, on_h: Float64Array, on_delta: Float64Array, gamma_: Float64Array, eta: Float64Array
) -> Float64Array:
    """Return the largest ``C_h h + C_δ δ − γ a − η d`` over points, shape (cubes, functionals, open)."""
    total = on_h[..., None] * points.h[None]
    total += on_delta[..., None] * points.delta[None]
    total -= gamma_[..., None] * points.a[None]
    total -= eta[..., None] * points.d[None]
    return total.max(axis=-1)

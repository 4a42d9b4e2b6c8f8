"""The bounds that multipliers give: two networks, one above the other, rewritten backwards over their input.

Let ``a``, ``v`` be what an activation reads on both sides, and ``h = φ(a)``, ``z = φ_q(v)`` what it gives.  For any
numbers ``y``, ``w``, a functional ``p·h + r·z`` of it is at most ``y·a + w·v + m``, where ``m`` is the largest
``p·h + r·z − y·a − w·v`` over all that ``(a, v)`` can be.  Affine maps are rewritten exactly, so going backwards from
``f_q − f`` bounds it over the whole leaf.  A certificate holds ``y`` and ``w``: wrong ones give a weak bound, never a
wrong one.  (Lagrangian duality: with the best ones this is the linear program over the hulls of all activations.)

``m`` is attained at a corner.  The arguments of one neuron lie in a polygon: ``a``, ``v`` and ``d = v − a`` have ends.
Kinks of ``φ``, which are lines ``a = const``, and the ends of the pieces of ``φ_q``, lines ``v = const``, cut it into
parts on which the functional is linear.  So it is largest where two lines of different direction meet.

References: A. Neumaier and O. Shcherbina, *Safe bounds in linear and mixed-integer linear programming* (any multipliers
do).  S. Wang et al., *Beta-CROWN* (backward substitution with optimized slopes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from milpq._arrays import BoolArray, Float64Array, gamma
from milpq.certificate.forms import ROUNDED, TINY, Ends, largest
from milpq.certificate.stairs import Layer
from milpq.certificate.traces import Trace
from milpq.merge import MergedActivation, MergedAffine, Problem

Pair: TypeAlias = tuple[Float64Array, Float64Array]
"""Coefficients on the float side and on the quantized side."""

Given: TypeAlias = "tuple[Corners, Float64Array, Float64Array]"
"""The corners of an activation, and multipliers ``y`` and ``w``."""

_POINTS_AT_ONCE: Final = 1 << 16


def dual_upper(problem: Problem, trace: Trace, objective: int, multipliers: Float64Array) -> Float64Array:
    """Return upper bounds on ``f_q − f`` of an output, or on ``f − f_q``, over leaves, shape (leaves,).

    Parameters
    ----------
    objective : int
        The number of the bound in the claim.
    multipliers : float64, shape (quantities, leaves)
        Of all quantities (see `milpq.certificate.zonotope`), real units.
    """
    start = objectives_of(problem)[:, objective : objective + 1] * np.ones(len(trace.empty))
    first = np.cumsum([0, *(2 * len(layer.a[0]) for layer in trace.layers)])

    def given(number: int, *_: Float64Array) -> Given:
        y, w = np.split(multipliers[first[number] : first[number + 1]], 2)
        return Corners.of(trace.layers[number]), y, w

    return backward(problem, trace, problem.merged.output, (-start, start), given)


def objectives_of(problem: Problem) -> Float64Array:
    """Return the coefficients of the objectives on ``f_q``, minus those on ``f``, shape (outputs, 2·chosen)."""
    unit = np.eye(problem.merged.output_size)[:, problem.outputs]
    return np.concatenate([unit, -unit], axis=1)


def backward(
    problem: Problem,
    trace: Trace,
    value: int,
    functional: Pair,
    multipliers: Callable[[int, Float64Array, Float64Array], Given],
) -> Float64Array:
    """Return upper bounds on functionals of a value, ``p·a + r·v``.

    Parameters
    ----------
    trace : Trace
        Of all that lies in front of the value.
    functional : p, r of shape (neurons, functionals)
        One functional a leaf, or any number of them over one leaf.
    multipliers : callable
        Given the number of an activation of the trace, and the functional of what it gives, returns its corners, and
        ``y`` and ``w``.

    *Soundness:* a coefficient is a sum of N products, so rewriting an affine map is off by at most ``γ_N`` of its
    multipliers times the sizes of all that its rows add up, which the sums over its bias and over the values in front
    of it do not exceed either.  What is added up in the end is in no partial sum larger than all these sizes together.
    So ``γ`` of the widest of these sums and of the last one, of all sizes together, holds every rounding.
    """
    nodes = problem.merged.nodes
    on: dict[int, Pair] = {value: functional}
    total, slack, large = np.zeros((3, functional[0].shape[1]))
    number, widest = sum(isinstance(node, MergedActivation) for node in nodes[:value]), 0
    for front in range(value, -1, -1):
        node = nodes[front - 1] if front else None
        number -= isinstance(node, MergedActivation)
        if front not in on:
            continue
        p, r = on.pop(front)
        widest = max(widest, len(p))
        if isinstance(node, MergedAffine):
            widest = max(widest, sum(term.float_matrix.shape[1] for term in node.terms) + node.size)
            total += node.float_bias @ p + node.quantized_bias @ r
            slack += node.quantized_bias_error @ np.abs(r)
            large += (np.abs(p) * trace.sizes[front][0] + np.abs(r) * trace.sizes[front][1]).sum(axis=0)
            for term in node.terms:
                _add(on, term.source, (term.float_matrix.T @ p, term.quantized_matrix.T @ r))
        else:
            none = np.zeros_like(p)
            corners, y, w = (
                (Corners.of(trace.input), none, none) if node is None else multipliers(number, p, r)
            )
            best, size = corners.most(p, r, y, w)
            total, large = total + best.sum(axis=0), large + size.sum(axis=0)
            if node is not None:
                _add(on, node.source, (y, w))
    upper = total + (slack + gamma(4 * widest + 2 * len(nodes) + 80) * large) * (1 + 1e-9) + TINY
    return np.where(trace.empty, -np.inf, np.nextafter(upper, np.inf))


@dataclass(frozen=True, slots=True, eq=False)
class Corners:
    """The points at which a functional of what an activation reads and gives can be largest.

    *Soundness:* every corner is among them, found within a few roundings of where it is; points that lie outside by a
    few roundings count too.  What more points there are only weakens the bound.

    Parameters
    ----------
    a, v : float64, shape (points, neurons, leaves)
    h, z : Ends
        Of the same shape.
    outside : float64, of the same shape
        Minus infinity where there is no such point, and 0 elsewhere.
    reach : four of float64, shape (neurons, leaves)
        The largest sizes of h, z, a, v.  A line ``v = const`` through an accumulator is off by roundings of ``v``, and
        ``a`` where it is crossed with it, so that of ``v`` is added to those of ``a`` and ``h``.
    """

    a: Float64Array
    v: Float64Array
    h: Ends
    z: Ends
    outside: Float64Array
    reach: tuple[Float64Array, Float64Array, Float64Array, Float64Array]

    @classmethod
    def of(cls, layer: Layer) -> Corners:
        """Return the points of an activation."""
        reach_a, reach_v, reach_z = largest(layer.a), largest(layer.v), largest(layer.z)
        near = 2 * ROUNDED * (reach_a + reach_v + largest(layer.d)) + TINY
        phi, a_lines = layer.stairs.phi, layer.stairs.phi.graph(layer.a)[0]
        v_lines, z_low, z_high, valid = layer.pieces()

        def within(x: Float64Array, ends: Ends) -> BoolArray:
            return (x >= ends[0] - near) & (x <= ends[1] + near)

        found: list[list[Float64Array]] = []

        def add(a: Float64Array, v: Float64Array, z: Ends, inside: BoolArray) -> None:
            outside = np.where(inside, 0.0, -np.inf)
            full = np.broadcast_arrays(a, v, *z, outside)
            found.append(
                [part.reshape(-1, *part.shape[-2:])[inside.any(axis=(-1, -2)).ravel()] for part in full]
            )

        a, v, z = a_lines[:, None], v_lines[None], (z_low[None], z_high[None])
        add(a, v, z, valid & within(v - a, layer.d))
        crossing = v - np.stack(layer.d)[:, None]
        add(crossing, v, z, valid & within(crossing, layer.a))
        crossing = a + np.stack(layer.d)[None]
        add(a, crossing, layer.at(crossing, near), within(crossing, layer.v))
        at_a, at_v, low, high, outside = (np.concatenate(parts) for parts in zip(*found, strict=True))
        h, reach_h = phi.graph(layer.a, at_a)[1:3], largest(phi.image(layer.a))
        reach = reach_h + reach_v, reach_z, reach_a + reach_v, reach_v
        return cls(at_a, at_v, h, (low, high), outside, reach)

    def most(
        self, p: Float64Array, r: Float64Array, y: Float64Array, w: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        """Return the largest ``p·h + r·z − y·a − w·v`` of each neuron, and a size that its roundings are relative to.

        All arrays have shape (neurons, functionals), one functional a leaf or all of them over one leaf.
        """
        best = np.full(p.shape, -np.inf)
        at_once = max(1, _POINTS_AT_ONCE // max(1, p.size))
        for start in range(0, len(self.a), at_once):
            here = slice(start, start + at_once)
            value = np.maximum(p * self.h[0][here], p * self.h[1][here]) - y * self.a[here] - w * self.v[here]
            value += np.maximum(r * self.z[0][here], r * self.z[1][here]) + self.outside[here]
            best = np.maximum(best, value.max(axis=0))
        size = sum(np.abs(x) * reach for x, reach in zip((p, r, y, w), self.reach, strict=True))
        return np.where(best > -np.inf, best, size), np.asarray(size)


def _add(on: dict[int, Pair], value: int, more: Pair) -> None:
    known = on.get(value)
    on[value] = more if known is None else (known[0] + more[0], known[1] + more[1])

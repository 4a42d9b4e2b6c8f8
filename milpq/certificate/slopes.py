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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array, gamma
from milpq.certificate.forms import ROUNDED, TINY, Ends
from milpq.certificate.stairs import Pieces, around
from milpq.certificate.zonotope import Layer, Trace, largest
from milpq.merge import MergedAffine, Problem

_Pair: TypeAlias = tuple[Float64Array, Float64Array]


@dataclass(frozen=True, slots=True, eq=False)
class Multipliers:
    """Multipliers of quantities in a batch of leaves, one entry each; all others are 0.

    Parameters
    ----------
    leaf, quantity : int64, shape (entries,)
        Quantities are numbered as in `milpq.certificate.zonotope.Limits`.
    weight : float64, shape (entries,)
        In real units.
    """

    leaf: Int64Array
    quantity: Int64Array
    weight: Float64Array

    @classmethod
    def of(cls, leaves: Sequence[tuple[Int64Array, Float64Array]]) -> Multipliers:
        """Return the quantities and weights of leaves as one."""
        quantity = [np.zeros(0, dtype=np.int64), *(quantity for quantity, _ in leaves)]
        weight = [np.zeros(0), *(weight for _, weight in leaves)]
        leaf = np.repeat(np.arange(len(leaves), dtype=np.int64), [len(weights) for weights in weight[1:]])
        return cls(leaf, np.concatenate(quantity), np.concatenate(weight))

    def over(self, first: int, count: int, leaves: int) -> Float64Array:
        """Return the multipliers of some quantities, shape (count, leaves)."""
        here = (self.quantity >= first) & (self.quantity < first + count)
        result = np.zeros((count, leaves))
        result[self.quantity[here] - first, self.leaf[here]] = self.weight[here]
        return result


def dual_upper(problem: Problem, trace: Trace, objective: int, multipliers: Multipliers) -> Float64Array:
    """Return upper bounds on ``f_q − f`` of an output, or on ``f − f_q``, over leaves, shape (leaves,).

    Parameters
    ----------
    objective : int
        The number of the bound in the claim.

    *Soundness:* a coefficient is a sum of N products, so rewriting an affine map is off by at most ``γ_N`` of its
    multipliers times the sizes of all that its rows add up, which the sums over its bias and over the values in front
    of it do not exceed either.  What is added up in the end is in no partial sum larger than all these sizes together.
    """
    merged, chosen = problem.merged, problem.outputs
    leaves = len(trace.empty)
    start = np.zeros((merged.output_size, leaves))
    start[int(chosen[objective % len(chosen)])] = 1.0 if objective < len(chosen) else -1.0
    on: dict[int, _Pair] = {merged.output: (-start, start)}
    total, slack, large = np.zeros(leaves), np.zeros(leaves), np.zeros(leaves)
    row = sum(2 * len(layer.a[0]) for layer in trace.layers)
    layers = list(trace.layers)
    for value in range(len(merged.nodes), 0, -1):
        node = merged.nodes[value - 1]
        if isinstance(node, MergedAffine):
            if value not in on:
                continue
            y, w = on.pop(value)
            width = sum(term.float_matrix.shape[1] for term in node.terms) + node.size
            total += node.float_bias @ y + node.quantized_bias @ w
            sizes = trace.sizes[value]
            slack += node.quantized_bias_error @ np.abs(w)
            size = (np.abs(y) * sizes[0] + np.abs(w) * sizes[1]).sum(axis=0)
            slack += gamma(4 * width + 64) * size
            large += size
            for term in node.terms:
                _add(on, term.source, (term.float_matrix.T @ y, term.quantized_matrix.T @ w))
        else:
            layer = layers.pop()
            row -= 2 * node.size
            if value not in on:
                continue
            p, r = on.pop(value)
            y, w = (multipliers.over(first, node.size, leaves) for first in (row, row + node.size))
            best, size = corners(layer, p, r, y, w)
            total += best.sum(axis=0)
            slack += gamma(node.size + 64) * size.sum(axis=0)
            large += size.sum(axis=0)
            _add(on, node.source, (y, w))
    if 0 in on:
        p, r = on.pop(0)
        best, size = corners(trace.input, p, r, np.zeros_like(p), np.zeros_like(r))
        total += best.sum(axis=0)
        slack += gamma(len(p) + 64) * size.sum(axis=0)
        large += size.sum(axis=0)
    upper = total + (slack + gamma(2 * len(merged.nodes) + 16) * large) * (1 + 1e-9) + TINY
    return np.where(trace.empty, -np.inf, np.nextafter(upper, np.inf))


def corners(
    layer: Layer, p: Float64Array, r: Float64Array, y: Float64Array, w: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Return the largest ``p·h + r·z − y·a − w·v`` of each neuron, and a size that its roundings are relative to.

    All arrays have shape (neurons, leaves).

    *Soundness:* every corner is among the points, found within a few roundings of where it is; points that lie outside
    by a few roundings count too.  What more points there are only weakens the bound.
    """
    a_ends, v_ends, d_ends = (np.stack(ends) for ends in (layer.a, layer.v, layer.d))
    reach_a, reach_v, reach_z = largest(layer.a), largest(layer.v), largest(layer.z)
    near = 2 * ROUNDED * (reach_a + reach_v + largest(layer.d)) + TINY
    a_lines, gap = layer.phi.lines(layer.a)
    v_lines, z_low, z_high, valid = _pieces(layer)

    def most(a: Float64Array, v: Float64Array, z: Ends, inside: BoolArray) -> Float64Array:
        h = layer.phi.image((a, a))
        value = np.maximum(p * h[0], p * h[1]) - y * a - w * v + np.maximum(r * z[0], r * z[1])
        return np.where(inside, value, -np.inf).max(axis=(0, 1))

    def within(x: Float64Array, ends: Float64Array) -> BoolArray:
        return (x >= ends[0] - near) & (x <= ends[1] + near)

    a, v, z = a_lines[:, None], v_lines[None], (z_low[None], z_high[None])
    best = most(a, v, z, valid & within(v - a, d_ends))
    crossing = v - d_ends[:, None]
    best = np.maximum(best, most(crossing, v, z, valid & within(crossing, a_ends)))
    crossing = a + d_ends[None]
    best = np.maximum(best, most(a, crossing, _values(layer, crossing, near), within(crossing, v_ends)))
    # A chord is off by the gap at most, and at a crossing the curve is taken for it.
    best = best + 2 * np.abs(p) * gap
    reach_h = largest(layer.phi.image(layer.a))
    size = np.abs(p) * reach_h + np.abs(r) * reach_z + np.abs(y) * reach_a + np.abs(w) * reach_v
    return np.where(best > -np.inf, best, size), size


def _pieces(layer: Layer) -> Pieces:
    if layer.stairs is not None:
        return layer.stairs.pieces(layer.v, layer.z, layer.cut)
    lines, low, high = around(layer.phi, layer.v, layer.cut)
    return lines, low, high, np.ones(lines.shape, dtype=np.bool_)


def _values(layer: Layer, v: Float64Array, near: Float64Array) -> Ends:
    """Return the ends of ``z`` at points ``v``."""
    if layer.stairs is not None:
        return layer.stairs.at(v, near, layer.v, layer.z, layer.cut)
    low, high = around(layer.phi, layer.v, layer.cut, v)[1:]
    return low, high


def _add(on: dict[int, _Pair], value: int, more: _Pair) -> None:
    known = on.get(value)
    on[value] = more if known is None else (known[0] + more[0], known[1] + more[1])

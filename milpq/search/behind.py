"""Bounds on the float network behind a narrow layer, by cubes of that layer.

What lies behind a bottleneck sees the input through a few numbers, however many inputs there are.  So the float
network behind it is bounded as one of few inputs is: the box that its pre-activations are known to lie in is split,
and what holds on every cube holds.  The difference is no function of these numbers alone; but where it is known
which way the float side goes, less is lost on the kinks of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array
from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.bounds.zonotope import supports, zonotope, zonotope_objectives
from milpq.merge import Cubes, MergedAffine, Problem
from milpq.merge.nodes import Merged
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, FloatNode, Smooth, Term
from milpq.region.box import Box
from milpq.search.budget import Budget
from milpq.search.halves import choose, halve
from milpq.search.slopes import influence

FEW: Final = 16
"""Neurons of a layer whose box is split, at most."""

_CUBES: Final = 4_000
"""Cubes that are bounded, at most."""

_MOST_BYTES: Final = 2**28
"""What the bounds that are kept of cubes may take."""

_ROUND: Final = 64
"""Cubes split in one round: the same for any number of workers."""

_BATCH: Final = 16

Ends: TypeAlias = Float64Array
"""Upper ends, and negated lower ends, of the float sides of all affine values, shape (cubes, 2·neurons)."""

Spread: TypeAlias = Callable[
    [Callable[[Cubes], tuple[Ends, Float64Array]], list[Cubes]], Iterable[tuple[Ends, Float64Array]]
]
"""Has a function work on every batch of cubes, perhaps in several threads; results in order, as of ``map``."""


def narrowest(merged: Merged) -> int:
    """Return the narrowest affine value that all behind it is a function of; 0 where none has few neurons.

    Only values behind an activation, and with another affine value between them and the output.
    """
    best, fewest = 0, FEW + 1
    read, between = merged.output, False
    """The first value that anything behind reads, and whether there has been an affine one before the output."""
    for value in range(merged.output, 0, -1):
        node = merged.nodes[value - 1]
        if isinstance(node, MergedAffine):
            if between and read >= value and any(node.sources) and node.size < fewest:
                best, fewest = value, node.size
            between = between or value < merged.output
        read = min(read, *node.sources)
    return best


def compile_behind(problem: Problem) -> None:
    """Have the bounding of what lies behind a narrow layer compiled, if there is one."""
    value = narrowest(problem.merged)
    if value:
        zero = np.zeros(problem.merged.nodes[value - 1].size)
        tail = float_network_behind(problem, value)
        behind = Problem.create(tail, tail, Box(zero, zero))
        if supports(behind.merged):
            zonotope(behind, behind.domain.root)


def bounds_behind(
    problem: Problem, bounds: Bounds, value: int, budget: Budget, spread: Spread = map
) -> Bounds:
    """Tighten the bounds on the float side behind a value.

    Parameters
    ----------
    bounds : Bounds
        Valid on the root of the domain; one cube.
    value : int
        See `narrowest`.
    budget : Budget
    spread : callable
        Where batches run.

    *Soundness:* the float side of every value behind is a function of that of `value`, which lies in its bounds; the
    cubes cover these, and the zonotope's bounds hold on each.  Bounds are only intersected.
    """
    known = bounds.values[value].float_side
    tail = float_network_behind(problem, value)
    behind = Problem.create(tail, tail, Box(known.lower[0], known.upper[0]))
    if not supports(behind.merged):
        return bounds
    ends = _Splitting(behind).run(budget, spread)
    values, start = list(bounds.values), 0
    for index, node in enumerate(behind.merged.nodes, 1):
        if isinstance(node, MergedAffine):
            upper, lower = ends[start : start + node.size], -ends[start + node.size : start + 2 * node.size]
            start += 2 * node.size
            old = values[value + index]
            float_side = old.float_side.intersect(Interval(lower[None], upper[None]), f"layer {node.name!r}")
            values[value + index] = ValueBounds(float_side, old.quantized_side, old.difference)
    return Bounds(tuple(values), bounds.output)


def float_network_behind(problem: Problem, value: int) -> FloatNetwork:
    """Return the float network from a value on, as a function of its float side; as merged, so neurons match."""
    nodes: list[FloatNode] = []
    merged = problem.merged
    for node in merged.nodes[value : merged.output]:
        if isinstance(node, MergedAffine):
            terms = tuple(Term(term.source - value, term.float_matrix) for term in node.terms)
            nodes.append(Affine(node.name, terms, node.float_bias))
        elif node.curve is not None:
            nodes.append(Smooth(node.name, node.source - value, node.curve))
        else:
            nodes.append(Clamp(node.name, node.source - value, node.lower, node.upper))
    return FloatNetwork(merged.nodes[value - 1].size, tuple(nodes), merged.output - value)


class _Splitting:
    """Cubes of the narrow layer; those that bound some neuron from outside are split."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        merged = problem.merged
        self._affine = [v for v, node in enumerate(merged.nodes, 1) if isinstance(node, MergedAffine)]
        neurons = sum(merged.nodes[v - 1].size for v in self._affine)
        self._most = min(_CUBES, _MOST_BYTES // (16 * neurons))

    def run(self, budget: Budget, spread: Spread) -> Float64Array:
        """Return the ends over all cubes, shape (2·neurons,)."""
        domain, cubes = self._problem.domain, self._problem.domain.root
        ends, score = self.bounded(cubes)
        bounded = 1
        while bounded < self._most and not budget.spent:
            rows = _outermost(ends)
            rows = rows[score[rows].any(axis=1)][:_ROUND]
            dimension, possible = choose(domain, cubes.select(rows), score[rows])
            rows, dimension = rows[possible], dimension[possible]
            if not len(rows):
                break
            parts = halve(domain, cubes.select(rows), dimension)
            batches = [parts.select(slice(first, first + _BATCH)) for first in range(0, len(parts), _BATCH)]
            fresh = list(spread(self.bounded, batches))
            kept = np.setdiff1d(np.arange(len(cubes)), rows)
            cubes = Cubes.concatenate([cubes.select(kept), parts])
            # A part is never worse than the cube it is of.
            inherited = np.tile(ends[rows], (2, 1))
            new = np.minimum(np.concatenate([part[0] for part in fresh]), inherited)
            ends = np.concatenate([ends[kept], new])
            score = np.concatenate([score[kept], *(part[1] for part in fresh)])
            bounded += len(parts)
        return ends.max(axis=0)

    def bounded(self, cubes: Cubes) -> tuple[Ends, Float64Array]:
        """Return the ends on each cube, and how much a split along each of its sides promises.

        Nothing where no kink lies inside: the network is affine there, and the ends are its own.
        """
        threshold = np.full(2 * len(self._problem.outputs), np.inf)
        values = zonotope_objectives(self._problem, cubes, threshold, every=True).values
        assert values is not None
        sides = (values.values[value].float_side for value in self._affine)
        ends = np.concatenate([end for side in sides for end in (side.upper, -side.lower)], axis=1)
        score = (cubes.upper - cubes.lower) * influence(self._problem, values)
        return ends, np.where(self._bent(values)[:, None], score, 0.0)

    def _bent(self, values: Bounds) -> BoolArray:
        """Tell on which cubes the network may not be affine."""
        bent = np.zeros(len(values.difference.lower), dtype=np.bool_)
        for node in self._problem.merged.nodes:
            if isinstance(node, MergedAffine):
                continue
            side = values.values[node.source].float_side
            for kink in (node.lower, node.upper):
                # A curve, whose ends are NaN, bends everywhere.
                bent |= ~((side.upper <= kink) | (side.lower >= kink)).all(axis=1)
        return bent


def _outermost(ends: Ends) -> Int64Array:
    """Return the cubes that bound some neuron from outside, those of the most neurons first."""
    cubes, count = np.unique(ends.argmax(axis=0), return_counts=True)
    return cubes[np.argsort(-count, kind="stable")]

"""Lagrangian bounds: multipliers on the pre-activations of open neurons, raised by first-order ascent.

Cut every open neuron off from the layer in front of it: let it choose a point ``(a*, d*, h*, δ*)`` of its
graph freely, and charge ``γ·(a − a*) + η·(d − d*)`` for the mismatch.  For *any* multipliers the largest value
of the objective in the relaxed problem is an upper bound, and it separates: a linear function over the input
box, and one small maximum over the points of `milpq.bounds.hull` for every neuron.  The best multipliers give
the bound of the linear program over the convex hulls; as slopes, ``γ`` and ``η`` are the optimized planes of
α-CROWN for ``(h, δ)`` together, and since the choice of ranges enters only through the points, the
multipliers are also those of β-CROWN when a search splits neurons.

The ascent runs in float32 on the neurons that matter, for many objectives or nodes at once; what is claimed
is a single evaluation with outward rounding (`Lagrangian.certify`) of the multipliers it found.

References: R. Bunel et al., *Lagrangian Decomposition for Neural Network Verification*, UAI 2020; Wang et al.,
*Beta-CROWN*, NeurIPS 2021; D. Kingma and J. Ba, *Adam*, ICLR 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from milpq._arrays import Float64Array, Int64Array, frozen
from milpq.bounds._ascent_kernel import descend
from milpq.bounds.backward import Functionals
from milpq.bounds.hull import OpenActivation, Points, Ranges
from milpq.bounds.outward import largest
from milpq.bounds.prepared import prepared
from milpq.bounds.settled import Settled
from milpq.bounds.sweep import Choice, Float32Array, Sweep, fast
from milpq.bounds.values import Bounds
from milpq.errors import UsageError
from milpq.merge.nodes import MergedAffine
from milpq.merge.problem import Problem

_LAST_RATE = 0.03
"""The step length falls to this part of the first one."""

_NEW, _ON = (0.9, 0.99), (0.6, 0.85)
"""What the running mean and mean square of the gradient keep of themselves: in an ascent from nothing, and in one
that goes on from multipliers that are good but for a few neurons; measured at 12 to 100 steps on mnist_3x100."""


_WORK: Final = 3e7
"""Multiplications of one step of an ascent: at most a tenth of a second or so."""

_MOST_ROWS: Final = 256  # what a core keeps in its caches


def never() -> bool:
    """Return False: what asks this does not stop."""
    return False


@dataclass(frozen=True, slots=True, eq=False)
class Objectives:
    """Linear functionals ``on_float·a + on_difference·d`` of single neurons of one value, to be bounded above.

    Parameters
    ----------
    value : int
    neurons : int64, shape (rows,)
    on_float, on_difference : float64, shape (rows,)
        −1, 0 or 1.
    """

    value: int
    neurons: Int64Array
    on_float: Float64Array
    on_difference: Float64Array

    def __len__(self) -> int:
        return len(self.neurons)

    def select(self, rows: Int64Array | slice) -> Objectives:
        """Return some of the functionals."""
        return Objectives(self.value, self.neurons[rows], self.on_float[rows], self.on_difference[rows])

    def spread(self, size: int) -> tuple[Float64Array, Float64Array]:
        """Return the coefficients on all neurons, shape (rows, size) each."""
        rows = np.arange(len(self.neurons))
        result = np.zeros((2, len(rows), size))
        result[0, rows, self.neurons] = self.on_float
        result[1, rows, self.neurons] = self.on_difference
        return result[0], result[1]


@dataclass(frozen=True, slots=True, eq=False)
class Ascent:
    """What an ascent found; nothing of it is a bound.

    Parameters
    ----------
    value : float32, shape (rows,)
        The least Lagrangian value seen.
    multipliers : float32, shape (rows, 2·open)
        Where it was seen.
    mean : Choice
        The mean of what was chosen in the second half: close to the optimum of the linear program.
    """

    value: Float32Array
    multipliers: Float32Array
    mean: Choice


class Lagrangian:
    """The Lagrangian relaxation of a problem over its whole domain, within known bounds.

    Parameters
    ----------
    problem : Problem
    bounds : Bounds
        Valid on the root of the domain; one cube.
    value : int, optional
        What the objectives will speak about, or lies behind it: nothing farther back is relaxed.  The output when
        omitted.

    Raises
    ------
    UsageError
        An operation of the quantized side is known only within a band.
    """

    def __init__(self, problem: Problem, bounds: Bounds, value: int | None = None) -> None:
        merged, ready = problem.merged, prepared(problem.merged)
        if not merged.is_exact:
            raise UsageError("Lagrangian bounds need every operation exact; use differential")
        if value is not None:
            merged = replace(merged, nodes=merged.nodes[:value], output=value)
        self.problem, self.bounds = problem, bounds
        self._settled: dict[int, Settled] = {}
        self.layers: list[OpenActivation] = []
        self.spans: list[slice] = []
        self.sources: list[int] = []
        """For each activation in order: its open neurons, their place among all, and the value they read."""
        ranges: list[Ranges] = []
        places: dict[int, tuple[slice, int]] = {}
        count = 0
        for index, node in enumerate(merged.nodes):
            if isinstance(node, MergedAffine):
                continue
            source = bounds.values[node.source]
            settled = Settled.of(node, ready.residues[index], source)
            self._settled[index + 1] = settled
            span = slice(count, count + len(settled.neurons))
            places[index + 1] = span, len(self.layers)
            self.layers.append(OpenActivation.of(node, settled.neurons))
            self.spans.append(span)
            self.sources.append(node.source)
            ranges.append(Ranges.of(source, settled.neurons))
            count = span.stop
        self.open = count
        self.ranges = Ranges(
            frozen(np.concatenate([np.zeros((1, 6, 0)), *(r.array for r in ranges)], axis=2))
        )
        self._sweep = Sweep(merged, bounds.values, self._settled, places, count)
        self._sizes: Float64Array = np.concatenate(
            [np.zeros(0), *(self._weights(layer, span) for layer, span in self._layered())]
        )

    def before(self, value: int) -> int:
        """Return how many open neurons lie in front of a value."""
        return sum(
            span.stop - span.start
            for span, source in zip(self.spans, self.sources, strict=True)
            if source < value
        )

    @property
    def rows(self) -> int:
        """How many objectives or nodes are best worked on together."""
        return int(np.clip(_WORK / max(self._sweep.work, 1.0), 2, _MOST_ROWS))

    def widths(self, objectives: Objectives) -> Float64Array:
        """Return the widths of what objectives speak about, by the known bounds, shape (rows,)."""
        value = self.bounds.values[objectives.value]
        wide = [
            (side.upper - side.lower)[0, objectives.neurons] for side in (value.float_side, value.difference)
        ]
        return np.abs(objectives.on_float) * wide[0] + np.abs(objectives.on_difference) * wide[1]

    def points(self, ranges: Ranges, value: int | None = None) -> list[Points]:
        """Return the points of every activation's open neurons over the ranges (nodes, 6, open) of some nodes.

        Of those only that lie in front of `value`, where it is given.
        """
        return [
            layer.points(Ranges(ranges.array[:, :, span]))
            for layer, span, source in zip(self.layers, self.spans, self.sources, strict=True)
            if value is None or source < value
        ]

    def ascend(
        self,
        objectives: Objectives,
        start: Float32Array,
        points: list[Points],
        ranges: Ranges,
        scale: Float64Array,
        steps: int,
        stop: Callable[[], bool] = never,
        changed: Int64Array | None = None,
    ) -> Ascent:
        """Improve multipliers.

        Parameters
        ----------
        start : float32, shape (rows, 2·open)
        points, ranges
            Of one node for all objectives, or of one each.
        scale : float64, shape (rows,)
            Length of the first step: a per cent or so of the width of what is bounded.
        steps : int
        stop : callable
            Asked between steps.
        changed : int64, shape (rows,), optional
            The open neuron of each row whose range is another than when `start` was found: where that is
            better, its multipliers start from the slopes of its chords.
        """
        size = len(self._sweep.live[objectives.value])
        place = np.searchsorted(self._sweep.live[objectives.value], objectives.neurons)
        on_float, on_difference = (
            part.astype(np.float32) for part in replace(objectives, neurons=place).spread(size)
        )
        quick = [fast(part) for part in points]
        widths = _widths(ranges)
        rate = (scale[:, None] / widths).astype(np.float32)
        inverse = (1.0 / widths).astype(np.float32)
        slopes = self._slopes(ranges)
        value, _, choice = self._sweep(
            objectives.value, on_float, on_difference, start, np.zeros_like(slopes), quick
        )
        best_value, best = value, start.copy()
        shifts: Float32Array = np.zeros_like(start)
        keep = _NEW
        if start.any():
            keep = _ON
            on_h, on_delta = choice.weights
            based = slopes[0] * on_h + slopes[1] * on_delta, slopes[2] * on_delta
            shifts = start - np.concatenate(based, axis=1)
        if changed is not None:
            fresh, row = shifts.copy(), np.arange(len(shifts))
            fresh[row, changed] = fresh[row, self.open + changed] = 0.0
            value, _, _ = self._sweep(objectives.value, on_float, on_difference, fresh, slopes, quick)
            shifts = np.where((value < best_value)[:, None], fresh, shifts)
        mean, square = np.zeros_like(shifts), np.zeros_like(shifts)
        taken: list[Float32Array] = []
        decay = _LAST_RATE ** (1.0 / max(steps, 1))
        averaged = 0
        for step in range(1, steps + 1):
            value, gradient, choice = self._sweep(
                objectives.value, on_float, on_difference, shifts, slopes, quick
            )
            better = value < best_value
            best_value = np.where(better, value, best_value)
            best[better] = choice.multipliers[better]
            last = step == steps or stop()
            if 2 * step >= steps or last:
                averaged += 1
                parts = [choice.x, choice.points, choice.weights]
                taken = [old + new for old, new in zip(taken, parts, strict=True)] if taken else parts
            if last:
                break
            length = decay**step / (1 - keep[0] ** step) * np.sqrt(1 - keep[1] ** step)
            descend(shifts, gradient, inverse, rate, mean, square, keep, float(length))
        x, chosen, weights = (part / np.float32(max(averaged, 1)) for part in taken)
        return Ascent(best_value, best, Choice(x, chosen, weights, best))

    def certify(
        self, objectives: Objectives, multipliers: Float32Array, points: list[Points]
    ) -> Float64Array:
        """Return upper bounds on the objectives, shape (rows,), valid in exact arithmetic for any multipliers.

        *Soundness:* backward substitution with outward rounding (`milpq.bounds.backward`); at an open neuron
        the rewriting ``C_h h + C_δ δ ≤ γ a + η d + max over points of (C_h h + C_δ δ − γ a − η d)`` holds by
        what the points are, and 64 units cover their rounding and that of the maximum.
        """
        merged, ready = self.problem.merged, prepared(self.problem.merged)
        values = list(self.bounds.values)
        functionals = Functionals(1, len(objectives))
        size = values[objectives.value].float_side.lower.shape[1]
        on_float, on_difference = (part[None] for part in objectives.spread(size))
        functionals.add(
            objectives.value,
            on_float if on_float.any() else None,
            on_difference if on_difference.any() else None,
        )
        gamma_eta = multipliers.astype(np.float64)
        for value in range(objectives.value, 0, -1):
            node = merged.nodes[value - 1]
            if isinstance(node, MergedAffine):
                functionals.substitute_affine(value, node, ready.sizes[value - 1], values)
                continue
            layer = sum(1 for key in self._settled if key < value)
            span = self.spans[layer]
            functionals.substitute_open(
                value,
                node.source,
                self._settled[value],
                values[node.source],
                (
                    gamma_eta[None, :, span],
                    gamma_eta[None, :, self.open + span.start : self.open + span.stop],
                ),
                points[layer],
                self._sizes[span],
            )
        return functionals.upper(values)[0]

    def _slopes(self, ranges: Ranges) -> Float32Array:
        """Return slopes of ``h`` in ``a`` and of ``δ`` in ``a`` and ``d`` by chords, shape (3, nodes, open)."""
        result = np.zeros((3, *ranges.a[0].shape), dtype=np.float32)
        for layer, span in self._layered():
            h, z = layer.chords(Ranges(ranges.array[:, :, span]))
            result[0, :, span], result[1, :, span], result[2, :, span] = h, z - h, z
        return result

    def _layered(self) -> list[tuple[OpenActivation, slice]]:
        return list(zip(self.layers, self.spans, strict=True))

    def _weights(self, layer: OpenActivation, span: slice) -> Float64Array:
        """Return a bound on ``|a| + |v| + |d| + |h| + |z|``, shape (open,), that roundings scale with."""
        reach = Ranges(self.ranges.array[:, :, span]).largest()
        ends = [abs(kink) for kink in layer.kinks]
        residue = layer.residue
        if layer.node.curve is not None:
            # A curve is at most 1, and points lie no further from it than the size of what they are points of.
            reach = reach + 4.0
            if residue is not None:
                levels = residue.scale_out[:, None] * residue.step.values[residue.step.rows]
                reach = reach + np.abs(levels).max(axis=1)
        elif residue is not None:
            image = largest(residue.saturation_lower, residue.saturation_upper)
            reach = reach + np.minimum(image, 1e300)
        return 2 * reach + sum(ends)


def output_objectives(problem: Problem) -> Objectives:
    """Return the objectives of a problem: ``f_q − f`` of each chosen output, then ``f − f_q``."""
    sign = np.repeat([1.0, -1.0], len(problem.outputs))
    return Objectives(problem.merged.output, np.tile(problem.outputs, 2), np.zeros(len(sign)), sign)


def _widths(ranges: Ranges) -> Float64Array:
    """Return the widths of ``a`` and ``d``, shape (nodes, 2·open), none of them next to zero."""
    (al, au), (dl, du) = ranges.a, ranges.d
    widths = np.concatenate([au - al, du - dl], axis=1)
    least = 1e-3 * np.median(widths, axis=1, keepdims=True) if widths.shape[1] else 0.0
    return np.maximum(widths, least) + 1e-30

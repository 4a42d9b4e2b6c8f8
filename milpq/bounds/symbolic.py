"""Backward linear bounds of the merged network, with and without carrying the difference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array
from milpq.bounds.backward import Functionals, substitute, two_sided
from milpq.bounds.coefficients import unit_functionals
from milpq.bounds.forward import (
    activation_bounds,
    affine_bounds,
    closed,
    input_bounds,
    residue_band,
)
from milpq.bounds.prepared import Prepared, prepared
from milpq.bounds.relaxation import Relaxation, relax
from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.errors import UnsupportedModelError
from milpq.merge.domain import Cubes
from milpq.merge.nodes import Merged, MergedActivation, MergedAffine
from milpq.merge.problem import Problem
from milpq.network.nodes import is_sparse

_FEW_STEPS = 3
"""A step with at most so many thresholds in range is worth tighter accumulators: it may become decided."""

_ENTRIES = 1 << 22
"""Coefficients that a group of functionals through sparse layers may have on one value."""

_WORK = 1e10
"""Multiplications that one substitution through sparse layers may cost, as `milpq.bounds.coefficients.work` counts."""

_BATCH_BYTES = 4_000_000
"""Size of the coefficient arrays of one batch: what two cores keep in their caches."""


def never() -> bool:
    """Return False: what asks this does not stop."""
    return False


def symbolic(problem: Problem, cubes: Cubes, stop: Callable[[], bool] = never) -> Bounds:
    """Bound both networks, and their difference as one functional through both, by backward substitution.

    The two activations of a pair are relaxed apart, as CROWN on the two networks side by side does.

    Parameters
    ----------
    cubes : Cubes
        Parts of the problem's domain, bounded in batches.
    stop : callable
        Asked between passes; once it says True, layers that are left keep their interval bounds, and only the
        differences of the outputs are still bounded.

    *Soundness:* see `milpq.bounds.backward` and `milpq.bounds.planes`; a pass left out bounds nothing.
    """
    return _batched(problem, cubes, carry_difference=False, stop=stop)


def differential(problem: Problem, cubes: Cubes, stop: Callable[[], bool] = never) -> Bounds:
    """Bound ``(a, v, d)`` by backward substitution with the phase cases of each pair of activations.

    The difference of every layer that needs it is bounded as a quantity of its own, and enters the next
    layer's relaxation; intersected with interval bounds throughout.  `stop` as for `symbolic`.

    *Soundness:* see `milpq.bounds.backward` and `milpq.bounds.planes`; a pass left out bounds nothing.
    """
    return _batched(problem, cubes, carry_difference=True, stop=stop)


class Arrays(Protocol):
    """Where the arrays of a batch lie: in numpy, unless placed elsewhere (`milpq.bounds.device`)."""

    @property
    def batch_bytes(self) -> int:
        """Size of the coefficient arrays of one batch."""
        ...

    def put(self, bounds: ValueBounds) -> ValueBounds:
        """Return bounds on the input, from which a propagation starts, with their arrays there."""
        ...

    def fetch(self, bounds: Bounds) -> Bounds:
        """Return bounds with their arrays in numpy."""
        ...


def differential_on(problem: Problem, cubes: Cubes, arrays: Arrays) -> Bounds:
    """Bound ``(a, v, d)`` as `differential`, by the same formulas on arrays that lie elsewhere.

    The values are those of `differential` but for roundings, which both allow for.

    Raises
    ------
    UnsupportedModelError
        As `check_placeable`.
    """
    check_placeable(problem)
    return _batched(problem, cubes, carry_difference=True, arrays=arrays)


def check_placeable(problem: Problem) -> None:
    """Check that the arrays of a problem's propagation may lie elsewhere.

    Raises
    ------
    UnsupportedModelError
        A layer is sparse, or an operation is a curve or known only within a band.
    """
    merged, origin = problem.merged, problem.quantized.origin
    if not (merged.is_exact and merged.is_piecewise_linear):
        raise UnsupportedModelError(f"{origin}: curves and dynamic scales need --device cpu")
    for node in merged.nodes:
        if isinstance(node, MergedAffine) and any(is_sparse(term.quantized_matrix) for term in node.terms):
            raise UnsupportedModelError(f"{origin}: layer {node.name!r} is a convolution; use --device cpu")


def differential_within(
    problem: Problem, cubes: Cubes, assumed: Bounds, stop: Callable[[], bool] = never
) -> Bounds:
    """Bound ``(a, v, d)`` on the points of some cubes that satisfy further bounds, such as decided phases.

    Parameters
    ----------
    assumed : Bounds
        Taken into account at every value, before its consumers are bounded.
    stop : callable
        As of `differential`.

    Raises
    ------
    DisjointBoundsError
        No point of some cube satisfies them.

    *Soundness:* as `differential`; every bound holds at the points of the cubes that satisfy `assumed`.
    """
    start = input_bounds(problem, cubes)
    return _Sweep(problem, len(cubes), start, carry_difference=True, assumed=assumed, stop=stop).run()


def _batched(
    problem: Problem,
    cubes: Cubes,
    *,
    carry_difference: bool,
    arrays: Arrays | None = None,
    stop: Callable[[], bool] = never,
) -> Bounds:
    widest = max([problem.merged.input_size] + [node.size for node in problem.merged.nodes])
    size = _BATCH_BYTES if arrays is None else arrays.batch_bytes
    batch = max(1, size // (16 * widest * min(widest, 64)))
    parts: list[Bounds] = []
    for first in range(0, len(cubes), batch):
        some = cubes.select(slice(first, first + batch))
        start = input_bounds(problem, some)
        start = start if arrays is None else arrays.put(start)
        found = _Sweep(problem, len(some), start, carry_difference=carry_difference, stop=stop).run()
        parts.append(found if arrays is None else arrays.fetch(found))
    return parts[0] if len(parts) == 1 else _concatenate(parts)


class _Sweep:
    """One forward sweep over the layers of a batch of cubes, each layer refined by backward substitution."""

    def __init__(
        self,
        problem: Problem,
        cubes: int,
        start: ValueBounds,
        *,
        carry_difference: bool,
        assumed: Bounds | None = None,
        stop: Callable[[], bool] = never,
    ) -> None:
        self._stop = stop
        self._assumed = assumed
        self._merged: Merged = problem.merged
        self._ready: Prepared = prepared(problem.merged)
        self._carry = carry_difference
        self._values: list[ValueBounds] = [self._within(0, start)]
        self._relaxations: dict[int, Relaxation] = {}
        self._cubes = cubes
        self._consumers = _consumers(problem.merged)
        self._widest = max([problem.merged.input_size] + [node.size for node in problem.merged.nodes])
        self._sparse = cubes == 1 and any(
            is_sparse(term.quantized_matrix)
            for node in problem.merged.nodes
            if isinstance(node, MergedAffine)
            for term in node.terms
        )

    def run(self) -> Bounds:
        """Return the bounds on every value."""
        for index, node in enumerate(self._merged.nodes):
            value = index + 1
            if isinstance(node, MergedAffine):
                bounds = self._within(value, affine_bounds(node, self._ready.sizes[index], self._values))
                # Below the first activation interval bounds are exact but for the input difference.
                if self._relaxations and not self._stop():
                    bounds = self._refine(value, node, bounds)
                self._values.append(bounds)
            else:
                source = self._values[node.source]
                band = residue_band(node, self._ready.residues[index], source)
                self._values.append(self._within(value, activation_bounds(node, band, source)))
                self._relaxations[value] = relax(node, band, source, carry_difference=self._carry)
        output = self._merged.output
        everything = np.arange(self._merged.output_size, dtype=np.int64)
        chosen = np.broadcast_to(everything, (self._cubes, len(everything)))
        difference = self._substitute(output, chosen, on_difference=True)
        known = self._values[output]
        what = "the output difference"
        self._values[output] = ValueBounds(
            known.float_side, known.quantized_side, known.difference.intersect(difference, what)
        )
        return Bounds(tuple(self._values), output)

    def _within(self, value: int, bounds: ValueBounds) -> ValueBounds:
        """Return the bounds of a value intersected with those assumed of it."""
        if self._assumed is None:
            return bounds
        what = f"value {value}"
        return closed(bounds.intersect(self._assumed.values[value], what), what)

    def _refine(self, value: int, node: MergedAffine, bounds: ValueBounds) -> ValueBounds:
        """Tighten the neurons of an affine node whose activation is not settled by interval bounds.

        Only those, so that the bounds of a cube do not depend on the batch it is in.
        """
        wanted = self._unsettled(value, bounds)
        count = int(wanted.sum(axis=1).max(initial=0))
        if count == 0:
            return bounds
        # Each cube's unsettled neurons first; padded with others up to the batch's largest count.
        chosen = np.argsort(~wanted, axis=1, kind="stable")[:, :count]
        kept = np.take_along_axis(wanted, chosen, axis=1)
        float_side = self._substitute(value, chosen, on_difference=False)
        bounds = ValueBounds(
            _scatter(bounds.float_side, float_side, chosen, kept, node.name),
            bounds.quantized_side,
            bounds.difference,
        )
        if self._carry:
            difference = self._substitute(value, chosen, on_difference=True)
            difference = _scatter(bounds.difference, difference, chosen, kept, node.name)
            bounds = ValueBounds(bounds.float_side, bounds.quantized_side, difference)
        else:
            quantized = self._substitute(value, chosen, on_difference=True, on_float=True)
            quantized = _scatter(bounds.quantized_side, quantized, chosen, kept, node.name)
            bounds = ValueBounds(bounds.float_side, quantized, bounds.difference)
        return closed(bounds, node.name)

    def _unsettled(self, value: int, bounds: ValueBounds) -> BoolArray:
        """Tell which neurons an activation relaxes: a kink inside the range, or a step about to be decided."""
        result = np.zeros_like(bounds.float_side.lower, dtype=np.bool_)
        for index in self._consumers.get(value, []):
            node = self._merged.nodes[index]
            assert isinstance(node, MergedActivation)
            for side in (bounds.float_side, bounds.quantized_side):
                for kink in (node.lower, node.upper):
                    if np.isfinite(kink):
                        result |= (side.lower < kink) & (side.upper > kink)
            band = residue_band(node, self._ready.residues[index], bounds)
            if band is not None:
                result |= (band.steps > 0) & (band.steps <= _FEW_STEPS)
                saturates = (bounds.quantized_side.upper > band.saturation_upper) & (
                    bounds.quantized_side.lower < band.saturation_upper
                )
                result |= saturates
            # A dynamic scale is that of the least and the largest neuron; a curve bends everywhere.
            result |= node.inexact is not None or node.curve is not None
        return result

    def _substitute(
        self, value: int, chosen: Int64Array, *, on_difference: bool, on_float: bool | None = None
    ) -> Interval:
        """Bound the chosen neurons' ``a``, ``d`` or ``v = a + d``, shape (cubes, chosen)."""
        on_float = not on_difference if on_float is None else on_float
        size = (
            self._values[value].float_side.lower.shape[1] if value < len(self._values) else self._size(value)
        )
        units = (on_float, on_difference)
        if not self._sparse:
            return two_sided(self._functionals(value, chosen, size, units)[0])
        stop = self._choose_stop(value, chosen, size, units)
        group = max(_ENTRIES // self._widest, 16)
        parts: list[Interval] = []
        for first in range(0, chosen.shape[1], group):
            part = chosen[:, first : first + group]
            if value != self._merged.output and self._stop():
                nothing = np.full(part.shape, np.inf)
                parts.append(Interval(-nothing, nothing))
            else:
                parts.append(two_sided(self._functionals(value, part, size, units, stop)[0]))
        return Interval(
            np.concatenate([part.lower for part in parts], axis=1),
            np.concatenate([part.upper for part in parts], axis=1),
        )

    def _functionals(
        self, value: int, chosen: Int64Array, size: int, units: tuple[bool, bool], stop: int = 0
    ) -> tuple[Float64Array, float]:
        """Return the upper bounds of some functionals and then of their negations, and what they cost."""
        unit = unit_functionals(chosen, size, sparse=self._sparse)
        functionals = Functionals(self._cubes, 2 * chosen.shape[1])
        functionals.add(value, unit if units[0] else None, unit if units[1] else None)
        bounds = substitute(
            functionals, value, self._merged.nodes, self._ready.sizes, self._values, self._relaxations, stop
        )
        return bounds, functionals.work

    def _choose_stop(self, value: int, chosen: Int64Array, size: int, units: tuple[bool, bool]) -> int:
        """Return how far back to substitute: to the input, or as far as the work allows.

        A functional in the middle of the image is tried; the farther back, the more of the image it reads.
        """
        trial = chosen[:, chosen.shape[1] // 2 :][:, :1]
        limit = _WORK / max(chosen.shape[1], 1)
        low, high = 0, value - 1
        while low < high:
            middle = (low + high) // 2
            if self._functionals(value, trial, size, units, middle)[1] <= limit:
                high = middle
            else:
                low = middle + 1
        return low

    def _size(self, value: int) -> int:
        return self._merged.nodes[value - 1].size


def _consumers(merged: Merged) -> dict[int, list[int]]:
    """Return, for each value, the indices of the activations that read it."""
    result: dict[int, list[int]] = {}
    for index, node in enumerate(merged.nodes):
        if isinstance(node, MergedActivation):
            result.setdefault(node.source, []).append(index)
    return result


def _scatter(known: Interval, found: Interval, chosen: Int64Array, kept: BoolArray, what: str) -> Interval:
    """Intersect bounds with those found for the chosen neurons, as far as these are kept."""
    lower, upper = np.full_like(known.lower, -np.inf), np.full_like(known.upper, np.inf)
    np.put_along_axis(lower, chosen, np.where(kept, found.lower, -np.inf), axis=1)
    np.put_along_axis(upper, chosen, np.where(kept, found.upper, np.inf), axis=1)
    return known.intersect(Interval(lower, upper), f"layer {what!r}")


def _concatenate(parts: list[Bounds]) -> Bounds:
    """Return the bounds of several batches as those of one."""

    def join(pieces: list[Interval]) -> Interval:
        return Interval(
            np.concatenate([piece.lower for piece in pieces]),
            np.concatenate([piece.upper for piece in pieces]),
        )

    values = [
        ValueBounds(
            join([value.float_side for value in same]),
            join([value.quantized_side for value in same]),
            join([value.difference for value in same]),
        )
        for same in zip(*(part.values for part in parts), strict=True)
    ]
    return Bounds(tuple(values), parts[0].output)

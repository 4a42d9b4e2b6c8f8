"""How far a step function strays from the clamp it rounds: tight bands from its thresholds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from milpq._arrays import UNIT_ROUNDOFF, Float64Array, Int64Array, frozen
from milpq.bounds.outward import TINY, down, largest, up
from milpq.bounds.values import Interval
from milpq.merge.nodes import MergedActivation
from milpq.network.curves import CURVE_ERROR
from milpq.rounding.step import NEVER, StepFunction

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Residue:
    """Answers, for a step node, what its rounding adds to the clamp ``base`` over reachable accumulators.

    ``base(v) = min(max(φ(v), saturation_lower), saturation_upper)`` is the float activation cut to the real
    values that the codes can represent (a curve is not cut, being bounded), and ``ρ(v) = φ_q(v) − base(v)`` the
    *residue*.  On a plateau ``φ_q`` is constant and ``base`` nondecreasing, so the extremes of ``ρ`` lie at plateau
    ends; sparse tables answer the extremes over any range of whole plateaus in constant time, and the two cut
    plateaus are evaluated at their cut.

    Parameters
    ----------
    kind : int64, shape (neurons,)
        Which table each neuron uses.
    largest, smallest : float64, shape (powers, kinds, columns)
        Extremes of the residue at the left ends of columns ``k`` to ``k + 2^power − 1``, and at the right ends.
    """

    node: MergedActivation
    step: StepFunction
    scale_in: Float64Array
    scale_out: Float64Array
    saturation_lower: Float64Array
    saturation_upper: Float64Array
    kind: Int64Array = field(repr=False)
    largest: Float64Array = field(repr=False)
    smallest: Float64Array = field(repr=False)

    @classmethod
    def of(cls, node: MergedActivation) -> Residue:
        """Build the tables of a node that has a step function."""
        step, scale_in, scale_out = node.step, node.scale_in, node.scale_out
        assert step is not None and scale_in is not None and scale_out is not None
        # Neurons of one row may still have scales of their own: one table per distinct triple.
        triples = np.stack([step.rows.astype(np.float64), scale_in, scale_out], axis=1)
        _, first, kind = np.unique(triples, axis=0, return_index=True, return_inverse=True)
        kind = kind.reshape(-1)  # NumPy 2.0 keeps the axis
        rows, unit, out = step.rows[first], scale_in[first][:, None], scale_out[first][:, None]
        thresholds, values = step.thresholds[rows], step.values[rows]
        bottom = down(out[:, 0] * values[:, 0])
        top = up(out[:, 0] * values[:, -1])
        if node.curve is not None:
            bottom, top = np.full_like(bottom, -np.inf), np.full_like(top, np.inf)

        def base(accumulator: Int64Array) -> Float64Array:
            return np.clip(node.phi(unit * accumulator), bottom[:, None], top[:, None])

        levels = out * values
        slack = _slack(node, np.abs(levels), largest(bottom, top)[:, None]) + TINY
        left = np.full(values.shape, -np.inf)
        right = np.full(values.shape, np.inf)
        left[:, 1:] = np.where(np.abs(thresholds) < NEVER, levels[:, 1:] - base(thresholds), -np.inf)
        right[:, :-1] = np.where(np.abs(thresholds) < NEVER, levels[:, :-1] - base(thresholds - 1), np.inf)
        return cls(
            node,
            step,
            scale_in,
            scale_out,
            frozen(bottom[kind]),
            frozen(top[kind]),
            frozen(kind.astype(np.int64)),
            frozen(_sparse_table(left + slack, np.maximum)),
            frozen(_sparse_table(right - slack, np.minimum)),
        )

    def accumulators(self, quantized: Interval) -> tuple[Int64Array, Int64Array]:
        """Return the integer accumulators inside real bounds, shape (cubes, neurons), rounded outwards.

        Accumulators lie below 2^31, so the relative slack of 2^-50 moves a quotient by less than 2^-19: it
        never drops an integer, and rarely keeps one too many.
        """
        slack = 2.0**-50
        low = quantized.lower / self.scale_in
        high = quantized.upper / self.scale_in
        limit = float(2**40 - 1)
        low = np.clip(np.ceil(low - slack * np.abs(low) - TINY), -limit, limit)
        high = np.clip(np.floor(high + slack * np.abs(high) + TINY), -limit, limit)
        return low.astype(np.int64), np.maximum(low, high).astype(np.int64)

    def band(self, lower: Int64Array, upper: Int64Array) -> tuple[Interval, Interval, Int64Array]:
        """Return bounds over accumulator ranges.

        Parameters
        ----------
        lower, upper : int64, shape (cubes, neurons)

        Returns
        -------
        residue : Interval
            Of ``ρ`` over the range.
        image : Interval
            Of ``φ_q``, real units.
        steps : int64, shape (cubes, neurons)
            Thresholds inside the range; 0 where the step is decided.
        """
        step, kind = self.step, self.kind
        first, last = step.plateau(lower), step.plateau(upper)
        row = step.rows * step.values.shape[1]
        at_lower = self.scale_out * _read(step.values, row + first)
        at_upper = self.scale_out * _read(step.values, row + last)
        low_base, high_base = (self._base(self.scale_in * end) for end in (lower, upper))
        slack = _slack(
            self.node, largest(at_lower, at_upper), largest(self.saturation_lower, self.saturation_upper)
        )
        # max over plateaus first+1..last of their left ends; min over first..last−1 of their right ends
        inside = last - first
        power = (np.frexp(np.maximum(inside, 1).astype(np.float64))[1] - 1).astype(np.int64)
        span = np.left_shift(1, power)
        some = inside > 0
        start = np.where(some, first + 1, 0)
        stop = np.where(some, last - span + 1, 0)
        _, kinds, columns = self.largest.shape
        table = (power * kinds + kind) * columns
        most = np.maximum(_read(self.largest, table + start), _read(self.largest, table + stop))
        start = np.where(some, first, 0)
        stop = np.where(some, last - span, 0)
        least = np.minimum(_read(self.smallest, table + start), _read(self.smallest, table + stop))
        residue_upper = np.maximum(at_lower - low_base + slack, np.where(some, most, -np.inf))
        residue_lower = np.minimum(at_upper - high_base - slack, np.where(some, least, np.inf))
        return Interval(residue_lower, residue_upper), Interval(down(at_lower), up(at_upper)), inside

    def _base(self, real: Float64Array) -> Float64Array:
        return np.clip(self.node.phi(real), self.saturation_lower, self.saturation_upper)


def _slack(node: MergedActivation, levels: Float64Array, base: Float64Array) -> Float64Array:
    """Return what rounding can move a residue by; `base` bounds what the float activation was cut to.

    A curve is at most 1, and moves by less than half of what rounds its argument, relatively: ``|x·f'(x)| < 1/2``.
    """
    if node.curve is None:
        return 8 * UNIT_ROUNDOFF * (levels + base)
    return 8 * UNIT_ROUNDOFF * (levels + 1.0) + CURVE_ERROR


def _read(table: npt.NDArray[Scalar], position: Int64Array) -> npt.NDArray[Scalar]:
    """Return elements of a table by their positions in C order, shape (cubes, neurons), wherever these lie."""
    return np.take_along_axis(table.reshape(1, -1), position, axis=1)


def _sparse_table(ends: Float64Array, extreme: np.ufunc) -> Float64Array:
    """Return ``table[p, kind, k]`` = extreme of ``ends[kind, k : k + 2^p]``, shape (powers, kinds, columns)."""
    table = [ends]
    width = 1
    while 2 * width <= ends.shape[1]:
        wider = table[-1].copy()
        wider[:, :-width] = extreme(table[-1][:, :-width], table[-1][:, width:])
        table.append(wider)
        width *= 2
    return np.stack(table)

"""The quantized side of an activation as the checker bounds it: a clamp or curve, and how far rounding strays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.certificate.activations import Activation, Pieces
from milpq.certificate.forms import ROUNDED, TINY, Ends
from milpq.merge import MergedActivation
from milpq.network.curves import CURVE_ERROR

EXACT: Final = 3
"""Thresholds inside an interval up to which its plateaus are taken one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Staircase:
    """The quantized side ``φ_q``, a step function or real: ``ψ(v) + low <= φ_q(v) <= ψ(v) + high`` everywhere.

    ``ψ`` is the float activation ``φ`` cut to the values of the extreme codes: of a clamp again a clamp, between
    `bottom` and `top`.  All shapes (neurons, 1); without steps `unit` is 1 and ``low = high = 0``.
    """

    node: MergedActivation
    phi: Activation
    unit: Float64Array
    scale: Float64Array
    bottom: Float64Array
    top: Float64Array
    low: Float64Array
    high: Float64Array

    @classmethod
    def of(cls, node: MergedActivation) -> Staircase:
        """Return the staircase of a node.

        *Soundness:* on a plateau ``φ_q`` is constant and ``ψ`` nondecreasing, so ``φ_q − ψ`` is largest at the left
        end of a plateau and smallest at its right end; all ends are evaluated, with eight roundings to spare.  No
        accumulator lies before the first plateau's start or behind the last one's end.
        """
        phi, step, unit, scale = Activation.of(node), node.step, node.scale_in, node.scale_out
        if step is None or unit is None or scale is None:
            one, far = np.ones((node.size, 1)), np.full((node.size, 1), np.inf)
            return cls(node, phi, one, one, *phi.image((-far, far)), 0 * one, 0 * one)
        unit, scale = unit[:, None], scale[:, None]
        ends = scale * np.stack([step.bottom, step.top], axis=1)[step.rows]
        least, most = phi.image((np.full_like(unit, -np.inf), np.full_like(unit, np.inf)))
        bottom, top = np.clip(least, ends[:, :1], ends[:, 1:]), np.clip(most, ends[:, :1], ends[:, 1:])
        low, high = np.empty_like(unit), np.empty_like(unit)
        # Neurons of one channel are alike.
        kinds = np.stack([step.rows, unit[:, 0], scale[:, 0]], axis=1)
        _, first_of, kind_of = np.unique(kinds, axis=0, return_index=True, return_inverse=True)
        for neuron in first_of.tolist():
            row = int(step.rows[neuron])
            start, stop = step.starts[row, :-1], step.starts[row, 1:] - 1
            taken, level = start <= stop, scale[neuron] * step.values[row]
            left, right = (
                np.clip(psi, bottom[neuron], top[neuron])
                for psi in phi.image((unit[neuron] * start, unit[neuron] * stop))
            )
            slack = ROUNDED * (np.abs(ends[neuron]).max() + max(abs(bottom[neuron, 0]), abs(top[neuron, 0])))
            slack += 0.0 if phi.curve is None else 2 * CURVE_ERROR
            high[neuron] = (level - left)[taken].max() + slack + TINY
            low[neuron] = (level - right)[taken].min() - slack - TINY
        same = first_of[kind_of.ravel()]
        return cls(node, phi, unit, scale, bottom, top, low[same], high[same])

    def result(self, v: Ends) -> tuple[Ends, Ends]:
        """Return the ends of ``φ_q(v)`` and those of ``φ_q(v) − φ(v)`` over intervals of shape (neurons, leaves)."""
        phi, step = self.phi.image(v), self.node.step
        if self.node.inexact is not None:
            band = self.node.inexact.band(v[0].T, v[1].T)
            return (band.lower.T, band.upper.T), (band.residue_lower.T, band.residue_upper.T)
        if step is None:
            return phi, (np.zeros_like(phi[0]), np.zeros_like(phi[0]))
        rows, (_, _, start, stop) = step.rows[:, None], self.plateaus(v)
        low, high = self.scale * step.values[rows, start], self.scale * step.values[rows, stop]
        slack = ROUNDED * np.maximum(np.abs(low), np.abs(high))
        # ψ − φ falls: the code range cuts most at the upper end.
        cut = [np.clip(end, self.bottom, self.top) - end for end in phi]
        more = ROUNDED * (np.abs(cut[0]) + np.abs(cut[1]) + np.abs(phi[0]) + np.abs(phi[1]))
        return (low - slack, high + slack), (cut[1] + self.low - more, cut[0] + self.high + more)

    def secant(self, v: Ends) -> Float64Array:
        """Return the slope of ``ψ`` from end to end of intervals."""
        low, high = (np.clip(end, self.bottom, self.top) for end in self.phi.image(v))
        return self.phi.secant(v, (low, high))

    def plateaus(self, v: Ends) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
        """Return the first and the last accumulator in intervals of shape (..., neurons, leaves), and their plateaus.

        *Soundness:* accumulators are integers below 2^31, so a relative slack of 2^−50 on the quotient loses none.
        """
        assert self.node.step is not None
        lower, upper = (end / self.unit for end in v)
        first = np.ceil(np.clip(lower - 2.0**-50 * np.abs(lower) - TINY, -(2.0**40) + 1, 2.0**40 - 1))
        last = np.floor(np.clip(upper + 2.0**-50 * np.abs(upper) + TINY, -(2.0**40) + 1, 2.0**40 - 1))
        whole = first.astype(np.int64), last.astype(np.int64)
        # Step functions take neurons last.
        start, stop = (
            np.swapaxes(self.node.step.plateau(np.swapaxes(end, -1, -2)), -1, -2)
            for end in (whole[0], np.maximum(*whole))
        )
        return *whole, start, stop

    def around(self, value: Float64Array, z: Ends) -> Ends:
        """Return ends of ``φ_q`` of a clamp at some points, given ends of all that is asked about."""
        psi = np.clip(value, self.bottom, self.top)
        slack = ROUNDED * (np.abs(self.low) + np.abs(self.high) + np.maximum(np.abs(z[0]), np.abs(z[1])))
        return np.maximum(psi + self.low, z[0]) - slack, np.minimum(psi + self.high, z[1]) + slack


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One activation over a batch of leaves: what its arguments and results can be.

    Parameters
    ----------
    stairs : Staircase
        ``h = φ(a)`` and ``z = φ_q(v)``.
    a, v, d, z : Ends
        Of shape (neurons, leaves), ``d = v − a``.
    cut : Ends
        Of ``z − φ(v)``: rounding, and what the code range cuts off.
    """

    stairs: Staircase
    a: Ends
    v: Ends
    d: Ends
    z: Ends
    cut: Ends

    def pieces(self) -> Pieces:
        """Return `Pieces` of ``φ_q`` over ``v``: on a few plateaus each plateau, on more of them what rounds ``ψ``.

        That is between ``max(ψ + low, z_l)`` and ``min(ψ + high, z_u)``; of a curve, and of what is known by `cut`
        alone, between ``φ + cut_l`` and ``φ + cut_u``.
        """
        stairs, v, step = self.stairs, self.v, self.stairs.node.step
        if step is None:
            return self._cut()
        first, last, start, stop = stairs.plateaus(v)
        few = stop - start <= EXACT
        rows, k = step.rows[:, None], np.arange(EXACT + 1)[:, None, None]
        plateau = np.minimum(start + k, step.thresholds.shape[1])
        left = np.maximum(step.starts[rows, plateau], first)
        right = np.minimum(step.starts[rows, plateau + 1] - 1, last)
        level = np.tile(stairs.scale * step.values[rows, plateau], (2, 1, 1))
        points = stairs.unit * np.concatenate([left, right])
        counts = few & np.tile((k <= stop - start) & (left <= right), (2, 1, 1))
        if stairs.phi.curve is not None:
            x, low, high, linear = self._cut()
            linear &= ~few
            low, high = np.concatenate([level, low]), np.concatenate([level, high])
            return np.concatenate([points, x]), low, high, np.concatenate([counts, linear])
        bends = (*v, stairs.bottom, stairs.top, self.z[0] - stairs.low, self.z[1] - stairs.high, *v)
        at = np.stack([np.clip(bend, *v) for bend in bends])
        low, high = stairs.around(at, self.z)
        return np.where(few, points, at), np.where(few, level, low), np.where(few, level, high), counts | ~few

    def at(self, value: Float64Array, near: Float64Array) -> Ends:
        """Return the ends of ``φ_q`` at some values, as `pieces` has them; on plateaus of all that are `near`."""
        stairs = self.stairs
        linear = stairs.node.step is None or stairs.phi.curve is not None
        ends = self._cut(value)[1:3] if linear else stairs.around(value, self.z)
        if stairs.node.step is None:
            return ends
        _, _, start, stop = stairs.plateaus(self.v)
        few = stop - start <= EXACT
        z = stairs.result((value - near, value + near))[0]
        return np.where(few, z[0], ends[0]), np.where(few, z[1], ends[1])

    def _cut(self, at: Float64Array | None = None) -> Pieces:
        """Return the pieces of ``φ + cut``."""
        points, low, high, counts = self.stairs.phi.graph(self.v, at)
        slack = ROUNDED * (np.abs(low) + np.abs(high) + np.abs(self.cut[0]) + np.abs(self.cut[1]))
        slack = np.where((self.cut[0] == 0) & (self.cut[1] == 0), 0.0, slack)
        return points, low + self.cut[0] - slack, high + self.cut[1] + slack, counts

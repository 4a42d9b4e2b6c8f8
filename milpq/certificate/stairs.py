"""The quantized side of an activation as the checker bounds it: a clamp or curve, and how far rounding strays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.certificate.activations import Activation, Pieces
from milpq.certificate.forms import ROUNDED, TINY, Ends, largest
from milpq.merge import MergedActivation
from milpq.network.curves import CURVE_ERROR

EXACT: Final = 3
"""Thresholds inside an interval up to which its plateaus are taken one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Staircase:
    """The quantized side ``φ_q``, a step function or real: ``ψ(v) + low <= φ_q(v) <= ψ(v) + high`` everywhere.

    ``ψ`` is the float activation ``φ`` cut to the values of the extreme codes: of a clamp again a clamp.  All shapes
    (neurons, 1); without steps ``ψ = φ``, `unit` is 1 and ``low = high = 0``.
    """

    node: MergedActivation
    phi: Activation
    psi: Activation
    unit: Float64Array
    scale: Float64Array
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
            one = np.ones((node.size, 1))
            return cls(node, phi, phi, one, one, 0 * one, 0 * one)
        # Neurons of one channel are alike.
        kinds = np.stack([step.rows, unit, scale], axis=1)
        _, first_of, kind_of = np.unique(kinds, axis=0, return_index=True, return_inverse=True)
        same, unit, scale = kind_of.ravel(), unit[:, None], scale[:, None]
        far = np.full_like(unit, np.inf)
        ends = [scale * end[step.rows][:, None] for end in (step.bottom, step.top)]
        bottom, top = (np.clip(end, *ends) for end in phi.image((-far, far)))
        low, high = np.empty((2, len(first_of), 1))
        for kind, neuron in enumerate(first_of.tolist()):
            row, psi = int(step.rows[neuron]), Activation(bottom[neuron], top[neuron], phi.curve)
            start, stop = step.starts[row, :-1], step.starts[row, 1:] - 1
            taken, level = start <= stop, scale[neuron] * step.values[row]
            left, right = psi.image((unit[neuron] * start, unit[neuron] * stop))
            slack = ROUNDED * sum(
                max(abs(float(end[neuron, 0])) for end in pair) for pair in (ends, (bottom, top))
            )
            slack += (0.0 if phi.curve is None else 2 * CURVE_ERROR) + TINY
            high[kind] = (level - left)[taken].max() + slack
            low[kind] = (level - right)[taken].min() - slack
        return cls(node, phi, Activation(bottom, top, phi.curve), unit, scale, low[same], high[same])

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
        psi = self.psi.image(v)
        cut = psi[0] - phi[0], psi[1] - phi[1]
        more = ROUNDED * (np.abs(cut[0]) + np.abs(cut[1]) + np.abs(phi[0]) + np.abs(phi[1]))
        return (low - slack, high + slack), (cut[1] + self.low - more, cut[0] + self.high + more)

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
        """Return `Pieces` of ``φ_q`` over ``v``: on a few plateaus each plateau, on more of them lines around it."""
        stairs, step = self.stairs, self.stairs.node.step
        points, low, high, counts = self._lines()
        if step is None:
            return points, low, high, counts
        first, last, start, stop = stairs.plateaus(self.v)
        few = stop - start <= EXACT
        rows, k = step.rows[:, None], np.arange(EXACT + 1)[:, None, None]
        plateau = np.minimum(start + k, step.thresholds.shape[1])
        left = np.maximum(step.starts[rows, plateau], first)
        right = np.minimum(step.starts[rows, plateau + 1] - 1, last)
        level = stairs.scale * step.values[rows, plateau]
        taken = few & (k <= stop - start) & (left <= right)
        return (
            np.concatenate([stairs.unit * left, stairs.unit * right, points]),
            np.concatenate([level, level, low]),
            np.concatenate([level, level, high]),
            np.concatenate([taken, taken, counts & ~few]),
        )

    def at(self, value: Float64Array, near: Float64Array) -> Ends:
        """Return the ends of ``φ_q`` at some values, as `pieces` has them; on plateaus of all that are `near`."""
        _, low, high, _ = self._lines(value)
        if self.stairs.node.step is None:
            return low, high
        _, _, start, stop = self.stairs.plateaus(self.v)
        few = stop - start <= EXACT
        z = self.stairs.result((value - near, value + near))[0]
        return np.where(few, z[0], low), np.where(few, z[1], high)

    def _lines(self, at: Float64Array | None = None) -> Pieces:
        """Return pieces of ``ψ`` and what rounding adds, within `z`; of curves and without steps of ``φ`` and `cut`."""
        stairs, z = self.stairs, self.z
        if stairs.node.step is None or stairs.phi.curve is not None:
            base, rest, within = stairs.phi, self.cut, None
        else:
            base, rest = stairs.psi, (stairs.low, stairs.high)
            within = z[0] - rest[0], z[1] - rest[1]
        points, low, high, counts = base.graph(self.v, at, () if within is None else within)
        slack = ROUNDED * (np.abs(low) + np.abs(high) + np.abs(rest[0]) + np.abs(rest[1]) + largest(z))
        slack = np.where((rest[0] == 0) & (rest[1] == 0), 0.0, slack)
        low, high = low + rest[0], high + rest[1]
        if within is not None:
            low, high = np.maximum(low, z[0]), np.minimum(high, z[1])
        return points, low - slack, high + slack, counts

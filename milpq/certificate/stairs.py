"""Step functions as the checker bounds them: a clamp, and how far rounding strays from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array
from milpq.certificate.activations import Activation
from milpq.certificate.forms import ROUNDED, TINY, Ends, clamp_band, middle
from milpq.merge import MergedActivation
from milpq.network.curves import CURVE_ERROR
from milpq.rounding.step import NEVER, StepFunction

EXACT: Final = 3
"""Thresholds inside an interval up to which its plateaus are taken one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Staircase:
    """A step function against what it rounds: ``ψ(v) + low <= φ_q(v) <= ψ(v) + high`` everywhere.

    ``ψ`` is the float activation ``φ`` cut to the values of the extreme codes: of a clamp again a clamp, between
    `bottom` and `top`.  All shapes (neurons, 1).
    """

    phi: Activation
    step: StepFunction
    unit: Float64Array
    scale: Float64Array
    bottom: Float64Array
    top: Float64Array
    low: Float64Array
    high: Float64Array

    @classmethod
    def of(cls, node: MergedActivation) -> Staircase | None:
        """Return the staircase of a node, None where the quantized side is real.

        *Soundness:* on a plateau ``φ_q`` is constant and ``ψ`` nondecreasing, so ``φ_q − ψ`` is largest at the left
        end of a plateau and smallest at its right end; all ends are evaluated, with eight roundings to spare.
        """
        step, unit, scale = node.step, node.scale_in, node.scale_out
        if step is None or unit is None or scale is None:
            return None
        phi = Activation.of(node)
        rows = np.arange(len(step.values), dtype=np.int64)
        column = np.arange(step.values.shape[1], dtype=np.int64)
        # Plateaus before a threshold at −∞ and after one at +∞ are never taken.
        first = (step.thresholds == -NEVER).sum(axis=1)
        last = step.values.shape[1] - 1 - (step.thresholds == NEVER).sum(axis=1)
        unit, scale = unit[:, None], scale[:, None]
        ends = scale * np.stack([step.values[rows, first], step.values[rows, last]], axis=1)[step.rows]
        least, most = phi.image((np.full_like(unit, -np.inf), np.full_like(unit, np.inf)))
        bottom, top = np.clip(least, ends[:, :1], ends[:, 1:]), np.clip(most, ends[:, :1], ends[:, 1:])
        low, high = np.empty_like(unit), np.empty_like(unit)
        # Neurons of one channel are alike.
        kinds = np.stack([step.rows, unit[:, 0], scale[:, 0]], axis=1)
        _, first_of, kind_of = np.unique(kinds, axis=0, return_index=True, return_inverse=True)
        for neuron in first_of.tolist():
            row = int(step.rows[neuron])
            taken = (column >= first[row]) & (column <= last[row])
            level = scale[neuron] * step.values[row]
            threshold: Float64Array = step.thresholds[row].astype(np.float64)
            never = np.abs(threshold) >= NEVER
            threshold[never] = np.copysign(np.inf, threshold[never])
            starts, stops = np.append(-np.inf, threshold), np.append(threshold - 1, np.inf)
            left, right = (
                np.clip(psi, bottom[neuron], top[neuron])
                for psi in phi.image((unit[neuron] * starts, unit[neuron] * stops))
            )
            slack = ROUNDED * (np.abs(ends[neuron]).max() + max(abs(bottom[neuron, 0]), abs(top[neuron, 0])))
            slack += 0.0 if phi.curve is None else 2 * CURVE_ERROR
            high[neuron] = (level - left)[taken].max() + slack + TINY
            low[neuron] = (level - right)[taken].min() - slack - TINY
        same = first_of[kind_of.ravel()]
        return cls(phi, step, unit, scale, bottom, top, low[same], high[same])

    def band(self, value: Ends) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Return slope, centre and radius with ``|ψ(v) − slope·v − centre| <= radius`` over intervals."""
        if self.phi.curve is None:
            return clamp_band(value, self.bottom, self.top)
        slope, centre, radius = self.phi.band(value)
        low, high = self.phi.image(value)
        missed = np.maximum(np.maximum(high - self.top, self.bottom - low), 0.0)
        return slope, centre, (radius + missed) * (1 + ROUNDED)

    def image(self, value: Ends) -> Ends:
        """Return the least and largest output over intervals of real values, shape (…, neurons, leaves)."""
        first, last = self._accumulators(value)
        levels = (self._by_neuron(self.step, first), self._by_neuron(self.step, np.maximum(first, last)))
        slack = ROUNDED * np.maximum(*(np.abs(self.scale * level) for level in levels))
        return self.scale * levels[0] - slack, self.scale * levels[1] + slack

    def pieces(self, v: Ends, z: Ends, cut: Ends) -> Pieces:
        """Return `Pieces`: on a few plateaus each plateau, on more of them what rounds ``ψ``.

        That is between ``max(ψ + low, z_l)`` and ``min(ψ + high, z_u)``; of a curve between ``φ + cut_l`` and
        ``φ + cut_u``.
        """
        first, last = self._accumulators(v)
        start, inside, few = self._plateaus(first, last)
        rows, most = self.step.rows[:, None], self.step.values.shape[1] - 1
        thresholds = np.pad(self.step.thresholds, ((0, 0), (0, 1)), constant_values=NEVER)
        lines: list[tuple[Float64Array | BoolArray, ...]] = []
        for k in range(EXACT + 1):
            plateau = np.minimum(start + k, most)
            left = first if k == 0 else np.maximum(thresholds[rows, np.maximum(plateau - 1, 0)], first)
            right = np.minimum(thresholds[rows, plateau] - 1, last)
            level = self.scale * self.step.values[rows, plateau]
            there = few & (k <= inside) & (left <= right)
            lines += [(self.unit * end, level, level, there) for end in (left, right)]
        found = [np.stack(part).astype(np.float64) for part in zip(*lines, strict=True)]
        if self.phi.curve is not None:
            points, low, high = around(self.phi, v, cut)
            more = points, low, high, np.broadcast_to(~few, points.shape).astype(np.float64)
            found = [np.concatenate(parts) for parts in zip(found, more, strict=True)]
        elif not few.all():
            cuts = (*v, self.bottom, self.top, z[0] - self.low, z[1] - self.high)
            for line, bend in zip(range(len(lines)), (*cuts, *v), strict=True):
                at = np.clip(bend, *v)
                for part, entry in zip(found, (at, *self._band(at, z), True), strict=True):
                    part[line] = np.where(few, part[line], entry)
        return found[0], found[1], found[2], found[3].astype(np.bool_)

    def at(self, value: Float64Array, near: Float64Array, v: Ends, z: Ends, cut: Ends) -> Ends:
        """Return the ends of the output at some values, as `pieces` has them; on plateaus of all that are `near`."""
        few = self._plateaus(*self._accumulators(v))[2]
        low, high = self.image((value - near, value + near))
        band = self._band(value, z) if self.phi.curve is None else around(self.phi, v, cut, value)[1:]
        return np.where(few, low, band[0]), np.where(few, high, band[1])

    def _band(self, value: Float64Array, z: Ends) -> Ends:
        psi = np.clip(value, self.bottom, self.top)
        return np.maximum(psi + self.low, z[0]), np.minimum(psi + self.high, z[1])

    def _plateaus(self, first: Int64Array, last: Int64Array) -> tuple[Int64Array, Int64Array, BoolArray]:
        """Return the first plateau between accumulators, how many more there are, and whether these are few."""
        start = self._by_neuron(self.step.plateau, first)
        inside = self._by_neuron(self.step.plateau, np.maximum(first, last)) - start
        return start, inside, inside <= EXACT

    def _accumulators(self, value: Ends) -> tuple[Int64Array, Int64Array]:
        """Return the first and the last accumulator in intervals.

        *Soundness:* accumulators are integers below 2^31, so a relative slack of 2^−50 on the quotient loses none.
        """
        lower, upper = (end / self.unit for end in value)
        first = np.ceil(np.clip(lower - 2.0**-50 * np.abs(lower) - TINY, -(2.0**40) + 1, 2.0**40 - 1))
        last = np.floor(np.clip(upper + 2.0**-50 * np.abs(upper) + TINY, -(2.0**40) + 1, 2.0**40 - 1))
        return first.astype(np.int64), last.astype(np.int64)

    @staticmethod
    def _by_neuron(function: Callable[[Int64Array], Int64Array], accumulators: Int64Array) -> Int64Array:
        """Apply what takes neurons last to an array that has leaves last."""
        return np.swapaxes(function(np.swapaxes(accumulators, -1, -2)), -1, -2)


Pieces: TypeAlias = tuple[Float64Array, Float64Array, Float64Array, BoolArray]
"""Lines ``v = const`` between which the ends of the output are linear, these ends on each, and which count; of shape
(lines, neurons, leaves)."""


def around(phi: Activation, v: Ends, cut: Ends, at: Float64Array | None = None) -> tuple[Float64Array, ...]:
    """Return points of ``v``, and lower and upper ends of ``φ + cut`` there, which no chord between misses.

    Parameters
    ----------
    at : float64, shape (..., neurons, leaves), optional
        Points in place of those between which ``φ`` is nearly linear.
    """
    points, gap = phi.lines(v)
    points = points if at is None else at
    low, high = phi.image((points, points))
    # Chords may run by the gap on the other side of the curve than they are to be.
    slack = 2 * gap + ROUNDED * (np.abs(low) + np.abs(high) + np.abs(cut[0]) + np.abs(cut[1]))
    return points, low + cut[0] - slack, high + cut[1] + slack


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """What the quantized side of an activation does on an interval of ``v``, all of shape (neurons, leaves).

    Parameters
    ----------
    slope, centre, noise
        ``|φ_q(v) − slope·v − centre| <= noise``.
    lower, upper
        Ends of ``φ_q(v)``.
    cut_lower, cut_upper
        Ends of ``φ_q(v) − φ(v)``: rounding, and what the code range cuts off.
    """

    slope: Float64Array
    centre: Float64Array
    noise: Float64Array
    lower: Float64Array
    upper: Float64Array
    cut_lower: Float64Array
    cut_upper: Float64Array

    @classmethod
    def of(cls, node: MergedActivation, stairs: Staircase | None, value: Ends) -> Quantized:
        """Describe an activation on an interval."""
        activation = Activation.of(node)
        phi = activation.image(value)
        if node.inexact is not None:
            band = node.inexact.band(value[0].T, value[1].T)
            low, high = band.residue_lower.T, band.residue_upper.T
            return cls(np.ones_like(low), *middle(low, high), band.lower.T, band.upper.T, low, high)
        if stairs is None:
            nothing = np.zeros_like(phi[0])
            return cls(*activation.band(value), *phi, nothing, nothing)
        slope, centre, noise = stairs.band(value)
        rounding_centre, rounding = middle(stairs.low, stairs.high)
        noise = noise + rounding + ROUNDED * (np.abs(centre) + np.abs(rounding_centre))
        image = stairs.image(value)
        # Within one plateau, or a few, a constant is closer than the clamp.
        plateau_centre, plateau = middle(*image)
        flat = plateau <= noise
        slope = np.where(flat, 0.0, slope)
        centre = np.where(flat, plateau_centre, centre + rounding_centre)
        # ψ − φ falls: the code range cuts most at the upper end.
        cut = [np.clip(end, stairs.bottom, stairs.top) - end for end in phi]
        slack = ROUNDED * (np.abs(cut[0]) + np.abs(cut[1]) + np.abs(phi[0]) + np.abs(phi[1]))
        cut_lower, cut_upper = cut[1] + stairs.low - slack, cut[0] + stairs.high + slack
        return cls(slope, centre, np.where(flat, plateau, noise), image[0], image[1], cut_lower, cut_upper)

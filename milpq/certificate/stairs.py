"""Step functions as the checker bounds them: a clamp, and how far rounding strays from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.certificate.forms import ROUNDED, TINY, Ends, clamp_band, middle
from milpq.merge import MergedActivation
from milpq.rounding.step import NEVER, StepFunction


@dataclass(frozen=True, slots=True, eq=False)
class Staircase:
    """A step function against the clamp ``ψ`` that it rounds: ``ψ(v) + low <= φ_q(v) <= ψ(v) + high`` everywhere.

    ``ψ`` is the float activation cut to the values of the extreme codes, again a clamp; all shapes (neurons, 1).
    """

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
        rows = np.arange(len(step.values), dtype=np.int64)
        column = np.arange(step.values.shape[1], dtype=np.int64)
        # Plateaus before a threshold at −∞ and after one at +∞ are never taken.
        first = (step.thresholds == -NEVER).sum(axis=1)
        last = step.values.shape[1] - 1 - (step.thresholds == NEVER).sum(axis=1)
        unit, scale = unit[:, None], scale[:, None]
        ends = scale * np.stack([step.values[rows, first], step.values[rows, last]], axis=1)[step.rows]
        bottom = np.clip(node.lower, ends[:, :1], ends[:, 1:])
        top = np.clip(node.upper, ends[:, :1], ends[:, 1:])
        low, high = np.empty_like(unit), np.empty_like(unit)
        for neuron, row in enumerate(step.rows.tolist()):
            taken = (column >= first[row]) & (column <= last[row])
            level = scale[neuron] * step.values[row]
            threshold = step.thresholds[row].astype(np.float64)
            threshold = np.where(np.abs(threshold) < NEVER, threshold, np.copysign(np.inf, threshold))
            left = np.clip(unit[neuron] * np.append(-np.inf, threshold), bottom[neuron], top[neuron])
            right = np.clip(unit[neuron] * np.append(threshold - 1, np.inf), bottom[neuron], top[neuron])
            slack = ROUNDED * (np.abs(ends[neuron]).max() + max(abs(bottom[neuron, 0]), abs(top[neuron, 0])))
            high[neuron] = (level - left)[taken].max() + slack + TINY
            low[neuron] = (level - right)[taken].min() - slack - TINY
        return cls(step, unit, scale, bottom, top, low, high)

    def image(self, value: Ends) -> Ends:
        """Return the least and largest output over an interval of real values.

        *Soundness:* accumulators are integers below 2^31, so a relative slack of 2^−50 on the quotient loses none.
        """
        lower, upper = (end / self.unit for end in value)
        first = np.ceil(np.clip(lower - 2.0**-50 * np.abs(lower) - TINY, -(2.0**40) + 1, 2.0**40 - 1))
        last = np.floor(np.clip(upper + 2.0**-50 * np.abs(upper) + TINY, -(2.0**40) + 1, 2.0**40 - 1))
        levels = (self._levels(first), self._levels(np.maximum(first, last)))
        slack = ROUNDED * np.maximum(*(np.abs(self.scale * level) for level in levels))
        return self.scale * levels[0] - slack, self.scale * levels[1] + slack

    def _levels(self, accumulators: Float64Array) -> Int64Array:
        return self.step(accumulators.T.astype(np.int64)).T


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
        phi = [np.clip(end, node.lower, node.upper) for end in value]
        if stairs is None:
            nothing = np.zeros_like(phi[0])
            slope, centre, noise = clamp_band(value, node.lower, node.upper)
            return cls(slope, centre, noise, phi[0], phi[1], nothing, nothing)
        slope, centre, noise = clamp_band(value, stairs.bottom, stairs.top)
        rounding_centre, rounding = middle(stairs.low, stairs.high)
        noise = noise + rounding + ROUNDED * (np.abs(centre) + np.abs(rounding_centre))
        image = stairs.image(value)
        # Within one plateau, or a few, a constant is closer than the clamp.
        plateau_centre, plateau = middle(*image)
        flat = plateau <= noise
        slope = np.where(flat, 0.0, slope)
        centre = np.where(flat, plateau_centre, centre + rounding_centre)
        # ψ − φ falls: the code range cuts most at the upper end.
        cut = [np.clip(end, stairs.bottom, stairs.top) - inner for end, inner in zip(value, phi, strict=True)]
        slack = ROUNDED * (np.abs(cut[0]) + np.abs(cut[1]) + np.abs(phi[0]) + np.abs(phi[1]))
        cut_lower, cut_upper = cut[1] + stairs.low - slack, cut[0] + stairs.high + slack
        return cls(slope, centre, np.where(flat, plateau, noise), image[0], image[1], cut_lower, cut_upper)

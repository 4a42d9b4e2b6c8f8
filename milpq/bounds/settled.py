"""Which neurons of an activation are affine in ``(a, d)`` over known bounds, and which stay open."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array
from milpq.bounds.residue import Residue
from milpq.bounds.values import ValueBounds
from milpq.merge.nodes import MergedActivation


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """``h = h_slope·a + h_offset`` and ``δ = delta_a·a + delta_d·d + delta_offset`` where not open.

    Parameters
    ----------
    h_slope, h_offset, delta_a, delta_d, delta_offset : float64, shape (neurons,)
        Slopes are −1, 0 or 1; all are zero at open neurons.
    neurons : int64, shape (open,)
        The open ones: a kink in reach of either side, or a step that is not decided.

    *Soundness:* slopes are exact, offsets within two roundings.
    """

    h_slope: Float64Array
    h_offset: Float64Array
    delta_a: Float64Array
    delta_d: Float64Array
    delta_offset: Float64Array
    neurons: Int64Array

    @classmethod
    def of(cls, node: MergedActivation, residue: Residue | None, source: ValueBounds) -> Settled:
        """Classify the neurons of an activation over bounds on its source, one cube."""
        h_slope, h_offset, float_open = _clamp(node, source.float_side.lower[0], source.float_side.upper[0])
        if residue is None:
            z_slope, z_offset, z_open = _clamp(
                node, source.quantized_side.lower[0], source.quantized_side.upper[0]
            )
        else:
            low, high = residue.accumulators(source.quantized_side)
            step = residue.step
            first = step.plateau(low)[0]
            z_open = first != step.plateau(high)[0]
            z_slope = np.zeros(node.size)
            z_offset = residue.scale_out * step.values[step.rows, first]
        open_ = float_open | z_open
        kept = np.where(open_, 0.0, 1.0)
        return cls(
            kept * h_slope,
            kept * h_offset,
            kept * (z_slope - h_slope),
            kept * z_slope,
            kept * (z_offset - h_offset),
            np.flatnonzero(open_),
        )

    @property
    def live(self) -> BoolArray:
        """Where the activation is not zero throughout, shape (neurons,)."""
        parts = (self.h_slope, self.h_offset, self.delta_a, self.delta_d, self.delta_offset)
        result = np.any([part != 0.0 for part in parts], axis=0)
        result[self.neurons] = True
        return result


def _clamp(
    node: MergedActivation, lower: Float64Array, upper: Float64Array
) -> tuple[Float64Array, Float64Array, BoolArray]:
    """Return slope, offset and openness of ``φ`` over intervals."""
    inside = (lower >= node.lower) & (upper <= node.upper)
    below, above = upper <= node.lower, lower >= node.upper
    ends = np.where(below, node.lower, node.upper)
    offset = np.where(~inside & (below | above), ends, 0.0)
    return inside.astype(np.float64), offset, ~(inside | below | above)

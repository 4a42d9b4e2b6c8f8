"""Bounds on every value of the whole domain, as a journal keeps them: searches name their nodes within these."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import Float64Array
from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.search.checkpoint import Arrays, packed, unpacked


@dataclass(frozen=True, slots=True, eq=False)
class BoundsState:
    """What the stages before a search have found.

    Parameters
    ----------
    stage : str
        The last of them.
    bounds : Bounds
        On the whole domain.
    upper : float64, shape (objectives,)
        Upper bounds on the objectives that rest on nobody's claim.
    """

    stage: str
    bounds: Bounds
    upper: Float64Array

    def arrays(self) -> Arrays:
        """Return what a journal keeps."""
        result: Arrays = {
            "stage": packed(self.stage),
            "output": np.array([self.bounds.output]),
            "upper": self.upper,
        }
        for index, value in enumerate(self.bounds.values):
            sides = (value.float_side, value.quantized_side, value.difference)
            ends = [end[0] for side in sides for end in (side.lower, side.upper)]
            result[f"value{index}"] = np.stack(ends)
        return result

    @classmethod
    def of(cls, arrays: Arrays) -> BoundsState:
        """Return the state that a journal has kept."""
        values: list[ValueBounds] = []
        for index in range(len(arrays) - 3):
            part = arrays[f"value{index}"]
            sides = [Interval(part[2 * i : 2 * i + 1], part[2 * i + 1 : 2 * i + 2]) for i in range(3)]
            values.append(ValueBounds(*sides))
        return cls(
            unpacked(arrays["stage"]), Bounds(tuple(values), int(arrays["output"][0])), arrays["upper"]
        )

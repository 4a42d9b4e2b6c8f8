"""Bounds on every value of the whole domain, as a journal keeps them: searches name their nodes within these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from milpq._arrays import Float64Array
from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.merge import Problem
from milpq.search.checkpoint import Arrays, fitting_array, packed, unpacked

KEPT: Final = ("optimized", "inside", "lp")
"""The stages whose bounds a journal keeps, in the order of a run: the last ones contain those before."""


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
    def of(cls, arrays: Arrays, problem: Problem) -> BoundsState:
        """Return the state that a journal has kept.

        Raises
        ------
        KeyError, ValueError
            It does not fit the problem.
        """
        merged, values = problem.merged, list[ValueBounds]()
        for index, size in enumerate((merged.input_size, *(node.size for node in merged.nodes))):
            part = fitting_array(arrays, f"value{index}", "f8", 6, size)
            if (part[::2] > part[1::2]).any():
                raise ValueError(f"value{index}: bounds are inverted")
            sides = [Interval(part[2 * i : 2 * i + 1], part[2 * i + 1 : 2 * i + 2]) for i in range(3)]
            values.append(ValueBounds(*sides))
        stage = unpacked(arrays["stage"])
        if stage not in KEPT or fitting_array(arrays, "output", "i8", 1)[0] != merged.output:
            raise ValueError(f"stage {stage!r}, output {arrays['output']}")
        upper = fitting_array(arrays, "upper", "f8", 2 * len(problem.outputs))
        return cls(stage, Bounds(tuple(values), merged.output), upper)

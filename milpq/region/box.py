"""The input region: a box of real inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array, frozen
from milpq.errors import RegionError


@dataclass(frozen=True, slots=True, eq=False)
class Box:
    """The closed box ``lower <= x <= upper`` of real inputs.

    Parameters
    ----------
    lower, upper : array-like of float, shape (inputs,)

    Raises
    ------
    RegionError
        The ends differ in length, hold NaN or infinity, or are inverted.
    """

    lower: Float64Array
    upper: Float64Array

    def __init__(self, lower: npt.ArrayLike, upper: npt.ArrayLike) -> None:
        try:
            ends = [np.atleast_1d(np.array(end, dtype=np.float64)) for end in (lower, upper)]
        except (TypeError, ValueError) as error:
            raise RegionError(f"region: the ends are not lists of numbers ({error})") from error
        low, high = (end.ravel() for end in ends)
        if low.shape != high.shape:
            raise RegionError(f"region: lower has {len(low)} entries but upper has {len(high)}")
        if low.size == 0:
            raise RegionError("region: empty, it has no inputs")
        for name, end in (("lower", low), ("upper", high)):
            wrong = np.flatnonzero(~np.isfinite(end))
            if len(wrong):
                raise RegionError(f"region: {name}[{wrong[0]}] is {end[wrong[0]]}, not a finite number")
        inverted = np.flatnonzero(low > high)
        if len(inverted):
            i = inverted[0]
            raise RegionError(f"region: inverted at input {i}, lower {low[i]} > upper {high[i]}")
        object.__setattr__(self, "lower", frozen(low.copy()))
        object.__setattr__(self, "upper", frozen(high.copy()))

    @property
    def size(self) -> int:
        """Number of inputs."""
        return len(self.lower)

    def check_size(self, inputs: int) -> None:
        """Raise RegionError unless the box has that many inputs."""
        if self.size != inputs:
            raise RegionError(f"region: has {self.size} inputs, but the networks have {inputs}")

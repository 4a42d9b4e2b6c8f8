"""The inputs that can really be fed to a runtime: codes, or float32 numbers inside the box."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from milpq._arrays import Float64Array, Int64Array, frozen
from milpq.merge import Cubes, Problem
from milpq.search.execution import quantized_levels


@dataclass(frozen=True, slots=True, eq=False)
class FeedableInputs:
    """The feedable inputs of a problem: where witnesses are looked for.

    Parameters
    ----------
    problem : Problem

    Attributes
    ----------
    lower, upper : float64, shape (inputs,)
        The smallest and largest feedable value of each input.  An input whose interval holds no float32
        number keeps its float64 lower end: such a witness replays in milpq, and in the runtime up to its
        first rounding.
    """

    problem: Problem
    lower: Float64Array = field(init=False)
    upper: Float64Array = field(init=False)

    def __post_init__(self) -> None:
        root = self.problem.domain.root
        lower, upper = root.lower[0], root.upper[0]
        if self.problem.domain.kind != "codes":
            lower, upper = inward_float32(lower, upper)
            none = lower > upper
            lower = np.where(none, root.lower[0], lower)
            upper = np.where(none, root.lower[0], upper)
        object.__setattr__(self, "lower", frozen(np.array(lower)))
        object.__setattr__(self, "upper", frozen(np.array(upper)))

    @property
    def on_codes(self) -> bool:
        """Tell whether only codes are fed."""
        return self.problem.domain.kind == "codes"

    @property
    def size(self) -> int:
        """Number of inputs."""
        return len(self.lower)

    def snap(self, points: Float64Array) -> Float64Array:
        """Return the nearest feedable inputs, shape (points, inputs)."""
        integer = self.problem.domain.integer
        if self.on_codes:
            assert integer is not None
            return integer.float_value(self.levels(points))
        narrow = np.clip(points, self.lower, self.upper).astype(np.float32).astype(np.float64)
        return np.clip(narrow, self.lower, self.upper)

    def levels(self, points: Float64Array) -> Int64Array:
        """Return the levels the integer side reads, shape (points, inputs); zero without an integer side."""
        domain = self.problem.domain
        if domain.integer is None:
            return np.zeros(points.shape, dtype=np.int64)
        levels = quantized_levels(self.problem, points)
        if self.on_codes:
            levels = np.clip(levels, domain.root.level_lower, domain.root.level_upper)
        return levels

    def points_of_levels(self, levels: Int64Array, near: Float64Array) -> Float64Array:
        """Return feedable inputs that read as `levels`, closest to `near`, shape (points, inputs).

        A level without feedable inputs gets the feedable input closest to `near`: its own ends, empty as they are, may
        lie outside of the box.
        """
        integer = self.problem.domain.integer
        if integer is None:
            return self.snap(near)
        root = self.problem.domain.root
        levels = np.clip(levels, root.level_lower, root.level_upper)
        if self.on_codes:
            return integer.float_value(levels)
        lower, upper = self.cell_ends(levels)
        narrow = self.snap(near)
        return np.where(lower <= upper, np.clip(narrow, lower, np.maximum(lower, upper)), narrow)

    def cell_ends(self, levels: Int64Array) -> tuple[Float64Array, Float64Array]:
        """Return the least and the greatest feedable input of each level, shape (points, inputs) each.

        For float32 inputs these lie just inside the quantizer's thresholds.  The interval is empty (lower
        above upper) for a level that no feedable input reads as.
        """
        integer = self.problem.domain.integer
        if integer is None:
            shape = levels.shape
            return np.broadcast_to(self.lower, shape), np.broadcast_to(self.upper, shape)
        if self.on_codes:
            value = integer.float_value(levels)
            return value, value
        assert integer.quantizer is not None
        cell_lower, cell_upper = integer.quantizer.cell(levels)
        lower, upper = inward_float32(np.maximum(cell_lower, self.lower), np.minimum(cell_upper, self.upper))
        # A cell closes at the midpoint of two float32 numbers, so its inward ends are members of the level.
        single = self.lower == self.upper
        return np.where(single, self.lower, lower), np.where(single, self.upper, upper)

    def random(self, generator: np.random.Generator, count: int) -> Float64Array:
        """Return uniform feedable inputs, shape (count, inputs)."""
        domain = self.problem.domain
        if self.on_codes:
            assert domain.integer is not None
            levels = generator.integers(
                domain.root.level_lower, domain.root.level_upper, size=(count, self.size), endpoint=True
            )
            return domain.integer.float_value(levels)
        return self.snap(self.lower + (self.upper - self.lower) * generator.random((count, self.size)))

    def inside(self, cubes: Cubes, points: Float64Array) -> tuple[Float64Array, np.ndarray]:
        """Move one point into each cube, feedable where the cube has feedable inputs there.

        Parameters
        ----------
        points : float64, shape (cubes, inputs)

        Returns
        -------
        points : float64, shape (cubes, inputs)
            Inside the real box of each cube.
        feedable : bool, shape (cubes,)
        """
        if self.on_codes:
            integer = self.problem.domain.integer
            assert integer is not None
            levels = np.rint(points / integer.float_scale).astype(np.int64)
            levels = np.clip(levels, cubes.level_lower, cubes.level_upper)
            return integer.float_value(levels), np.ones(len(points), dtype=np.bool_)
        lower, upper = inward_float32(cubes.lower, cubes.upper)
        some = lower <= upper
        narrow = np.clip(points, lower, np.maximum(lower, upper)).astype(np.float32).astype(np.float64)
        inside = np.where(some, narrow, np.clip(points, cubes.lower, cubes.upper))
        return inside, (some | (inside == self.lower)).all(axis=1)


def inward_float32(lower: Float64Array, upper: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return the least float32 number >= lower and the greatest <= upper, as float64."""
    low, high = lower.astype(np.float32), upper.astype(np.float32)
    low = np.where(low < lower, np.nextafter(low, np.float32(np.inf)), low)
    high = np.where(high > upper, np.nextafter(high, np.float32(-np.inf)), high)
    return low.astype(np.float64), high.astype(np.float64)

"""Moves of the witness search: from parents to children, all of them at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array, frozen
from milpq.search.gradient import difference_gradient
from milpq.search.inputs import FeedableInputs

_GRID_LEVELS = 256
"""Steps that a real input without codes is seen to have."""


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """Makes children of points; every child is a feedable input.

    Parameters
    ----------
    inputs : FeedableInputs
    """

    inputs: FeedableInputs
    width: Float64Array = field(init=False)
    unit: Float64Array = field(init=False)

    def __post_init__(self) -> None:
        width = self.inputs.upper - self.inputs.lower
        integer = self.inputs.problem.domain.integer
        unit = width / _GRID_LEVELS if integer is None else integer.float_scale
        object.__setattr__(self, "width", frozen(width.copy()))
        object.__setattr__(self, "unit", frozen(np.minimum(unit, width)))

    def children(
        self, generator: np.random.Generator, points: Float64Array, objective: Int64Array, brood: int
    ) -> Float64Array:
        """Return `brood` children of each point, shape (points, brood, inputs).

        Equal parts follow the gradient of the point's objective, move single inputs, move a few inputs by a
        code or two, move all inputs at random by lengths of every scale, and mix in another point.  Within
        the cells of an input quantizer, half of the children then go to the end that the float side prefers.
        """
        through_quantized, through_float = difference_gradient(self.inputs.problem, points, objective)
        part = max(1, brood // 5)
        parts = [
            self._along(generator, points, through_quantized + through_float, part),
            self._coordinates(generator, points, part),
            self._neighbours(generator, points, part),
            self._cloud(generator, points, part),
            self._mixtures(generator, points, objective, brood - 4 * part),
        ]
        children = np.concatenate(parts, axis=1)
        count, brood, inputs = children.shape
        flat = self.inputs.snap(children.reshape(-1, inputs))
        if self.inputs.problem.domain.kind != "continuous":
            return flat.reshape(children.shape)
        prefer = np.repeat(through_float > 0, brood, axis=0)
        pushed = generator.random((count * brood, 1)) < 0.5
        return np.where(pushed, self.to_cell_ends(flat, prefer), flat).reshape(children.shape)

    def jumps(
        self, generator: np.random.Generator, points: Float64Array, objective: Int64Array, brood: int
    ) -> Float64Array:
        """Return `brood` children of each point, shape (points, brood, inputs), with many inputs at an end.

        Some inputs, from all of them down to one, go to the end that the gradient points to, or to either end or
        the middle at random: the largest differences of many inputs lie in such corners.  Within the cells of an
        input quantizer every input then goes to the end that the float side prefers.
        """
        through_quantized, through_float = difference_gradient(self.inputs.problem, points, objective)
        count, inputs = points.shape
        shape = count, brood, inputs
        share = 2.0 ** -generator.integers(0, inputs.bit_length(), size=(count, brood, 1))
        moved = generator.random(shape) < share
        corner = np.where(through_quantized + through_float > 0, self.inputs.upper, self.inputs.lower)
        anywhere = self.inputs.lower + 0.5 * self.width * generator.integers(0, 3, size=shape)
        uphill = generator.random((count, brood, 1)) < 0.5
        children = np.where(moved, np.where(uphill, corner[:, None], anywhere), points[:, None])
        flat = self.inputs.snap(children.reshape(-1, inputs))
        if self.inputs.problem.domain.kind == "continuous":
            flat = self.to_cell_ends(flat, np.repeat(through_float > 0, brood, axis=0))
        return flat.reshape(shape)

    def to_cell_ends(self, points: Float64Array, prefer_upper: BoolArray) -> Float64Array:
        """Move every input to an end of its code cell, shapes (points, inputs)."""
        lower, upper = self.inputs.cell_ends(self.inputs.levels(points))
        return np.where(lower <= upper, np.where(prefer_upper, upper, lower), points)

    def line(self, point: Float64Array, through_float: Float64Array, dimension: int) -> Float64Array:
        """Return the point with one input set to every code, or to a grid, shape (values, inputs)."""
        inputs = self.inputs
        domain = inputs.problem.domain
        if domain.integer is None:
            share = np.arange(_GRID_LEVELS + 1, dtype=np.float64) / _GRID_LEVELS
            grid = inputs.lower[dimension] + self.width[dimension] * share
            candidates = np.repeat(point[None], len(grid), axis=0)
            candidates[:, dimension] = grid
            return inputs.snap(candidates)
        root = domain.root
        values = np.arange(root.level_lower[0, dimension], root.level_upper[0, dimension] + 1, dtype=np.int64)
        levels = np.repeat(inputs.levels(point[None]), len(values), axis=0)
        levels[:, dimension] = values
        near = np.repeat(point[None], len(values), axis=0)
        lower, upper = inputs.cell_ends(levels)
        near[:, dimension] = (upper if through_float[dimension] > 0 else lower)[:, dimension]
        return inputs.points_of_levels(levels, near)

    def _along(
        self, generator: np.random.Generator, points: Float64Array, gradient: Float64Array, brood: int
    ) -> Float64Array:
        count, inputs = points.shape
        share = np.array([1.0, 0.5, min(1.0, 2.0 / inputs)])[generator.integers(3, size=(count, brood, 1))]
        moved = generator.random((count, brood, inputs)) < share
        length = 2.0 ** -generator.integers(0, 9, size=(count, brood, 1))
        step = np.maximum(self.width * length, self.unit) * np.sign(gradient)[:, None, :]
        return points[:, None, :] + moved * step

    def _coordinates(self, generator: np.random.Generator, points: Float64Array, brood: int) -> Float64Array:
        count, inputs = points.shape
        children = np.repeat(points[:, None, :], brood, axis=1)
        dimension = generator.integers(inputs, size=(count, brood, 1))
        old = np.take_along_axis(children, dimension, axis=2)
        anywhere = self.inputs.lower[dimension] + self.width[dimension] * generator.random((count, brood, 1))
        scaled = self.width[dimension] * 2.0 ** -generator.integers(0, 9, size=(count, brood, 1))
        nearby = old + scaled * (2.0 * generator.random((count, brood, 1)) - 1.0)
        far = generator.random((count, brood, 1)) < 0.5
        np.put_along_axis(children, dimension, np.where(far, anywhere, nearby), axis=2)
        return children

    def _neighbours(self, generator: np.random.Generator, points: Float64Array, brood: int) -> Float64Array:
        count, inputs = points.shape
        moved = generator.random((count, brood, inputs)) < min(1.0, 2.0 / inputs)
        forced = generator.integers(inputs, size=(count, brood, 1))
        np.put_along_axis(moved, forced, True, axis=2)
        steps = generator.integers(-2, 3, size=(count, brood, inputs))
        return points[:, None, :] + moved * steps * self.unit

    def _cloud(self, generator: np.random.Generator, points: Float64Array, brood: int) -> Float64Array:
        count, inputs = points.shape
        length = 0.5 * self.width * 2.0 ** -generator.integers(0, 9, size=(count, brood, 1))
        return points[:, None, :] + length * generator.normal(size=(count, brood, inputs))

    def _mixtures(
        self, generator: np.random.Generator, points: Float64Array, objective: Int64Array, brood: int
    ) -> Float64Array:
        count, inputs = points.shape
        # Partners of the same objective: a random rank within each group of rows.
        order = np.argsort(objective, kind="stable")
        start = np.searchsorted(objective[order], objective, side="left")
        stop = np.searchsorted(objective[order], objective, side="right")
        rank = start[:, None] + (generator.random((count, brood)) * (stop - start)[:, None]).astype(np.int64)
        partner = points[order[rank]]
        other = points[order[np.roll(rank, 1, axis=1)]]
        share = generator.random((count, brood, 1))
        swapped = np.where(generator.random((count, brood, inputs)) < share, partner, points[:, None, :])
        stretched = points[:, None, :] + 0.6 * (partner - other)
        return np.where(generator.random((count, brood, 1)) < 0.5, swapped, stretched)

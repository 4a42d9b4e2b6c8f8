"""One step of the branch and bound on a batch of cubes: split, bound, execute, check, enumerate.

The step is a pure function of its batch, so that it can run in any process.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array
from milpq.bounds.classes import CodeClasses, has_classes
from milpq.bounds.outward import up
from milpq.bounds.values import Bounds
from milpq.errors import SoundnessError
from milpq.merge import Cubes, Problem
from milpq.search.alarm import check_pool, check_values, describe
from milpq.search.bounding import Bounding, CubeBounds
from milpq.search.cells import Cells, bound_cells
from milpq.search.codes import count_codes
from milpq.search.enumerate import enumerate_cubes
from milpq.search.execution import Execution, signed
from milpq.search.halves import choose, halve
from milpq.search.inputs import FeedableInputs
from milpq.search.pool import WitnessPool
from milpq.search.slopes import float_slopes

_ELEMENTS = 4_000_000
"""Numbers that the slopes of the cells of one group of cubes may hold."""


_CLASS_CODES = 1 << 14
"""Codes of a cube whose classes are looked for: enough to make bounding the cube cheap beside it."""

_CLASS_COST = 0.15
"""Executions that finding the classes of a cube costs, for each of its codes."""

_CLASS_TRIALS = 8
"""Cubes of a batch whose classes are looked for in any case."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Cubes to work on.

    Parameters
    ----------
    cubes : Cubes
    upper : float64, shape (cubes, objectives)
        Bounds known already.
    dimension : int64, shape (cubes,), or None
        The input to split each along; None bounds the cubes as they are.
    threshold : float64, shape (objectives,)
        A cube with no bound above these needs no more work.
    pool : WitnessPool
        Known witnesses, to check bounds against.
    leaf_codes : int
        Cubes of the codes domain with at most so many codes are executed, besides those that are in any case.
    """

    cubes: Cubes
    upper: Float64Array
    dimension: Int64Array | None
    threshold: Float64Array
    pool: WitnessPool
    leaf_codes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Worked:
    """What became of a batch.

    Parameters
    ----------
    cubes, upper, dimension
        The cubes that stay open; shapes as in `Batch`.
    closed_cubes : int
        Number of cubes that need no more work.
    highest : float64, shape (objectives,)
        The highest of their bounds.
    closed : Cubes
        These cubes, where they are asked for; together with the open ones they cover the batch.
    closed_upper : float64, shape (closed, objectives)
    enumerated : bool, shape (closed,)
        Where the bound comes from executing every code.
    pool : WitnessPool
        The batch's pool with all points executed here added.
    """

    cubes: Cubes
    upper: Float64Array
    dimension: Int64Array
    closed_cubes: int
    highest: Float64Array
    closed: Cubes
    closed_upper: Float64Array
    enumerated: BoolArray
    pool: WitnessPool

    def with_closed(self, kept: Int64Array, gone: Int64Array) -> Worked:
        """Return the work with the cubes closed meanwhile moved to the closed ones."""
        return Worked(
            self.cubes.select(kept),
            self.upper[kept],
            self.dimension[kept],
            self.closed_cubes + len(gone),
            np.concatenate([self.highest[None], self.upper[gone]]).max(axis=0),
            Cubes.concatenate([self.closed, self.cubes.select(gone)]),
            np.concatenate([self.closed_upper, self.upper[gone]]),
            np.concatenate([self.enumerated, np.zeros(len(gone), dtype=np.bool_)]),
            self.pool,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Branching:
    """The step.

    Parameters
    ----------
    problem : Problem
    bounding : Bounding
    enumerate_codes : int
        Cubes of the codes domain with at most so many code vectors are enumerated.
    enumerate_cells : int
        Cubes of the continuous domain with at most so many code cells are bounded cell by cell, and taken
        apart into cells where few of them stay open.
    keep_closed : bool
        Whether to return closed cubes; there may be millions.
    """

    problem: Problem
    bounding: Bounding
    enumerate_codes: int
    enumerate_cells: int = 512
    keep_closed: bool = False
    _execution: Execution = field(init=False, repr=False)
    _inputs: FeedableInputs = field(init=False, repr=False)
    _classes: CodeClasses | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_execution", Execution(self.problem))
        object.__setattr__(self, "_inputs", FeedableInputs(self.problem))
        quantized = self.problem.quantized
        object.__setattr__(self, "_classes", CodeClasses(quantized) if has_classes(quantized) else None)

    def prices(self, cubes: Cubes, leaf_codes: int) -> Int64Array:
        """Return how many cubes take about as long to bound as each of these to split and work on, shape (cubes,)."""
        prices = np.full(len(cubes), 2)
        if self.problem.domain.kind != "codes":
            return prices
        codes = count_codes(cubes)
        cost = np.where(codes <= 2 * max(self.enumerate_codes, leaf_codes), 1.0, 0.0)
        if self._classes is not None:
            cost = np.where(codes <= 2 * _CLASS_CODES, np.maximum(cost, _CLASS_COST), cost)
        return prices + (cost * codes).astype(np.int64) // self.bounding.executions

    def __call__(self, batch: Batch) -> Worked:
        """Work on a batch.

        Raises
        ------
        SoundnessError
            An executed point of a cube lies outside of the cube's bounds.
        """
        cubes, upper = batch.cubes, batch.upper
        if batch.dimension is not None:
            cubes = halve(self.problem.domain, cubes, batch.dimension)
            upper = np.concatenate([upper, upper])
        found = self.bounding(self.problem, cubes, batch.threshold)
        upper = np.where(found.upper < upper, found.upper, upper)
        points, pool, seen = self._sample(cubes, found.towards, batch.pool)
        upper = self._classify(cubes, upper, found, seen, batch.threshold)
        check_pool(cubes, upper, batch.pool)
        check_values(cubes, upper, seen, points, self._execution)
        upper = self._settle_points(cubes, upper)
        result = _Result(cubes, upper)
        rows = result.close(np.all(upper <= batch.threshold, axis=1), np.arange(len(cubes)))
        if self.problem.domain.kind == "codes":
            rows, pool = self._enumerate(result, rows, batch, pool)
        elif self.problem.domain.kind == "continuous":
            rows, pool = self._take_apart(result, rows, found.values, batch.threshold, pool)
        self._keep(result, rows, found.score, seen, batch.threshold)
        return result.worked(pool, keep_closed=self.keep_closed)

    def _sample(
        self, cubes: Cubes, towards: Float64Array, pool: WitnessPool
    ) -> tuple[Float64Array, WitnessPool, Float64Array]:
        """Execute one promising point of each cube.

        Returns the points, the pool, and the objectives seen in each cube (cubes, objectives).
        """
        points, feedable = self._inputs.inside(cubes, towards)
        levels = self._inputs.levels(points)
        # A point on a face shared by two cubes may read as a code of the other one.
        member = np.all((levels >= cubes.level_lower) & (levels <= cubes.level_upper), axis=1)
        result = self._execution.run(points, None if self.problem.domain.integer is None else levels)
        values = np.where(member[:, None], signed(result), -np.inf)
        pool = pool.update(points[feedable], levels[feedable], result[feedable], self._execution.error)
        return points, pool, values

    def _classify(
        self,
        cubes: Cubes,
        upper: Float64Array,
        found: CubeBounds,
        seen: Float64Array,
        threshold: Float64Array,
    ) -> Float64Array:
        """Bound open cubes of few codes by the image of their classes, less the range of the float side."""
        if self._classes is None:
            return upper
        side = found.float_side
        width = np.tile(side.upper - side.lower, 2)
        # What is seen, and half of the range of the float side beside it, are sure to stay.
        wanted = ((upper <= threshold) | (seen + 0.5 * width <= threshold)).all(axis=1)
        wanted &= (upper > threshold).any(axis=1)
        rows = np.flatnonzero(wanted & (count_codes(cubes) <= _CLASS_CODES))
        outputs, start, size, known = self.problem.outputs, 0, _CLASS_TRIALS, 0
        # Where the first ones have too many classes, so have most of the others.
        while start < len(rows) and 4 * known >= start:
            part = rows[start : start + size]
            image = self._classes.image(cubes.select(part))
            most = image.upper[:, outputs] - side.lower[part]
            least = image.lower[:, outputs] - side.upper[part]
            upper[part] = np.minimum(upper[part], up(np.concatenate([most, -least], axis=1)))
            known += int(np.isfinite(most[:, 0]).sum())
            start, size = start + len(part), 2 * size
        return upper

    def _settle_points(self, cubes: Cubes, upper: Float64Array) -> Float64Array:
        """Bound cubes that are a single real point, between two real networks, by executing it."""
        if self.problem.domain.kind != "real":
            return upper
        rows = np.flatnonzero((cubes.lower == cubes.upper).all(axis=1))
        values = signed(self._execution.run(cubes.lower[rows])) + np.tile(self._execution.error, 2)
        upper[rows] = np.minimum(upper[rows], np.nextafter(values, np.inf))
        return upper

    def _enumerate(
        self, result: _Result, rows: Int64Array, batch: Batch, pool: WitnessPool
    ) -> tuple[Int64Array, WitnessPool]:
        """Settle small cubes of the codes domain; return the rows that are left."""
        counts = count_codes(result.cubes.select(rows))
        few = counts <= max(self.enumerate_codes, batch.leaf_codes)
        small = rows[few]
        if not len(small):
            return rows, pool
        exact, pool = enumerate_cubes(self._execution, result.cubes.select(small), pool, batch.threshold)
        slack = 2.1 * np.tile(self._execution.error, 2)
        wrong = np.flatnonzero((exact - slack > result.upper[small]).any(axis=1))
        if len(wrong):
            row = int(small[wrong[0]])
            raise SoundnessError(
                f"the codes of the cube {describe(result.cubes, row)} reach {exact[wrong[0]].tolist()}, "
                f"above its bounds {result.upper[row].tolist()}"
            )
        result.upper[small] = np.minimum(result.upper[small], exact)
        return result.close(few, rows, enumerated=True), pool

    def _take_apart(
        self,
        result: _Result,
        rows: Int64Array,
        bounds: Bounds | None,
        threshold: Float64Array,
        pool: WitnessPool,
    ) -> tuple[Int64Array, WitnessPool]:
        """Bound cubes of few codes cell by cell; return the rows that stay as they are."""
        assert bounds is not None
        most = max(1, self.enumerate_cells)
        small = rows[count_codes(result.cubes.select(rows)) <= most]
        group = max(1, _ELEMENTS // (most * self.problem.merged.input_size * len(threshold)))
        apart = np.zeros(len(result.cubes), dtype=np.bool_)
        for start in range(0, len(small), group):
            part = small[start : start + group]
            slopes = float_slopes(self.problem, bounds.select(part))
            cells = bound_cells(
                self._execution, result.cubes.select(part), result.upper[part], slopes, threshold
            )
            pool = cells.witnesses(self._execution, self._inputs, pool)
            result.upper[part] = cells.parent_upper
            apart[part[cells.apart]] = True
            result.add_cells(cells)
        rows = rows[~apart[rows]]
        return result.close(np.all(result.upper[rows] <= threshold, axis=1), rows), pool

    def _keep(
        self,
        result: _Result,
        rows: Int64Array,
        score: Float64Array,
        seen: Float64Array,
        threshold: Float64Array,
    ) -> None:
        """Choose where to split the cubes that stay open; close those that no split can improve."""
        cubes, upper = result.cubes.select(rows), result.upper[rows]
        dimension, possible = choose(self.problem.domain, cubes, score[rows])
        # Codes are enumerated in the end; cubes of real inputs can be split for ever.
        on_codes = self.problem.domain.kind == "codes"
        noise = (0 if on_codes else 8) * np.tile(self._execution.error, 2)
        settled = np.all((upper <= threshold) | (upper <= seen[rows] + noise), axis=1)
        result.dimension[rows] = dimension
        result.open = result.close(~possible | settled, rows)


class _Result:
    """Sorts the cubes of one batch into open and closed ones."""

    def __init__(self, cubes: Cubes, upper: Float64Array) -> None:
        self.cubes = cubes
        self.upper = upper
        self.dimension: Int64Array = np.zeros(len(cubes), dtype=np.int64)
        self.open: Int64Array = np.zeros(0, dtype=np.int64)
        self._closed: list[Int64Array] = []
        self._enumerated: list[BoolArray] = []
        self._cells: list[Cells] = []

    def close(self, which: BoolArray, rows: Int64Array, *, enumerated: bool = False) -> Int64Array:
        """Close some of the rows, and return the others."""
        self._closed.append(rows[which])
        self._enumerated.append(np.full(int(which.sum()), enumerated))
        return rows[~which]

    def add_cells(self, cells: Cells) -> None:
        """Put the cells of a cube in its place."""
        self._cells.append(cells)

    def worked(self, pool: WitnessPool, *, keep_closed: bool) -> Worked:
        """Return the outcome."""
        closed = np.concatenate(self._closed)
        nothing = np.full((1, self.upper.shape[1]), -np.inf)
        bounds = [nothing, self.upper[closed], *(cells.closed_upper for cells in self._cells)]
        count = sum(len(part) for part in bounds) - 1
        highest = np.max([part.max(axis=0, initial=-np.inf) for part in bounds], axis=0)
        opened = [cells for cells in self._cells if len(cells.cubes)]
        gone = [cells for cells in self._cells if keep_closed]
        closed = closed if keep_closed else closed[:0]
        enumerated = np.concatenate([*self._enumerated, *(np.zeros(len(c.closed), np.bool_) for c in gone)])
        return Worked(
            Cubes.concatenate([self.cubes.select(self.open), *(cells.cubes for cells in opened)]),
            np.concatenate([self.upper[self.open], *(cells.upper for cells in opened)]),
            np.concatenate([self.dimension[self.open], *(cells.dimension for cells in opened)]),
            count,
            highest,
            Cubes.concatenate([self.cubes.select(closed), *(cells.closed for cells in gone)]),
            np.concatenate([self.upper[closed], *(cells.closed_upper for cells in gone)]),
            enumerated if keep_closed else enumerated[:0],
            pool,
        )

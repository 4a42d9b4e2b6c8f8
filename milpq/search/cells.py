"""Taking cubes of the continuous domain apart into their code cells.

On one cell the integer side is constant and one execution gives it; the float side moves by no more than its
slopes over the whole cube allow.  So thousands of cells are bounded in the time of one bounding step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array
from milpq.merge import Cubes
from milpq.merge.domain import Domain
from milpq.search.alarm import check_values
from milpq.search.codes import count_codes, levels_of
from milpq.search.execution import Execution, signed
from milpq.search.halves import choose
from milpq.search.inputs import FeedableInputs
from milpq.search.pool import WitnessPool
from milpq.search.slopes import mean_value_bound


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Cells of some cubes.

    Parameters
    ----------
    parent_upper : float64, shape (parents, objectives)
        The parents' bounds, tightened by those of their cells.
    apart : bool, shape (parents,)
        Which parents are better replaced by their cells: few of them stay open.  Only their cells follow.
    cubes, upper, dimension
        The cells that stay open, their bounds (cells, objectives) and the inputs to split them along.
    closed, closed_upper
        The cells below the threshold.
    best : float64, shape (objectives, inputs)
        The centre of the cell that was executed with the largest value of each objective.
    """

    parent_upper: Float64Array
    apart: BoolArray
    cubes: Cubes
    upper: Float64Array
    dimension: Int64Array
    closed: Cubes
    closed_upper: Float64Array
    best: Float64Array

    def witnesses(self, execution: Execution, inputs: FeedableInputs, pool: WitnessPool) -> WitnessPool:
        """Return the pool with the feedable inputs next to the best centres added."""
        points = inputs.snap(self.best)
        levels = inputs.levels(points)
        return pool.update(points, levels, execution.run(points, levels), execution.error)


def parts_of(domain: Domain, cube: Cubes, most: int) -> Cubes:
    """Return parts that cover a cube, at most so many, halved along levels where it has most of them."""
    lower, upper = cube.level_lower, cube.level_upper
    while 2 * len(lower) <= most and (lower < upper).any():
        i = int(np.argmax((upper - lower).max(axis=0)))
        wide = lower[:, i] < upper[:, i]
        middle = (lower[:, i] + upper[:, i]) // 2
        first, last = upper.copy(), lower[wide].copy()
        first[:, i], last[:, i] = middle, middle[wide] + 1
        lower, upper = np.concatenate([lower, last]), np.concatenate([first, upper[wide]])
    found = domain.cubes_of_levels(lower, upper)
    low, high = np.maximum(found.lower, cube.lower), np.minimum(found.upper, cube.upper)
    # Levels at the ends may be those of no real input of the cube.
    some = (low <= high).all(axis=1)
    return Cubes(low[some], high[some], lower[some], upper[some])


def bound_cells(
    execution: Execution, parents: Cubes, upper: Float64Array, slopes: Float64Array, threshold: Float64Array
) -> Cells:
    """Bound every cell of some cubes of few codes.

    Parameters
    ----------
    upper : float64, shape (parents, objectives)
    slopes : float64, shape (parents, chosen, inputs)
        Bounds on ``|∂f_j/∂x_i|`` over each parent.
    threshold : float64, shape (objectives,)

    Raises
    ------
    SoundnessError
        The executed centre of a cell exceeds the bound of its parent.

    *Soundness:* the cells cover their parents; bounds are rounded upwards.
    """
    domain = execution.problem.domain
    counts = count_codes(parents)
    owner, levels = levels_of(parents, 0, int(counts.sum()))
    whole = domain.cubes_of_levels(levels, levels)
    cells = Cubes(
        np.maximum(whole.lower, parents.lower[owner]),
        np.minimum(whole.upper, parents.upper[owner]),
        levels,
        levels,
    )
    # A level that no real input of the parent takes has no cell.
    exists = np.flatnonzero((cells.lower <= cells.upper).all(axis=1))
    owner, cells = owner[exists], cells.select(exists)
    cell_slopes = slopes[owner]
    bound, difference = mean_value_bound(execution, cells, cell_slopes)
    bound = np.minimum(bound, upper[owner])
    solid = np.all(cells.lower < cells.upper, axis=1)
    values = np.where(solid[:, None], signed(difference), -np.inf)
    middle = 0.5 * cells.lower + 0.5 * cells.upper
    check_values(cells, upper[owner], values, middle, execution)
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    parent_upper = upper.copy()
    parent_upper[owner[first]] = np.minimum(upper[owner[first]], np.maximum.reduceat(bound, first, axis=0))
    is_open = (bound > threshold).any(axis=1)
    survivors = np.bincount(owner[is_open], minlength=len(parents))
    apart = (counts > 1) & (survivors <= np.maximum(2, counts // 4))
    rows = np.flatnonzero(apart[owner] & is_open)
    gone = np.flatnonzero(apart[owner] & ~is_open)
    opened = cells.select(rows)
    score = (opened.upper - opened.lower) * cell_slopes[rows].sum(axis=1)
    dimension, _ = choose(domain, opened, score)
    best = middle[np.argmax(values, axis=0)]
    return Cells(parent_upper, apart, opened, bound[rows], dimension, cells.select(gone), bound[gone], best)

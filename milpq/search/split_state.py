"""Where a search that splits the input stands.

The state is a cover: every input of the domain lies in an open cube, or in a closed one whose bound is in
`closed_upper`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.merge import Cubes
from milpq.search.checkpoint import Arrays, fitting_array, witnesses_of
from milpq.search.frontier import Frontier
from milpq.search.pool import WitnessPool


@dataclass(frozen=True, slots=True, eq=False)
class SplitState:
    """Where a split search stands.

    Parameters
    ----------
    lower, upper, level_lower, level_upper
        Of the open cubes, as in `Cubes`.
    bound : float64, shape (open, objectives)
    dimension : int64, shape (open,)
        The input to split each along.
    known_upper, closed_upper : float64, shape (objectives,)
        Bounds over the whole domain, and over the closed cubes.
    witnesses : float64, shape (witnesses, inputs)
        Executed inputs; they are executed again when they are read.
    counts : int64, shape (3,)
        Closed cubes, bounded cubes, rounds.
    """

    lower: Float64Array
    upper: Float64Array
    level_lower: Int64Array
    level_upper: Int64Array
    bound: Float64Array
    dimension: Int64Array
    known_upper: Float64Array
    closed_upper: Float64Array
    witnesses: Float64Array
    counts: Int64Array

    @classmethod
    def of(
        cls,
        frontier: Frontier,
        ends: tuple[Float64Array, Float64Array],
        pool: WitnessPool,
        counts: tuple[int, int, int],
    ) -> SplitState:
        """Return the state of a search; `ends` are `known_upper` and `closed_upper`."""
        cubes, bound, dimension = frontier.get(slice(None))
        return cls(
            cubes.lower,
            cubes.upper,
            cubes.level_lower,
            cubes.level_upper,
            bound,
            dimension,
            *ends,
            witnesses_of(pool),
            np.array(counts),
        )

    @classmethod
    def read(cls, arrays: Arrays, inputs: int, objectives: int) -> SplitState:
        """Return the state that a journal has kept.

        Raises
        ------
        KeyError, ValueError
            It does not fit the problem.
        """
        count = len(arrays["dimension"])
        shapes: dict[str, tuple[str, *tuple[int | None, ...]]] = {
            **dict.fromkeys(("lower", "upper"), ("f8", count, inputs)),
            **dict.fromkeys(("level_lower", "level_upper"), ("i8", count, inputs)),
            "bound": ("f8", count, objectives),
            "dimension": ("i8", count),
            **dict.fromkeys(("known_upper", "closed_upper"), ("f8", objectives)),
            "witnesses": ("f8", None, inputs),
            "counts": ("i8", 3),
        }
        if set(arrays) != set(shapes):
            raise ValueError(f"arrays {sorted(arrays)}")
        state = cls(**{name: fitting_array(arrays, name, *shape) for name, shape in shapes.items()})
        if ((state.dimension < 0) | (state.dimension >= inputs)).any() or (state.counts < 0).any():
            raise ValueError("a cube is to be split along no input, or a count is negative")
        return state

    def arrays(self) -> Arrays:
        """Return what a journal keeps."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def fill(self, frontier: Frontier) -> None:
        """Put the open cubes into an empty frontier."""
        cubes = Cubes(self.lower, self.upper, self.level_lower, self.level_upper)
        frontier.push(cubes, self.bound, self.dimension)

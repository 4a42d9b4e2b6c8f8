"""The open cubes of a branch and bound, as flat arrays that grow and shrink in place."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array, Int64Array
from milpq.merge import Cubes

_NONE: Final = -1  # the job of a free cube


class Frontier:
    """A set of open cubes with their upper bounds.

    Parameters
    ----------
    inputs, objectives : int

    Notes
    -----
    Rows are unordered.  A removal fills the hole with the last row, so the tail holds the cubes pushed last.
    Cubes that are for a job are still open: they stay here, and are found again by the number of the job.
    """

    def __init__(self, inputs: int, objectives: int) -> None:
        self._size = 0
        capacity = 1024
        self._lower = np.empty((capacity, inputs))
        self._upper = np.empty((capacity, inputs))
        # Levels fit 32 bits, and cubes may be held by the million.
        self._level_lower = np.empty((capacity, inputs), dtype=np.int32)
        self._level_upper = np.empty((capacity, inputs), dtype=np.int32)
        self._bound = np.empty((capacity, objectives))
        self._dimension = np.empty(capacity, dtype=np.int32)
        self._job = np.empty(capacity, dtype=np.int64)

    def __len__(self) -> int:
        return self._size

    @staticmethod
    def bytes_per_cube(inputs: int, objectives: int) -> int:
        """Return what one open cube takes."""
        return 24 * inputs + 8 * objectives + 12

    @property
    def bound(self) -> Float64Array:
        """Upper bounds of the objectives, shape (open, objectives); a view."""
        return self._bound[: self._size]

    def push(self, cubes: Cubes, bound: Float64Array, dimension: Int64Array) -> None:
        """Add cubes with their bounds (cubes, objectives) and the inputs to split them along (cubes,)."""
        start, stop = self._size, self._size + len(cubes)
        if stop > len(self._dimension):
            self._grow(max(stop, 2 * len(self._dimension)))
        self._lower[start:stop], self._upper[start:stop] = cubes.lower, cubes.upper
        self._level_lower[start:stop] = cubes.level_lower
        self._level_upper[start:stop] = cubes.level_upper
        self._bound[start:stop], self._dimension[start:stop] = bound, dimension
        self._job[start:stop] = _NONE
        self._size = stop

    def get(self, rows: Int64Array | slice) -> tuple[Cubes, Float64Array, Int64Array]:
        """Return copies of some cubes, their bounds and dimensions."""
        cubes = Cubes(
            np.array(self._lower[: self._size][rows]),
            np.array(self._upper[: self._size][rows]),
            self._level_lower[: self._size][rows].astype(np.int64),
            self._level_upper[: self._size][rows].astype(np.int64),
        )
        return cubes, np.array(self.bound[rows]), self._dimension[: self._size][rows].astype(np.int64)

    def take(self, rows: Int64Array, job: int) -> None:
        """Note that some cubes are for a job, by its number from 0 on."""
        self._job[rows] = job

    def taken(self, job: int) -> Int64Array:
        """Return the rows of the cubes of a job."""
        return np.flatnonzero(self._job[: self._size] == job)

    def remove(self, job: int) -> None:
        """Remove the cubes of a job."""
        leaving = self._job[: self._size] == job
        keep = self._size - int(leaving.sum())
        holes = np.flatnonzero(leaving[:keep])
        movers = keep + np.flatnonzero(~leaving[keep:])
        for array in self._arrays():
            array[holes] = array[movers]
        self._size = keep

    def free(self) -> Int64Array:
        """Return the rows of the cubes that are for no job."""
        return np.flatnonzero(self._job[: self._size] == _NONE)

    def worst(self, count: int, priority: Float64Array) -> Int64Array:
        """Return the rows of the free cubes with the highest priority (open,), in a deterministic order."""
        rows = self.free()
        if count < len(rows):
            rows = np.sort(rows[np.argpartition(-priority[rows], count - 1)[:count]])
        return rows[np.argsort(-priority[rows], kind="stable")]

    def last(self, count: int) -> Int64Array:
        """Return the rows of the free cubes pushed last."""
        rows = self.free()
        return rows[max(0, len(rows) - count) :]

    def _arrays(self) -> list[npt.NDArray[Any]]:
        ends = [self._lower, self._upper, self._level_lower, self._level_upper]
        return [*ends, self._bound, self._dimension, self._job]

    def _grow(self, capacity: int) -> None:
        def larger(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            result = np.empty((capacity, *array.shape[1:]), dtype=array.dtype)
            result[: self._size] = array[: self._size]
            return result

        self._lower, self._upper = larger(self._lower), larger(self._upper)
        self._level_lower, self._level_upper = larger(self._level_lower), larger(self._level_upper)
        self._bound, self._dimension = larger(self._bound), larger(self._dimension)
        self._job = larger(self._job)

"""The journal of a split search: its open cubes on disk now and then, so that a killed run can go on.

The state is a cover: every input of the domain lies in an open cube, or in a closed one whose bound is in
`closed_upper`.  It is written whole, into a new file that then takes the place of the old one.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import UsageError
from milpq.formats._files import PathLike, read_npz
from milpq.merge import Cubes, Problem
from milpq.search.frontier import Frontier
from milpq.search.inputs import FeedableInputs
from milpq.search.pool import WitnessPool

_EVERY_S: Final = 5.0
_COST: Final = 20.0
"""The time between two writes is at least so many times what one takes."""


@dataclass(frozen=True, slots=True, eq=False)
class SearchState:
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
    ) -> SearchState:
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
            pool.points[np.isfinite(pool.lower)],
            np.array(counts),
        )

    def fill(self, frontier: Frontier) -> None:
        """Put the open cubes into an empty frontier."""
        cubes = Cubes(self.lower, self.upper, self.level_lower, self.level_upper)
        frontier.push(cubes, self.bound, self.dimension)

    def execute(self, problem: Problem, pool: WitnessPool) -> WitnessPool:
        """Return the pool with the witnesses, which are executed again for that."""
        inputs = FeedableInputs(problem)
        points = inputs.snap(self.witnesses)
        return pool.update(points, inputs.levels(points), *problem.differences(points))


class SearchJournal:
    """Keeps the state of one search in a file.

    Parameters
    ----------
    path : path
        Of a ``.npz`` file.
    problem : Problem
    effort : str
        What else must be the same for a state to be of use: the gap, the version of milpq.
    resume : bool
        Go on from what is there; otherwise an existing file is an error.

    Raises
    ------
    UsageError
        The file is of another problem, damaged, or in the way.
    """

    def __init__(self, path: PathLike, problem: Problem, effort: str, *, resume: bool) -> None:
        self._path = Path(path)
        self._problem = problem
        self._key = f"milpq-search/1 {effort}, {problem.hash()}"
        self._written = time.monotonic()
        self._pause_s = _EVERY_S
        self.state: SearchState | None = None
        check_journal(path, resume=resume)
        if self._path.exists():
            self.state = self._read()

    def save(self, state: Callable[[], SearchState], *, now: bool = False) -> None:
        """Write the state if it is time for that."""
        started = time.monotonic()
        if not now and started - self._written < self._pause_s:
            return
        self._write(state())
        self._written = time.monotonic()
        self._pause_s = max(_EVERY_S, _COST * (self._written - started))

    def _write(self, state: SearchState) -> None:
        arrays: dict[str, Any] = {field.name: getattr(state, field.name) for field in fields(state)}
        arrays["key"] = np.frombuffer(self._key.encode(), dtype=np.uint8)
        arrays["digest"] = np.frombuffer(_digest(arrays), dtype=np.uint8)
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, **arrays)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _read(self) -> SearchState:
        arrays = read_npz(self._path, UsageError)
        names = {field.name for field in fields(SearchState)}
        digest = arrays.pop("digest", None)
        whole = digest is not None and set(arrays) == names | {"key"} and digest.tobytes() == _digest(arrays)
        if not whole:
            raise UsageError(f"{self._path}: is no journal of a search, or damaged; remove it")
        if arrays.pop("key").tobytes().decode(errors="replace") != self._key:
            raise UsageError(
                f"{self._path}: is the journal of another problem, gap, tolerance or version; name another file"
            )
        return SearchState(**arrays)


def check_journal(path: PathLike, *, resume: bool) -> None:
    """Raise UsageError before a long run for a journal that cannot be written or is in the way."""
    place = Path(path)
    if place.suffix.lower() != ".npz":
        raise UsageError(f"--journal {path}: is a .npz file; name one")
    if not place.parent.is_dir():
        raise UsageError(f"--journal {path}: there is no directory {place.parent}; create it first")
    if place.exists() and not resume:
        raise UsageError(f"--journal {path}: exists; add --resume to go on from it, or remove it")


def _digest(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.digest()

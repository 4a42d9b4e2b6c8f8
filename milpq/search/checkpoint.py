"""The journal of a run: the states of its searches on disk now and then, so that a killed run can go on.

Every search has a *section* of its own, a few named arrays that say all of where it stands.  The journal is written
whole, into a new file that then takes the place of the old one.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array
from milpq.errors import MilpqError, UsageError
from milpq.formats._files import PathLike, read_npz
from milpq.formats.writing import check_place
from milpq.merge import Problem
from milpq.search.inputs import FeedableInputs
from milpq.search.pool import WitnessPool

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

_EVERY_S: Final = 5.0
_COST: Final = 20.0
"""The time between two writes is at least so many times what one takes."""


class Journal:
    """Keeps the states of the searches of one run in a file.

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
        self._key = f"milpq-search/2 {effort}, {problem.hash()}"
        self._written = time.monotonic()
        self._pause_s = _EVERY_S
        # States may be large: that of the search at work is on disk only.
        self._kept: dict[str, Arrays] = {}
        self._at_work: str | None = None
        check_journal(path, resume=resume)
        if self._path.exists():
            self._kept = self._read()
        self.goes_on = bool(self._kept)
        """Whether there is something to go on from; what it says of bounds and of open parts is believed."""
        self.failure = ""
        """Why it could not be written, and is not any more: a full disk must not end a run."""

    def section(self, name: str) -> Section:
        """Return the part of one search."""
        return Section(self, name)

    def state(self, name: str) -> Arrays | None:
        """Return what a section held when it was read or last written, or None."""
        if name == self._at_work:
            return self._read().get(name)
        return self._kept.get(name)

    def save(self, name: str, state: Callable[[], Arrays], *, now: bool) -> None:
        """Write the state of a section if it is time for that."""
        started = time.monotonic()
        if self.failure or (not now and started - self._written < self._pause_s):
            return
        if self._at_work != name:
            if self._at_work is not None:
                self._kept = self._read()
            self._kept.pop(name, None)
            self._at_work = name
        try:
            self._write(self._kept | {name: state()})
        except OSError as error:
            self.failure, self._at_work = error.strerror or str(error), None
            return
        self._written = time.monotonic()
        self._pause_s = max(_EVERY_S, _COST * (self._written - started))

    def _write(self, sections: dict[str, Arrays]) -> None:
        arrays = {
            f"{section}.{name}": array for section, part in sections.items() for name, array in part.items()
        }
        arrays["key"] = packed(self._key)
        arrays["digest"] = np.frombuffer(_digest(arrays), dtype=np.uint8)
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, allow_pickle=False, **arrays)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _read(self) -> dict[str, Arrays]:
        arrays = read_npz(self._path, UsageError)
        digest = arrays.pop("digest", None)
        if digest is None or "key" not in arrays or digest.tobytes() != _digest(arrays):
            raise UsageError(f"{self._path}: is no journal of a search, or damaged; remove it")
        if unpacked(arrays.pop("key")) != self._key:
            raise UsageError(
                f"{self._path}: is the journal of another problem, gap, tolerance or version; name another file"
            )
        result: dict[str, Arrays] = {}
        for name, array in arrays.items():
            section, _, part = name.partition(".")
            result.setdefault(section, {})[part] = array
        return result


@dataclass(frozen=True, slots=True)
class Section:
    """The part of a journal that belongs to one search."""

    journal: Journal
    name: str

    @property
    def state(self) -> Arrays | None:
        """What is known of an earlier run's search, or None."""
        return self.journal.state(self.name)

    def save(self, state: Callable[[], Arrays], *, now: bool = False) -> None:
        """Write the state if it is time for that, or `now`."""
        self.journal.save(self.name, state, now=now)

    @contextmanager
    def restoring(self) -> Generator[None]:
        """Turn what arrays of a wrong shape lead to into a UsageError."""
        try:
            yield
        except MilpqError:
            raise  # a soundness alarm is one too
        except (KeyError, ValueError, IndexError, TypeError, OverflowError) as error:
            raise UsageError(
                f"the journal's state of the search {self.name!r} does not fit the problem; remove the file"
            ) from error


def check_journal(path: PathLike, *, resume: bool) -> None:
    """Raise UsageError before a long run for a journal that cannot be written or is in the way."""
    place = Path(path)
    if place.suffix.lower() != ".npz":
        raise UsageError(f"--journal {path}: is a .npz file; name one")
    check_place(place, "--journal")
    if place.exists() and not resume:
        raise UsageError(f"--journal {path}: exists; add --resume to go on from it, or remove it")


def witnesses_of(pool: WitnessPool) -> Float64Array:
    """Return the inputs of a pool, shape (witnesses, inputs): all that a journal keeps of it."""
    return pool.points[np.isfinite(pool.lower)]


def executed(problem: Problem, witnesses: Float64Array, pool: WitnessPool) -> WitnessPool:
    """Return a pool with the witnesses of a journal, which are executed again for that."""
    inputs = FeedableInputs(problem)
    points = inputs.snap(witnesses)
    return pool.update(points, inputs.levels(points), *problem.differences(points))


def fitting_array(arrays: Arrays, name: str, kind: str, *shape: int | None) -> npt.NDArray[Any]:
    """Return an array of a journal if it is what a search writes.

    Parameters
    ----------
    kind : str
        ``f8``, ``f4`` or ``i8``, as numpy writes types.
    shape : int or None, ...
        None where any length will do.

    Raises
    ------
    ValueError
        It has another type or shape, or holds NaN.
    """
    array = arrays[name]
    alike = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    if array.dtype != np.dtype(kind) or not alike or np.isnan(array).any():
        raise ValueError(f"{name}: {array.dtype} of shape {array.shape}")
    return array


def packed(text: str) -> npt.NDArray[np.uint8]:
    """Return a text as an array."""
    return np.frombuffer(text.encode(), dtype=np.uint8)


def unpacked(array: npt.NDArray[Any]) -> str:
    """Return the text of an array."""
    return array.tobytes().decode(errors="replace")


def _digest(arrays: Arrays) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.digest()

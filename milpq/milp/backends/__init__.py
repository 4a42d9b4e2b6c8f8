"""Choosing a solver: the registry, what is installed, and a clear refusal when something is not.

Nothing here imports a solver: a backend does that when a model is opened.  Third parties add a backend under
the entry-point group ``milpq.backends``: the name is what the user selects, the object is called without
arguments and returns a `Backend`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

from milpq.errors import SolverUnavailableError
from milpq.milp.backends.gurobi import GurobiBackend
from milpq.milp.backends.highs import HighsBackend
from milpq.milp.backends.protocol import (
    Backend,
    Feature,
    Progress,
    Session,
    Solution,
    SolveOptions,
    Status,
)
from milpq.milp.backends.pulp import PulpBackend

__all__ = [
    "BACKENDS",
    "ENTRY_POINT_GROUP",
    "Backend",
    "Feature",
    "Progress",
    "Selection",
    "Session",
    "Solution",
    "SolveOptions",
    "SolverRecord",
    "Status",
    "available",
    "choose_backend",
    "describe_solvers",
]

BACKENDS: dict[str, Callable[[], Backend]] = {
    "highs": HighsBackend,
    "gurobi": GurobiBackend,
    "pulp": PulpBackend,
}
"""The built-in backends by the name a user selects; ``pulp:NAME`` selects a solver behind PuLP."""

ENTRY_POINT_GROUP = "milpq.backends"

_INSTALL = {
    "highs": "pip install highspy",
    "gurobi": "pip install 'milpq[gurobi]'",
    "pulp": "pip install 'milpq[pulp]'",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """A chosen backend, and why it is not another one (empty when there is nothing to say)."""

    backend: Backend
    note: str


@dataclass(frozen=True, slots=True)
class SolverRecord:
    """One line of ``milpq solvers``.

    Attributes
    ----------
    name : str
    available : bool
        Whether it can be loaded; a licence may still refuse a large model.
    version : str or None
    licence : str
        In a few words, found without acquiring a licence.
    features : tuple of str
        Sorted.
    install : str
        The command that installs it; empty when it is available or milpq does not know.
    """

    name: str
    available: bool
    version: str | None
    licence: str
    features: tuple[Feature, ...]
    install: str


def choose_backend(name: str = "auto") -> Selection:
    """Return the backend `name`: ``auto``, ``highs``, ``gurobi``, ``pulp``, ``pulp:NAME`` or an added one.

    ``auto`` takes Gurobi when it is installed with a licence of its own (the restricted one that comes with
    ``pip`` does not count), and HiGHS otherwise; the note says why.

    Raises
    ------
    SolverUnavailableError
        The name is unknown, or the solver is not installed; the message names what is.
    """
    if name == "auto":
        return _automatic()
    factory = _factories().get(name.partition(":")[0])
    if factory is None:
        raise SolverUnavailableError(f"unknown solver {name!r}; {_installed()}")
    if name.startswith("pulp:"):
        backend: Backend = PulpBackend(name.removeprefix("pulp:"))
    elif ":" in name:
        raise SolverUnavailableError(f"unknown solver {name!r}: only pulp takes a name after the colon")
    else:
        backend = factory()
    if backend.version() is None:
        install = _INSTALL.get(name.partition(":")[0])
        if name.startswith("pulp:") and available("pulp"):
            behind = ", ".join(PulpBackend.installed_solvers())
            raise SolverUnavailableError(f"PuLP cannot run {name.removeprefix('pulp:')} here, only: {behind}")
        how = f"install it with: {install}; " if install else ""
        raise SolverUnavailableError(f"the solver {name} is not installed; {how}{_installed()}")
    return Selection(backend, "")


def available(name: str) -> bool:
    """Return whether `choose_backend` would return a backend for `name`."""
    try:
        choose_backend(name)
    except SolverUnavailableError:
        return False
    return True


def describe_solvers() -> list[SolverRecord]:
    """Return one record for each known solver, those behind PuLP that are installed included.

    No licence is acquired and no solver is run.
    """
    backends: dict[str, Backend] = {name: factory() for name, factory in _factories().items()}
    behind = [PulpBackend(name) for name in PulpBackend.installed_solvers()]
    backends |= {backend.name: backend for backend in behind}
    records: list[SolverRecord] = []
    for name, backend in backends.items():
        version = backend.version()
        records.append(
            SolverRecord(
                name=name,
                available=version is not None,
                version=version,
                licence=backend.licence(),
                features=tuple(sorted(backend.features)),
                install="" if version is not None else _INSTALL.get(name, ""),
            )
        )
    return records


def _automatic() -> Selection:
    gurobi = GurobiBackend()
    if gurobi.version() is None:
        return Selection(HighsBackend(), "gurobi is not installed")
    if not gurobi.has_own_licence():
        return Selection(HighsBackend(), f"gurobi has no licence of its own: {gurobi.licence()}")
    return Selection(gurobi, "")


def _factories() -> dict[str, Callable[[], Backend]]:
    """Return the built-in backends and those other packages add, which cannot replace a built-in one."""
    added: dict[str, Callable[[], Backend]] = {
        point.name: _Added(point) for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    }
    return added | BACKENDS


@dataclass(frozen=True, slots=True)
class _Added:
    """A backend of another package, loaded when it is asked for."""

    point: importlib.metadata.EntryPoint

    def __call__(self) -> Backend:
        try:
            return self.point.load()()
        except Exception as error:
            raise SolverUnavailableError(
                f"the solver {self.point.name} of {self.point.value} cannot be loaded: {error}"
            ) from error


def _installed() -> str:
    names = [name for name, factory in BACKENDS.items() if factory().version() is not None]
    return f"installed: {', '.join(names) or 'none'}"

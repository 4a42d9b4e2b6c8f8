"""What a solver backend takes and gives: the types between milpq and any MILP or LP solver."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import UsageError
from milpq.milp.model import LinearModel

Status: TypeAlias = Literal["optimal", "infeasible", "stopped", "time_limit", "interrupted", "error"]
"""How a solve ended.

``stopped``: one of the two early stops of `SolveOptions` was reached.  ``interrupted``: Ctrl-C, or the
progress callback returned False.  ``error``: the solver gave up; the claimed bound is then ``+inf``.
"""

Feature: TypeAlias = Literal["mip_start", "progress", "early_stop", "duals", "warm_start", "any_time_bound"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a running solve stands, as the solver claims.

    Attributes
    ----------
    claimed_bound : float
        Upper bound on the maximum; ``+inf`` while there is none.
    claimed_value : float
        Objective of the best point found; ``−inf`` while there is none.
    nodes : int
    time_s : float
        Wall time since the solve started.
    """

    claimed_bound: float
    claimed_value: float
    nodes: int
    time_s: float


@dataclass(frozen=True, slots=True, eq=False)
class SolveOptions:
    """Limits and hints of one solve.

    Parameters
    ----------
    time_limit : float, optional
        Seconds of wall time.
    gap_relative : float
        Stop when the claimed bound is within this fraction of the best value.
    threads : int
        At least 1.
    start : float64 array of shape ``(columns,)``, optional
        A point to start from; NaN where unknown.  Backends without ``mip_start`` ignore it.
    stop_when_bound_below : float, optional
        Stop once the claimed bound is below this: what was to be shown is shown.
    stop_when_value_above : float, optional
        Stop once a point with a value above this is claimed.
    on_progress : callable, optional
        Called now and then, in another thread perhaps; returning False stops the solve.
    seed : int
        Of the solver's own random choices, 0 to 2³¹ − 1.

    Raises
    ------
    UsageError
        A value out of its range.
    """

    time_limit: float | None = None
    gap_relative: float = 1e-9
    threads: int = 1
    start: Float64Array | None = None
    stop_when_bound_below: float | None = None
    stop_when_value_above: float | None = None
    on_progress: Callable[[Progress], bool] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.time_limit is not None and not self.time_limit >= 0.0:
            raise UsageError(f"time_limit must be at least 0 seconds, got {self.time_limit}")
        if not 0.0 <= self.gap_relative < math.inf:
            raise UsageError(f"gap_relative must be finite and at least 0, got {self.gap_relative}")
        if self.threads < 1:
            raise UsageError(f"threads must be at least 1, got {self.threads}")
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"seed must be from 0 to 2147483647, got {self.seed}")

    def should_stop(self, progress: Progress) -> bool:
        """Return whether one of the two early stops is reached."""
        below, above = self.stop_when_bound_below, self.stop_when_value_above
        return (below is not None and progress.claimed_bound < below) or (
            above is not None and progress.claimed_value > above
        )


DEFAULT_OPTIONS = SolveOptions()


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What a solver claims about one maximization.  Hints only.

    Attributes
    ----------
    status : Status
    claimed_bound : float
        Upper bound on the maximum; ``−inf`` of a model claimed infeasible, ``+inf`` when there is none.
    claimed_value : float
        Objective at `point` as the solver sees it; ``−inf`` without a point.
    point : float64 array of shape ``(columns,)``, or None
        The best point found, feasible within the solver's tolerances at best.
    duals : float64 array of shape ``(rows,)``, or None
        Of a model without integers: row duals, positive where the upper side of a row holds the maximum down.
        They suit `milpq.milp.safe.safe_upper_bound` as they are, and need not be optimal.
    ray : float64 array of shape ``(rows,)``, or None
        Of a linear model claimed infeasible: a dual ray for `milpq.milp.safe.safe_infeasible`.
    nodes : int
    time_s : float
    interrupted : bool
        Whether Ctrl-C ended the solve; the bracket is the best so far.

    Notes
    -----
    *Soundness:* none of this is believed.  Upper bounds come from `milpq.milp.safe`, lower bounds from
    running the networks at the point.
    """

    status: Status
    claimed_bound: float
    claimed_value: float
    point: Float64Array | None
    duals: Float64Array | None
    ray: Float64Array | None
    nodes: int
    time_s: float
    interrupted: bool


class Session(Protocol):
    """One model inside one solver, for repeated solves; changes keep what the solver has learnt.

    Not to be used by two threads at once.
    """

    def set_bounds(self, columns: Int64Array, lower: Float64Array, upper: Float64Array) -> None:
        """Change the bounds of some columns (finite; three arrays of one length)."""
        ...

    def maximize(self, objective: Float64Array, options: SolveOptions = ...) -> Solution:
        """Maximize ``objective · x``, shape ``(columns,)``, from the last basis where there is one."""
        ...

    def basis(self) -> object | None:
        """Return the simplex basis of the last linear solve, to hand to `set_basis`, or None."""
        ...

    def set_basis(self, basis: object) -> None:
        """Start the next linear solve from a basis of this session; ignored where unsupported."""
        ...

    def close(self) -> None:
        """Free the solver's memory and licence.  Closing twice is allowed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Backend(Protocol):
    """A solver.  Making one imports nothing and takes no licence; `open` may do both."""

    @property
    def name(self) -> str:
        """The name a user selects it by."""
        ...

    @property
    def features(self) -> frozenset[Feature]:
        """What its sessions support."""
        ...

    def version(self) -> str | None:
        """Return the version of the solver, or None when it is not installed."""
        ...

    def licence(self) -> str:
        """Return the state of the licence in a few words, without acquiring one."""
        ...

    def open(self, model: LinearModel) -> Session:
        """Give the model to the solver.

        Raises
        ------
        SolverUnavailableError
            The solver is not installed, has no licence, or refuses the size of the model.
        """
        ...


def objective_scale(model: LinearModel, objective: Float64Array) -> float:
    """Return the power of two, at least 1, that brings the range of the objective to order one.

    Solvers work with absolute tolerances, so a difference of 1e-4 must be scaled up to be solved well.  A
    power of two changes no digit, and dividing it out again is exact.
    """
    reach = float(np.max(np.abs(objective) * (model.upper - model.lower), initial=0.0))
    return math.ldexp(1.0, min(max(-math.frexp(reach)[1], 0), 40)) if reach > 0.0 else 1.0


def checked_objective(model: LinearModel, objective: Float64Array) -> Float64Array:
    """Return `objective` as float64 of shape ``(columns,)``; raise `UsageError` when it is not finite."""
    objective = np.asarray(objective, dtype=np.float64)
    if objective.shape != (model.columns,):
        raise UsageError(f"objective has shape {objective.shape}, expected ({model.columns},)")
    if not bool(np.all(np.isfinite(objective))):
        raise UsageError("objective has entries that are not finite")
    return objective


def checked_bounds(
    model: LinearModel, columns: Int64Array, lower: Float64Array, upper: Float64Array
) -> LinearModel:
    """Return the model with changed bounds; raise `UsageError` for bounds no solver should see."""
    columns = np.asarray(columns, dtype=np.int64)
    if columns.size and (int(columns.min()) < 0 or int(columns.max()) >= model.columns):
        raise UsageError(f"bounds name a column outside 0..{model.columns - 1}")
    return model.with_column_bounds(columns, lower, upper)

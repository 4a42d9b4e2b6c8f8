"""Gurobi through `gurobipy`, whose restricted licence comes with ``pip`` and takes 2000 columns and rows.

References: Gurobi Optimizer Reference Manual, https://docs.gurobi.com (parameters, attributes, error codes).
"""

# gurobipy has partial stubs: attributes of a model are typed as unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import importlib.metadata
import math
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import scipy.sparse as sp

from milpq._arrays import BoolArray, Float64Array, Int64Array, frozen
from milpq.errors import SolverUnavailableError
from milpq.milp.backends._interrupt import Cancellation, KeptHandler, run_interruptible
from milpq.milp.backends.protocol import (
    DEFAULT_OPTIONS,
    Feature,
    Progress,
    Solution,
    SolveOptions,
    Status,
    checked_bounds,
    checked_objective,
    objective_scale,
)
from milpq.milp.model import LinearModel

_TOLERANCE = 1e-9
_RESTRICTED_SIZE = 2000
_SIZE_LIMIT_EXCEEDED = 10010
_INFINITE = 1e99  # Gurobi's own infinity is 1e100


class GurobiBackend:
    """Gurobi, commercial, for linear and mixed-integer models."""

    __slots__ = ()
    name: str = "gurobi"
    features: frozenset[Feature] = frozenset(
        {"mip_start", "progress", "early_stop", "duals", "warm_start", "any_time_bound"}
    )

    def version(self) -> str | None:
        """Return the version of gurobipy, or None when it is not installed."""
        try:
            return importlib.metadata.version("gurobipy")
        except importlib.metadata.PackageNotFoundError:
            return None

    def licence(self) -> str:
        """Return what licence would be used, going by files and environment variables alone."""
        if self.version() is None:
            return "not installed"
        if self.has_own_licence():
            return "own licence found, not verified"
        return f"restricted ({_RESTRICTED_SIZE} columns and rows)"

    def has_own_licence(self) -> bool:
        """Return whether a licence other than the restricted one is configured; nothing is acquired."""
        named = os.environ.get("GRB_LICENSE_FILE")
        if named:
            return Path(named).is_file()
        if os.environ.get("GRB_WLSACCESSID") and os.environ.get("GRB_WLSSECRET"):
            return True
        folders = [Path.home(), Path("/opt/gurobi"), Path("/Library/gurobi"), Path("c:/gurobi")]
        folders += [Path(root) for root in (os.environ.get("GUROBI_HOME"),) if root]
        version = (self.version() or "").replace(".", "")
        folders += [Path(f"{root}{version}") for root in ("/opt/gurobi", "/Library/gurobi", "c:/gurobi")]
        return any((folder / "gurobi.lic").is_file() for folder in folders)

    def open(self, model: LinearModel) -> GurobiSession:
        """Give the model to a new Gurobi environment."""
        return GurobiSession(model)


def _load() -> Any:  # noqa: ANN401 - a module
    try:
        import gurobipy  # noqa: PLC0415 - only when a model is opened
    except ImportError as error:
        raise SolverUnavailableError(
            f"the solver gurobi cannot be loaded ({error}); install it with: pip install 'milpq[gurobi]'"
        ) from error
    return gurobipy


class GurobiSession:
    """A model inside one Gurobi environment; see `milpq.milp.backends.protocol.Session`."""

    __slots__ = (
        "_environment",
        "_gurobi",
        "_lower_rows",
        "_model",
        "_rows",
        "_solver",
        "_upper_rows",
        "_variables",
    )

    def __init__(self, model: LinearModel) -> None:
        grb = self._gurobi = _load()
        self._model = model
        self._environment: Any = None
        self._solver: Any = None
        try:
            self._environment = environment = grb.Env(empty=True)
            environment.setParam("OutputFlag", 0)
            environment.start()
            self._solver = solver = grb.Model(env=environment)
            kinds = np.where(model.integer, grb.GRB.INTEGER, grb.GRB.CONTINUOUS)
            self._variables = solver.addMVar(
                model.columns, lb=model.lower, ub=model.upper, vtype=kinds.tolist()
            )
            # A ranged row would cost a column of the licence, so its two sides become two rows.
            equal = model.row_lower == model.row_upper
            matrix = model.matrix()
            self._upper_rows = np.flatnonzero(np.isfinite(model.row_upper))
            self._lower_rows = np.flatnonzero(np.isfinite(model.row_lower) & ~equal)
            self._rows = [
                self._add_rows(matrix, equal, self._upper_rows, grb.GRB.LESS_EQUAL, model.row_upper),
                self._add_rows(matrix, equal, self._lower_rows, grb.GRB.GREATER_EQUAL, model.row_lower),
            ]
            for name in ("FeasibilityTol", "IntFeasTol", "OptimalityTol"):
                solver.setParam(name, _TOLERANCE)
            solver.setParam("MIPGapAbs", 0.0)
            solver.setAttr("ModelSense", grb.GRB.MAXIMIZE)
            solver.update()
            if max(solver.NumVars, solver.NumConstrs) > _RESTRICTED_SIZE:
                solver.setParam("TimeLimit", 0.0)  # the licence is asked about the size by a solve of no time
                solver.optimize()
        except grb.GurobiError as error:
            self.close()
            raise self._refusal(error) from error

    def _add_rows(
        self, matrix: sp.csr_array, equal: BoolArray, rows: Int64Array, sense: str, side: Float64Array
    ) -> Any:  # noqa: ANN401 - MConstr or None
        """Add one side of the given rows; a sense of ``=`` where both sides are one."""
        if not rows.size:
            return None
        senses = np.where(equal[rows], self._gurobi.GRB.EQUAL, sense)
        return self._solver.addMConstr(matrix[rows], self._variables, senses, side[rows])

    def _refusal(self, error: Any) -> SolverUnavailableError:  # noqa: ANN401 - a GurobiError
        if error.errno == _SIZE_LIMIT_EXCEEDED:
            return SolverUnavailableError(
                f"gurobi refuses: its restricted licence takes {_RESTRICTED_SIZE} columns and rows, "
                f"the model has {self._model.columns} and {self._model.rows}; install a full licence or use "
                "--solver highs"
            )
        message = " ".join(str(error).split())
        return SolverUnavailableError(f"gurobi refuses ({message}); use --solver highs")

    def set_bounds(self, columns: Int64Array, lower: Float64Array, upper: Float64Array) -> None:
        """Change the bounds of some columns."""
        self._model = model = checked_bounds(self._model, columns, lower, upper)
        columns = np.asarray(columns, dtype=np.int64)
        changed = self._variables[columns]
        changed.LB, changed.UB = model.lower[columns], model.upper[columns]

    def maximize(self, objective: Float64Array, options: SolveOptions = DEFAULT_OPTIONS) -> Solution:
        """Maximize ``objective · x``; see `milpq.milp.backends.protocol.Session.maximize`."""
        model, solver, grb = self._model, self._solver, self._gurobi
        objective = checked_objective(model, objective)
        scale = objective_scale(model, objective)
        self._variables.Obj = objective * scale
        infinite = grb.GRB.INFINITY
        solver.setParam("TimeLimit", infinite if options.time_limit is None else options.time_limit)
        solver.setParam("MIPGap", options.gap_relative)
        solver.setParam("Threads", options.threads)
        solver.setParam("Seed", options.seed)
        if model.has_integers:
            solver.reset()
            start = np.full(model.columns, np.nan) if options.start is None else options.start
            self._variables.Start = np.where(np.isnan(start), grb.GRB.UNDEFINED, start)
        started = time.perf_counter()
        watch = _Watch(options, scale, started, grb.GRB.Callback)
        try:
            with KeptHandler():
                run_interruptible(lambda: solver.optimize(watch), watch.cancellation, solver.terminate)
        except grb.GurobiError as error:
            raise self._refusal(error) from error
        return self._solution(watch, time.perf_counter() - started)

    def basis(self) -> object | None:
        """Return the basis of the last linear solve: the statuses of the columns and of the rows."""
        solved = self._solver.Status == self._gurobi.GRB.OPTIMAL
        if self._model.has_integers or not solved:
            return None
        return self._variables.VBasis, [None if rows is None else rows.CBasis for rows in self._rows]

    def set_basis(self, basis: object) -> None:
        """Start the next linear solve from `basis`."""
        if isinstance(basis, tuple):
            self._variables.VBasis = basis[0]
            for rows, statuses in zip(self._rows, basis[1], strict=True):
                if rows is not None:
                    rows.CBasis = statuses

    def close(self) -> None:
        """Free the model and the licence."""
        for owned in (self._solver, self._environment):
            if owned is not None:
                owned.dispose()
        self._solver = self._environment = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _solution(self, watch: _Watch, time_s: float) -> Solution:
        """Read what Gurobi has after a run."""
        solver, model, ends = self._solver, self._model, self._gurobi.GRB
        status: Status = "error"
        if solver.Status == ends.OPTIMAL:
            status = "optimal"
        elif solver.Status in (ends.INFEASIBLE, ends.INF_OR_UNBD):
            status = "infeasible"  # no column is unbounded
        elif solver.Status == ends.TIME_LIMIT:
            status = "time_limit"
        elif solver.Status == ends.INTERRUPTED:
            status = "stopped" if watch.stopped_early else "interrupted"
            # Before its first callback Gurobi catches Ctrl-C itself, and the waiting thread sees nothing.
            watch.cancellation.keyboard |= not (watch.stopped_early or watch.cancellation.requested)
        point = duals = ray = None
        value, bound = -math.inf, math.inf
        if status == "infeasible":
            bound = -math.inf
        elif status != "error" and (model.has_integers or status == "optimal") and solver.SolCount > 0:
            point = frozen(np.array(self._variables.X, dtype=np.float64))
            value = float(solver.ObjVal) / watch.scale
        if model.has_integers:
            if status not in {"infeasible", "error"} and abs(solver.ObjBound) < _INFINITE:
                bound = float(solver.ObjBound) / watch.scale
        elif status == "optimal":
            bound = value
            duals = self._by_row("Pi", 1.0 / watch.scale)
        elif status == "infeasible":
            ray = self._infeasibility_proof()
        return Solution(
            status=status,
            claimed_bound=bound,
            claimed_value=value,
            point=point,
            duals=duals,
            ray=ray,
            nodes=int(solver.NodeCount) if model.has_integers else 0,
            time_s=time_s,
            interrupted=watch.cancellation.keyboard,
        )

    def _by_row(self, attribute: str, factor: float) -> Float64Array:
        """Return an attribute of Gurobi's rows, the two sides of a row of the model added."""
        total = np.zeros(self._model.rows)
        for constraint, rows in zip(self._rows, (self._upper_rows, self._lower_rows), strict=True):
            if constraint is not None:
                total[rows] += np.asarray(constraint.getAttr(attribute), dtype=np.float64)
        return frozen(total * factor)

    def _infeasibility_proof(self) -> Float64Array | None:
        """Solve once more without presolve for a Farkas ray; None when Gurobi does not give one."""
        solver = self._solver
        try:
            solver.setParam("InfUnbdInfo", 1)
            solver.setParam("Presolve", 0)
            solver.optimize()
            return self._by_row("FarkasDual", 1.0)
        except (self._gurobi.GurobiError, AttributeError):
            return None
        finally:
            solver.setParam("InfUnbdInfo", 0)
            solver.setParam("Presolve", -1)


class _Watch:
    """The callback of one run: reports progress and asks Gurobi to stop."""

    __slots__ = ("_codes", "cancellation", "options", "scale", "started", "stopped_early")

    def __init__(self, options: SolveOptions, scale: float, started: float, codes: Any) -> None:  # noqa: ANN401
        self._codes = codes
        self.options = options
        self.scale = scale
        self.started = started
        self.cancellation = Cancellation()
        self.stopped_early = False

    def __call__(self, solver: Any, where: int) -> None:  # noqa: ANN401 - a gurobipy Model
        """See the callbacks of Gurobi.  Lets no exception out: Gurobi would print and forget it."""
        try:
            KeptHandler.reinstate()
            if where == self._codes.MIP:
                self._look(solver)
            elif where in (self._codes.SIMPLEX, self._codes.BARRIER):
                self._report(math.inf, -math.inf, 0)
        except BaseException as error:  # noqa: BLE001 - raised again after the run
            self.cancellation.fail(error)
        if self.cancellation.requested or self.stopped_early:
            solver.terminate()

    def _look(self, solver: Any) -> None:  # noqa: ANN401 - a gurobipy Model
        bound = float(solver.cbGet(self._codes.MIP_OBJBND))
        value = float(solver.cbGet(self._codes.MIP_OBJBST))
        self._report(
            bound / self.scale if abs(bound) < _INFINITE else math.inf,
            value / self.scale if abs(value) < _INFINITE else -math.inf,
            int(solver.cbGet(self._codes.MIP_NODCNT)),
        )

    def _report(self, bound: float, value: float, nodes: int) -> None:
        progress = Progress(bound, value, nodes, time.perf_counter() - self.started)
        if self.options.should_stop(progress):
            self.stopped_early = True
        elif self.options.on_progress is not None and not self.options.on_progress(progress):
            self.cancellation.requested = True

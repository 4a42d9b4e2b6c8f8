"""Any solver that PuLP drives: CBC, which comes with it, or one chosen by ``pulp:NAME``.

PuLP knows no callbacks and no bounds: a solve that is cut off gives a point at best.  It hands models over as
text of 13 digits and CBC answers in text of 8, so points and duals are coarse.

References: https://coin-or.github.io/pulp.
"""

# PuLP is typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import io
import math
import subprocess
import tempfile
import time
import traceback
import warnings
from types import TracebackType
from typing import Any, Self

import numpy as np

from milpq._arrays import Float64Array, Int64Array, frozen
from milpq.errors import SolverUnavailableError
from milpq.milp.backends.highs import settled_threads
from milpq.milp.backends.protocol import (
    DEFAULT_OPTIONS,
    Feature,
    Solution,
    SolveOptions,
    Status,
    checked_bounds,
    checked_objective,
    objective_scale,
)
from milpq.milp.model import LinearModel

_CBC = "PULP_CBC_CMD"
_PACKAGES = {
    "COPT": "coptpy",
    "CPLEX_PY": "cplex",
    "CUOPT": "cuopt",
    "GUROBI": "gurobipy",
    "MOSEK": "mosek",
    "SAS94": "saspy",
    "SASCAS": "swat",
    "XPRESS_PY": "xpress",
}
"""Solvers that PuLP would start, and so take a licence, to say whether they are there."""
_CBC_OPTIONS = ["primalTolerance 1e-9", "dualTolerance 1e-9", "integerTolerance 1e-9"]


class PulpBackend:
    """A solver behind PuLP, by the name PuLP gives it; CBC when none is given."""

    __slots__ = ("solver",)
    features: frozenset[Feature] = frozenset({"mip_start", "duals"})

    def __init__(self, solver: str = "CBC") -> None:
        self.solver = _CBC if solver.upper() == "CBC" else solver

    @property
    def name(self) -> str:
        """``pulp`` for CBC, ``pulp:NAME`` for another solver."""
        return "pulp" if self.solver == _CBC else f"pulp:{self.solver}"

    def version(self) -> str | None:
        """Return the version of PuLP, or None when it or the solver behind it is not installed."""
        try:
            version = importlib.metadata.version("pulp")
        except importlib.metadata.PackageNotFoundError:
            return None
        return version if self.solver in self.installed_solvers() else None

    def licence(self) -> str:
        """Return the state of the licence."""
        return "open source, none needed" if self.solver == _CBC else "as the solver behind it"

    def open(self, model: LinearModel) -> PulpSession:
        """Build the model in PuLP."""
        return PulpSession(model, self.solver)

    @staticmethod
    def installed_solvers() -> list[str]:
        """Return the names of the solvers PuLP can run here; none when PuLP is not installed.

        Those that would take a licence to answer are looked for as Python packages instead.
        """
        try:
            pulp = _load()
        except SolverUnavailableError:
            return []
        return [name for name in pulp.listSolvers() if _is_installed(pulp, name)]


def _load() -> Any:  # noqa: ANN401 - a module
    try:
        import pulp  # noqa: PLC0415 - only when it is asked for
    except ImportError as error:
        raise SolverUnavailableError(
            f"the solver pulp cannot be loaded ({error}); install it with: pip install 'milpq[pulp]'"
        ) from error
    return pulp


def _is_installed(pulp: Any, name: str) -> bool:  # noqa: ANN401 - a module
    if name in _PACKAGES:
        return importlib.util.find_spec(_PACKAGES[name]) is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some solvers tell of their absence this way
        return bool(_solver(pulp, name, {}).available())


def _solver(pulp: Any, name: str, settings: dict[str, Any]) -> Any:  # noqa: ANN401 - a PuLP solver
    """Return the solver object for `name` with those of the settings that it knows."""
    if name == _CBC:  # under its own name PuLP 3.3 warns of its end; the program is the same
        solver: Any = pulp.COIN_CMD
        settings = settings | {"path": pulp.PULP_CBC_CMD.pulp_cbc_path}
    else:
        solver = next((kind for kind in _kinds(pulp.LpSolver) if getattr(kind, "name", "") == name), None)
        if solver is None:
            raise SolverUnavailableError(
                f"PuLP knows no solver {name}; it knows {', '.join(pulp.listSolvers())}"
            )
    known = inspect.signature(solver.__init__).parameters
    return solver(msg=False, **{key: value for key, value in settings.items() if key in known})


def _kinds(base: type[Any]) -> list[type[Any]]:
    """Return every class derived from `base`."""
    return [kind for child in base.__subclasses__() for kind in (child, *_kinds(child))]


class PulpSession:
    """A model as PuLP objects; see `milpq.milp.backends.protocol.Session`.

    Notes
    -----
    The model is handed to the solver anew at each solve, and nothing is learnt from one to the next.  Where a
    solver takes no limit or gap, the option is not obeyed.
    """

    __slots__ = ("_model", "_name", "_problem", "_pulp", "_rows", "_variables")

    def __init__(self, model: LinearModel, name: str) -> None:
        pulp = self._pulp = _load()
        self._model = model
        self._name = name
        self._problem: Any = pulp.LpProblem("milpq", pulp.LpMinimize)
        kinds = np.where(model.integer, pulp.LpInteger, pulp.LpContinuous).tolist()
        self._variables = [
            self._problem.add_variable(f"x{column}", lower, upper, kind)
            for column, (lower, upper, kind) in enumerate(
                zip(model.lower.tolist(), model.upper.tolist(), kinds, strict=True)
            )
        ]
        self._rows: list[tuple[int, Any]] = []
        starts, columns, values = model.indptr.tolist(), model.indices.tolist(), model.values.tolist()
        for row in range(model.rows):
            span = slice(starts[row], starts[row + 1])
            terms = [
                (self._variables[j], value) for j, value in zip(columns[span], values[span], strict=True)
            ]
            self._add_row(row, terms, float(model.row_lower[row]), float(model.row_upper[row]))

    def _add_row(self, row: int, terms: list[tuple[Any, float]], lower: float, upper: float) -> None:
        """Add one row, as two where its sides differ and are both finite."""
        pulp = self._pulp
        if lower == upper:
            sides = [(pulp.LpConstraintEQ, lower, "e")]
        else:
            sides = [(pulp.LpConstraintLE, upper, "u"), (pulp.LpConstraintGE, lower, "l")]
        for sense, side, suffix in sides:
            if math.isfinite(side):
                expression = pulp.LpAffineExpression(terms)
                constraint = pulp.LpConstraint(expression, sense, f"r{row}{suffix}", side)
                self._problem.addConstraint(constraint)
                self._rows.append((row, constraint))

    def set_bounds(self, columns: Int64Array, lower: Float64Array, upper: Float64Array) -> None:
        """Change the bounds of some columns."""
        self._model = model = checked_bounds(self._model, columns, lower, upper)
        for column in np.asarray(columns).tolist():
            self._variables[column].lowBound = float(model.lower[column])
            self._variables[column].upBound = float(model.upper[column])

    def maximize(self, objective: Float64Array, options: SolveOptions = DEFAULT_OPTIONS) -> Solution:
        """Maximize ``objective · x``; see `milpq.milp.backends.protocol.Session.maximize`."""
        model, pulp = self._model, self._pulp
        objective = checked_objective(model, objective)
        scale = objective_scale(model, objective)
        costs = (-objective * scale).tolist()  # minimized: the signs of duals are settled for that alone
        self._problem.setObjective(pulp.LpAffineExpression(list(zip(self._variables, costs, strict=True))))
        for variable in self._variables:
            variable.varValue = None
        started = time.perf_counter()
        interrupted = False
        with tempfile.TemporaryDirectory(prefix="milpq-") as folder:
            solver = _solver(pulp, self._name, self._settings(options))
            solver.tmpDir = folder
            try:
                self._problem.solve(solver)
            except KeyboardInterrupt as error:
                interrupted = True
                _end_child(error)
            except pulp.PulpSolverError as error:
                message = " ".join(str(error).split())
                raise SolverUnavailableError(f"pulp cannot run {self._name}: {message}") from error
        time_s = time.perf_counter() - started
        if interrupted:
            return Solution("interrupted", math.inf, -math.inf, None, None, None, 0, time_s, interrupted=True)
        return self._solution(objective, scale, options, time_s)

    def _settings(self, options: SolveOptions) -> dict[str, Any]:
        """Return the options under PuLP's names, and the start in its variables."""
        settings: dict[str, Any] = {"gapRel": options.gap_relative, "threads": options.threads}
        if self._name == _CBC and options.threads == 1:
            del settings["threads"]  # asked for one, CBC starts a worker, and now and then waits 10 s for it
        if options.time_limit is not None:
            settings["timeLimit"] = options.time_limit
        if self._name == _CBC:
            settings["options"] = list(_CBC_OPTIONS)
        if self._name == "HiGHS":  # in this process, where HiGHS allows one number of threads
            settings["threads"] = settled_threads(options.threads)
        start = options.start
        if start is not None and self._model.has_integers and not np.isnan(start).any():
            settings["warmStart"] = True
            for variable, value in zip(self._variables, start.tolist(), strict=True):
                variable.setInitialValue(value, check=False)
        return settings

    def _solution(
        self, objective: Float64Array, scale: float, options: SolveOptions, time_s: float
    ) -> Solution:
        """Read what PuLP has after a run."""
        pulp, model, problem = self._pulp, self._model, self._problem
        status: Status = "error"
        if problem.sol_status == pulp.LpSolutionOptimal:
            status = "optimal"
        elif problem.status == pulp.LpStatusInfeasible:
            status = "infeasible"
        elif options.time_limit is not None and time_s >= 0.9 * options.time_limit:
            status = "time_limit"
        point = duals = None
        value, bound = -math.inf, -math.inf if status == "infeasible" else math.inf
        if problem.sol_status in {pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible}:
            # A column in no row and not in the objective never reaches the solver: any value will do.
            values = np.array([variable.varValue for variable in self._variables], dtype=np.float64)
            point = frozen(np.where(np.isnan(values), model.lower, values))
            value = float(objective @ point)
        if status == "optimal":
            bound = value + (options.gap_relative * abs(value) if model.has_integers else 0.0)
            if not model.has_integers:
                duals = self._duals(-1.0 / scale)
        return Solution(status, bound, value, point, duals, None, 0, time_s, interrupted=False)

    def _duals(self, factor: float) -> Float64Array | None:
        """Return the row duals, the two sides of a row added; None when the solver gives none."""
        total = np.zeros(self._model.rows)
        for row, constraint in self._rows:
            if constraint.pi is None:
                return None
            total[row] += constraint.pi
        return frozen(total * factor)

    def basis(self) -> object | None:
        """Return None: PuLP has no bases."""
        return None

    def set_basis(self, basis: object) -> None:
        """Do nothing: PuLP has no bases."""

    def close(self) -> None:
        """Do nothing: no solver outlives a solve."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end_child(error: BaseException) -> None:
    """End the solver process that the interrupted call was waiting for, and close its output.

    PuLP keeps both in local variables, so they are found in the frames of the exception.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        held = list(frame.f_locals.values())
        if frame.f_globals.get("__name__", "").startswith("pulp."):
            for value in held:
                if isinstance(value, io.IOBase):
                    value.close()
        for value in held:
            if isinstance(value, subprocess.Popen):
                value.terminate()
                value.wait()

"""HiGHS through `highspy`: the solver milpq is installed with.

References: Q. Huangfu and J. Hall, *Parallelizing the dual revised simplex method*, Mathematical Programming
Computation 10 (2018); https://highs.dev.
"""

# highspy ships partial stubs: several overloads and callback fields have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import importlib.metadata
import math
import threading
import time
from types import TracebackType
from typing import Any, Self

import numpy as np

from milpq._arrays import Float64Array, Int64Array, frozen
from milpq.errors import SolverUnavailableError
from milpq.milp.backends._interrupt import Cancellation, run_interruptible
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
_SHORT_LP_NONZEROS = 20_000  # below this a linear solve takes milliseconds and needs no worker for Ctrl-C
_SIMPLEX_CHOOSE, _SIMPLEX_DUAL, _SIMPLEX_PRIMAL = 0, 1, 4


class HighsBackend:
    """HiGHS, open source (MIT), for linear and mixed-integer models."""

    __slots__ = ()
    name: str = "highs"
    features: frozenset[Feature] = frozenset(
        {"mip_start", "progress", "early_stop", "duals", "warm_start", "any_time_bound"}
    )

    def version(self) -> str | None:
        """Return the version of highspy, or None when it is not installed."""
        try:
            return importlib.metadata.version("highspy")
        except importlib.metadata.PackageNotFoundError:
            return None

    def licence(self) -> str:
        """Return the state of the licence."""
        return "open source, none needed"

    def open(self, model: LinearModel) -> HighsSession:
        """Give the model to a new HiGHS instance."""
        return HighsSession(model)


def _load() -> Any:  # noqa: ANN401 - a module
    try:
        import highspy  # noqa: PLC0415 - only when a model is opened
    except ImportError as error:
        raise SolverUnavailableError(
            f"the solver highs cannot be loaded ({error}); install it with: pip install highspy"
        ) from error
    return highspy


_threads_lock = threading.Lock()
_threads: list[int] = []


def settled_threads(wanted: int) -> int:
    """Return the thread count of this process: the first one asked for.

    HiGHS has one scheduler in a process and refuses to run with a second size for it.
    """
    with _threads_lock:
        if not _threads:
            _threads.append(wanted)
        return _threads[0]


class HighsSession:
    """A model inside one HiGHS instance; see `milpq.milp.backends.protocol.Session`.

    Notes
    -----
    Linear solves keep their basis: after a change of the objective alone the primal simplex goes on from it,
    after a change of bounds the dual simplex.  The first solve of a process settles the number of threads for
    all (a limit of HiGHS).  Coefficients below 1e-12 are dropped by HiGHS, one more reason why its claims are
    hints.
    """

    __slots__ = ("_bounds_changed", "_has_basis", "_highs", "_model")

    def __init__(self, model: LinearModel) -> None:
        highspy = _load()
        self._model = model
        self._has_basis = False
        self._bounds_changed = False
        highs: Any = highspy.Highs()
        self._highs = highs
        self._set("output_flag", False)
        # Integrality keeps HiGHS's own 1e-6: at 1e-9, version 1.15.1 claims optima below the true one (2 % of small
        # integer models), which Gurobi and enumeration contradict.
        for what in ("primal", "dual"):
            self._set(f"{what}_feasibility_tolerance", _TOLERANCE)
        self._set("mip_abs_gap", 0.0)
        self._set("small_matrix_value", 1e-12)
        status = highs.passModel(
            model.columns,
            model.rows,
            model.nonzeros,
            int(highspy.MatrixFormat.kRowwise),
            int(highspy.ObjSense.kMaximize),
            0.0,
            np.zeros(model.columns),
            model.lower,
            model.upper,
            model.row_lower,
            model.row_upper,
            model.indptr.astype(np.int32),
            model.indices.astype(np.int32),
            model.values,
            model.integer.astype(np.int32),
        )
        if status == highspy.HighsStatus.kError:
            raise SolverUnavailableError(
                f"highs refuses the model ({model.columns} columns, {model.rows} rows); use another --solver"
            )

    def set_bounds(self, columns: Int64Array, lower: Float64Array, upper: Float64Array) -> None:
        """Change the bounds of some columns."""
        self._model = checked_bounds(self._model, columns, lower, upper)
        columns = np.asarray(columns, dtype=np.int64)
        self._highs.changeColsBounds(
            columns.size, columns.astype(np.int32), self._model.lower[columns], self._model.upper[columns]
        )
        self._bounds_changed = True

    def maximize(self, objective: Float64Array, options: SolveOptions = DEFAULT_OPTIONS) -> Solution:
        """Maximize ``objective · x``; see `milpq.milp.backends.protocol.Session.maximize`."""
        model, highs = self._model, self._highs
        objective = checked_objective(model, objective)
        scale = objective_scale(model, objective)
        highs.changeColsCost(model.columns, np.arange(model.columns, dtype=np.int32), objective * scale)
        self._prepare(options)
        started = time.perf_counter()
        watch = _Watch(options, scale, started)
        self._run(watch)
        if self._has_basis and not model.has_integers and self._gave_up():
            self._highs.clearSolver()  # a warm start can lead the simplex astray: once more from nothing
            self._has_basis = False
            self._prepare(options)
            self._run(watch)
        self._bounds_changed = False
        return self._solution(watch, time.perf_counter() - started)

    def _run(self, watch: _Watch) -> None:
        """Run HiGHS, in a way that Ctrl-C ends it; short linear solves simply finish."""
        short = not self._model.has_integers and self._model.nonzeros < _SHORT_LP_NONZEROS
        if short and watch.options.on_progress is None:
            try:
                self._highs.run()
            except KeyboardInterrupt:
                watch.cancellation.keyboard = True
            return
        self._listen(watch)
        try:
            run_interruptible(self._run_in_thread, watch.cancellation)
        finally:
            self._highs.setCallback(None, None)

    def _gave_up(self) -> bool:
        ends: Any = _load().HighsModelStatus
        return self._highs.getModelStatus() in {ends.kNotset, ends.kSolveError, ends.kUnknown}

    def basis(self) -> object | None:
        """Return the basis of the last linear solve."""
        return self._highs.getBasis() if self._has_basis else None

    def set_basis(self, basis: object) -> None:
        """Start the next linear solve from `basis`."""
        self._highs.setBasis(basis)
        self._has_basis = True
        self._bounds_changed = True

    def close(self) -> None:
        """Free the model."""
        self._highs.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _set(self, option: str, value: bool | float | str) -> None:
        self._highs.setOptionValue(option, value)

    def _prepare(self, options: SolveOptions) -> None:
        """Set the options of one solve and the point or basis it starts from."""
        self._set("threads", settled_threads(options.threads))
        self._set("random_seed", options.seed)
        self._set("time_limit", math.inf if options.time_limit is None else options.time_limit)
        self._set("mip_rel_gap", options.gap_relative)
        if self._model.has_integers:
            self._highs.clearSolver()
            if options.start is not None:
                known = np.flatnonzero(~np.isnan(options.start))
                self._highs.setSolution(known.size, known.astype(np.int32), options.start[known])
            return
        warm = _SIMPLEX_DUAL if self._bounds_changed else _SIMPLEX_PRIMAL
        self._set("presolve", "off" if self._has_basis else "choose")
        self._set("simplex_strategy", warm if self._has_basis else _SIMPLEX_CHOOSE)

    def _listen(self, watch: _Watch) -> None:
        """Have HiGHS call `watch` while it runs."""
        kinds = _load().cb.HighsCallbackType
        self._highs.setCallback(watch, None)
        for kind in ("Mip", "Simplex", "Ipm"):
            self._highs.startCallback(getattr(kinds, f"kCallback{kind}Interrupt"))

    def _run_in_thread(self) -> None:
        self._highs.run()

    def _solution(self, watch: _Watch, time_s: float) -> Solution:
        """Read what HiGHS has after a run."""
        ends: Any = _load().HighsModelStatus
        highs, model = self._highs, self._model
        info, raw, ended = highs.getInfo(), highs.getSolution(), highs.getModelStatus()
        status: Status = "error"
        if ended == ends.kOptimal:
            status = "optimal"
        elif ended in (ends.kInfeasible, ends.kUnboundedOrInfeasible):
            status = "infeasible"  # no column is unbounded
        elif ended == ends.kTimeLimit:
            status = "time_limit"
        elif ended in {ends.kInterrupt, ends.kHighsInterrupt}:
            status = "stopped" if watch.stopped_early else "interrupted"
        point = duals = ray = None
        value, bound, nodes = -math.inf, math.inf, 0
        if status == "infeasible":
            bound = -math.inf
        elif raw.value_valid and int(info.primal_solution_status) == 2:  # kSolutionStatusFeasible
            point = _array(raw.col_value)
            value = float(info.objective_function_value) / watch.scale
        if model.has_integers:
            nodes = max(int(info.mip_node_count), 0)
            if status not in ("infeasible", "error"):
                bound = float(info.mip_dual_bound) / watch.scale
        else:
            if raw.dual_valid:
                duals = frozen(_array(raw.row_dual) / watch.scale)
            if status == "optimal":
                bound = value
            elif status == "infeasible":
                _, exists, direction = highs.getDualRay()
                ray = _array(direction) if exists else None
            self._has_basis = bool(highs.getBasis().valid)
        bound = math.inf if math.isnan(bound) else bound
        return Solution(
            status=status,
            claimed_bound=bound,
            claimed_value=value,
            point=point,
            duals=duals,
            ray=ray,
            nodes=nodes,
            time_s=time_s,
            interrupted=watch.cancellation.keyboard,
        )


class _Watch:
    """The callback of one run: reports progress and asks HiGHS to stop."""

    __slots__ = ("cancellation", "mixed_kind", "options", "scale", "started", "stopped_early")

    def __init__(self, options: SolveOptions, scale: float, started: float) -> None:
        self.mixed_kind = int(_load().cb.HighsCallbackType.kCallbackMipInterrupt)
        self.options = options
        self.scale = scale
        self.started = started
        self.cancellation = Cancellation()
        self.stopped_early = False

    def __call__(self, kind: Any, _message: str, out: Any, answer: Any, _data: object) -> None:  # noqa: ANN401
        """See the callbacks of HiGHS.  Lets no exception out: it would unwind through the solver."""
        try:
            if not self.cancellation.requested:
                self._look(kind, out)
        except BaseException as error:  # noqa: BLE001 - raised again after the run
            self.cancellation.fail(error)
        if self.cancellation.requested or self.stopped_early:
            answer.user_interrupt = True

    def _look(self, kind: Any, out: Any) -> None:  # noqa: ANN401
        mixed = int(kind) == self.mixed_kind
        bound = float(out.mip_dual_bound) / self.scale if mixed else math.inf
        value = float(out.mip_primal_bound) / self.scale if mixed else -math.inf
        progress = Progress(
            claimed_bound=bound,
            claimed_value=value,
            nodes=max(int(out.mip_node_count), 0) if mixed else 0,
            time_s=time.perf_counter() - self.started,
        )
        if self.options.should_stop(progress):
            self.stopped_early = True
        elif self.options.on_progress is not None and not self.options.on_progress(progress):
            self.cancellation.requested = True


def _array(values: Any) -> Float64Array:  # noqa: ANN401
    return frozen(np.array(values, dtype=np.float64))

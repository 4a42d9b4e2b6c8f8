"""Models scaled by powers of two to order one, for solvers that work with absolute tolerances.

A difference of 1e-6 drowns in a feasibility tolerance of 1e-6, and one of 1e6 asks for digits that float64 does not
have.  Powers of two change no digit of a coefficient, so the scaled model is the same model, exactly, and duals
are scaled back without rounding (but for underflow, which makes a dual weaker, not wrong).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array, frozen
from milpq.milp.backends.protocol import DEFAULT_OPTIONS, Backend, Progress, Session, Solution, SolveOptions
from milpq.milp.model import LinearModel

_MOST = 60  # exponents of larger scales are cut off


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """Powers of two: a column of the scaled model is the column divided by its scale, a row times its scale.

    Parameters
    ----------
    columns : float64, shape (columns,)
    rows : float64, shape (rows,)
    """

    columns: Float64Array
    rows: Float64Array

    @classmethod
    def of(cls, model: LinearModel, kept: BoolArray | None = None) -> Scaling:
        """Choose scales: each real column's largest magnitude, then each row's largest coefficient, is about one.

        Parameters
        ----------
        kept : bool, shape (columns,), optional
            Columns not to scale: those that count something, beside the integer ones.  Rows that have only such
            columns keep their scale too, for their margins are meant in units.
        """
        kept = model.integer if kept is None else kept | model.integer
        reach = np.maximum(np.abs(model.lower), np.abs(model.upper))
        columns = np.where(kept | (reach == 0.0), 1.0, _power(reach))
        values = np.abs(model.values) * columns[model.indices]
        rows = np.ones(model.rows)
        filled = np.flatnonzero(np.diff(model.indptr))
        if len(filled):
            starts = model.indptr[filled]
            whole = np.logical_and.reduceat(kept[model.indices], starts)
            rows[filled] = np.where(whole, 1.0, 1.0 / _power(np.maximum.reduceat(values, starts)))
        return cls(frozen(columns), frozen(rows))

    def model(self, model: LinearModel) -> LinearModel:
        """Return the scaled model."""
        values = model.values * self.columns[model.indices] * self.rows[model.entry_rows()]
        return replace(
            model,
            lower=frozen(model.lower / self.columns),
            upper=frozen(model.upper / self.columns),
            row_lower=frozen(model.row_lower * self.rows),
            row_upper=frozen(model.row_upper * self.rows),
            values=frozen(values),
        )


def _power(magnitude: Float64Array) -> Float64Array:
    """Return the power of two just above each magnitude, within limits."""
    return np.ldexp(1.0, np.clip(np.frexp(magnitude)[1], -_MOST, _MOST))


class ScaledSession:
    """A session on a scaled model that speaks about the model itself; see `milpq.milp.backends.protocol.Session`.

    Objectives are scaled to order one, so claimed bounds and values have the precision that the solver has.
    """

    __slots__ = ("_scaling", "_session")

    def __init__(self, backend: Backend, model: LinearModel, kept: BoolArray | None = None) -> None:
        self._scaling = Scaling.of(model, kept)
        self._session: Session = backend.open(self._scaling.model(model))

    def set_bounds(self, columns: Int64Array, lower: Float64Array, upper: Float64Array) -> None:
        """Change the bounds of some columns."""
        scale = self._scaling.columns[columns]
        self._session.set_bounds(columns, lower / scale, upper / scale)

    def maximize(self, objective: Float64Array, options: SolveOptions = DEFAULT_OPTIONS) -> Solution:
        """Maximize ``objective · x``."""
        columns, rows = self._scaling.columns, self._scaling.rows
        scaled = objective * columns
        unit = float(_power(np.array(np.max(np.abs(scaled), initial=0.0)))) if scaled.any() else 1.0
        found = self._session.maximize(scaled / unit, self._options(options, unit))
        with np.errstate(all="ignore"):  # a solver may hand over anything
            return replace(
                found,
                claimed_bound=found.claimed_bound * unit,
                claimed_value=found.claimed_value * unit,
                point=None if found.point is None else frozen(found.point * columns),
                duals=None if found.duals is None else frozen(found.duals * rows * unit),
                ray=None if found.ray is None else frozen(found.ray * rows),
            )

    def _options(self, options: SolveOptions, unit: float) -> SolveOptions:
        """Return the options in terms of the scaled model."""
        listener, below, above = (
            options.on_progress,
            options.stop_when_bound_below,
            options.stop_when_value_above,
        )

        def listen(progress: Progress) -> bool:
            assert listener is not None
            bound, value = progress.claimed_bound * unit, progress.claimed_value * unit
            return listener(replace(progress, claimed_bound=bound, claimed_value=value))

        return replace(
            options,
            start=None if options.start is None else options.start / self._scaling.columns,
            stop_when_bound_below=None if below is None else below / unit,
            stop_when_value_above=None if above is None else above / unit,
            on_progress=None if listener is None else listen,
        )

    def basis(self) -> object | None:
        """Return the simplex basis of the last linear solve."""
        return self._session.basis()

    def set_basis(self, basis: object) -> None:
        """Start the next linear solve from a basis of this session."""
        self._session.set_basis(basis)

    def close(self) -> None:
        """Free the model."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""The columns that stand for one merged value, and the parts an encoding is put together from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.sparse as sp

from milpq._arrays import UNIT_ROUNDOFF, BoolArray, Float64Array, Int64Array
from milpq.bounds.outward import TINY, down, largest, up
from milpq.errors import DisjointBoundsError
from milpq.milp.model import ModelBuilder


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One vector of quantities inside a model: a column and a valid range for each neuron.

    Parameters
    ----------
    columns : int64, shape (neurons,)
        Distinct; several sides may share columns (a ReLU that is always active is its source).
    lower, upper : float64, shape (neurons,)
        In the unit of the column.
    """

    columns: Int64Array
    lower: Float64Array
    upper: Float64Array

    @property
    def size(self) -> int:
        """Number of neurons."""
        return len(self.columns)

    def at(self, neurons: Int64Array) -> Side:
        """Return some of the neurons."""
        return Side(self.columns[neurons], self.lower[neurons], self.upper[neurons])


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """The three faces of a merged value.

    Parameters
    ----------
    float_side : Side
        Real units.
    quantized : Side
        In integer units (levels or accumulators), or in real units where `unit` is None.
    unit : float64, shape (neurons,), or None
        Real value of one integer unit.
    difference : Side or None
        ``quantized − float_side``, real units; None for an input that nothing needs the difference of.
    """

    float_side: Side
    quantized: Side
    unit: Float64Array | None
    difference: Side | None

    def quantized_real(self) -> tuple[Float64Array, Float64Array]:
        """Return the range of the quantized side in real units, rounded outwards."""
        side = self.quantized
        if self.unit is None:
            return side.lower, side.upper
        return down(self.unit * side.lower, 2), up(self.unit * side.upper, 2)


class Part(Protocol):
    """A piece of an encoding that knows how its columns follow from those before it."""

    def fill(self, point: Float64Array) -> None:
        """Write the columns of this part into `point`, reading those of earlier parts."""
        ...

    def narrow(self, lower: Float64Array, upper: Float64Array) -> None:
        """Tighten column bounds in place by what this part implies, given those of earlier parts.

        Every point of the model within the bounds given, that an input leads to, stays within them.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """Columns that equal others, because a row may not name one column twice."""

    originals: Int64Array
    columns: Int64Array

    def fill(self, point: Float64Array) -> None:
        """Copy the values."""
        point[self.columns] = point[self.originals]

    def narrow(self, lower: Float64Array, upper: Float64Array) -> None:
        """Copy the bounds."""
        narrow_to(lower, upper, self.columns, lower[self.originals], upper[self.originals])


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """Columns ``d = unit·q − a``."""

    float_columns: Int64Array
    quantized_columns: Int64Array
    unit: Float64Array | float
    columns: Int64Array

    def fill(self, point: Float64Array) -> None:
        """Subtract."""
        point[self.columns] = self.unit * point[self.quantized_columns] - point[self.float_columns]

    def narrow(self, lower: Float64Array, upper: Float64Array) -> None:
        """Do nothing: the rows of the difference imply all there is."""


def narrow_to(
    lower: Float64Array,
    upper: Float64Array,
    columns: Int64Array,
    low: Float64Array | BoolArray | float,
    high: Float64Array | BoolArray | float,
) -> None:
    """Intersect the bounds of some columns with others, in place."""
    lower[columns] = np.maximum(lower[columns], low)
    upper[columns] = np.minimum(upper[columns], high)


def meet(
    what: str, first: tuple[Float64Array, Float64Array], *others: tuple[Float64Array, Float64Array]
) -> tuple[Float64Array, Float64Array]:
    """Return the intersection of valid ranges.

    Raises
    ------
    DisjointBoundsError
        It is empty: one of them is not valid, or an assumption that no point satisfies.
    """
    lower, upper = first
    for low, high in others:
        lower, upper = np.maximum(lower, low), np.minimum(upper, high)
    wrong = np.flatnonzero(~(lower <= upper))
    if len(wrong):
        raise DisjointBoundsError(
            f"bounds on {what}, neuron {wrong[0]}, do not meet: [{lower[wrong[0]]!r}, {upper[wrong[0]]!r}]"
        )
    return lower, upper


def add_difference(
    builder: ModelBuilder,
    parts: list[Part],
    name: str,
    float_side: Side,
    quantized: Side,
    unit: Float64Array | None,
    known: tuple[Float64Array, Float64Array],
    *,
    unit_is_exact: bool = True,
    neurons: Int64Array | None = None,
) -> Side:
    """Add the difference columns of a value and the rows ``unit·q − a − d = 0``.

    Parameters
    ----------
    known : (lower, upper), float64, shape (neurons,)
        Bounds on the difference.
    unit_is_exact : bool
        Otherwise `unit` is within one float64 rounding of the factor meant.
    neurons : int64, shape (neurons,), optional
        Which neurons of the value these are; by default all of them.

    *Soundness:* a rounded unit moves ``unit·q`` by at most ``u·unit·|q|``; the sides of the row give that
    much.
    """
    value = Faces(float_side, quantized, unit, None).quantized_real()
    apart = down(value[0] - float_side.upper), up(value[1] - float_side.lower)
    lower, upper = meet(f"the difference of {name}", known, apart)
    columns = builder.add_columns(lower, upper, count=float_side.size, name=f"{name}/difference")
    factor: Float64Array | float = 1.0 if unit is None else unit
    slack = np.zeros(float_side.size)
    if unit is not None and not unit_is_exact:
        slack = 1.01 * UNIT_ROUNDOFF * unit * largest(quantized.lower, quantized.upper) + TINY
    builder.add_rows(
        [(quantized.columns, factor), (float_side.columns, -1.0), (columns, -1.0)],
        -slack,
        slack,
        name=f"{name}/difference",
        neurons=neurons,
    )
    parts.append(Difference(float_side.columns, quantized.columns, factor, columns))
    return Side(columns, lower, upper)


def distinct_columns(
    builder: ModelBuilder, parts: list[Part], name: str, sides: Sequence[Side]
) -> list[Int64Array]:
    """Return the columns of the sides, with copies in place of columns that an earlier side has too.

    The sides of one affine node may overlap where a connection skips an activation that is always active.
    """
    result: list[Int64Array] = []
    seen = np.zeros(0, dtype=np.int64)
    for index, side in enumerate(sides):
        columns = side.columns
        repeated = np.flatnonzero(np.isin(columns, seen)) if len(seen) else seen
        if len(repeated):
            originals = columns[repeated]
            copies = builder.add_columns(side.lower[repeated], side.upper[repeated], count=len(repeated))
            builder.add_rows(
                [(originals, 1.0), (copies, -1.0)], 0.0, 0.0, name=f"{name}/copy{index}", neurons=repeated
            )
            parts.append(Copies(originals, copies))
            columns = columns.copy()
            columns[repeated] = copies
        result.append(columns)
        if len(sides) > 1:
            seen = np.concatenate([seen, columns])
    return result


def scattered(
    columns: Int64Array, which: Int64Array, coefficients: Float64Array
) -> tuple[Int64Array, sp.csr_array]:
    """Return a term for a block of rows of which only some have the column.

    Parameters
    ----------
    columns, coefficients : shape (rows,)
        Only the entries `which` are used.
    """
    shape = (len(columns), len(which))
    return columns[which], sp.csr_array((coefficients[which], (which, np.arange(len(which)))), shape=shape)

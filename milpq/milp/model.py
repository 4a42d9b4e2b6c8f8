"""Mixed-integer linear models as plain arrays, free of any solver.

A `LinearModel` is what every backend solves and what `milpq.milp.safe` evaluates dual solutions against.
The objective is no part of it: it is given to each solve, so the maximum and the minimum of every output of
a network share one model.  Models are built in bulk: whole layers at a time, no Python loop over neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

import numpy as np
import scipy.sparse as sp

from milpq._arrays import BoolArray, Float64Array, Int64Array, Matrix, frozen
from milpq.errors import UsageError

Coefficients: TypeAlias = "Matrix | float"
"""Dense ``(rows, k)``, sparse ``(rows, k)``, or ``(k,)`` or a number: a diagonal (row i uses column i)."""


@dataclass(frozen=True, slots=True)
class ColumnBlock:
    """A named run of columns, ``start ≤ column < stop``; for messages and for reading a point."""

    name: str
    start: int
    stop: int

    @property
    def columns(self) -> Int64Array:
        """Indices of the columns, shape ``(stop − start,)``."""
        return np.arange(self.start, self.stop, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class RowBlock:
    """A named run of rows, ``start ≤ row < stop``, of one kind, and the neuron each belongs to.

    Value, name and neuron identify a row whatever else is in the model: they are what a proof refers to.

    Parameters
    ----------
    value : int
        The merged value the rows were made for (`ModelBuilder.value`).
    neurons : int64, shape (stop − start,)
    """

    value: int
    name: str
    start: int
    stop: int
    neurons: Int64Array


@dataclass(frozen=True, slots=True, eq=False)
class LinearModel:
    """The set ``{x : row_lower ≤ A x ≤ row_upper, lower ≤ x ≤ upper, x_j integer where integer[j]}``.

    All arrays are read-only.  `A` is stored by rows (CSR): row i has the columns
    ``indices[indptr[i]:indptr[i+1]]``, sorted and distinct, with the coefficients ``values[...]``.

    Parameters
    ----------
    lower, upper : float64 arrays of shape ``(columns,)``
        Finite, ``lower ≤ upper``.
    integer : bool array of shape ``(columns,)``
        The columns that must be integers.
    row_lower, row_upper : float64 arrays of shape ``(rows,)``
        ``−inf`` and ``+inf`` stand for an absent side.
    indptr, indices : int64 arrays of shapes ``(rows + 1,)`` and ``(nonzeros,)``
    values : float64 array of shape ``(nonzeros,)``
    blocks : tuple of ColumnBlock
        The named runs of columns.
    row_blocks : tuple of RowBlock
        The named runs of rows, in order.

    Notes
    -----
    *Soundness:* nothing is rounded here.  A coefficient that is not the number meant (a sum, a product, a
    decimal) is the business of the caller, who rounds the right-hand sides outwards for it.
    """

    lower: Float64Array
    upper: Float64Array
    integer: BoolArray
    row_lower: Float64Array
    row_upper: Float64Array
    indptr: Int64Array
    indices: Int64Array
    values: Float64Array
    blocks: tuple[ColumnBlock, ...] = ()
    row_blocks: tuple[RowBlock, ...] = ()

    def __post_init__(self) -> None:
        _check_box(self.lower, self.upper, self.integer.shape)

    @property
    def columns(self) -> int:
        """Number of columns (variables)."""
        return int(self.lower.size)

    @property
    def rows(self) -> int:
        """Number of rows (constraints)."""
        return int(self.row_lower.size)

    @property
    def nonzeros(self) -> int:
        """Number of stored coefficients."""
        return int(self.values.size)

    @property
    def has_integers(self) -> bool:
        """Whether any column must be an integer."""
        return bool(self.integer.any())

    def entry_rows(self) -> Int64Array:
        """Return the row of each stored coefficient, shape ``(nonzeros,)``."""
        return np.repeat(np.arange(self.rows, dtype=np.int64), np.diff(self.indptr))

    def matrix(self) -> sp.csr_array:
        """Return ``A`` as a scipy array of shape ``(rows, columns)``; the values are shared, read-only."""
        return sp.csr_array((self.values, self.indices, self.indptr), shape=(self.rows, self.columns))

    def block(self, name: str) -> Int64Array:
        """Return the column indices of the block `name`; raise `KeyError` when there is none."""
        for block in self.blocks:
            if block.name == name:
                return block.columns
        raise KeyError(name)

    def row_key(self, row: int) -> tuple[int, str, int]:
        """Return value, name and neuron of a row; raise `KeyError` when it has no name."""
        for block in self.row_blocks:
            if block.start <= row < block.stop:
                return block.value, block.name, int(block.neurons[row - block.start])
        raise KeyError(row)

    def objective(self, columns: Int64Array | int, coefficients: Float64Array | float = 1.0) -> Float64Array:
        """Return a dense objective of shape ``(columns,)``, zero but for the given (distinct) columns."""
        dense = np.zeros(self.columns)
        dense[columns] = coefficients
        return dense

    def with_bounds(self, lower: Float64Array, upper: Float64Array) -> LinearModel:
        """Return the model with other column bounds, finite arrays of shape ``(columns,)``; rows shared."""
        return replace(self, lower=_private(lower), upper=_private(upper))

    def with_column_bounds(
        self, columns: Int64Array, lower: Float64Array | float, upper: Float64Array | float
    ) -> LinearModel:
        """Return the model with other bounds on some columns only."""
        new_lower, new_upper = self.lower.copy(), self.upper.copy()
        new_lower[columns] = lower
        new_upper[columns] = upper
        return replace(self, lower=frozen(new_lower), upper=frozen(new_upper))

    def with_fixed(self, columns: Int64Array, values: Float64Array | float) -> LinearModel:
        """Return the model with some columns fixed to values."""
        return self.with_column_bounds(columns, values, values)

    def relaxed(self) -> LinearModel:
        """Return the linear relaxation: the same rows and bounds, no integers."""
        return replace(self, integer=frozen(np.zeros(self.columns, dtype=np.bool_)))

    def violation(self, point: Float64Array) -> float:
        """Return the largest violation of a row, a bound or integrality at `point`, shape ``(columns,)``.

        A float64 evaluation, for diagnosis and tests; it proves nothing.
        """
        products = self.values * point[self.indices]
        activity = np.bincount(self.entry_rows(), weights=products, minlength=self.rows)[: self.rows]
        excess = (
            self.row_lower - activity,
            activity - self.row_upper,
            self.lower - point,
            point - self.upper,
            np.abs(point - np.rint(point))[self.integer],
        )
        return max((float(part.max()) for part in excess if part.size), default=0.0)


@dataclass(slots=True)
class ModelBuilder:
    """Collects columns and rows in bulk; `build` freezes what it has into a `LinearModel`.

    A builder may go on after `build`; the models it gave do not change.

    Attributes
    ----------
    value : int
        What the next rows belong to.
    """

    value: int = 0
    _lower: list[Float64Array] = field(default_factory=list[Float64Array])
    _upper: list[Float64Array] = field(default_factory=list[Float64Array])
    _integer: list[BoolArray] = field(default_factory=list[BoolArray])
    _row_lower: list[Float64Array] = field(default_factory=list[Float64Array])
    _row_upper: list[Float64Array] = field(default_factory=list[Float64Array])
    _lengths: list[Int64Array] = field(default_factory=list[Int64Array])
    _indices: list[Int64Array] = field(default_factory=list[Int64Array])
    _values: list[Float64Array] = field(default_factory=list[Float64Array])
    _blocks: list[ColumnBlock] = field(default_factory=list[ColumnBlock])
    _row_blocks: list[RowBlock] = field(default_factory=list[RowBlock])
    _columns: int = 0
    _rows: int = 0

    @property
    def columns(self) -> int:
        """Number of columns so far."""
        return self._columns

    @property
    def rows(self) -> int:
        """Number of rows so far."""
        return self._rows

    def add_columns(
        self,
        lower: Float64Array | float,
        upper: Float64Array | float,
        *,
        count: int | None = None,
        integer: BoolArray | bool = False,
        name: str = "",
    ) -> Int64Array:
        """Add columns and return their indices, int64 of shape ``(count,)``.

        Parameters
        ----------
        lower, upper : number or float64 array of shape ``(count,)``
            Finite bounds.
        count : int, optional
            Number of columns; needed only when both bounds are numbers.
        integer : bool or bool array of shape ``(count,)``
            Which of them must be integers.
        name : str
            Name of the block; not recorded when empty.

        Raises
        ------
        UsageError
            Bounds that are not finite, or inverted, or of different lengths.
        """
        lower, upper = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
        if count is None:
            count = max(int(lower.size), int(upper.size))
        shape = (count,)
        lower, upper = _broadcast(lower, shape, "lower"), _broadcast(upper, shape, "upper")
        _check_box(lower, upper, shape, name)
        self._lower.append(lower)
        self._upper.append(upper)
        self._integer.append(np.broadcast_to(np.asarray(integer, dtype=np.bool_), shape).copy())
        start, self._columns = self._columns, self._columns + count
        if name:
            self._blocks.append(ColumnBlock(name, start, self._columns))
        return np.arange(start, self._columns, dtype=np.int64)

    def add_rows(
        self,
        terms: Sequence[tuple[Int64Array, Coefficients]],
        lower: Float64Array | float,
        upper: Float64Array | float,
        *,
        name: str = "",
        neurons: Int64Array | None = None,
    ) -> Int64Array:
        """Add the rows ``lower ≤ Σ_t C_t x[columns_t] ≤ upper`` and return their indices, int64.

        Parameters
        ----------
        terms : sequence of (columns, coefficients)
            ``columns`` is int64 of shape ``(k,)``; ``coefficients`` is dense or sparse of shape
            ``(rows, k)``, or a vector of shape ``(k,)`` or a number: a diagonal, with ``k == rows``.
        lower, upper : number or float64 array of shape ``(rows,)``
            ``−inf`` and ``+inf`` for an absent side.
        name : str
            Name of the block; not recorded when empty.
        neurons : int64 array of shape ``(rows,)``, optional
            The neuron each row belongs to; by default they are numbered.

        Raises
        ------
        UsageError
            Shapes that do not fit, a column that does not exist, a column named twice in a row (adding the
            two coefficients would round), a coefficient that is not finite, or a row no point satisfies.
        """
        parts = [_entries(np.asarray(columns, dtype=np.int64), block) for columns, block in terms]
        sides = [np.asarray(side, dtype=np.float64) for side in (lower, upper)]
        counts = {part[0] for part in parts} | {int(side.size) for side in sides if side.ndim}
        if len(counts) != 1:
            raise UsageError(f"the terms and sides of a block of rows differ in height: {sorted(counts)}")
        count = counts.pop()
        row_lower, row_upper = (_broadcast(side, (count,), "row side") for side in sides)
        if not bool(np.all((row_lower <= row_upper) & (row_lower < np.inf) & (row_upper > -np.inf))):
            raise UsageError("a row has NaN or inverted sides: no point satisfies it")
        rows = np.concatenate([part[1] for part in parts]) if parts else np.zeros(0, dtype=np.int64)
        columns = np.concatenate([part[2] for part in parts]) if parts else np.zeros(0, dtype=np.int64)
        values = np.concatenate([part[3] for part in parts]) if parts else np.zeros(0)
        if columns.size and (int(columns.min()) < 0 or int(columns.max()) >= self._columns):
            raise UsageError(f"a row names a column outside 0..{self._columns - 1}")
        if not bool(np.all(np.isfinite(values))):
            raise UsageError("a coefficient of a row is not finite")
        order = np.lexsort((columns, rows))
        rows, columns, values = rows[order], columns[order], values[order]
        if bool(np.any((np.diff(rows) == 0) & (np.diff(columns) == 0))):
            raise UsageError("a row names a column twice; merge the two coefficients first")
        self._row_lower.append(row_lower)
        self._row_upper.append(row_upper)
        self._lengths.append(np.bincount(rows, minlength=count).astype(np.int64))
        self._indices.append(columns)
        self._values.append(values)
        start, self._rows = self._rows, self._rows + count
        if name and count:
            owners = np.arange(count, dtype=np.int64) if neurons is None else neurons
            self._row_blocks.append(RowBlock(self.value, name, start, self._rows, owners))
        return np.arange(start, self._rows, dtype=np.int64)

    def build(self) -> LinearModel:
        """Return the model built so far, its arrays read-only."""
        lengths = _joined(self._lengths, np.int64)
        indptr = np.zeros(self._rows + 1, dtype=np.int64)
        np.cumsum(lengths, out=indptr[1:])
        return LinearModel(
            lower=frozen(_joined(self._lower, np.float64)),
            upper=frozen(_joined(self._upper, np.float64)),
            integer=frozen(_joined(self._integer, np.bool_)),
            row_lower=frozen(_joined(self._row_lower, np.float64)),
            row_upper=frozen(_joined(self._row_upper, np.float64)),
            indptr=frozen(indptr),
            indices=frozen(_joined(self._indices, np.int64)),
            values=frozen(_joined(self._values, np.float64)),
            blocks=tuple(self._blocks),
            row_blocks=tuple(self._row_blocks),
        )


def _joined(parts: Sequence[Any], dtype: type[np.generic]) -> Any:  # noqa: ANN401 - an array of `dtype`
    """Concatenate chunks into a fresh array, empty when there is none."""
    return np.concatenate([np.zeros(0, dtype=dtype), *parts])


def _private(array: Float64Array) -> Float64Array:
    """Return a read-only array that the caller cannot change."""
    array = np.asarray(array, dtype=np.float64)
    return frozen(array.copy()) if array.flags.writeable else array


def _broadcast(array: Float64Array, shape: tuple[int], what: str) -> Float64Array:
    """Return `array`, a number or of `shape`, as a fresh array of `shape`."""
    if array.ndim and array.shape != shape:
        raise UsageError(f"{what} has shape {array.shape}, expected {shape}")
    return np.broadcast_to(array, shape).copy()


def _check_box(lower: Float64Array, upper: Float64Array, shape: tuple[int, ...], name: str = "") -> None:
    """Raise `UsageError` unless ``lower ≤ upper`` are finite and of `shape`."""
    if lower.shape != shape or upper.shape != shape:
        raise UsageError(f"column bounds have shapes {lower.shape} and {upper.shape}, expected {shape}")
    finite = np.isfinite(lower) & np.isfinite(upper)
    if bool(np.all(finite & (lower <= upper))):
        return
    column = int(np.argmin(finite & (lower <= upper)))
    kind = "inverted" if finite[column] else "not finite"
    where = f"column {column}" + (f" of block {name}" if name else "")
    raise UsageError(f"bounds of {where} are {kind}: [{lower[column]}, {upper[column]}]")


def _entries(
    columns: Int64Array, coefficients: Coefficients
) -> tuple[int, Int64Array, Int64Array, Float64Array]:
    """Return the height of one term and its nonzeros as (rows, columns, values)."""
    if isinstance(coefficients, (sp.sparray, sp.spmatrix)):
        coo = cast("Any", sp.coo_array(cast("Any", coefficients)))
        height, width = cast("tuple[int, int]", coo.shape)
        rows, local = np.asarray(coo.row, dtype=np.int64), np.asarray(coo.col, dtype=np.int64)
        values = np.asarray(coo.data, dtype=np.float64)
        kept = values != 0.0
        rows, local, values = rows[kept], local[kept], values[kept]
    else:
        dense = np.asarray(cast("Any", coefficients), dtype=np.float64)
        if dense.ndim < 2:
            height = width = int(columns.size)
            diagonal = _broadcast(dense, (width,), "diagonal coefficient")
            rows = local = np.flatnonzero(diagonal).astype(np.int64)
            values = diagonal[local]
        else:
            height, width = dense.shape
            rows, local = (part.astype(np.int64) for part in np.nonzero(dense))
            values = dense[rows, local]
    if columns.shape != (width,):
        raise UsageError(f"a term of {width} coefficient columns has column indices of shape {columns.shape}")
    return height, rows, columns[local], values

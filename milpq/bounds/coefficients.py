"""Coefficients of batches of linear functionals: dense for many cubes, sparse where a functional reads few neurons.

A dense batch has shape (cubes, functionals, neurons).  A sparse one is a CSR matrix (functionals, neurons) of a single
cube: a functional of a convolution reads a small part of the image, so its coefficients on the layers in front stay
sparse for several layers, and products of sparse matrices cost what there is.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.bounds.outward import times

Coefficients: TypeAlias = "Float64Array | sp.csr_array"

_DENSE_FROM = 0.2
"""Share of stored entries from which a dense batch is cheaper."""

_SPARSE_WORK = 6.0
"""Time of one multiplication of sparse by sparse, against dense by sparse."""


def unit_functionals(chosen: Int64Array, size: int, *, sparse: bool) -> Coefficients:
    """Return ``+value[n]`` for every chosen neuron, then ``−value[n]``.

    Parameters
    ----------
    chosen : int64, shape (cubes, functionals / 2)
    sparse : bool
        For one cube only.
    """
    if sparse:
        count = int(chosen.shape[1])
        signs = np.repeat([1.0, -1.0], count)
        columns = np.concatenate([chosen[0], chosen[0]])
        return sp.csr_array(
            (signs, columns, np.arange(2 * count + 1, dtype=np.int64)), shape=(2 * count, size)
        )
    unit = (chosen[:, :, None] == np.arange(size, dtype=np.int64)).astype(np.float64)
    return np.concatenate([unit, -unit], axis=1)


def plus(first: Coefficients | None, second: Coefficients | None) -> Coefficients | None:
    """Return the sum; None stands for zero."""
    if first is None or second is None:
        return second if first is None else first
    if isinstance(first, sp.csr_array) and isinstance(second, sp.csr_array):
        return sp.csr_array(first + second)
    return dense(first) + dense(second)


def magnitude(coefficients: Coefficients) -> Coefficients:
    """Return the absolute values."""
    return abs(coefficients) if isinstance(coefficients, sp.csr_array) else np.abs(coefficients)


def product(coefficients: Coefficients, matrix: Matrix) -> Coefficients:
    """Return ``coefficients @ matrix``."""
    if not isinstance(coefficients, sp.csr_array):
        return times(coefficients, matrix)
    if isinstance(matrix, np.ndarray):
        return (coefficients @ matrix)[None]
    result = sp.csr_array(coefficients @ matrix)
    rows, columns = int(result.shape[0]), int(result.shape[1])
    return dense(result) if result.nnz > _DENSE_FROM * rows * columns else result


def product_or_none(coefficients: Coefficients, matrix: Matrix) -> Coefficients | None:
    """Return the product, or None for a matrix without entries other than zero (unchanged weights)."""
    if not (matrix.any() if isinstance(matrix, np.ndarray) else matrix.data.any()):
        return None
    return product(coefficients, matrix)


def work(coefficients: Coefficients, matrix: Matrix) -> float:
    """Return about how long the product takes, in multiplications of a dense batch with a sparse matrix."""
    if not isinstance(coefficients, sp.csr_array):
        stored = matrix.size if isinstance(matrix, np.ndarray) else matrix.nnz
        return float(math.prod(coefficients.shape[:-1]) * stored)
    if isinstance(matrix, np.ndarray):
        return float(coefficients.nnz * matrix.shape[1])
    return _SPARSE_WORK * float(np.diff(matrix.indptr)[coefficients.indices].sum())


def tilted(
    coefficients: Coefficients, size: Coefficients, slope: Float64Array, radius: Float64Array
) -> Coefficients:
    """Return ``coefficients·slope + size·radius`` neuron by neuron; slopes of shape (cubes, neurons)."""
    if not isinstance(coefficients, sp.csr_array):
        assert not isinstance(size, sp.csr_array)
        result = coefficients * slope[:, None, :]
        result += size * radius[:, None, :]
        return result
    at = coefficients.indices
    data = coefficients.data * slope[0, at] + np.abs(coefficients.data) * radius[0, at]
    return sp.csr_array((data, at, coefficients.indptr), shape=coefficients.shape)


def dot(coefficients: Coefficients, vector: Float64Array) -> Float64Array:
    """Return ``Σ_n coefficients[b, t, n]·vector[b, n]`` (or one vector for all cubes), shape (cubes, functionals)."""
    if isinstance(coefficients, sp.csr_array):
        return (coefficients @ (vector if len(vector.shape) == 1 else vector[0]))[None]
    if len(vector.shape) == 1:
        return coefficients @ vector
    if len(vector) == 1:
        return coefficients @ vector[0]
    return np.matmul(coefficients, vector[:, :, None])[..., 0]


def dense(coefficients: Coefficients) -> Float64Array:
    """Return the coefficients as a dense batch."""
    return coefficients.toarray()[None] if isinstance(coefficients, sp.csr_array) else coefficients

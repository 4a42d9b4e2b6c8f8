"""Array types and the few helpers every module shares."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Float64Array: TypeAlias = npt.NDArray[np.float64]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Matrix: TypeAlias = "Float64Array | sp.csr_array"
"""A dense or sparse float64 matrix; sparse for convolutions, where dense would not fit in memory."""

_Array = TypeVar("_Array", bound=npt.NDArray[Any])

UNIT_ROUNDOFF = 2.0**-53
"""Largest relative error of one float64 operation rounded to nearest."""


def frozen(array: _Array) -> _Array:
    """Return `array` marked read-only (a view of a writable array is copied first)."""
    if array.flags.writeable:
        if array.base is not None:
            array = array.copy()
        array.flags.writeable = False
    return array


def gamma(terms: int) -> float:
    """Return Higham's ``γ_n = n·u/(1 − n·u)`` rounded up: the relative error of an n-term dot product.

    References: N. Higham, *Accuracy and Stability of Numerical Algorithms*, Lemma 3.1.
    """
    product = terms * UNIT_ROUNDOFF
    return product / (1.0 - product) * (1.0 + 4 * UNIT_ROUNDOFF)

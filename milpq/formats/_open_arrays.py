"""The numbers of an open integer-network file, written out in its ``.json`` or named in the ``.npz`` beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.errors import InvalidNetworkError, ModelFileError, UnsupportedModelError
from milpq.formats._files import PathLike, beside, read_npz, to_float64
from milpq.formats._float_builder import MAX_VALUES

if TYPE_CHECKING:
    from milpq.formats import _open_schema as schema


class OpenArrays:
    """Gives lists and arrays of a file, checked for type, shape and range.

    Parameters
    ----------
    path : path
        Of the ``.json``.
    file : str or None
        Name of the ``.npz`` beside it.
    """

    def __init__(self, path: PathLike, file: str | None) -> None:
        self.path, self._file = path, file
        self._arrays = {} if file is None else read_npz(beside(path, file))

    def check_size(self, size: int, where: str) -> None:
        """Raise UnsupportedModelError if a value is larger than milpq handles."""
        if not 0 < size <= MAX_VALUES:
            raise UnsupportedModelError(f"{self.path}: {where}: {size} values; milpq reads 1 to {MAX_VALUES}")

    def per_channel(self, given: schema.Integers, channels: int, where: str) -> Int64Array:
        """Return one integer for each channel."""
        values = self.integers([given] if isinstance(given, int) else given, where, 1)
        if isinstance(given, int):
            return np.full(channels, values[0])
        if len(values) != channels:
            raise InvalidNetworkError(f"{self.path}: {where}: {len(values)} entries for {channels} channels")
        return values

    def integers(self, given: list[Any] | schema.ArrayReference, where: str, dimensions: int) -> Int64Array:
        """Return a nonempty list, list of lists, or array of the ``.npz``, as integers."""
        if isinstance(given, list):
            try:
                array: npt.NDArray[Any] = np.array(given, dtype=np.int64)
            except (ValueError, OverflowError) as error:
                raise InvalidNetworkError(f"{self.path}: {where}: is no array of int64 ({error})") from error
        else:
            array = self.array(given, where)
            if array.dtype.kind not in "iu":
                raise InvalidNetworkError(f"{self.path}: {where}: array {given.array!r} holds {array.dtype}")
        if array.ndim != dimensions or not array.size:
            raise InvalidNetworkError(
                f"{self.path}: {where}: has shape {array.shape}, not {dimensions} dimensions"
            )
        if (np.abs(array.astype(np.float64)) >= 2.0**31).any():
            raise InvalidNetworkError(f"{self.path}: {where}: an entry does not fit int32")
        return array.astype(np.int64)

    def matrix(self, given: list[Any] | schema.ArrayReference | schema.SparseMatrix, where: str) -> Matrix:
        """Return weights, dense or sparse."""
        from milpq.formats import _open_schema as kinds

        if not isinstance(given, kinds.SparseMatrix):
            return self.integers(given, where, 2).astype(np.float64)
        rows, columns, values = (
            self.integers(part, where, 1) for part in (given.rows, given.columns, given.values)
        )
        height, width = given.shape
        for extent in given.shape:
            self.check_size(extent, where)
        if not len(rows) == len(columns) == len(values):
            raise InvalidNetworkError(f"{self.path}: {where}: its entries are not one list of triples")
        if min(rows.min(), columns.min()) < 0 or rows.max() >= height or columns.max() >= width:
            raise InvalidNetworkError(f"{self.path}: {where}: an entry lies outside {height}×{width}")
        found = sp.csr_array((values.astype(np.float64), (rows, columns)), shape=(height, width))
        if found.nnz != len(values):
            raise InvalidNetworkError(f"{self.path}: {where}: an entry is given twice")
        found.sort_indices()
        return found

    def scale_list(self, given: schema.Scales, count: int, where: str) -> Float64Array:
        """Return one positive scale for each of `count` entries."""
        if isinstance(given, float | int):
            return np.full(count, float(given))
        array = np.array(given) if isinstance(given, list) else self.array(given, where)
        if array.dtype.kind not in "fiu" or array.shape != (count,):
            raise InvalidNetworkError(f"{self.path}: {where}: has shape {array.shape}, not ({count},)")
        scales = to_float64(array)
        if not (np.isfinite(scales).all() and (scales > 0).all()):
            raise InvalidNetworkError(f"{self.path}: {where}: a scale is not positive and finite")
        return scales

    def array(self, reference: schema.ArrayReference, where: str) -> npt.NDArray[Any]:
        """Return an array of the ``.npz``."""
        if reference.array not in self._arrays:
            there = self._file or "the file, which names no .npz"
            raise ModelFileError(f"{self.path}: {where}: no array {reference.array!r} in {there}")
        return self._arrays[reference.array]

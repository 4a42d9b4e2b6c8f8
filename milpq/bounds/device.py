"""Arrays that lie where torch puts them, and that numpy's own functions take: every formula is written once.

A `DeviceArray` holds a torch tensor and answers numpy's protocols for other arrays (NEP 13, ``__array_ufunc__``, and
NEP 18, ``__array_function__``): ``np.maximum(x, 0.0)`` of one is ``torch.maximum``, on its device.  So the propagations
of this folder run on a GPU as they stand, once their input is placed there.  What has no torch counterpart here is a
TypeError, never a silent copy to the host.

*Soundness:* float64 throughout.  The bounds allow each elementary operation one rounding to nearest, which operations
of torch are on every device (each is a kernel of its own, compiled without fast-math), and allow a product ``γ_n``
times the sum of magnitudes, which holds for any order of summation, with or without fused multiply-add (Higham,
*Accuracy and Stability of Numerical Algorithms*, sec. 3.1).  TF32 concerns float32 alone.  cuBLAS can be told to
emulate float64 products by integer ones, whose error is not of that kind: that is refused.
"""

# The stubs of torch leave several members partly unknown.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Final, TypeAlias, cast

import numpy as np
import torch
from numpy.lib.mixins import NDArrayOperatorsMixin
from torch import Tensor

from milpq._arrays import Float64Array
from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.errors import UsageError

Index: TypeAlias = int | slice | EllipsisType | None

_EMULATION: Final = "CUBLAS_EMULATE_DOUBLE_PRECISION"

_DTYPES: Final = {
    np.dtype(np.float64): torch.float64,
    np.dtype(np.int64): torch.int64,
    np.dtype(np.bool_): torch.bool,
}


class TorchArrays:
    """Places bounds on a torch device, and fetches them back.

    Parameters
    ----------
    device : str
        ``cuda``, or ``cpu`` for torch's own arithmetic on the host.

    Raises
    ------
    UsageError
        There is no such device, or its products are not what the error bounds are for.
    """

    def __init__(self, device: str) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise UsageError("--device cuda: torch finds no CUDA device here; use --device cpu")
        if device == "cuda" and os.environ.get(_EMULATION, "0") != "0":
            raise UsageError(f"--device cuda: {_EMULATION} is set, which breaks error bounds; unset it")
        self._device = torch.device(device)
        self.batch_bytes = 4_000_000 if device == "cpu" else 1 << 28
        """Size of the coefficient arrays of one batch: what caches, or the memory of a GPU, keep."""

    def put(self, bounds: ValueBounds) -> ValueBounds:
        """Return bounds whose arrays lie on the device."""

        def put(interval: Interval) -> Interval:
            return Interval(*(self._place(end) for end in (interval.lower, interval.upper)))

        return ValueBounds(put(bounds.float_side), put(bounds.quantized_side), put(bounds.difference))

    def fetch(self, bounds: Bounds) -> Bounds:
        """Return bounds whose arrays are numpy's."""

        def fetch(interval: Interval) -> Interval:
            return Interval(_fetched(interval.lower), _fetched(interval.upper))

        values = [
            ValueBounds(fetch(value.float_side), fetch(value.quantized_side), fetch(value.difference))
            for value in bounds.values
        ]
        return Bounds(tuple(values), bounds.output)

    def _place(self, array: Float64Array) -> Float64Array:
        return cast("Float64Array", DeviceArray(torch.tensor(array, device=self._device)))


def _fetched(array: object) -> Float64Array:
    if isinstance(array, DeviceArray):
        return cast("Float64Array", array.tensor.cpu().numpy())
    return cast("Float64Array", array)  # what depends on no cube has stayed numpy's


class DeviceArray(NDArrayOperatorsMixin):
    """A tensor of float64, int64 or bool that behaves as a numpy array in what is used here."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return tuple(self.tensor.shape)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __bool__(self) -> bool:
        return bool(self.tensor)

    def __int__(self) -> int:
        return int(self.tensor)

    def __float__(self) -> float:
        return float(self.tensor)

    def __repr__(self) -> str:
        return repr(self.tensor.cpu().numpy())

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError("an array on a device is not copied to the host on the way")

    def __getitem__(self, index: Index | tuple[Index, ...]) -> DeviceArray:
        return DeviceArray(self.tensor[index])

    def astype(self, dtype: type) -> DeviceArray:
        """Return the array in another dtype."""
        return DeviceArray(self.tensor.to(_DTYPES[np.dtype(dtype)]))

    def any(self, axis: int | None = None) -> DeviceArray:
        """Tell whether any element is true."""
        return DeviceArray(self.tensor.any() if axis is None else self.tensor.any(dim=axis))

    def all(self, axis: int | None = None) -> DeviceArray:
        """Tell whether all elements are true."""
        return DeviceArray(self.tensor.all() if axis is None else self.tensor.all(dim=axis))

    def sum(self, axis: int) -> DeviceArray:
        """Return the sums along an axis."""
        return DeviceArray(self.tensor.sum(dim=axis))

    def max(
        self, axis: int | None = None, *, initial: float | None = None, keepdims: bool = False
    ) -> DeviceArray:
        """Return the largest elements, along an axis or of all; of no elements `initial`."""
        if axis is not None:
            return DeviceArray(self.tensor.amax(dim=axis, keepdim=keepdims))
        if initial is None:
            return DeviceArray(self.tensor.amax())
        start = torch.full((1,), initial, dtype=self.tensor.dtype, device=self.tensor.device)
        return DeviceArray(torch.cat([self.tensor.flatten(), start]).amax())

    def min(self, axis: int, *, keepdims: bool = False) -> DeviceArray:
        """Return the least elements along an axis."""
        return DeviceArray(self.tensor.amin(dim=axis, keepdim=keepdims))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: object, **options: object) -> object:
        if ufunc.__name__ == "frexp":
            return self._frexp()
        function = _UFUNCS.get(ufunc.__name__)
        out = options.pop("out", None)
        if function is None or method != "__call__" or options:
            return NotImplemented
        result = function(*(self.tensor_of(value) for value in inputs))
        if isinstance(out, tuple):
            (kept,) = cast("tuple[object]", out)
            if not isinstance(kept, DeviceArray):
                return NotImplemented  # numpy's own array, which cannot hold what lies elsewhere
            kept.tensor.copy_(result)
            return kept
        return DeviceArray(result)

    def __array_function__(
        self,
        function: Callable[..., object],
        types: object,
        arguments: tuple[object, ...],
        options: Mapping[str, object],
    ) -> object:
        known = _FUNCTIONS.get(function.__name__)
        if known is None:
            return NotImplemented
        return known(self, *arguments, **options)

    def _frexp(self) -> tuple[DeviceArray, DeviceArray]:
        mantissa, exponent = torch.frexp(self.tensor)
        return DeviceArray(mantissa), DeviceArray(exponent.to(torch.int64))

    def tensor_of(self, value: object) -> Tensor:
        """Return a tensor on this device of anything numpy would take."""
        if isinstance(value, DeviceArray):
            return value.tensor
        return torch.tensor(np.asarray(value), device=self.tensor.device)


def _divide(first: Tensor, second: Tensor) -> Tensor:
    return first.double() / second.double()


_UFUNCS: Final[dict[str, Callable[..., Tensor]]] = {
    "absolute": torch.abs,
    "add": torch.add,
    "bitwise_and": torch.bitwise_and,
    "bitwise_or": torch.bitwise_or,
    "ceil": torch.ceil,
    "divide": _divide,
    "equal": torch.eq,
    "floor": torch.floor,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "invert": torch.bitwise_not,
    "isfinite": torch.isfinite,
    "isinf": torch.isinf,
    "isnan": torch.isnan,
    "left_shift": torch.bitwise_left_shift,
    "less": torch.lt,
    "less_equal": torch.le,
    "matmul": torch.matmul,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "multiply": torch.mul,
    "negative": torch.neg,
    "rint": torch.round,  # half to even, as numpy's
    "subtract": torch.sub,
}


class _Functions:
    """numpy's functions on arrays, by their names; the first argument is the array whose device counts."""

    @staticmethod
    def where(at: DeviceArray, condition: object, first: object, second: object) -> DeviceArray:
        return DeviceArray(torch.where(at.tensor_of(condition), at.tensor_of(first), at.tensor_of(second)))

    @staticmethod
    def clip(at: DeviceArray, x: object, low: object, high: object) -> DeviceArray:
        value, low, high = (at.tensor_of(part) for part in (x, low, high))
        return DeviceArray(torch.minimum(torch.maximum(value, low.to(value)), high.to(value)))

    @staticmethod
    def full_like(at: DeviceArray, x: DeviceArray, value: float, dtype: type | None = None) -> DeviceArray:
        kind = at.tensor.dtype if dtype is None else _DTYPES[np.dtype(dtype)]
        return DeviceArray(torch.full_like(x.tensor, value, dtype=kind))

    @staticmethod
    def zeros_like(at: DeviceArray, x: DeviceArray, dtype: type | None = None) -> DeviceArray:
        return _Functions.full_like(at, x, 0, dtype)

    @staticmethod
    def ones_like(at: DeviceArray, x: DeviceArray, dtype: type | None = None) -> DeviceArray:
        return _Functions.full_like(at, x, 1, dtype)

    @staticmethod
    def concatenate(at: DeviceArray, arrays: list[object], axis: int = 0) -> DeviceArray:
        return DeviceArray(torch.cat([at.tensor_of(part) for part in arrays], dim=axis))

    @staticmethod
    def broadcast_to(at: DeviceArray, x: object, shape: tuple[int, ...]) -> DeviceArray:
        return DeviceArray(torch.broadcast_to(at.tensor_of(x), shape))

    @staticmethod
    def argsort(at: DeviceArray, x: object, axis: int = -1, kind: str = "stable") -> DeviceArray:
        order = at.tensor_of(x).to(torch.float64)
        return DeviceArray(torch.argsort(order, dim=axis, stable=kind == "stable"))

    @staticmethod
    def argwhere(at: DeviceArray, x: object) -> DeviceArray:
        return DeviceArray(torch.nonzero(at.tensor_of(x)))

    @staticmethod
    def take_along_axis(at: DeviceArray, x: object, indices: object, axis: int) -> DeviceArray:
        return DeviceArray(torch.take_along_dim(at.tensor_of(x), at.tensor_of(indices), dim=axis))

    @staticmethod
    def put_along_axis(at: DeviceArray, x: DeviceArray, indices: object, values: object, axis: int) -> None:
        x.tensor.scatter_(axis, at.tensor_of(indices), at.tensor_of(values))

    @staticmethod
    def searchsorted(at: DeviceArray, keys: object, x: object, side: str = "left") -> DeviceArray:
        return DeviceArray(
            torch.searchsorted(at.tensor_of(keys), at.tensor_of(x).contiguous(), right=side == "right")
        )


_FUNCTIONS: Final[dict[str, Callable[..., object]]] = {
    name: getattr(_Functions, name) for name in vars(_Functions) if not name.startswith("_")
}

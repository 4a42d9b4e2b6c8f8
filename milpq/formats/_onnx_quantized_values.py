"""What a name of a quantized ONNX graph can stand for while the graph is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import InvalidNetworkError, TargetError
from milpq.formats._files import to_float64
from milpq.formats._onnx_node import Node
from milpq.formats._quantized_builder import Grid, Kind, QuantizedBuilder
from milpq.rounding.ort_kernels import ort_curve, ort_quantized


@dataclass(frozen=True, slots=True)
class RealInput:
    """The float input of the graph, before QuantizeLinear."""

    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Codes:
    """A tensor of codes; its grid is the builder's.

    Parameters
    ----------
    by_quantize : bool
        Whether a QuantizeLinear made them; ONNX Runtime turns such int8 codes into uint8 on x86.
    sigmoid : str
        Names the sigmoid behind these codes, which is left out if no layer follows.
    behind : Grid or None
        Where the result of that sigmoid is quantized again, its grid.
    """

    value: int
    shape: tuple[int, ...]
    kind: Kind
    by_quantize: bool = False
    sigmoid: str = ""
    behind: Grid | None = None

    @property
    def as_unsigned(self) -> bool:
        """Tell whether ONNX Runtime computes with these codes plus 128."""
        return self.by_quantize and self.kind == "int8"


@dataclass(frozen=True, slots=True)
class Dequantized:
    """The reals that codes stand for (the result of DequantizeLinear)."""

    codes: Codes

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the tensor."""
        return self.codes.shape


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A dequantized constant.

    Parameters
    ----------
    codes : integers, of the type stored
    scale : float64 holding float32 values, shape () or (extent of `axis`,)
    zero_point : int64, of the same shape
    """

    codes: npt.NDArray[Any]
    scale: Float64Array
    zero_point: Int64Array
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the constant."""
        return self.codes.shape


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A float result between DequantizeLinear and QuantizeLinear, which ONNX Runtime fuses with them.

    Parameters
    ----------
    settle : callable
        Appends the fused layer, given the grid of the QuantizeLinear (None at the end of the graph), and
        returns its value.
    lower, upper : float
        Clamped to by what followed the operator so far.
    """

    settle: Callable[[Grid | None], int]
    shape: tuple[int, ...]
    operator: str
    lower: float = -np.inf
    upper: float = np.inf


QValue: TypeAlias = "RealInput | Codes | Dequantized | Stored | Pending | npt.NDArray[Any]"


def requantize_real(real: npt.NDArray[np.float32], grid: Grid) -> Int64Array:
    """Return the codes that QuantizeLinear gives float32 numbers."""
    return ort_quantized(real, grid.quantization)


class QuantizedStep(Node[QValue]):
    """A node of a quantized graph, and what the handlers share."""

    def __init__(
        self,
        builder: QuantizedBuilder,
        name: str,
        where: str,
        sources: list[QValue | None],
        options: dict[str, Any],
    ) -> None:
        super().__init__(name, where, sources, options)
        self.builder = builder

    def constant(self, position: int, what: str) -> npt.NDArray[Any]:
        """Return an input that must be a constant."""
        source = self.value(position)
        if not isinstance(source, np.ndarray):
            raise self.unsupported(f"its {what} is not a constant; milpq needs a constant")
        return source

    def integers(self, position: int, what: str) -> list[int]:
        """Return an input that must be a list of integer constants."""
        source = self.constant(position, what)
        if source.dtype.kind != "i" or source.ndim > 1:
            raise self.unsupported(f"its {what} is not a list of integer constants")
        return [int(number) for number in source.ravel()]

    def grid(self, scale: int, zero_point: int, kind: Kind | None = None) -> tuple[Grid, Kind]:
        """Return the grid that two inputs state for an activation, and its integer type.

        Parameters
        ----------
        scale, zero_point : int
            Positions of the inputs.
        kind : the type where no zero point is given; it is 0 then.
        """
        scales, zero_points, stored = self.scales(scale, zero_point)
        if scales.size != 1 or zero_points.size != 1:
            raise self.unsupported("has one scale a channel for an activation; milpq reads one a tensor")
        stored = stored if self.has(zero_point) else kind
        if stored not in {"int8", "uint8"}:
            raise self.unsupported(f"has {stored} activations; milpq reads int8 and uint8")
        kind = cast("Kind", stored)
        grid = Grid.of(float(scales.ravel()[0]), int(zero_points.ravel()[0]), kind)
        grid.check(self.where)
        return grid, kind

    def scales(self, scale: int, zero_point: int) -> tuple[Float64Array, Int64Array, str]:
        """Return the scales and zero points of two inputs, and the integer type of the zero points.

        Raises
        ------
        InvalidNetworkError
            A scale is not positive and finite, or they do not match the zero points.
        """
        stored = self.constant(scale, "scale")
        if stored.dtype != np.float32:
            raise self.unsupported(f"its scale is {stored.dtype}; milpq reads float32")
        scales = to_float64(stored)
        if not (np.isfinite(scales).all() and (scales > 0).all()) or not scales.size:
            raise InvalidNetworkError(f"{self.where}: a scale is not positive and finite")
        if not self.has(zero_point):
            return scales, np.zeros(scales.shape, dtype=np.int64), "uint8"
        zero_points = self.constant(zero_point, "zero point")
        if zero_points.dtype.kind not in "iu":
            raise self.damaged("its zero point is no integer")
        if zero_points.size not in {1, scales.size}:
            raise InvalidNetworkError(
                f"{self.where}: {scales.size} scales but {zero_points.size} zero points"
            )
        spread = np.broadcast_to(zero_points.astype(np.int64).ravel(), (scales.size,)).reshape(scales.shape)
        return scales, spread, zero_points.dtype.name

    def read_on(self, codes: Codes, grid: Grid) -> Codes:
        """Return codes that this node reads on a grid; it must be the one they were written on.

        Raises
        ------
        UnsupportedModelError
            It is another one.
        """
        known = self.builder.grid(codes.value)
        if codes.value == 0 and known is None:
            self.builder.begin(grid, self.where)
        elif known != grid:
            raise self.unsupported("reads codes on another scale or zero point than they were written on")
        return codes

    def requantized(self, codes: Codes, grid: Grid) -> int:
        """Return the value of codes put on another grid by DequantizeLinear and QuantizeLinear."""
        codes = self.layer_input(codes)
        known = self.builder.grid(codes.value)
        assert known is not None
        if known == grid:
            return codes.value
        return self.builder.lookup(
            self.name,
            self.where,
            codes.value,
            lambda codes: requantize_real(
                (codes - known.zero_point).astype(np.float32) * np.float32(known.scale), grid
            ),
            grid,
        )

    def layer_input(self, codes: Codes) -> Codes:
        """Return codes that a layer computes with: those behind a sigmoid, if there is one."""
        if not codes.sigmoid:
            return codes
        if codes.behind is None or self.builder.grid(codes.value) is None:
            raise self.unsupported(
                "follows a Sigmoid that ONNX Runtime computes in float32; quantize its input and its result"
            )
        value = self.curve("Sigmoid", codes, codes.behind)
        return Codes(value, codes.shape, codes.kind, codes.by_quantize)

    def curve(self, operator: Literal["Sigmoid", "Tanh"], codes: Codes, grid: Grid) -> int:
        """Return the value of a Sigmoid or Tanh of codes, on a grid: a table from codes to codes.

        Raises
        ------
        UnsupportedModelError
            A value is so near the middle between two codes that only the machine knows its code.
        """
        known = self.builder.grid(codes.value)
        assert known is not None
        try:
            table = ort_curve(operator, known.quantization, grid.quantization)
        except TargetError as error:
            raise self.unsupported(str(error)) from error
        return self.builder.lookup(self.name, self.where, codes.value, lambda _: table, grid)

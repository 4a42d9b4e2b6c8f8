"""Assemble a QuantizedModel layer by layer: what the readers of ONNX and torch share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.errors import InvalidNetworkError, UnsupportedModelError
from milpq.formats._float_builder import MAX_VALUES, MAX_WEIGHTS
from milpq.formats._image_book import ImageBook
from milpq.network.geometry import OUTSIDE
from milpq.network.images import Convolution
from milpq.network.nodes import entries
from milpq.network.quantized_model import (
    QuantizedAverage,
    QuantizedLayer,
    QuantizedLinear,
    QuantizedLookup,
    QuantizedMaximum,
    QuantizedModel,
    QuantizedOffset,
    QuantizedSelection,
    QuantizedSum,
)
from milpq.rounding.activation import Activation, CodeRange
from milpq.rounding.kernels import AverageKernel, Quantization, SumKernel
from milpq.rounding.requantization import FloatBias, Operator, Requantization

Kind: TypeAlias = Literal["int8", "uint8"]

CODE_RANGE: dict[Kind, tuple[int, int]] = {"int8": (-128, 127), "uint8": (0, 255)}


@dataclass(frozen=True, slots=True)
class Grid:
    """What the codes of a tensor stand for: ``scale · (code − zero_point)``.

    Parameters
    ----------
    scale : float32 value, held as float
    lower, upper : int
        Smallest and largest code.
    """

    scale: float
    zero_point: int
    lower: int
    upper: int

    @classmethod
    def of(cls, scale: float, zero_point: int, kind: Kind) -> Grid:
        """Return the grid of a whole integer type."""
        return cls(scale, zero_point, *CODE_RANGE[kind])

    @property
    def quantization(self) -> Quantization:
        """The grid as kernels take it."""
        return Quantization(self.scale, self.zero_point, CodeRange(self.lower, self.upper))

    @property
    def activation(self) -> Activation:
        """What the float original may have here: codes without negative numbers stand for a ReLU."""
        return "relu" if self.zero_point == self.lower else "none"

    def check(self, where: str) -> None:
        """Raise InvalidNetworkError unless the scale is a positive float32 and the zero point a code."""
        narrow = float(np.float32(self.scale)) if math.isfinite(self.scale) else math.nan
        if not (narrow == self.scale and self.scale >= float(np.finfo(np.float32).tiny)):
            raise InvalidNetworkError(
                f"{where}: its scale {self.scale} is not a positive normal float32 value"
            )
        if not self.lower <= self.zero_point <= self.upper:
            raise InvalidNetworkError(
                f"{where}: its zero point {self.zero_point} lies outside the codes {self.lower} to {self.upper}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class LinearPart:
    """A fully connected layer or convolution whose output is not yet placed on a grid.

    Parameters
    ----------
    source : int
        Value index it reads.
    weights : matrix of integers, shape (neurons, inputs)
        Weight codes minus their zero points.
    scales : float64 holding float32 values, shape (channels,)
    channel : int64, shape (neurons,)
    pairs_saturate : bool
        Whether two neighbouring products of a uint8 activation and an int8 weight can leave int16.
    convolution : Convolution or None
        The convolution that the weights are.
    float_bias : FloatBias or None
        What the file holds where `bias` is rounded.
    """

    name: str
    where: str
    operator: Operator
    source: int
    weights: Matrix
    bias: Int64Array
    scales: Float64Array
    channel: Int64Array
    per_channel: bool
    pairs_saturate: bool
    convolution: Convolution | None = None
    float_bias: FloatBias | None = None


class QuantizedBuilder:
    """Collects layers; value 0 is the input and value ``k`` the result of layer ``k − 1``.

    Parameters
    ----------
    origin : str
        File or object the model comes from; begins every message.

    Attributes
    ----------
    images : ImageBook
        What readers say of values beyond what their operators do.
    """

    def __init__(self, origin: str, size: int, where: str) -> None:
        self.origin = origin
        self.images = ImageBook()
        self._layers: list[QuantizedLayer] = []
        self._sizes: list[int] = []
        self._grids: list[Grid | None] = []
        self._weights = 0
        self._made(size, None, where)

    def begin(self, grid: Grid, where: str) -> None:
        """Settle what the input codes stand for."""
        grid.check(where)
        if self._grids[0] not in {None, grid}:
            raise UnsupportedModelError(f"{where}: quantizes the input a second time, on another grid")
        self._grids[0] = grid

    def grid(self, value: int) -> Grid | None:
        """Return the grid of a value; None for an accumulator that is not rounded, and for an unsettled input."""
        return self._grids[value]

    def linear(self, part: LinearPart, grid: Grid | None) -> int:
        """Append a linear layer; without a grid its accumulators are the result, not rounded."""
        source = self._grids[part.source]
        assert source is not None
        inputs = self._sizes[part.source]
        if part.weights.shape[1] != inputs:
            raise InvalidNetworkError(
                f"{part.where}: weights for {part.weights.shape[1]} inputs, but {inputs} come in"
            )
        self._weights += entries(part.weights).size
        if self._weights > MAX_WEIGHTS:
            raise UnsupportedModelError(f"{part.where}: the network has more than {MAX_WEIGHTS} weights")
        if not (np.isfinite(part.scales).all() and (part.scales > 0).all()):
            raise InvalidNetworkError(f"{part.where}: a weight scale is not positive and finite")
        requantization = None
        if grid is not None:
            grid.check(part.where)
            requantization = Requantization(
                part.operator,
                source.scale,
                part.scales,
                part.per_channel,
                grid.scale,
                grid.zero_point,
                grid.lower,
                grid.upper,
                part.pairs_saturate,
                float_bias=part.float_bias,
            )
        self._layers.append(
            QuantizedLinear(
                part.name,
                part.source,
                part.weights,
                part.bias,
                source.scale,
                part.scales,
                part.channel,
                requantization,
                "none" if grid is None else grid.activation,
                part.convolution,
            )
        )
        value = self._made(len(part.bias), grid, part.where)
        if part.convolution is not None:
            self.images.settle(part.source, part.convolution.image)
            self.images.settle(value, part.convolution.result)
        return value

    def lookup(
        self, name: str, where: str, source: int, table: Callable[[Int64Array], Int64Array], grid: Grid
    ) -> int:
        """Append a table of codes; `table` maps every source code to its result code, nondecreasing."""
        known = self._grids[source]
        assert known is not None
        grid.check(where)
        codes = table(np.arange(known.lower, known.upper + 1, dtype=np.int64))
        if (np.diff(codes) < 0).any():
            raise UnsupportedModelError(f"{where}: its table of codes is not nondecreasing")
        self._layers.append(
            QuantizedLookup(name, source, codes, known.lower, known.zero_point, grid.scale, grid.zero_point)
        )
        return self._like(source, grid, where)

    def maximum(self, name: str, where: str, source: int, candidates: Int64Array) -> int:
        """Append a max pool; `candidates` as in `QuantizedMaximum`."""
        known = self._known(source)
        self._layers.append(QuantizedMaximum(name, source, candidates, known.quantization))
        return self._made(len(candidates), known, where)

    def average(
        self,
        name: str,
        where: str,
        source: int,
        candidates: Int64Array,
        grid: Grid,
        *,
        whole: bool,
        as_unsigned: bool,
    ) -> int:
        """Append an average pool, of the `whole` image or of windows; `candidates` as in `QuantizedAverage`."""
        grid.check(where)
        kind = "mean" if whole else "pool"
        read = self._known(source).quantization
        kernel = AverageKernel(kind, read, grid.quantization, "none", as_unsigned=as_unsigned)
        self._layers.append(QuantizedAverage(name, source, candidates, kernel))
        return self._made(len(candidates), grid, where)

    def add(self, name: str, where: str, first: int, second: int, grid: Grid, *, as_unsigned: bool) -> int:
        """Append the sum of two values of one size."""
        grid.check(where)
        size = self._sizes[first]
        if self._sizes[second] != size:
            raise UnsupportedModelError(f"{where}: broadcasts one operand to the other")
        operands = self._known(first).quantization, self._known(second).quantization
        kernel = SumKernel(*operands, grid.quantization, grid.activation, as_unsigned)
        self._layers.append(QuantizedSum(name, first, second, kernel))
        self.images.same(first, second)
        return self._like(first, grid, where)

    def offset(
        self,
        name: str,
        where: str,
        source: int,
        constant: Int64Array,
        of: Grid,
        grid: Grid,
        *,
        as_unsigned: bool,
    ) -> int:
        """Append the sum of a value and constant codes on the grid `of`."""
        for stated in (of, grid):
            stated.check(where)
        kernel = SumKernel(
            self._known(source).quantization, of.quantization, grid.quantization, grid.activation, as_unsigned
        )
        self._layers.append(QuantizedOffset(name, source, constant, kernel))
        return self._like(source, grid, where)

    def join(self, name: str, where: str, sources: list[int], chosen: list[Int64Array], grid: Grid) -> int:
        """Append a concatenation of values on one grid; `chosen` as in `QuantizedSelection`."""
        grid.check(where)
        zeros = np.zeros(len(chosen[0]), dtype=np.int64)
        layer = QuantizedSelection(name, tuple(sources), tuple(chosen), zeros, grid.quantization)
        self._layers.append(layer)
        return self._made(len(zeros), grid, where)

    def pad(self, name: str, where: str, source: int, chosen: Int64Array, level: int) -> int:
        """Append a pad with a level (code − zero point); `chosen` as in `QuantizedSelection`."""
        grid = self._known(source)
        fill = np.where(chosen == OUTSIDE, level, 0).astype(np.int64)
        self._layers.append(QuantizedSelection(name, (source,), (chosen,), fill, grid.quantization))
        return self._made(len(fill), grid, where)

    def _like(self, source: int, grid: Grid | None, where: str) -> int:
        """Note the layer just appended, whose result has size and order of what it reads."""
        value = self._made(self._sizes[source], grid, where)
        self.images.same(source, value)
        return value

    def _known(self, value: int) -> Grid:
        grid = self._grids[value]
        assert grid is not None
        return grid

    def finish(self, output: int, input_rounding: str | None = None, note: str = "") -> QuantizedModel:
        """Return the model that ends in value `output`."""
        grid = self._grids[0]
        if grid is None:
            raise UnsupportedModelError(f"{self.origin}: nothing says what the codes of the input stand for")
        scales = np.full(self._sizes[0], grid.scale)
        return QuantizedModel(
            scales,
            grid.zero_point,
            grid.lower,
            grid.upper,
            scales,
            tuple(self._layers),
            output,
            self.origin,
            note,
            input_rounding,
            self.images.images(len(self._sizes)),
        )

    def check_size(self, size: int, where: str) -> None:
        """Raise UnsupportedModelError if a value of so many neurons is more than milpq handles."""
        if not 0 < size <= MAX_VALUES:
            raise UnsupportedModelError(f"{where}: has {size} values; milpq reads 1 to {MAX_VALUES}")

    def _made(self, size: int, grid: Grid | None, where: str) -> int:
        self.check_size(size, where)
        self._sizes.append(size)
        self._grids.append(grid)
        return len(self._layers)


def pairs_saturate(codes: Int64Array) -> bool:
    """Tell whether two products of a uint8 code and an int8 weight of one row can leave int16 together.

    x86 processors without VNNI add neighbouring products in saturating int16 (``vpmaddubsw``).  Which ones
    are neighbours depends on how a kernel packs its weights, so any two weights of a row are taken.

    Parameters
    ----------
    codes : int64, shape (rows, weights)
        Weight codes as stored, zero points not subtracted.

    References
    ----------
    ONNX Runtime, *Quantize ONNX models*, "S8S8 versus U8S8 ... saturation issue".
    """
    if codes.shape[1] < 2:
        return False
    ordered = np.sort(codes, axis=1)
    least = np.minimum(ordered[:, 0], 0) + np.minimum(ordered[:, 1], 0)
    most = np.maximum(ordered[:, -1], 0) + np.maximum(ordered[:, -2], 0)
    return bool((255 * most > 2**15 - 1).any() or (255 * least < -(2**15)).any())

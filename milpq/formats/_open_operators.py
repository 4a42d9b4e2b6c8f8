"""Layers of the open network file that hold no weights: sums, averages, maxima, selections, functions of codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import InvalidNetworkError, TargetError
from milpq.formats._files import PathLike
from milpq.network.geometry import OUTSIDE
from milpq.network.quantized_model import (
    QuantizedAverage,
    QuantizedLayer,
    QuantizedMaximum,
    QuantizedSelection,
    QuantizedSum,
    QuantizedUnary,
    StatedKernel,
)
from milpq.rounding.kernels import AverageKernel, PairSum, Quantization, SumKernel, UnaryKernel
from milpq.rounding.requantization import CodeRange, Requantizer
from milpq.rounding.targets import get_target

if TYPE_CHECKING:
    from milpq.formats import _open_schema as schema


class Builder(Protocol):
    """What the reader knows of the values so far, and how it reads arrays."""

    path: PathLike
    sizes: list[int]

    def earlier(self, source: int, where: str) -> int:
        """Return the number of a value that is there already."""
        ...

    def codes_of(self, source: int, where: str) -> Quantization:
        """Return the codes of a value."""
        ...

    def made(self, size: int, scale: Float64Array, codes: Quantization | None) -> None:
        """Note a value."""
        ...

    def check_size(self, size: int, where: str) -> None:
        """Raise unless a value of so many neurons is one that milpq handles."""
        ...

    def check_codes(self, where: str, lower: int, upper: int, zero_point: int, channels: int) -> None:
        """Raise unless code limits are usable."""
        ...

    def integers(self, given: list[Any] | schema.ArrayReference, where: str, dimensions: int) -> Int64Array:
        """Return an array of integers."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class StatedTables:
    """A kernel whose arithmetic the file states in numbers."""

    pair: PairSum | None
    rows: Int64Array | None
    first_code: int
    limits: CodeRange

    def unary_codes(self, kernel: UnaryKernel) -> Int64Array:
        """Raise TargetError: functions of codes are tables of their own."""
        raise TargetError(f"{kernel.kind.upper()}: is stated as a lookup")

    def pair_sum(self, kernel: SumKernel) -> PairSum:
        """Return the tables of a sum."""
        del kernel
        assert self.pair is not None
        return self.pair

    def average(self, kernel: AverageKernel, counts: Int64Array) -> Requantizer:
        """Return the thresholds of an average, one row a count."""
        del kernel
        assert self.rows is not None
        if len(self.rows) not in {1, len(counts)}:
            raise TargetError(f"{len(self.rows)} rows of thresholds for averages of {len(counts)} sizes")
        rows = np.broadcast_to(self.rows, (len(counts), self.rows.shape[1]))

        def requantize(sums: Int64Array) -> Int64Array:
            reached = np.empty(sums.shape, dtype=np.int64)
            for row, values, result in zip(rows, sums, reached, strict=True):
                result[:] = np.searchsorted(row, values, side="right")
            return np.clip(self.first_code + reached, self.limits.lower, self.limits.upper)

        return requantize


def operator_layer(
    builder: Builder,
    layer: schema.SumLayer
    | schema.AverageLayer
    | schema.MaximumLayer
    | schema.SelectionLayer
    | schema.FunctionLayer,
    where: str,
) -> QuantizedLayer:
    """Return a layer without weights and note its value.

    Raises
    ------
    InvalidNetworkError
        Its numbers are inconsistent; the layer is named.
    """
    if layer.kind == "sum":
        return _sum(builder, layer, where)
    if layer.kind == "average":
        return _average(builder, layer, where)
    if layer.kind == "selection":
        return _selection(builder, layer, where)
    source, read = _operand(builder, layer.operand, where)
    if layer.kind == "maximum":
        candidates = _neurons(builder, layer.candidates, builder.sizes[source], f"{where}: candidates")
        builder.made(len(candidates), np.full(len(candidates), read.scale), read)
        return QuantizedMaximum(layer.name, source, candidates, read, layer.activation)
    result, size = _output(builder, layer.output, where), builder.sizes[source]
    builder.made(size, np.full(size, result.scale), result)
    stated = _target_kernel(builder, layer.target, where)
    return QuantizedUnary(layer.name, source, UnaryKernel(layer.operator, read, result), stated)


def _sum(builder: Builder, layer: schema.SumLayer, where: str) -> QuantizedSum:
    from milpq.formats import _open_schema as kinds

    (first, left), (second, right) = (
        _operand(builder, operand, where) for operand in (layer.first, layer.second)
    )
    size = builder.sizes[first]
    if builder.sizes[second] != size:
        raise InvalidNetworkError(f"{builder.path}: {where}: adds {size} and {builder.sizes[second]} neurons")
    result, rounding = _output(builder, layer.output, where), layer.rounding
    if isinstance(rounding, kinds.SumTables):
        stated, as_unsigned = _sum_tables(builder, rounding, left, right, result, where), False
    else:
        stated, as_unsigned = _target_kernel(builder, rounding.target, where), rounding.as_unsigned
    builder.made(size, np.full(size, result.scale), result)
    kernel = SumKernel(left, right, result, layer.activation, as_unsigned)
    return QuantizedSum(layer.name, first, second, kernel, stated)


def _sum_tables(
    builder: Builder,
    given: schema.SumTables,
    left: Quantization,
    right: Quantization,
    result: Quantization,
    where: str,
) -> StatedKernel:
    first, second, thresholds = (
        builder.integers(part, f"{where}: rounding", 1)
        for part in (given.first, given.second, given.thresholds)
    )
    for addends, operand in ((first, left), (second, right)):
        if addends.shape != operand.range.codes.shape:
            raise InvalidNetworkError(
                f"{builder.path}: {where}: {len(addends)} addends for {len(operand.range.codes)} codes"
            )
    if any((np.diff(part) < 0).any() for part in (first, second, thresholds)):
        raise InvalidNetworkError(f"{builder.path}: {where}: addends and thresholds must not decrease")

    def output(total: Int64Array) -> Int64Array:
        codes = given.first_code + np.searchsorted(thresholds, total, side="right")
        return np.clip(codes, result.range.lower, result.range.upper)

    tables = StatedTables(PairSum(first, second, output), None, given.first_code, result.range)
    statement: dict[str, object] = {
        "first": first.tolist(),
        "second": second.tolist(),
        "thresholds": thresholds.tolist(),
        "first_code": given.first_code,
    }
    return StatedKernel(tables, statement)


def _average(builder: Builder, layer: schema.AverageLayer, where: str) -> QuantizedAverage:
    from milpq.formats import _open_schema as kinds

    source, read = _operand(builder, layer.operand, where)
    candidates = _neurons(builder, layer.candidates, builder.sizes[source], f"{where}: candidates")
    result, rounding = _output(builder, layer.output, where), layer.rounding
    as_unsigned = False
    if isinstance(rounding, kinds.ThresholdRounding):
        rows = builder.integers(rounding.thresholds, f"{where}: thresholds", 2)
        if (np.diff(rows, axis=1) < 0).any():
            raise InvalidNetworkError(f"{builder.path}: {where}: thresholds must not decrease")
        statement: dict[str, object] = {"thresholds": rows.tolist(), "first_code": rounding.first_code}
        stated = StatedKernel(StatedTables(None, rows, rounding.first_code, result.range), statement)
    else:
        stated, as_unsigned = _target_kernel(builder, rounding.target, where), rounding.as_unsigned
    builder.made(len(candidates), np.full(len(candidates), result.scale), result)
    kernel = AverageKernel(layer.operator, read, result, layer.activation, layer.spatial_keep, as_unsigned)
    return QuantizedAverage(layer.name, source, candidates, kernel, stated)


def _selection(builder: Builder, layer: schema.SelectionLayer, where: str) -> QuantizedSelection:
    reads: list[tuple[int, Quantization]] = [_operand(builder, operand, where) for operand in layer.operands]
    codes = reads[0][1]
    if any((read.scale, read.zero_point) != (codes.scale, codes.zero_point) for _, read in reads):
        raise InvalidNetworkError(f"{builder.path}: {where}: joins codes of different scales or zero points")
    chosen = builder.integers(layer.chosen, f"{where}: chosen", 2)
    size = int(chosen.shape[1])
    builder.check_size(size, where)
    if len(chosen) != len(reads):
        raise InvalidNetworkError(f"{builder.path}: {where}: {len(chosen)} rows for {len(reads)} operands")
    for row, (source, _) in zip(chosen, reads, strict=True):
        if row.min() < OUTSIDE or row.max() >= builder.sizes[source]:
            raise InvalidNetworkError(f"{builder.path}: {where}: chooses a neuron that is not there")
    times = (chosen != OUTSIDE).sum(axis=0)
    constant = np.zeros(size, dtype=np.int64)
    if layer.constant is not None:
        constant = builder.integers(layer.constant, f"{where}: constant", 1)
    levels = codes.range.lower - codes.zero_point, codes.range.upper - codes.zero_point
    if len(constant) != size or (times > 1).any() or constant[times == 1].any():
        raise InvalidNetworkError(f"{builder.path}: {where}: a neuron is several things at once")
    if min(constant.min(), 0) < min(levels[0], 0) or max(constant.max(), 0) > max(levels[1], 0):
        raise InvalidNetworkError(f"{builder.path}: {where}: a constant is no code")
    scale: Float64Array = np.full(size, codes.scale)
    builder.made(size, scale, codes)
    sources = tuple(source for source, _ in reads)
    return QuantizedSelection(layer.name, sources, tuple(chosen), constant, codes)


def _operand(builder: Builder, operand: schema.Operand, where: str) -> tuple[int, Quantization]:
    """Return a value and its codes; those stated must hold all that it takes."""
    source = builder.earlier(operand.source, where)
    known = builder.codes_of(source, where)
    if operand.code_lower > known.range.lower or operand.code_upper < known.range.upper:
        raise InvalidNetworkError(
            f"{builder.path}: {where}: reads the codes {operand.code_lower} to {operand.code_upper}, but "
            f"{known.range.lower} to {known.range.upper} come in"
        )
    limits = CodeRange(operand.code_lower, operand.code_upper)
    builder.check_codes(where, limits.lower, limits.upper, known.zero_point, 1)
    return source, Quantization(known.scale, known.zero_point, limits)


def _output(builder: Builder, given: schema.CodesOutput, where: str) -> Quantization:
    builder.check_codes(where, given.code_lower, given.code_upper, given.zero_point, 1)
    return Quantization(given.scale, given.zero_point, CodeRange(given.code_lower, given.code_upper))


def _neurons(builder: Builder, given: list[Any] | schema.ArrayReference, size: int, where: str) -> Int64Array:
    """Return candidates; each row must have one."""
    candidates = builder.integers(given, where, 2)
    builder.check_size(len(candidates), where)
    if candidates.min() < OUTSIDE or candidates.max() >= size:
        raise InvalidNetworkError(f"{builder.path}: {where}: name a neuron that is not there")
    if (candidates == OUTSIDE).all(axis=1).any():
        raise InvalidNetworkError(f"{builder.path}: {where}: leave a neuron with none")
    return candidates


def _target_kernel(builder: Builder, name: str | None, where: str) -> StatedKernel | None:
    if name is None:
        return None
    try:
        return StatedKernel(get_target(name), {"target": name})
    except TargetError as error:
        raise InvalidNetworkError(f"{builder.path}: {where}: {error}") from error

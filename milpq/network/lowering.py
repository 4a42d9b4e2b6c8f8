"""Layers of a quantized model to nodes of an integer network, as a target executes them."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from milpq._arrays import Int64Array
from milpq.errors import AccumulatorOverflowError, InvalidNetworkError, TargetError, about
from milpq.network.geometry import OUTSIDE, maximum_rounds, selection_matrix, sum_matrix
from milpq.network.integer_network import accumulator_range
from milpq.network.nodes import IntegerAffine, IntegerNode, Step, Term
from milpq.network.quantized_layers import (
    QuantizedAverage,
    QuantizedLayer,
    QuantizedLinear,
    QuantizedLookup,
    QuantizedMaximum,
    QuantizedOffset,
    QuantizedSelection,
    QuantizedSum,
    QuantizedUnary,
)
from milpq.rounding.activation import activation_codes, fused_on_target
from milpq.rounding.kernels import supported, unary_table
from milpq.rounding.pair_sum import fit_sum
from milpq.rounding.requantization import Requantization, Target
from milpq.rounding.step import StepFunction


class Lowering:
    """Collects the nodes; values are those of `IntegerNetwork`.

    Parameters
    ----------
    level_lower, level_upper : int64, shape (inputs,)
        Levels of the input.
    target : Target or None
    """

    def __init__(self, level_lower: Int64Array, level_upper: Int64Array, target: Target | None) -> None:
        self.nodes: list[IntegerNode] = []
        self._ranges = [(level_lower, level_upper)]
        self._target = target

    def lower(self, layer: QuantizedLayer, value_of: list[int]) -> int:
        """Append the nodes of a layer and return the value it makes.

        Parameters
        ----------
        value_of : value of each layer so far, that of the input first

        Raises
        ------
        TargetError
            The target cannot run the layer.
        AccumulatorOverflowError
            An accumulator can leave int32.
        """
        with about(f"layer {layer.name!r}", TargetError, AccumulatorOverflowError, InvalidNetworkError):
            return self._lower(layer, value_of)

    def as_codes(self, layer: QuantizedSelection, value: int) -> int:
        """Append the identity, which gives the levels of a selection at the output their zero point back."""
        tensor = layer.quantization
        first = tensor.range.lower - tensor.zero_point
        levels = tensor.range.codes - tensor.zero_point
        size = len(layer.constant)
        return self._append(_table(layer.name, value, size, first, levels, tensor.scale, tensor.zero_point))

    def _lower(self, layer: QuantizedLayer, value_of: list[int]) -> int:
        if isinstance(layer, QuantizedLinear):
            return self._linear(layer, value_of[layer.source])
        if isinstance(layer, QuantizedLookup):
            return self._look_up(layer, value_of[layer.source])
        if isinstance(layer, QuantizedUnary):
            return self._unary(layer, value_of[layer.source])
        if isinstance(layer, QuantizedSum):
            return self._sum(layer, value_of[layer.first], value_of[layer.second])
        if isinstance(layer, QuantizedOffset):
            return self._offset(layer, value_of[layer.source])
        if isinstance(layer, QuantizedAverage):
            return self._average(layer, value_of[layer.source])
        if isinstance(layer, QuantizedMaximum):
            return self._maximum(layer, value_of[layer.source])
        return self._select(layer, [value_of[source] for source in layer.sources])

    def _append(self, node: IntegerNode) -> int:
        self.nodes.append(node)
        if isinstance(node, IntegerAffine):
            lower, upper, _ = accumulator_range(node, self._ranges)
        else:
            lower, upper = node.function.image(*self._ranges[node.source])
        self._ranges.append((lower, upper))
        return len(self.nodes)

    def _stated(self, layer: QuantizedUnary | QuantizedSum | QuantizedAverage) -> object:
        """Return what states how an operator computes: the file itself, or the target."""
        return self._target if layer.stated is None else layer.stated.target

    def _linear(self, layer: QuantizedLinear, source: int) -> int:
        accumulate = self._append(
            IntegerAffine(
                layer.name,
                (Term(source, layer.weights),),
                layer.bias,
                (layer.input_scale * layer.weight_scales)[layer.channel],
            )
        )
        if layer.requantization is None:
            return accumulate
        return self._append(_requantize(layer, accumulate, *self._ranges[accumulate], self._target))

    def _look_up(self, layer: QuantizedLookup, source: int) -> int:
        """Append a table as a step function: one threshold per input code, jumps where it jumps."""
        size = len(self._ranges[source][0])
        first = layer.input_code_lower - layer.input_zero_point
        values = np.asarray(layer.table, dtype=np.int64) - layer.output_zero_point
        return self._append(
            _table(
                layer.name, source, size, first, values, float(layer.output_scale), layer.output_zero_point
            )
        )

    def _unary(self, layer: QuantizedUnary, source: int) -> int:
        kernel = layer.kernel
        table = unary_table(self._stated(layer), kernel)
        return self._look_up(
            QuantizedLookup(
                layer.name,
                source,
                table,
                kernel.source.range.lower,
                kernel.source.zero_point,
                kernel.result.scale,
                kernel.result.zero_point,
            ),
            source,
        )

    def _sum(self, layer: QuantizedSum, first: int, second: int) -> int:
        """Append both operands scaled to one unit, their sum, and the rounding of the sum.

        The operands' tables are those that `fit_sum` finds equivalent over the reachable levels.
        """
        kernel = layer.kernel
        pair = supported(self._stated(layer), "ADD").pair_sum(kernel)
        size = len(self._ranges[first][0])
        reach: list[tuple[int, int]] = []
        addends: list[Int64Array] = []
        for value, operand, all_addends in (
            (first, kernel.first, pair.first),
            (second, kernel.second, pair.second),
        ):
            lower, upper = (int(end) for end in (self._ranges[value][0].min(), self._ranges[value][1].max()))
            offset = operand.zero_point - operand.range.lower
            reach.append((lower, upper))
            addends.append(all_addends[lower + offset : upper + offset + 1])
        zero_point, limits = kernel.result.zero_point, kernel.result.range
        fitted = fit_sum(
            addends[0],
            addends[1],
            lambda total: pair.output(total) - zero_point,
            limits.lower - zero_point,
            limits.upper - zero_point,
            reach,
        )
        units = [
            operand.scale * (high - low) / float(values[-1] - values[0])
            for operand, values, (low, high) in zip(
                (kernel.first, kernel.second), fitted.addends, reach, strict=True
            )
            if values[-1] > values[0]
        ]
        unit = units[0] if units else kernel.first.scale
        sources = [
            self._append(_table(f"{layer.name}/{which}", value, size, low, values, unit, 0))
            for which, value, values, (low, _) in zip(
                ("first", "second"), (first, second), fitted.addends, reach, strict=True
            )
        ]
        identity = selection_matrix(np.arange(size, dtype=np.int64), size)
        total = self._append(
            IntegerAffine(
                layer.name,
                tuple(Term(source, identity) for source in sources),
                np.zeros(size, dtype=np.int64),
                np.full(size, unit),
            )
        )
        function = StepFunction(fitted.thresholds, fitted.levels, np.zeros(size, dtype=np.int64))
        return self._append(Step(layer.name, total, function, np.full(size, kernel.result.scale), zero_point))

    def _offset(self, layer: QuantizedOffset, source: int) -> int:
        """Append the addition of a constant: a table of codes for each code of the constant."""
        kernel = layer.kernel
        pair = supported(self._target, "ADD").pair_sum(kernel)
        distinct, rows = np.unique(layer.constant, return_inverse=True)
        addends = pair.second[distinct - kernel.second.range.lower]
        zero_point = kernel.result.zero_point
        values = pair.output(pair.first[None, :] + addends[:, None]) - zero_point
        codes = kernel.first.range.codes[1:] - kernel.first.zero_point
        thresholds = np.broadcast_to(codes, (len(distinct), len(codes)))
        function = StepFunction(thresholds.copy(), values, rows.reshape(-1).astype(np.int64))
        scale = np.full(len(rows), kernel.result.scale)
        return self._append(Step(layer.name, source, function, scale, zero_point))

    def _average(self, layer: QuantizedAverage, source: int) -> int:
        kernel = layer.kernel
        matrix = sum_matrix(layer.candidates, len(self._ranges[source][0]))
        counts = (layer.candidates != OUTSIDE).sum(axis=1)
        total = self._append(
            IntegerAffine(
                layer.name,
                (Term(source, matrix),),
                np.zeros(len(counts), dtype=np.int64),
                kernel.source.scale / counts,
            )
        )
        distinct, rows = np.unique(counts, return_inverse=True)
        requantizer = supported(self._stated(layer), kernel.kind.upper()).average(kernel, distinct)
        zero_point, limits = kernel.result.zero_point, kernel.result.range
        function = StepFunction.from_function(
            lambda sums: requantizer(sums) - zero_point,
            *_range_by_row(rows, len(distinct), *self._ranges[total]),
            limits.lower - zero_point,
            limits.upper - zero_point,
            rows.astype(np.int64),
        )
        return self._append(
            Step(layer.name, total, function, np.full(len(counts), kernel.result.scale), zero_point)
        )

    def _maximum(self, layer: QuantizedMaximum, source: int) -> int:
        """Append the rounds of a tournament: ``max(a, b) = b + relu(a − b)`` on levels, exactly."""
        tensor, value = layer.quantization, source
        lower, upper = int(self._ranges[source][0].min()), int(self._ranges[source][1].max())
        for first, second in maximum_rounds(layer.candidates):
            before, size = len(self._ranges[value][0]), len(first)
            none, scale = np.zeros(size, dtype=np.int64), np.full(size, tensor.scale)
            loser = selection_matrix(second, before)
            apart = sp.csr_array(selection_matrix(first, before) - loser)
            lead = self._append(IntegerAffine(layer.name, (Term(value, apart),), none, scale))
            gain = self._append(
                _table(layer.name, lead, size, 0, np.arange(max(upper - lower, 1) + 1), tensor.scale, 0)
            )
            identity = selection_matrix(np.arange(size, dtype=np.int64), size)
            total = self._append(
                IntegerAffine(layer.name, (Term(value, loser), Term(gain, identity)), none, scale)
            )
            # The maximum is one of both, a fact that the ranges of the sum do not know.
            levels = np.arange(lower, max(upper, lower + 1) + 1)
            value = self._append(
                _table(layer.name, total, size, lower, levels, tensor.scale, tensor.zero_point)
            )
        if layer.activation == "none":
            return value
        codes = activation_codes(
            self._target, layer.activation, tensor.scale, tensor.zero_point, tensor.range
        )
        table = np.clip(tensor.range.codes, *codes) - tensor.zero_point
        first_level = tensor.range.lower - tensor.zero_point
        size = len(self._ranges[value][0])
        return self._append(
            _table(layer.name, value, size, first_level, table, tensor.scale, tensor.zero_point)
        )

    def _select(self, layer: QuantizedSelection, sources: list[int]) -> int:
        terms = tuple(
            Term(source, selection_matrix(chosen, len(self._ranges[source][0])))
            for source, chosen in zip(sources, layer.chosen, strict=True)
        )
        size = len(layer.constant)
        return self._append(
            IntegerAffine(layer.name, terms, layer.constant, np.full(size, layer.quantization.scale))
        )


def _table(
    name: str, source: int, size: int, first: int, values: Int64Array, scale: float, zero_point: int
) -> Step:
    """Return the step that maps level ``first + k`` to ``values[k]``, for every neuron."""
    thresholds = np.arange(first + 1, first + len(values), dtype=np.int64)[None, :]
    function = StepFunction(
        thresholds, np.asarray(values, dtype=np.int64)[None, :], np.zeros(size, dtype=np.int64)
    )
    return Step(name, source, function, np.full(size, scale), zero_point)


def _range_by_row(
    rows: Int64Array, count: int, lower: Int64Array, upper: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """Return the range over the neurons of each row; a row without neurons keeps the empty range [0, 0]."""
    row_lower = np.full(count, np.iinfo(np.int64).max)
    row_upper = np.full(count, np.iinfo(np.int64).min)
    np.minimum.at(row_lower, rows, lower)
    np.maximum.at(row_upper, rows, upper)
    empty = row_lower > row_upper
    row_lower[empty] = row_upper[empty] = 0
    return row_lower, row_upper


def _requantize(
    layer: QuantizedLinear, source: int, lower: Int64Array, upper: Int64Array, target: Target | None
) -> Step:
    """Turn the end of a linear layer into its step function over the reachable accumulators."""
    stated = layer.requantization
    assert stated is not None
    if isinstance(stated, Requantization):
        assert target is not None
        stated = fused_on_target(target, layer.activation, stated)
        requantizer = target.requantizer(stated)
    else:
        requantizer = stated.requantizer
    zero_point = stated.output_zero_point
    function = StepFunction.from_function(
        lambda accumulators: requantizer(accumulators) - zero_point,
        *_range_by_row(layer.channel, len(layer.weight_scales), lower, upper),
        stated.code_lower - zero_point,
        stated.code_upper - zero_point,
        layer.channel,
    )
    return Step(
        layer.name, source, function, np.full(len(layer.channel), float(stated.output_scale)), zero_point
    )

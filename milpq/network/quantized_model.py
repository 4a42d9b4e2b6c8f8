"""A quantized model as its file states it, before an inference target settles the rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.errors import TargetError
from milpq.network.integer_network import IntegerInput, IntegerNetwork, accumulator_range
from milpq.network.nodes import IntegerAffine, IntegerNode, Step, Term
from milpq.rounding.activation import Activation, fused_on_target
from milpq.rounding.input_quantizer import InputQuantizer
from milpq.rounding.logistic import logistic_table
from milpq.rounding.requantization import Requantization, Requantizer, Target
from milpq.rounding.step import StepFunction


@dataclass(frozen=True, slots=True, eq=False)
class StatedRequantization:
    """A requantization that the file states itself, so that no target is needed for it.

    Parameters
    ----------
    requantizer : callable
        Accumulators (channels, k) to codes.
    statement : dict of str to number or list
        The file's own words, for writing the model back.
    """

    requantizer: Requantizer
    output_scale: float
    output_zero_point: int
    code_lower: int
    code_upper: int
    statement: dict[str, object]


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedLinear:
    """One fully connected or convolution layer of a quantized model.

    Parameters
    ----------
    source : int
        Value index it reads (0 is the input, ``k`` the result of layer ``k − 1``).
    weights : matrix of integers, shape (neurons, inputs)
        Weight codes minus their zero point.
    bias : int64, shape (neurons,)
    weight_scales : float64, shape (channels,)
    channel : int64, shape (neurons,)
        The channel of each neuron; ``arange`` for a fully connected layer.
    requantization : Requantization, or a Requantizer the file states itself, or None
        None leaves the accumulator as the output, not rounded.
    activation : str
        What the float original has here.  Targets round the ends of an activation to code limits in their own
        ways; the limits in the requantization are TFLite's.
    """

    name: str
    source: int
    weights: Matrix
    bias: Int64Array
    input_scale: float
    weight_scales: Float64Array
    channel: Int64Array
    requantization: Requantization | StatedRequantization | None
    activation: Activation = "none"


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedLookup:
    """A monotone table from codes to codes, such as an int8 LOGISTIC or a ReLU of its own.

    Parameters
    ----------
    table : int64, shape (codes,)
        Output code of each input code, from the smallest input code upwards; nondecreasing.
    """

    name: str
    source: int
    table: Int64Array
    input_code_lower: int
    input_zero_point: int
    output_scale: float
    output_zero_point: int


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedLogistic:
    """An int8 sigmoid; its table of codes is the target's.

    Parameters
    ----------
    input_scale, output_scale : float32 values (held as float)
    input_zero_point, output_zero_point : int, in codes
    """

    name: str
    source: int
    input_scale: float
    input_zero_point: int
    output_scale: float
    output_zero_point: int

    def lookup(self, target: Target) -> QuantizedLookup:
        """Return the table as `target` executes it."""
        try:
            table = logistic_table(
                target, self.input_scale, self.input_zero_point, self.output_scale, self.output_zero_point
            )
        except TargetError as error:
            raise TargetError(f"layer {self.name!r}: {error}") from error
        return QuantizedLookup(
            self.name,
            self.source,
            table,
            -128,
            self.input_zero_point,
            self.output_scale,
            self.output_zero_point,
        )


QuantizedLayer: TypeAlias = QuantizedLinear | QuantizedLookup | QuantizedLogistic


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedModel:
    """A quantized model as stated by its file.

    Parameters
    ----------
    float_scale : float64, shape (inputs,)
        What `f` reads per input level when inputs are on codes; normally equal to `input_scale`.
    input_rounding : str or None
        Input quantizer rule the file states itself; None leaves it to the target.
    """

    input_scale: Float64Array
    input_zero_point: int
    input_code_lower: int
    input_code_upper: int
    float_scale: Float64Array
    layers: tuple[QuantizedLayer, ...]
    output: int
    origin: str = "<memory>"
    note: str = ""
    input_rounding: str | None = None

    @property
    def needs_target(self) -> bool:
        """Tell whether an inference target must settle some rounding."""
        return any(
            isinstance(layer, QuantizedLogistic)
            or (isinstance(layer, QuantizedLinear) and isinstance(layer.requantization, Requantization))
            for layer in self.layers
        )

    def on_target(self, target: Target | None) -> IntegerNetwork:
        """Settle every rounding as `target` executes it.

        Raises
        ------
        TargetError
            A target is needed and none was given, or it cannot run a layer.
        AccumulatorOverflowError
            An accumulator can leave int32.
        """
        if target is None and self.needs_target:
            raise TargetError(
                f"{self.origin}: the file does not settle how its layers round; name the runtime "
                "with --target (`milpq targets` lists them)"
            )
        level_lower = self.input_code_lower - self.input_zero_point
        level_upper = self.input_code_upper - self.input_zero_point
        rule = self.input_rounding or (target.input_rounding if target is not None else None)
        size = len(self.input_scale)
        integer_input = IntegerInput(
            self.input_scale,
            self.input_zero_point,
            level_lower,
            level_upper,
            self.float_scale,
            None
            if rule is None
            else InputQuantizer.from_rule(
                rule,
                self.input_scale,
                np.full(size, self.input_zero_point, dtype=np.int64),
                self.input_code_lower,
                self.input_code_upper,
            ),
        )
        nodes: list[IntegerNode] = []
        ranges = [(np.full(size, level_lower, dtype=np.int64), np.full(size, level_upper, dtype=np.int64))]
        scales = [self.input_scale]
        value_of = [0]
        for stated in self.layers:
            source = value_of[stated.source]
            layer = stated
            if isinstance(layer, QuantizedLogistic):
                assert target is not None
                layer = layer.lookup(target)
            if isinstance(layer, QuantizedLinear):
                accumulate = IntegerAffine(
                    layer.name,
                    (Term(source, layer.weights),),
                    layer.bias,
                    (layer.input_scale * layer.weight_scales)[layer.channel],
                )
                nodes.append(accumulate)
                lower, upper, _ = accumulator_range(accumulate, ranges)
                ranges.append((lower, upper))
                scales.append(accumulate.scale)
                if layer.requantization is not None:
                    step = _requantize(layer, len(nodes), lower, upper, target)
                    nodes.append(step)
                    ranges.append(step.function.image(lower, upper))
                    scales.append(step.scale)
            else:
                step = _look_up(layer, source, len(ranges[source][0]))
                nodes.append(step)
                ranges.append(step.function.image(*ranges[source]))
                scales.append(step.scale)
            value_of.append(len(nodes))
        return IntegerNetwork(
            integer_input,
            tuple(nodes),
            value_of[self.output],
            target.name if target is not None else "as stated",
            self.origin,
            self.note,
        )


def _requantize(
    layer: QuantizedLinear, source: int, lower: Int64Array, upper: Int64Array, target: Target | None
) -> Step:
    """Turn the end of a linear layer into its step function over the reachable accumulators."""
    stated = layer.requantization
    assert stated is not None
    if isinstance(stated, Requantization):
        assert target is not None
        try:
            stated = fused_on_target(target, layer.activation, stated)
            requantizer = target.requantizer(stated)
        except TargetError as error:
            raise TargetError(f"layer {layer.name!r}: {error}") from error
    else:
        requantizer = stated.requantizer
    channels = len(layer.weight_scales)
    # A channel without neurons keeps the empty range [0, 0].
    channel_lower = np.full(channels, np.iinfo(np.int64).max)
    channel_upper = np.full(channels, np.iinfo(np.int64).min)
    np.minimum.at(channel_lower, layer.channel, lower)
    np.maximum.at(channel_upper, layer.channel, upper)
    empty = channel_lower > channel_upper
    channel_lower[empty] = channel_upper[empty] = 0
    zero_point = stated.output_zero_point
    function = StepFunction.from_function(
        lambda accumulators: requantizer(accumulators) - zero_point,
        channel_lower,
        channel_upper,
        stated.code_lower - zero_point,
        stated.code_upper - zero_point,
        layer.channel,
    )
    return Step(
        layer.name, source, function, np.full(len(layer.channel), float(stated.output_scale)), zero_point
    )


def _look_up(layer: QuantizedLookup, source: int, size: int) -> Step:
    """Turn a table into a step function: one threshold per input code, jumps where it jumps."""
    first = layer.input_code_lower - layer.input_zero_point
    thresholds = np.arange(first + 1, first + len(layer.table), dtype=np.int64)[None, :]
    values = (np.asarray(layer.table, dtype=np.int64) - layer.output_zero_point)[None, :]
    function = StepFunction(thresholds, values, np.zeros(size, dtype=np.int64))
    return Step(
        layer.name, source, function, np.full(size, float(layer.output_scale)), layer.output_zero_point
    )

"""Quantized versions of the layers that hold no weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from milpq.errors import UnsupportedModelError
from milpq.network.curves import SIGMOID
from milpq.network.quantized_model import (
    QuantizedAverage,
    QuantizedLayer,
    QuantizedLookup,
    QuantizedMaximum,
    QuantizedSelection,
    QuantizedSum,
    QuantizedUnary,
    StatedKernel,
)
from milpq.quantization.codes import Codes
from milpq.quantization.layers import (
    AverageLayer,
    ClampLayer,
    CurveLayer,
    MaximumLayer,
    RescaleLayer,
    SelectionLayer,
    SumLayer,
)
from milpq.rounding.kernels import AverageKernel, SumKernel, UnaryKernel
from milpq.rounding.requantization import CodeRange


def quantize_operator(
    layer: SumLayer | ClampLayer | AverageLayer | MaximumLayer | SelectionLayer | CurveLayer | RescaleLayer,
    values: list[Codes],
    codes: Codes,
    gives: Codes,
    stated: StatedKernel | None,
) -> QuantizedLayer:
    """Return the quantized version of a layer without weights.

    Parameters
    ----------
    values : codes of the input and of the layers so far
    codes, gives : Codes
        Of its result, and those of them that its clamp leaves.
    stated : StatedKernel or None
        What states how it computes; None leaves it to a target.

    Raises
    ------
    UnsupportedModelError
        A value is added to itself.
    """
    name, source, result = layer.name, layer.sources[0], codes.quantization
    read = values[source].quantization
    if isinstance(layer, SumLayer):
        first, second = layer.sources
        if first == second:
            raise UnsupportedModelError(
                f"layer {name!r}: adds a value to itself; fold the factor 2 into weights"
            )
        if not layer.is_named:
            result = replace(result, range=CodeRange(gives.lower, gives.upper))
        other = values[second].quantization
        return QuantizedSum(name, first, second, SumKernel(read, other, result, layer.activation), stated)
    if isinstance(layer, ClampLayer):
        table = np.clip(read.range.codes, gives.lower, gives.upper)
        return QuantizedLookup(
            name, source, table, read.range.lower, read.zero_point, codes.scale, codes.zero_point
        )
    if isinstance(layer, MaximumLayer):
        return QuantizedMaximum(name, source, layer.candidates, read)
    if isinstance(layer, AverageLayer):
        kernel = AverageKernel("pool" if layer.windowed else "mean", read, result, "none")
        return QuantizedAverage(name, source, layer.candidates, kernel, stated)
    if isinstance(layer, SelectionLayer):
        constant = np.rint(layer.constant / codes.scale).astype(np.int64)
        constant = np.clip(constant, codes.lower - codes.zero_point, codes.upper - codes.zero_point)
        return QuantizedSelection(name, layer.sources, layer.chosen, constant, result)
    if isinstance(layer, CurveLayer):
        kind = "logistic" if layer.curve == SIGMOID else "tanh"
        return QuantizedUnary(name, source, UnaryKernel(kind, read, result), stated)
    return QuantizedUnary(name, source, UnaryKernel("requantize", read, result), stated)

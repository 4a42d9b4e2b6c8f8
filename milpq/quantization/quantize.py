"""Quantize a float network to integers."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from milpq.errors import AccumulatorOverflowError, InvalidNetworkError, TargetError
from milpq.formats import load_float
from milpq.network.float_network import FloatNetwork
from milpq.network.images import Image
from milpq.network.integer_network import accumulator_range
from milpq.network.nodes import IntegerAffine, Term
from milpq.network.pairing import check_pair
from milpq.network.quantized_model import (
    QuantizedLayer,
    QuantizedLinear,
    QuantizedModel,
    StatedKernel,
    StatedRequantization,
)
from milpq.quantization.calibration import Calibrated, calibrate, check_calibration, load_calibration
from milpq.quantization.codes import Codes, bias_levels, weight_levels
from milpq.quantization.layers import ClampLayer, Layer, LinearLayer, SumLayer, network_layers
from milpq.quantization.operators import quantize_operator
from milpq.quantization.scheme import Bits, RangeMethod, Scheme
from milpq.rounding.activation import fused_on_target
from milpq.rounding.requantization import Requantization, Target
from milpq.rounding.targets import get_target


def quantize(
    float_network: FloatNetwork | str | os.PathLike[str],
    calibration: npt.ArrayLike | str | os.PathLike[str],
    *,
    target: str | None = None,
    bits: Bits = 8,
    activation_bits: Bits = 8,
    input_bits: int = 8,
    per_channel: bool = False,
    symmetric_weights: bool = True,
    symmetric_activations: bool = False,
    power_of_two: bool = False,
    range_method: RangeMethod = "min-max",
    percentile: float = 99.99,
    raw_output: bool = False,
    accumulator_bits: int = 32,
) -> QuantizedModel:
    """Quantize a float network after training, with activation ranges from sample inputs.

    Parameters
    ----------
    float_network : FloatNetwork or path
        Of any operator that milpq reads, in any order: layers with weights, clamps, sums, pools, means, pads,
        concatenations, sigmoid and tanh.
    calibration : array-like of numbers, shape (samples, inputs), or path
        Sample inputs in real units; a ``.npy``, or a ``.npz`` with one array or one named ``inputs``.
    target : str, optional
        Id of the inference target whose rounding the model states.  Without it the model leaves the rounding
        open, as a ``.tflite`` does.
    bits, activation_bits, input_bits, per_channel, symmetric_weights, symmetric_activations, power_of_two, \
range_method, percentile, raw_output, accumulator_bits
        As in `Scheme`.

    Returns
    -------
    QuantizedModel
        Every weight lies within half a step of its code, so it pairs with `float_network`.

    Raises
    ------
    UsageError
        The calibration data or an option are not usable.
    UnsupportedModelError
        The network has a structure that milpq does not quantize; the layer is named.
    AccumulatorOverflowError
        Some input could make an accumulator leave its register; the layer is named.
    TargetError
        The target is unknown or cannot run a layer.
    """
    scheme = Scheme(
        bits,
        activation_bits,
        input_bits,
        per_channel,
        symmetric_weights,
        symmetric_activations,
        power_of_two,
        range_method,
        percentile,
        raw_output,
        accumulator_bits,
    )
    chosen = None if target is None else get_target(target)
    if not isinstance(float_network, FloatNetwork):
        float_network = load_float(float_network)
    calibrated = calibrate_network(float_network, calibration, scheme, chosen)
    return quantize_calibrated(float_network, calibrated, scheme, chosen)


def calibrate_network(
    float_network: FloatNetwork,
    calibration: npt.ArrayLike | str | os.PathLike[str],
    scheme: Scheme,
    target: Target | None,
) -> Calibrated:
    """Return the codes of all activations; the bits of the weights in the scheme do not matter.

    Raises
    ------
    MilpqError
        The data are not usable, or the structure of the network is not.
    """
    where = "calibration data"
    if isinstance(calibration, str | os.PathLike):
        where = str(calibration)
        calibration = load_calibration(calibration)
    rows = check_calibration(calibration, float_network.input_size, where)
    return calibrate(float_network, rows, scheme, target)


def quantize_calibrated(
    float_network: FloatNetwork, calibrated: Calibrated, scheme: Scheme, target: Target | None
) -> QuantizedModel:
    """Quantize with codes of the activations that are already chosen.

    Raises
    ------
    MilpqError
        As `quantize`.
    """
    layers = network_layers(float_network)
    weighted = [layer for layer in layers if isinstance(layer, LinearLayer)]
    widths = dict(zip(weighted, scheme.weight_widths(len(weighted)), strict=True))
    if scheme.raw_output:
        last = layers[-1]
        if not isinstance(last, LinearLayer) or np.isfinite(last.lower) or np.isfinite(last.upper):
            raise InvalidNetworkError(
                f"layer {last.name!r}: an unrounded output is that of a layer with weights and no activation"
            )
    values = [calibrated.input]
    ranges = [_levels(calibrated.input, float_network.input_size)]
    quantized: list[QuantizedLayer] = []
    for layer, codes in zip(layers, calibrated.layers, strict=True):
        if isinstance(layer, LinearLayer):
            gives = _limited(codes, layer)
            made = _quantize_layer(layer, widths[layer], values[layer.sources[0]], gives, scheme)
            if layer is layers[-1] and scheme.raw_output:
                made = replace(made, requantization=None)
            _check_accumulators(made, ranges, scheme.accumulator_bits)
            quantized.append(made if target is None else _on_target(made, target))
        else:
            gives = _limited(codes, layer) if isinstance(layer, SumLayer | ClampLayer) else codes
            stated = None if target is None else StatedKernel(target, {"target": target.name})
            quantized.append(quantize_operator(layer, values, codes, gives, stated))
        values.append(codes)
        ranges.append(_levels(gives, layer.size))
    scales = np.full(float_network.input_size, calibrated.input.scale)
    model = QuantizedModel(
        scales,
        calibrated.input.zero_point,
        calibrated.input.lower,
        calibrated.input.upper,
        scales,
        tuple(quantized),
        len(quantized),
        f"{float_network.origin} (quantized)",
        float_network.note,
        None if target is None else target.input_rounding,
        _images(float_network, layers),
    )
    if target is not None:
        model.on_target(target)
    check_pair(float_network, model)
    return model


def _images(network: FloatNetwork, layers: tuple[Layer, ...]) -> tuple[Image | None, ...]:
    """Return what the input and the results of the layers are."""
    known = network.images or (None,) * (len(network.nodes) + 1)
    return (
        known[0],
        *(
            layer.convolution.result
            if isinstance(layer, LinearLayer) and layer.convolution is not None
            else known[layer.value]
            for layer in layers
        ),
    )


def _quantize_layer(
    layer: LinearLayer, bits: int, read: Codes, gives: Codes, scheme: Scheme
) -> QuantizedLinear:
    channel = layer.channel if scheme.per_channel else np.zeros(len(layer.bias), dtype=np.int64)
    levels, scales = weight_levels(
        layer.matrix,
        bits,
        channel,
        symmetric=scheme.symmetric_weights,
        power_of_two=scheme.power_of_two,
        name=layer.name,
    )
    if layer.operator == "depthwise" and not scheme.per_channel:
        # Some runtimes round the last channels of a depthwise convolution in another way, so each is a row of its own.
        channel, scales = layer.channel, np.full(int(layer.channel.max()) + 1, scales[0])
    return QuantizedLinear(
        layer.name,
        layer.sources[0],
        levels,
        bias_levels(layer.bias, (read.scale * scales)[channel]),
        read.scale,
        scales,
        channel,
        Requantization(
            layer.operator,
            read.scale,
            scales,
            scheme.per_channel,
            gives.scale,
            gives.zero_point,
            gives.lower,
            gives.upper,
        ),
        layer.activation,
        layer.convolution,
    )


def _limited(codes: Codes, layer: LinearLayer | SumLayer | ClampLayer) -> Codes:
    """Return the codes of an activation, cut to those between the ends of the clamp.

    Raises
    ------
    InvalidNetworkError
        A single code is left.
    """
    lower, upper = codes.code(layer.lower), codes.code(layer.upper)
    if not lower < upper:
        raise InvalidNetworkError(
            f"layer {layer.name!r}: with {codes.bits} bits its activation [{layer.lower:g}, {layer.upper:g}] has "
            f"no two codes {codes.scale:g} apart; use more bits for its activations"
        )
    return replace(codes, lower=lower, upper=upper)


def _levels(codes: Codes, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    return (
        np.full(size, codes.lower - codes.zero_point, dtype=np.int64),
        np.full(size, codes.upper - codes.zero_point, dtype=np.int64),
    )


def _check_accumulators(
    layer: QuantizedLinear, ranges: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]], bits: int
) -> None:
    """Raise AccumulatorOverflowError if some codes make a partial sum leave the register."""
    remedy = "quantize its weights or what it reads to fewer bits"
    unit = (layer.input_scale * layer.weight_scales)[layer.channel]
    accumulate = IntegerAffine(layer.name, (Term(layer.source, layer.weights),), layer.bias, unit)
    try:
        _, _, magnitude = accumulator_range(accumulate, ranges)
    except AccumulatorOverflowError as error:
        raise AccumulatorOverflowError(f"{error}; {remedy}") from error
    if magnitude >= 2.0 ** (bits - 1):
        raise AccumulatorOverflowError(
            f"layer {layer.name!r}: an accumulator can reach ±{magnitude:.0f}, beyond int{bits}; {remedy}"
        )


def _on_target(layer: QuantizedLinear, target: Target) -> QuantizedLinear:
    """Let a layer state how the target rounds it."""
    open_ = layer.requantization
    if open_ is None:
        return layer
    assert isinstance(open_, Requantization)
    try:
        settled = fused_on_target(target, layer.activation, open_)
        requantizer = target.requantizer(settled)
    except TargetError as error:
        raise TargetError(f"layer {layer.name!r}: {error}") from error
    stated = StatedRequantization(
        requantizer,
        settled.output_scale,
        settled.output_zero_point,
        settled.code_lower,
        settled.code_upper,
        settled.statement(target.name),
    )
    return replace(layer, requantization=stated)

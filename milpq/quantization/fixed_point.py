"""Plain fixed point: every number with a given count of bits, all but two of them behind the point."""

from __future__ import annotations

import numpy as np

from milpq._arrays import Float64Array
from milpq.errors import UnsupportedModelError, UsageError
from milpq.network.float_network import FloatNetwork
from milpq.network.quantized_model import QuantizedLinear, QuantizedModel, StatedRequantization
from milpq.quantization.layers import LinearLayer, network_layers
from milpq.quantization.scheme import FEWEST_BITS, MOST_BITS
from milpq.rounding.arithmetic import round_half_away
from milpq.rounding.requantizers import power_of_two_requantizer

INPUT_BITS = 8
"""An input code stands for ``code / 2^8``."""

FLOAT_INPUT_SCALE = 1.0 / 255.0
"""The float network reads ``code / 255``, as images are stored."""


def quantize_fixed_point(float_network: FloatNetwork, bits: int) -> QuantizedModel:
    """Quantize a ReLU network to fixed point with so many bits; needs no calibration.

    Weights, biases and activations have ``F = bits − 2`` fraction bits.  Weights and biases are rounded half
    away from zero and clipped to ``bits`` bits, signed, so large weights can be more than half a step off.  A
    hidden layer gives ``floor(accumulator / 2^e + ½)`` clipped to ``[0, 2^bits − 1]``, where ``e`` is the
    number of fraction bits of what it reads.  The output is the accumulator of the last layer, unrounded.
    Inputs are the codes −128 … 127.

    Parameters
    ----------
    float_network : FloatNetwork
        Hidden layers with ReLU, and a last one without.
    bits : int
        3 to 16.

    Raises
    ------
    UsageError
        `bits` is out of range.
    UnsupportedModelError
        An activation is no ReLU; the layer is named.

    References: Y. Zhang et al., *QEBVerif*, CAV 2023.
    """
    if not FEWEST_BITS < bits <= MOST_BITS:
        raise UsageError(f"fixed point with {bits} bits: milpq knows 3 to 16")
    fraction = bits - 2
    layers: list[LinearLayer] = []
    for layer in network_layers(float_network):
        if not isinstance(layer, LinearLayer):
            raise UnsupportedModelError(
                f"{float_network.origin}: layer {layer.name!r}: has no weights; fixed point quantizes dense layers "
                "with ReLU"
            )
        layers.append(layer)
    fractions = [INPUT_BITS]
    quantized: list[QuantizedLinear] = []
    for number, layer in enumerate(layers, start=1):
        last = number == len(layers)
        where = f"{float_network.origin}: layer {layer.name!r}"
        if layer.activation != ("none" if last else "relu") or not layer.is_named:
            what = "an activation behind the last layer" if last else "no ReLU"
            raise UnsupportedModelError(
                f"{where}: has {what}; fixed point needs ReLU behind hidden layers only"
            )
        if not isinstance(layer.matrix, np.ndarray):
            raise UnsupportedModelError(f"{where}: is a convolution; fixed point quantizes dense layers")
        channel = np.zeros(len(layer.bias), dtype=np.int64)
        read_fraction = fractions[layer.sources[0]]
        requantization = StatedRequantization(
            power_of_two_requantizer(np.array([read_fraction]), "half-up", 0, 0, 2**bits - 1),
            2.0**-fraction,
            0,
            0,
            2**bits - 1,
            {"shift": [read_fraction], "rounding": "half-up"},
        )
        quantized.append(
            QuantizedLinear(
                layer.name,
                layer.sources[0],
                _fixed(layer.matrix, bits),
                _fixed(layer.bias, bits).astype(np.int64) << read_fraction,
                2.0**-read_fraction,
                np.array([2.0**-fraction]),
                channel,
                None if last else requantization,
                layer.activation,
            )
        )
        fractions.append(fraction)
    size = float_network.input_size
    return QuantizedModel(
        np.full(size, 2.0**-INPUT_BITS),
        0,
        -128,
        127,
        np.full(size, FLOAT_INPUT_SCALE),
        tuple(quantized),
        len(quantized),
        f"{float_network.origin} (fixed point, {bits} bits)",
        float_network.note,
    )


def _fixed(values: Float64Array, bits: int) -> Float64Array:
    """Return numbers with ``bits − 2`` fraction bits, as integers of so many bits, signed."""
    return np.clip(round_half_away(values * 2.0 ** (bits - 2)), -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)

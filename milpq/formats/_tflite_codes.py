"""What the codes of an activation tensor of a `.tflite` stand for."""

from __future__ import annotations

from typing import Final

from milpq.errors import InvalidNetworkError, UnsupportedModelError
from milpq.formats.tflite_reader import TfliteTensor
from milpq.rounding.kernels import Quantization
from milpq.rounding.requantization import INT8, UINT8, CodeRange

RANGES: Final = {"INT8": INT8, "UINT8": UINT8}
"""The codes of each type of activations."""


def quantization(tensor: TfliteTensor) -> Quantization:
    """Return the quantization of an activation tensor; raise unless it is int8 or uint8, its zero point in range."""
    if tensor.kind not in RANGES:
        raise UnsupportedModelError(
            f"{tensor.where}: is {tensor.kind}; milpq reads int8 and uint8 activations"
        )
    limits: CodeRange = RANGES[tensor.kind]
    scale, zero_point = tensor.quantization()
    if not limits.lower <= zero_point <= limits.upper:
        raise InvalidNetworkError(
            f"{tensor.where}: its zero point {zero_point} is no {tensor.kind.lower()} code"
        )
    return Quantization(scale, zero_point, limits)

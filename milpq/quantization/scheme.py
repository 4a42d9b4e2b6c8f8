"""What a user can choose about a quantization, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from milpq.errors import UsageError

RangeMethod: TypeAlias = Literal["min-max", "percentile", "mse"]
RANGE_METHODS: Final = ("min-max", "percentile", "mse")
"""How the range of an activation follows from what calibration has seen of it."""

FEWEST_BITS: Final = 2
MOST_BITS: Final = 16

Bits: TypeAlias = int | Sequence[int]
"""One width for all layers, or one for each layer in order."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How to quantize.

    Parameters
    ----------
    weight_bits : int or sequence of int
        Bits of the weights, 2 to 16; for all layers or one a layer.
    activation_bits : int or sequence of int
        Bits of the codes that layers give.
    input_bits : int
        Bits of the codes that the network reads.
    per_channel : bool
        A weight scale for each neuron instead of one a layer.
    symmetric_weights : bool
        Weight zero point 0 and codes in ``[−(2^(b−1) − 1), 2^(b−1) − 1]``.
    symmetric_activations : bool
        Zero point 0.
    power_of_two : bool
        Scales are powers of two; otherwise any float32.
    range_method : RangeMethod
        Of the activations; weights are never clipped, so that each lies within half a step of its code.
    percentile : float
        In per cent, above 50: the ranges cut what lies above it, and as much below.
    raw_output : bool
        Leave the accumulators of the last layer unrounded.
    accumulator_bits : int
        Width of the target's accumulators, 8 to 32.

    Raises
    ------
    UsageError
        A value is out of its range.
    """

    weight_bits: Bits = 8
    activation_bits: Bits = 8
    input_bits: int = 8
    per_channel: bool = False
    symmetric_weights: bool = True
    symmetric_activations: bool = False
    power_of_two: bool = False
    range_method: RangeMethod = "min-max"
    percentile: float = 99.99
    raw_output: bool = False
    accumulator_bits: int = 32

    def __post_init__(self) -> None:
        for what, bits in (
            ("weights", self.weight_bits),
            ("activations", self.activation_bits),
            ("inputs", self.input_bits),
        ):
            for width in bits if isinstance(bits, Sequence) else [bits]:
                if not FEWEST_BITS <= width <= MOST_BITS:
                    raise UsageError(f"{width} bits for {what}: milpq quantizes to 2 to 16 bits")
        if self.range_method not in RANGE_METHODS:
            raise UsageError(
                f"unknown range method {self.range_method!r}; use one of {', '.join(RANGE_METHODS)}"
            )
        if not 50.0 < self.percentile <= 100.0:
            raise UsageError(f"the percentile must be above 50 and at most 100, not {self.percentile}")
        if not 8 <= self.accumulator_bits <= 32:
            raise UsageError(f"accumulators of {self.accumulator_bits} bits: milpq knows 8 to 32")

    def weight_widths(self, layers: int) -> tuple[int, ...]:
        """Return the bits of the weights of each of so many layers."""
        return _spread(self.weight_bits, layers, "weights")

    def activation_widths(self, layers: int) -> tuple[int, ...]:
        """Return the bits of the codes that each of so many layers gives."""
        return _spread(self.activation_bits, layers, "activations")


def _spread(bits: Bits, layers: int, what: str) -> tuple[int, ...]:
    if not isinstance(bits, Sequence):
        return (bits,) * layers
    if len(bits) != layers:
        raise UsageError(f"{len(bits)} widths for {what}, but the network has {layers} layers")
    return tuple(bits)

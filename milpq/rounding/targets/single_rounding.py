"""Fixed-point runtimes that round once: CMSIS-NN and TFLite built for it, and TOSA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from milpq._arrays import Int64Array
from milpq.errors import AccumulatorOverflowError
from milpq.rounding.arithmetic import quantize_multiplier
from milpq.rounding.requantization import Requantization, Requantizer
from milpq.rounding.requantizers import explicit_requantizer
from milpq.rounding.targets.base import (
    Product,
    TargetFamily,
    factor_float64,
    is_per_tensor_fully_connected,
    spell,
)

OPTIONS = {"multiplier": ("float64", "float32")}

_SUMMARIES = {
    "cmsis-single": "CMSIS-NN with CMSIS_NN_USE_SINGLE_ROUNDING; TFLite with TFLITE_SINGLE_ROUNDING",
    "tosa-single": "TOSA RESCALE with 32-bit scale and single rounding",
}


@dataclass(frozen=True, slots=True)
class SingleRoundingTarget:
    """Single rounding, half up, everywhere.

    The two ids compute the same values; TOSA leaves fewer accumulators defined.

    Parameters
    ----------
    family : "cmsis-single" or "tosa-single"
    multiplier : "float64" or "float32"
        How the multiplier of per-tensor fully connected layers was derived from the scales.
    """

    family: Literal["cmsis-single", "tosa-single"]
    multiplier: Product = "float64"

    @property
    def name(self) -> str:
        """The id, options included."""
        return spell(self.family, {"multiplier": self.multiplier}, OPTIONS)

    @property
    def summary(self) -> str:
        """One line for lists."""
        return _SUMMARIES[self.family]

    @property
    def input_rounding(self) -> str:
        """The rule of the QUANTIZE operator."""
        return "half-away"

    def requantizer(self, requantization: Requantization) -> Requantizer:
        """Return the executable requantization of one layer.

        Raises
        ------
        TargetError
            The scales give a factor that no fixed-point multiplier holds.
        """
        product = self.multiplier if is_per_tensor_fully_connected(requantization) else "float64"
        multiplier, shift = quantize_multiplier(factor_float64(requantization, product))
        requantize = explicit_requantizer(
            multiplier,
            shift,
            "single",
            requantization.output_zero_point,
            requantization.code_lower,
            requantization.code_upper,
        )
        return requantize if self.family == "cmsis-single" else _within_tosa(requantize, shift)


def _within_tosa(requantize: Requantizer, shift: Int64Array) -> Requantizer:
    """Refuse accumulators for which TOSA's ``apply_scale_32`` is not defined."""
    limit = (1 << (30 - shift))[:, None]

    def within(accumulator: Int64Array) -> Int64Array:
        if (accumulator < -limit).any() or (accumulator >= limit).any():
            raise AccumulatorOverflowError(
                "an accumulator leaves the range that TOSA's apply_scale_32 requires; "
                "narrow the input region, or quantize with a larger output scale"
            )
        return requantize(accumulator)

    return within


def _build_cmsis(options: Mapping[str, str]) -> SingleRoundingTarget:
    return SingleRoundingTarget("cmsis-single", cast(Product, options["multiplier"]))


def _build_tosa(options: Mapping[str, str]) -> SingleRoundingTarget:
    return SingleRoundingTarget("tosa-single", cast(Product, options["multiplier"]))


FAMILIES = (
    TargetFamily("cmsis-single", _build_cmsis, OPTIONS),
    TargetFamily("tosa-single", _build_tosa, OPTIONS),
)

"""Fixed-point runtimes that round once: CMSIS-NN and TFLite built for it, and TOSA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import AccumulatorOverflowError, TargetError
from milpq.rounding.activation import INT8
from milpq.rounding.arithmetic import quantize_multiplier, single_rounding
from milpq.rounding.kernels import (
    CURVES,
    AverageKernel,
    PairSum,
    SumKernel,
    UnaryKernel,
    unknown_operator,
)
from milpq.rounding.requantization import Requantization, Requantizer
from milpq.rounding.targets.base import (
    Product,
    TargetFamily,
    factor_float64,
    fixed_point_requantizer,
    is_per_tensor_fully_connected,
    spell,
)
from milpq.rounding.tflite_kernels import (
    fixed_point_mean,
    fixed_point_sum,
    fixed_point_unary,
    rounded_average,
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
        if requantization.limits != INT8:
            raise TargetError(
                f"{self.name}: has no uint8 {requantization.operator}; convert the model to int8"
            )
        product = self.multiplier if is_per_tensor_fully_connected(requantization) else "float64"
        factor = factor_float64(requantization, product)
        requantize = fixed_point_requantizer(requantization, factor, "single")
        return requantize if self.family == "cmsis-single" else _within_tosa(requantize, factor)

    def unary_codes(self, kernel: UnaryKernel) -> Int64Array:
        """Return the output code of every input code."""
        self._require_tflite(kernel.kind.upper())
        if kernel.kind in CURVES:
            raise unknown_operator(self, kernel.kind.upper())
        return fixed_point_unary(kernel, single_rounding)

    def pair_sum(self, kernel: SumKernel) -> PairSum:
        """Return how ADD computes."""
        self._require_tflite("ADD")
        return fixed_point_sum(kernel, single_rounding)

    def average(self, kernel: AverageKernel, counts: Int64Array) -> Requantizer:
        """Return the function from sums of levels to codes, one row per count."""
        if kernel.kind == "pool":
            return rounded_average(kernel, counts)
        self._require_tflite("MEAN")
        return fixed_point_mean(kernel, counts, single_rounding)

    def _require_tflite(self, operator: str) -> None:
        if self.family != "cmsis-single":
            raise TargetError(f"{self.name}: TOSA does not fix how {operator} is lowered; use cmsis-single")


def _within_tosa(requantize: Requantizer, factor: Float64Array) -> Requantizer:
    """Refuse accumulators for which TOSA's ``apply_scale_32`` is not defined."""
    _, shift = quantize_multiplier(factor)
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

"""LiteRT's own kernels, without XNNPACK: the reference ones, and the optimized ones on x86."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import TargetError
from milpq.rounding.activation import UINT8
from milpq.rounding.arithmetic import (
    double_rounding,
    float64_half_away,
    ruy_x86_rounding,
)
from milpq.rounding.curve_tables import float32_curve
from milpq.rounding.kernels import CURVES, AverageKernel, PairSum, SumKernel, UnaryKernel
from milpq.rounding.requantization import Requantization, Requantizer
from milpq.rounding.targets.base import (
    TargetFamily,
    factor_float64,
    fixed_point_requantizer,
    is_per_tensor_fully_connected,
)
from milpq.rounding.tflite_kernels import (
    fixed_point_mean,
    fixed_point_sum,
    fixed_point_unary,
    rounded_average,
)

DEPTHWISE_BLOCK = 8
"""Channels the vectorized depthwise kernel takes at once; the rest of them go through portable code."""


@dataclass(frozen=True, slots=True)
class LiteRTReferenceTarget:
    """LiteRT with the op resolver ``BUILTIN_REF``."""

    @property
    def name(self) -> str:
        """The id."""
        return "litert-ref"

    @property
    def summary(self) -> str:
        """One line for lists."""
        return "LiteRT with reference kernels (fully connected in float64, others fixed point)"

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
        factor = factor_float64(requantization, "float64")
        if requantization.operator == "fully_connected":
            return _float64_requantizer(requantization, factor)
        return fixed_point_requantizer(requantization, factor, "double")

    def unary_codes(self, kernel: UnaryKernel) -> Int64Array:
        """Return the output code of every input code."""
        return float32_curve(kernel) if kernel.kind in CURVES else fixed_point_unary(kernel, double_rounding)

    def pair_sum(self, kernel: SumKernel) -> PairSum:
        """Return how ADD computes."""
        return fixed_point_sum(kernel, double_rounding)

    def average(self, kernel: AverageKernel, counts: Int64Array) -> Requantizer:
        """Return the function from sums of levels to codes, one row per count."""
        if kernel.kind == "pool":
            return rounded_average(kernel, counts)
        return fixed_point_mean(kernel, counts, double_rounding)


@dataclass(frozen=True, slots=True)
class LiteRTNoDelegateTarget:
    """LiteRT with the op resolver ``BUILTIN_WITHOUT_DEFAULT_DELEGATES``, on x86.

    All kernels round as ruy does, but for the channels that depthwise convolutions have beyond a multiple of
    8: those round as the reference kernels.
    """

    @property
    def name(self) -> str:
        """The id."""
        return "litert-nodelegate"

    @property
    def summary(self) -> str:
        """One line for lists."""
        return "LiteRT without delegates on x86 (fixed point, double rounding as ruy does it)"

    @property
    def input_rounding(self) -> str:
        """The rule of the QUANTIZE operator."""
        return "rint-mul"

    def requantizer(self, requantization: Requantization) -> Requantizer:
        """Return the executable requantization of one layer.

        Raises
        ------
        TargetError
            The scales give a factor that no fixed-point multiplier holds.
        """
        product = "float32" if is_per_tensor_fully_connected(requantization) else "float64"
        factor = factor_float64(requantization, product)
        requantize = fixed_point_requantizer(requantization, factor, "ruy-x86")
        if requantization.operator != "depthwise":
            return requantize
        if requantization.limits == UINT8:
            return fixed_point_requantizer(requantization, factor, "double")
        return _join(
            requantize,
            fixed_point_requantizer(requantization, factor, "double"),
            len(factor) - len(factor) % DEPTHWISE_BLOCK,
        )

    def unary_codes(self, kernel: UnaryKernel) -> Int64Array:
        """Return the output code of every input code."""
        if kernel.kind in CURVES:
            return float32_curve(kernel)
        return fixed_point_unary(kernel, ruy_x86_rounding if kernel.kind == "requantize" else double_rounding)

    def pair_sum(self, kernel: SumKernel) -> PairSum:
        """Return how ADD computes."""
        return fixed_point_sum(kernel, double_rounding)

    def average(self, kernel: AverageKernel, counts: Int64Array) -> Requantizer:
        """Return the function from sums of levels to codes, one row per count."""
        if kernel.kind == "pool":
            return rounded_average(kernel, counts)
        if kernel.spatial_keep:
            raise TargetError(
                f"{self.name}: has a MEAN of its own over both axes of an image; use AVERAGE_POOL_2D or litert-ref"
            )
        return fixed_point_mean(kernel, counts, double_rounding)


def _float64_requantizer(requantization: Requantization, factor: Float64Array) -> Requantizer:
    column = factor[:, None]

    def requantize(accumulator: Int64Array) -> Int64Array:
        scaled = float64_half_away(accumulator, column) + requantization.output_zero_point
        return np.clip(scaled, requantization.code_lower, requantization.code_upper)

    return requantize


def _join(first: Requantizer, rest: Requantizer, channels: int) -> Requantizer:
    """Return `first` for the first so many channels and `rest` for the others."""

    def requantize(accumulator: Int64Array) -> Int64Array:
        codes = rest(accumulator)
        codes[:channels] = first(accumulator)[:channels]
        return codes

    return requantize


def _build_reference(options: Mapping[str, str]) -> LiteRTReferenceTarget:
    del options
    return LiteRTReferenceTarget()


def _build_no_delegate(options: Mapping[str, str]) -> LiteRTNoDelegateTarget:
    del options
    return LiteRTNoDelegateTarget()


FAMILIES = (
    TargetFamily("litert-ref", _build_reference),
    TargetFamily("litert-nodelegate", _build_no_delegate),
)

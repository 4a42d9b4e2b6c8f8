"""TensorFlow Lite Micro, and what shares its fixed-point kernels bit for bit (CMSIS-NN's default, ESP-NN)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from milpq._arrays import Int64Array
from milpq.errors import TargetError
from milpq.rounding.activation import INT8
from milpq.rounding.arithmetic import double_rounding
from milpq.rounding.curve_tables import fixed_point_curve
from milpq.rounding.kernels import CURVES, AverageKernel, PairSum, SumKernel, UnaryKernel
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
    clip_unary,
    fixed_point_mean,
    fixed_point_sum,
    fixed_point_unary,
    rounded_average,
)

OPTIONS = {"multiplier": ("float64", "float32")}


@dataclass(frozen=True, slots=True)
class TflmTarget:
    """Double rounding everywhere.

    Parameters
    ----------
    multiplier : "float64" or "float32"
        How per-tensor fully connected layers multiply input and weight scale.  Newer releases take the
        float64 product; older ones (early 2026 and before) round it to float32.  Other kernels always take
        float64.
    """

    multiplier: Product = "float64"

    @property
    def name(self) -> str:
        """The id, options included."""
        return spell("tflm", {"multiplier": self.multiplier}, OPTIONS)

    @property
    def summary(self) -> str:
        """One line for lists."""
        return "TensorFlow Lite Micro; also CMSIS-NN by default and ESP-NN (fixed point, double rounding)"

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
        return fixed_point_requantizer(requantization, factor_float64(requantization, product), "double")

    def unary_codes(self, kernel: UnaryKernel) -> Int64Array:
        """Return the output code of every input code; RELU6 ignores the output scale."""
        if kernel.source.range != INT8 or kernel.result.range != INT8:
            raise TargetError(f"{self.name}: its {kernel.kind.upper()} takes int8 only")
        if kernel.kind == "relu_n1_to_1":
            raise TargetError(f"{self.name}: has no RELU_N1_TO_1; fuse it into the layer before it")
        if kernel.kind == "relu6":
            return clip_unary(kernel)
        if kernel.kind in CURVES:
            return fixed_point_curve(kernel)
        return fixed_point_unary(kernel, double_rounding)

    def pair_sum(self, kernel: SumKernel) -> PairSum:
        """Return how ADD computes."""
        return fixed_point_sum(kernel, double_rounding)

    def average(self, kernel: AverageKernel, counts: Int64Array) -> Requantizer:
        """Return the function from sums of levels to codes, one row per count."""
        if kernel.kind == "pool":
            return rounded_average(kernel, counts)
        return fixed_point_mean(kernel, counts, double_rounding)


def _build(options: Mapping[str, str]) -> TflmTarget:
    return TflmTarget(cast(Product, options["multiplier"]))


FAMILY = TargetFamily("tflm", _build, OPTIONS)

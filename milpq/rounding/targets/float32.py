"""Runtimes that requantize in float32 and round half to even: XNNPACK (LiteRT's default) and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from milpq._arrays import Int64Array
from milpq.errors import TargetError
from milpq.rounding.activation import UINT8, xnnpack_activation_code
from milpq.rounding.arithmetic import Float32Array, double_rounding, float32_half_even
from milpq.rounding.curve_tables import xnnpack_curve
from milpq.rounding.kernels import CURVES, AverageKernel, PairSum, SumKernel, UnaryKernel
from milpq.rounding.ort_kernels import ort_average, ort_curve, ort_rescaled, ort_sum
from milpq.rounding.requantization import Requantization, Requantizer
from milpq.rounding.targets.base import (
    TargetFamily,
    factor_float32,
    factor_float64,
    fixed_point_requantizer,
    spell,
)
from milpq.rounding.tflite_kernels import (
    fixed_point_unary,
    rounded_average,
    xnnpack_convert,
    xnnpack_mean,
    xnnpack_sum,
)

XNNPACK_FACTOR_UPPER = 256.0
"""XNNPACK refuses a layer whose requantization factor reaches this."""


@dataclass(frozen=True, slots=True)
class XnnpackTarget:
    """LiteRT with its default delegate."""

    @property
    def name(self) -> str:
        """The id."""
        return "litert-xnnpack"

    @property
    def summary(self) -> str:
        """One line for lists."""
        return "LiteRT as it comes: the XNNPACK delegate (float32, half to even)"

    @property
    def input_rounding(self) -> str:
        """The rule of the QUANTIZE operator."""
        return "rint-mul"

    def requantizer(self, requantization: Requantization) -> Requantizer:
        """Return the executable requantization of one layer.

        Raises
        ------
        TargetError
            XNNPACK does not take the layer, and LiteRT then fails to load the model.
        """
        if requantization.operator == "depthwise" and requantization.limits == UINT8:
            # Left to TFLite's own kernel.
            return fixed_point_requantizer(
                requantization, factor_float64(requantization, "float64"), "double"
            )
        factor = factor_float32(requantization)
        if (factor >= XNNPACK_FACTOR_UPPER).any():
            raise TargetError(
                f"litert-xnnpack: XNNPACK refuses requantization factors from 256 on, the layer has "
                f"{float(factor.max()):g}, so LiteRT fails to load the model; use litert-nodelegate"
            )
        return _float32_requantizer(requantization, factor)

    def activation_code(self, real: float, output_scale: float, output_zero_point: int) -> int:
        """Return the code of a finite end of an activation, which XNNPACK rounds in a way of its own."""
        return xnnpack_activation_code(real, output_scale, output_zero_point)

    def unary_codes(self, kernel: UnaryKernel) -> Int64Array:
        """Return the output code of every input code; XNNPACK runs QUANTIZE and curves, TFLite's kernels the rest."""
        if kernel.kind in CURVES:
            return xnnpack_curve(kernel)
        if kernel.kind == "requantize":
            return xnnpack_convert(kernel)
        return fixed_point_unary(kernel, double_rounding)

    def pair_sum(self, kernel: SumKernel) -> PairSum:
        """Return how ADD computes."""
        return xnnpack_sum(self, kernel)

    def average(self, kernel: AverageKernel, counts: Int64Array) -> Requantizer:
        """Return the function from sums of levels to codes, one row per count."""
        if kernel.kind == "mean":
            return xnnpack_mean(kernel, counts)
        return rounded_average(kernel, counts)


ORT_OPTIONS = {"vnni": ("no", "yes")}


@dataclass(frozen=True, slots=True)
class OnnxRuntimeTarget:
    """ONNX Runtime's CPU kernels QGemm, QLinearMatMul, QLinearConv, and QDQ graphs once fused into them.

    Fusion happens at graph optimization level ORT_ENABLE_EXTENDED and above, also by default.

    Parameters
    ----------
    vnni : bool
        Whether the processor has VNNI instructions (or is no x86), so that sums of uint8 times int8 products
        do not saturate.
    """

    vnni: bool = False

    @property
    def name(self) -> str:
        """The id, options included."""
        return spell("ort", {"vnni": "yes" if self.vnni else "no"}, ORT_OPTIONS)

    @property
    def summary(self) -> str:
        """One line for lists."""
        return "ONNX Runtime on the CPU: QLinear operators and fused QDQ graphs (float32, half to even)"

    @property
    def input_rounding(self) -> str:
        """The rule of QuantizeLinear."""
        return "rint-div"

    def requantizer(self, requantization: Requantization) -> Requantizer:
        """Return the executable requantization of one layer.

        Raises
        ------
        TargetError
            Products of uint8 activations and int8 weights can saturate, and VNNI is not declared.
        """
        if requantization.pairs_saturate and not self.vnni:
            raise TargetError(
                "pairs of uint8 × int8 products can saturate int16 on x86 without VNNI, where ONNX Runtime's "
                "result is wrong; quantize with reduce_range=True, or use --target ort:vnni=yes if it runs with VNNI"
            )
        return _float32_requantizer(requantization, factor_float32(requantization))

    @property
    def power_of_two_pools(self) -> bool:
        """QLinearAveragePool adds float32 numbers, which is exact on such scales only."""
        return True

    def unary_codes(self, kernel: UnaryKernel) -> Int64Array:
        """Return the output code of every input code of a rescaling or a curve, the operators that graphs have."""
        if kernel.kind in CURVES:
            return ort_curve("Sigmoid" if kernel.kind == "logistic" else "Tanh", kernel.source, kernel.result)
        if kernel.kind != "requantize":
            raise TargetError(f"{self.name}: has no kernel {kernel.kind.upper()} from codes to codes")
        return ort_rescaled(kernel.source, kernel.result)

    def pair_sum(self, kernel: SumKernel) -> PairSum:
        """Return how QLinearAdd computes."""
        return ort_sum(kernel)

    def average(self, kernel: AverageKernel, counts: Int64Array) -> Requantizer:
        """Return the function from sums of levels to codes of the pools that average."""
        return ort_average(kernel, counts)


def _float32_requantizer(requantization: Requantization, factor: Float32Array) -> Requantizer:
    zero_point = requantization.output_zero_point
    lower, upper = requantization.code_lower - zero_point, requantization.code_upper - zero_point
    column = factor[:, None]

    def requantize(accumulator: Int64Array) -> Int64Array:
        return float32_half_even(accumulator, column, lower, upper) + zero_point

    return requantize


def _build_xnnpack(options: Mapping[str, str]) -> XnnpackTarget:
    del options
    return XnnpackTarget()


def _build_ort(options: Mapping[str, str]) -> OnnxRuntimeTarget:
    return OnnxRuntimeTarget(options["vnni"] == "yes")


FAMILIES = (TargetFamily("litert-xnnpack", _build_xnnpack), TargetFamily("ort", _build_ort, ORT_OPTIONS))

"""torch's FBGEMM engine: the bias added in float32, then one factor, half to even."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from milpq._arrays import Int64Array
from milpq.errors import TargetError
from milpq.rounding.arithmetic import Float32Array, float32_fused, require_int32
from milpq.rounding.requantization import FloatBias, Requantization, Requantizer
from milpq.rounding.targets.base import TargetFamily, factor_float32, require_scales, spell

OPTIONS = {"vnni": ("no", "yes")}


@dataclass(frozen=True, slots=True)
class FbgemmTarget:
    """torch on x86 with ``torch.backends.quantized.engine = "fbgemm"`` and quint8 activations.

    Parameters
    ----------
    vnni : bool
        Whether the processor has VNNI instructions, so that sums of uint8 times int8 products do not saturate;
        the kernels for depthwise convolutions do not use them.
    """

    vnni: bool = False

    @property
    def name(self) -> str:
        """The id, options included."""
        return spell("torch-fbgemm", {"vnni": "yes" if self.vnni else "no"}, OPTIONS)

    @property
    def summary(self) -> str:
        """One line for lists."""
        return "torch's FBGEMM engine, quint8 activations (float32 with the bias in it, half to even)"

    @property
    def input_rounding(self) -> str:
        """The rule of ``torch.quantize_per_tensor``."""
        return "rint-fma"

    def requantizer(self, requantization: Requantization) -> Requantizer:
        """Return the executable requantization of one layer.

        Raises
        ------
        TargetError
            The layer states no float bias, products of uint8 activations and int8 weights can saturate, or
            scales are so small that float32 does not hold their product.

        References
        ----------
        FBGEMM, ``QuantUtilsAvx2.cc``, ``requantizeOutputProcessingAvx2``: with one weight scale the bias is
        multiplied by a reciprocal, and compilers fuse that with the addition; with one scale a channel it is divided.
        """
        require_scales(requantization)
        bias = requantization.float_bias
        if bias is None:
            raise TargetError(
                "torch-fbgemm adds biases in float32, which only quantized torch modules state; load the module "
                "itself, or use --target torch-qnnpack"
            )
        self._require_exact_sums(requantization)
        unit = np.float32(requantization.input_scale) * requantization.weight_scales.astype(np.float32)
        if not (np.isfinite(unit) & (unit >= np.finfo(np.float32).tiny)).all():
            raise TargetError(
                "torch-fbgemm: input scale times weight scale leaves the normal float32 numbers"
            )
        biased = _divided(bias, unit) if requantization.per_channel else _fused(bias, unit)
        factor = factor_float32(requantization)[:, None]
        zero_point = requantization.output_zero_point
        lower, upper = requantization.code_lower, requantization.code_upper

        def requantize(accumulator: Int64Array) -> Int64Array:
            product = accumulator - bias.codes[:, None]
            require_int32(product, "an accumulator leaves int32")
            rounded = np.rint(biased(product.astype(np.float32)) * factor)
            # FBGEMM rounds to int32 first and saturates afterwards.
            require_int32(rounded.astype(np.float64), "a requantized accumulator leaves int32")
            return np.clip(rounded.astype(np.int64) + zero_point, lower, upper)

        return requantize

    def _require_exact_sums(self, requantization: Requantization) -> None:
        if not requantization.pairs_saturate:
            return
        if requantization.operator == "depthwise":
            raise TargetError(
                "pairs of uint8 × int8 products can saturate int16 in FBGEMM's depthwise kernels, where torch's result "
                "is wrong; observe weights with quant_min=-64, quant_max=63, or use --target torch-qnnpack"
            )
        if not self.vnni:
            raise TargetError(
                "pairs of uint8 × int8 products can saturate int16 on x86 without VNNI, where torch's result is wrong; "
                "observe weights with quant_min=-64, quant_max=63, or use --target torch-fbgemm:vnni=yes if it has VNNI"
            )


def _fused(bias: FloatBias, unit: Float32Array) -> Callable[[Float32Array], Float32Array]:
    real, inverse = bias.real.astype(np.float32)[:, None], (np.float32(1) / unit)[:, None]

    def biased(product: Float32Array) -> Float32Array:
        return float32_fused(real, inverse, product)

    return biased


def _divided(bias: FloatBias, unit: Float32Array) -> Callable[[Float32Array], Float32Array]:
    quotient: Float32Array = bias.real.astype(np.float32)[:, None] / unit[:, None]

    def biased(product: Float32Array) -> Float32Array:
        return np.add(product, quotient, dtype=np.float32)

    return biased


def _build(options: Mapping[str, str]) -> FbgemmTarget:
    return FbgemmTarget(options["vnni"] == "yes")


FAMILY = TargetFamily("torch-fbgemm", _build, OPTIONS)

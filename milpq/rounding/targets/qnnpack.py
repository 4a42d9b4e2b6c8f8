"""torch's QNNPACK engine: requantization in float32, half to even, by a factor with a reciprocal in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from milpq._arrays import Int64Array
from milpq.errors import TargetError
from milpq.rounding.arithmetic import float32_half_even, require_int32
from milpq.rounding.kernels import AverageKernel, PairSum, SumKernel, UnaryKernel
from milpq.rounding.qnnpack_kernels import qnnpack_average, qnnpack_sum
from milpq.rounding.requantization import Requantization, Requantizer
from milpq.rounding.targets.base import TargetFamily, require_scales


@dataclass(frozen=True, slots=True)
class QnnpackTarget:
    """torch with ``torch.backends.quantized.engine = "qnnpack"`` and quint8 activations."""

    @property
    def name(self) -> str:
        """The id."""
        return "torch-qnnpack"

    @property
    def summary(self) -> str:
        """One line for lists."""
        return "torch's QNNPACK engine, quint8 activations (float32, half to even)"

    @property
    def input_rounding(self) -> str:
        """The rule of ``torch.quantize_per_tensor``."""
        return "rint-fma"

    def requantizer(self, requantization: Requantization) -> Requantizer:
        """Return the executable requantization of one layer.

        References
        ----------
        PyTorch, ``ATen/native/quantized/cpu/QnnpackUtils.h``, ``generate_requantization_scales``; QNNPACK,
        ``q8gemm/4x4c2-sse2.c``.
        """
        require_scales(requantization)
        both = np.float32(requantization.input_scale) * requantization.weight_scales.astype(np.float32)
        factor = (both * (np.float32(1) / np.float32(requantization.output_scale)))[:, None]
        zero_point = requantization.output_zero_point
        lower, upper = requantization.code_lower - zero_point, requantization.code_upper - zero_point

        def requantize(accumulator: Int64Array) -> Int64Array:
            # QNNPACK rounds to int32 first and saturates afterwards.
            product = accumulator.astype(np.float32) * factor
            require_int32(product.astype(np.float64), "a requantized accumulator leaves int32")
            return float32_half_even(accumulator, factor, lower, upper) + zero_point

        return requantize

    def unary_codes(self, kernel: UnaryKernel) -> Int64Array:
        """Raise TargetError: torch states such operators by their float32 arithmetic, as tables."""
        raise TargetError(f"{self.name}: has no kernel {kernel.kind.upper()} from codes to codes")

    def pair_sum(self, kernel: SumKernel) -> PairSum:
        """Return how ``quantized::add`` computes."""
        return qnnpack_sum(kernel)

    def average(self, kernel: AverageKernel, counts: Int64Array) -> Requantizer:
        """Return the function from sums of levels to codes of pools and of means over an image."""
        return qnnpack_average(kernel, counts)


def _build(options: Mapping[str, str]) -> QnnpackTarget:
    del options
    return QnnpackTarget()


FAMILY = TargetFamily("torch-qnnpack", _build)

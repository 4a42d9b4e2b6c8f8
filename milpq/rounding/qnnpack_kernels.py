"""The operators without weights of torch's QNNPACK: sums, pools and means that average, and clamps.

References
----------
PyTorch, ``ATen/native/quantized/cpu/qnnpack``: ``src/qnnpack/requantization.h``
(``pytorch_qnnp_compute_add_quantization_params``, ``pytorch_qnnp_compute_avgpool_quantization_params``);
``ATen/native/quantized/cpu/kernels/QuantizedOpKernels.cpp`` (``qclamp_kernel``).
"""

from __future__ import annotations

import numpy as np

from milpq._arrays import Int64Array
from milpq.rounding.activation import activation_codes
from milpq.rounding.arithmetic import float32_half_even
from milpq.rounding.kernels import (
    AverageKernel,
    PairSum,
    Quantization,
    SumKernel,
    check_scales,
    shifted_addends,
)
from milpq.rounding.requantization import Requantizer

_ADD_RATIOS = 2.0**-14, 2.0**8
_ADD_BITS = 22


def qnnpack_sum(kernel: SumKernel) -> PairSum:
    """Return ``quantized::add``: multipliers of 22 bits, one shift, halves away from zero.

    Raises
    ------
    TargetError
        QNNPACK refuses scales that are so far apart.
    """
    result = kernel.result
    low, high = _ADD_RATIOS
    addends, shift = shifted_addends(
        kernel,
        _ADD_BITS,
        _ADD_RATIOS,
        f"torch-qnnpack: QNNPACK refuses an addition whose scales differ by a factor outside [{low:g}, {high:g})",
    )
    lower, upper = activation_codes(None, kernel.activation, result.scale, result.zero_point, result.range)
    mask = (1 << shift) - 1

    def output(total: Int64Array) -> Int64Array:
        left = (total & mask) - (total < 0)
        return np.clip((total >> shift) + (left > mask >> 1) + result.zero_point, lower, upper)

    return PairSum(*addends, output)


def qnnpack_average(kernel: AverageKernel, counts: Int64Array) -> Requantizer:
    """Return average pools and means: the sum of levels times ``s_in / (s_out · count)`` in float32, half to even."""
    source, result = kernel.source, kernel.result
    check_scales(source, result)
    scaled = np.float32(result.scale) * counts.astype(np.float32)
    factor = (np.float32(source.scale) / scaled)[:, None]
    zero_point = result.zero_point
    limits = activation_codes(None, kernel.activation, result.scale, zero_point, result.range)
    lower, upper = (limit - zero_point for limit in limits)

    def average(levels: Int64Array) -> Int64Array:
        return float32_half_even(levels, factor, lower, upper) + zero_point

    return average


def qnnpack_clamp(tensor: Quantization, lower: float, upper: float) -> Int64Array:
    """Return the table of relu6 and hardtanh, shape (codes,): the ends get the codes ``rint(x · (1/s) + z)``."""
    check_scales(tensor)
    limits, zero_point = tensor.range, np.float32(tensor.zero_point)
    inverse = np.float32(1) / np.float32(tensor.scale)
    ends = np.rint(np.array([lower, upper], dtype=np.float32) * inverse + zero_point)
    low, high = (int(end) for end in np.clip(ends, limits.lower, limits.upper))
    return np.clip(limits.codes, low, high)

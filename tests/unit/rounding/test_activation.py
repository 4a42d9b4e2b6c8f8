"""Code limits of fused activations, and LOGISTIC tables without a runtime at hand."""

from __future__ import annotations

import numpy as np
import pytest

from milpq.errors import TargetError
from milpq.rounding.activation import activation_codes, fused_on_target
from milpq.rounding.kernels import CURVES, Quantization, UnaryKernel, unary_table
from milpq.rounding.requantization import Requantization
from milpq.rounding.targets import get_target


def test_limits_of_each_activation() -> None:
    limits = [activation_codes(None, name, 0.5, -10) for name in ("none", "relu", "relu6", "relu_n1_to_1")]
    assert limits == [(-128, 127), (-10, 127), (-10, 2), (-12, -8)]


def test_limits_saturate() -> None:
    assert activation_codes(None, "relu6", 2.0**-120, 0) == (0, 127)
    assert activation_codes(get_target("litert-xnnpack"), "relu6", 2.0**-120, 0) == (0, 127)


@pytest.mark.parametrize("scale", [5e-324, 1e-60])
@pytest.mark.parametrize("target", [None, "tflm", "litert-xnnpack"])
def test_a_scale_that_vanishes_in_float32_is_refused(target: str | None, scale: float) -> None:
    assert activation_codes(None, "none", scale, 3) == (-128, 127)
    with pytest.raises(TargetError, match="is 0 in float32"):
        activation_codes(None if target is None else get_target(target), "relu", scale, 0)


def test_xnnpack_adds_the_zero_point_before_it_rounds() -> None:
    assert activation_codes(get_target("tflm"), "relu6", 4.0, 5) == (5, 7)
    assert activation_codes(get_target("litert-xnnpack"), "relu6", 4.0, 5) == (5, 6)


def test_a_readers_limits_become_the_targets() -> None:
    stated = Requantization("conv", 1.0, np.ones(1), False, 4.0, 5, 5, 7)
    assert fused_on_target(get_target("tflm"), "relu6", stated).code_upper == 7
    assert fused_on_target(get_target("litert-xnnpack"), "relu6", stated).code_upper == 6
    # Limits of another origin stay.
    assert fused_on_target(get_target("litert-xnnpack"), "relu", stated).code_upper == 7


def test_logistic_needs_a_target_that_knows_it() -> None:
    def table(name: str, scale: float, result: Quantization = CURVES["logistic"]) -> object:
        return unary_table(get_target(name), UnaryKernel("logistic", Quantization(scale, 0), result))

    with pytest.raises(TargetError, match="pow2-floor"):
        table("pow2-floor", 0.125)
    with pytest.raises(TargetError, match="cmsis-single: its LOGISTIC is not known"):
        table("cmsis-single", 0.125)
    with pytest.raises(TargetError, match="1/256"):
        table("tflm", 0.125, Quantization(0.5, -128))
    with pytest.raises(TargetError, match="float32"):
        table("tflm", 0.1)
    with pytest.raises(TargetError, match="2\\^-28"):
        table("tflm", 2.0**-30)


@pytest.mark.parametrize("name", ["tflm", "litert-ref", "litert-nodelegate", "litert-xnnpack"])
def test_logistic_is_near_the_sigmoid(name: str) -> None:
    scale = float(np.float32(0.06))
    kernel = UnaryKernel("logistic", Quantization(scale, 7), CURVES["logistic"])
    table = unary_table(get_target(name), kernel)
    real = 256.0 / (1.0 + np.exp(-scale * (np.arange(-128, 128) - 7.0))) - 128.0
    assert np.abs(table - np.clip(real, -128, 127)).max() <= 0.51
    assert (np.diff(table) >= 0).all()

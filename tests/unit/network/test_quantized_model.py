"""Settling a quantized model on a target."""

from dataclasses import replace

import numpy as np
import pytest

from milpq.errors import AccumulatorOverflowError, TargetError
from milpq.network.quantized_model import QuantizedLinear, QuantizedLookup, QuantizedModel, QuantizedUnary
from milpq.rounding.activation import Activation, activation_codes
from milpq.rounding.kernels import Quantization, UnaryKernel
from milpq.rounding.requantization import Requantization
from milpq.rounding.targets import get_target


def model(activation: Activation = "none", output_scale: float = 0.5, weight: float = 3.0) -> QuantizedModel:
    lower, upper = activation_codes(None, activation, output_scale, 1)
    scales = np.array([0.25, 0.5])
    end = Requantization("fully_connected", 1.0, scales, True, output_scale, 1, lower, upper)
    layer = QuantizedLinear(
        "dense",
        0,
        np.array([[weight, -2.0], [1.0, 5.0]]),
        np.array([7, -9]),
        1.0,
        scales,
        np.arange(2),
        end,
        activation,
    )
    one = np.ones(2)
    return QuantizedModel(one, 4, -128, 127, one, (layer,), 1)


def test_codes_and_scales() -> None:
    network = model().on_target(get_target("litert-ref"))
    codes = np.random.default_rng(0).integers(-128, 128, (200, 2))
    sums = (codes - 4) @ np.array([[3, -2], [1, 5]]).T + [7, -9]
    real = sums * np.array([0.25, 0.5]) / 0.5
    away = np.sign(real) * np.floor(np.abs(real) + 0.5)
    assert (network.execute_codes(codes) == np.clip(away + 1, -128, 127)).all()
    assert network.output_scale.tolist() == [0.5, 0.5]
    assert network.input.quantizer is not None
    assert network.target == "litert-ref"


def test_a_target_is_needed() -> None:
    assert model().needs_target
    with pytest.raises(TargetError, match="--target"):
        model().on_target(None)


def test_the_target_rounds_the_ends_of_an_activation() -> None:
    # 6 / 0.8 is 7.5: TFLite makes it 8 and adds the zero point 1, XNNPACK rounds 8.5 to the even 8.
    relu6 = model("relu6", float(np.float32(0.8)))
    codes = np.full((1, 2), 127)
    assert relu6.on_target(get_target("tflm")).execute_codes(codes).max() == 9
    assert relu6.on_target(get_target("litert-xnnpack")).execute_codes(codes).max() == 8


def test_overflow_names_the_layer() -> None:
    with pytest.raises(AccumulatorOverflowError, match="'dense'"):
        model(weight=2.0**30).on_target(get_target("tflm"))


def test_lookup_and_sigmoid() -> None:
    end = model().layers[0]
    assert isinstance(end, QuantizedLinear)
    table = QuantizedLookup("clip", 1, np.clip(np.arange(-128, 128), -5, 90), -128, 1, 0.5, 1)
    sigmoid = QuantizedUnary(
        "sigmoid", 2, UnaryKernel("logistic", Quantization(0.5, 1), Quantization(1 / 256, -128))
    )
    whole = replace(model(), layers=(end, table, sigmoid), output=3)
    codes = np.random.default_rng(0).integers(-128, 128, (200, 2))
    target = get_target("tflm")
    before = model().on_target(target).execute_codes(codes)
    network = whole.on_target(target)
    real = (np.clip(before, -5, 90) - 1) * 0.5
    assert np.abs(network.execute_codes(codes) + 128 - 256 / (1 + np.exp(-real))).max() <= 1.01
    assert network.output_zero_point == -128
    with pytest.raises(TargetError, match="--target"):
        replace(whole, layers=(table, sigmoid), output=2).on_target(None)
    with pytest.raises(TargetError, match="LOGISTIC"):
        whole.on_target(get_target("pow2-floor"))

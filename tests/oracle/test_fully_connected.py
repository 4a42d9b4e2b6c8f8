"""Fully connected layers of every runtime against the targets that claim to be them, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from benchmarks.models.tflite_writer import Activation, Layer, write_fully_connected_model
from milpq.rounding.activation import activation_codes
from milpq.rounding.requantization import Requantization
from milpq.rounding.step import StepFunction
from milpq.rounding.targets import get_target
from tests.oracle.runtimes import runtime

NAMES = ("tflm", "litert-xnnpack", "litert-ref", "litert-nodelegate")
CHANNELS = 256
ROWS = 32
OUTPUTS = 100_000
"""Outputs each test compares at least."""

EXTREME_FACTORS = (
    255.0,
    128.0,
    7.5,
    2.0,
    1.0,
    0.5,
    0.25,
    1e-6,
    *(2.0**-n for n in (8, 16, 24, 29, 30, 31, 32, 33)),
)


def layers(rng: np.random.Generator, per_channel: bool) -> Iterator[tuple[Layer, float, int]]:
    """Yield one-input layers whose accumulators sweep across the ties of their requantization."""
    extreme = list(EXTREME_FACTORS)
    while True:
        factor = extreme.pop() if extreme else float(2.0 ** rng.uniform(-24, 3))
        input_scale = np.float32(2.0 ** rng.uniform(-9, 2))
        spread = 2.0 ** rng.uniform(-4, 0, CHANNELS if per_channel else 1)
        if factor in EXTREME_FACTORS and factor == 2.0 ** round(np.log2(factor)):
            # Powers of two make exact ties, the case runtimes differ in.
            input_scale = np.float32(2.0 ** rng.integers(-9, 2))
            spread = 2.0 ** np.floor(np.log2(spread))
        weight_scales = (2.0**-6 * spread).astype(np.float32)
        output_scale = float(np.float32(float(input_scale) * 2.0**-6 / factor))
        zero_point = int(rng.choice([-128, 127, 0, rng.integers(-128, 128)]))
        weights = np.where(rng.random((CHANNELS, 1)) < 0.5, 1, rng.integers(-127, 128, (CHANNELS, 1)))
        ties = (rng.integers(-300, 300, CHANNELS) + 0.5) / (factor * spread)
        limit = 2.0**30 / max(factor, 1.0) - 2**16
        bias = np.clip(np.round(ties) + rng.integers(-3, 4, CHANNELS), -limit, limit).astype(np.int32)
        activation = rng.choice(list(Activation), p=[0.6, 0.2, 0.2])
        layer = Layer(
            weights.astype(np.int8), bias, weight_scales, output_scale, zero_point, Activation(activation)
        )
        yield layer, float(input_scale), int(rng.integers(-128, 128))


def expected(name: str, layer: Layer, input_scale: float, accumulators: np.ndarray) -> np.ndarray:
    """Return the output codes milpq computes, directly and through the step function."""
    target = get_target(name)
    per_channel = len(layer.weight_scales) > 1
    activation = layer.activation.name.lower()
    lower, upper = activation_codes(target, activation, layer.output_scale, layer.output_zero_point)
    requantize = target.requantizer(
        Requantization(
            "fully_connected",
            input_scale,
            np.broadcast_to(layer.weight_scales, len(layer.weights)).astype(np.float64),
            per_channel,
            layer.output_scale,
            layer.output_zero_point,
            lower,
            upper,
        )
    )
    codes = requantize(accumulators.T).T
    step = StepFunction.from_function(requantize, accumulators.min(0), accumulators.max(0), lower, upper)
    np.testing.assert_array_equal(step(accumulators), codes)
    np.testing.assert_array_equal(step.evaluate_fast(accumulators.astype(np.float64)), codes)
    return codes


@pytest.mark.parametrize("per_channel", [False, True], ids=["per-tensor", "per-channel"])
@pytest.mark.parametrize("name", NAMES)
def test_matches_the_runtime(name: str, per_channel: bool) -> None:
    run = runtime(name).run
    rng = np.random.default_rng([7, NAMES.index(name), per_channel])
    compared = 0
    for layer, input_scale, input_zero_point in layers(rng, per_channel):
        model = write_fully_connected_model([layer], input_scale, input_zero_point)
        first = int(np.clip(input_zero_point - ROWS // 2, -128, 128 - ROWS))
        rows = np.arange(first, first + ROWS, dtype=np.int8)[:, None]
        accumulators = (rows.astype(np.int64) - input_zero_point) @ layer.weights.T.astype(
            np.int64
        ) + layer.bias
        codes = expected(name, layer, input_scale, accumulators)
        np.testing.assert_array_equal(
            run(model, rows), codes, err_msg=f"{layer.output_scale!r} {input_scale!r} {layer.weight_scales!r}"
        )
        compared += codes.size
        if compared >= OUTPUTS:
            break


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(256, 40), (5, 3), (1, 64), (17, 1)])
def test_matches_the_runtime_on_layers_of_other_shapes(name: str, shape: tuple[int, int]) -> None:
    """Matrix kernels differ by shape, and one row may take another path than many."""
    run = runtime(name).run
    rng = np.random.default_rng(11)
    for trial in range(10):
        per_channel = trial % 2 == 1 and shape[0] > 1
        weights = rng.integers(-127, 128, shape).astype(np.int8)
        bias = rng.integers(-(2**15), 2**15, shape[0]).astype(np.int32)
        scales = 2.0 ** rng.uniform(-8, -6, shape[0] if per_channel else 1)
        scales = (2.0 ** np.round(np.log2(scales)) if trial < 5 else scales).astype(np.float32)
        input_scale = 2.0**-5 if trial < 5 else float(np.float32(0.037))
        layer = Layer(weights, bias, scales, 0.5 if trial < 5 else float(np.float32(0.9)), -3)
        rows = rng.integers(-128, 128, (64, shape[1])).astype(np.int8)
        accumulators = (rows.astype(np.int64) - 11) @ weights.T.astype(np.int64) + bias
        model = write_fully_connected_model([layer], input_scale, 11)
        codes = expected(name, layer, input_scale, accumulators)
        np.testing.assert_array_equal(run(model, rows), codes)
        for row, code in zip(rows[:8], codes[:8], strict=True):
            np.testing.assert_array_equal(run(model, row[None])[0], code)


def test_tflm_takes_the_float64_product_of_scales() -> None:
    """The other product is told apart by at least one output, so this release needs no option."""
    run = runtime("tflm").run
    rng = np.random.default_rng(3)
    told_apart = 0
    for layer, input_scale, input_zero_point in islice(layers(rng, per_channel=False), 30):
        rows = np.arange(-128, 128, dtype=np.int8)[:, None]
        accumulators = (rows.astype(np.int64) - input_zero_point) @ layer.weights.T.astype(
            np.int64
        ) + layer.bias
        default = expected("tflm", layer, input_scale, accumulators)
        other = expected("tflm:multiplier=float32", layer, input_scale, accumulators)
        if (default != other).any():
            model = write_fully_connected_model([layer], input_scale, input_zero_point)
            np.testing.assert_array_equal(run(model, rows), default)
            told_apart += 1
    assert told_apart >= 3

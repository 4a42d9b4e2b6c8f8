"""Convolutions of every runtime: the targets name another rounding for some of them."""

from __future__ import annotations

import numpy as np
import pytest

from milpq.rounding.requantization import Operator, Requantization
from milpq.rounding.targets import get_target
from tests.oracle.operators import convolution_model
from tests.oracle.runtimes import runtime

NAMES = ("tflm", "litert-xnnpack", "litert-ref", "litert-nodelegate")


@pytest.mark.parametrize("per_channel", [False, True], ids=["per-tensor", "per-channel"])
@pytest.mark.parametrize(("kernel", "channels"), [(1, 64), (3, 64), (3, 5), (1, 13), (5, 16)])
@pytest.mark.parametrize("operator", ["conv", "depthwise"])
@pytest.mark.parametrize("name", NAMES)
def test_matches_the_runtime(
    name: str, operator: Operator, kernel: int, channels: int, per_channel: bool
) -> None:
    run = runtime(name).run
    rng = np.random.default_rng([13, kernel, channels, per_channel])
    image = (kernel + 15, kernel + 3)
    for trial in range(12):
        power_of_two = trial % 3 == 0
        factor = 2.0 ** rng.uniform(-16, -1)
        spread = 2.0 ** rng.uniform(-3, 0, channels if per_channel else 1)
        input_scale = 2.0 ** rng.uniform(-9, 2)
        if power_of_two:
            factor, spread, input_scale = (2.0 ** np.floor(np.log2(v)) for v in (factor, spread, input_scale))
        scales = (spread / 64).astype(np.float32)
        input_scale = float(np.float32(input_scale))
        output_scale = float(np.float32(input_scale / 64 / factor))
        shape = (1, kernel, kernel, channels) if operator == "depthwise" else (channels, kernel, kernel, 1)
        weights = rng.integers(-2, 3, shape).astype(np.int8)
        bias = np.round((rng.integers(-120, 120, channels) + 0.5) / (factor * spread)).astype(np.int32)
        zero_point, output_zero_point = int(rng.integers(-128, 128)), int(rng.integers(-40, 40))
        model = convolution_model(
            weights,
            bias,
            scales,
            input_scale,
            zero_point,
            output_scale,
            output_zero_point,
            image,
            depthwise=operator == "depthwise",
        )
        rows = rng.integers(-128, 128, (1, *image, shape[3])).astype(np.int8)
        windows = np.lib.stride_tricks.sliding_window_view(
            rows[0].astype(np.int64) - zero_point, (kernel, kernel), axis=(0, 1)
        )
        equation = "hwckl,klc->hwc" if operator == "depthwise" else "hwckl,oklc->hwo"
        filters = weights.astype(np.int64)[0] if operator == "depthwise" else weights.astype(np.int64)
        accumulators = np.einsum(equation, windows, filters) + bias
        requantize = get_target(name).requantizer(
            Requantization(
                operator,
                input_scale,
                np.broadcast_to(scales, channels).astype(np.float64),
                per_channel,
                output_scale,
                output_zero_point,
                -128,
                127,
            )
        )
        codes = requantize(accumulators.reshape(-1, channels).T).T
        np.testing.assert_array_equal(run(model, rows).reshape(-1, channels), codes)

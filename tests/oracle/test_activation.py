"""Fused activations and LOGISTIC of every runtime."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.models.tflite_writer import Activation, Layer, write_fully_connected_model
from milpq.rounding.activation import activation_codes
from milpq.rounding.logistic import logistic_table
from milpq.rounding.targets import get_target
from tests.oracle.operators import logistic_model
from tests.oracle.runtimes import runtime

NAMES = ("tflm", "litert-xnnpack", "litert-ref", "litert-nodelegate")


@pytest.mark.parametrize("name", NAMES)
def test_relu6_clips_where_the_runtime_does(name: str) -> None:
    """Output scales that put 6/s on and next to a tie, with zero points of both parities."""
    run = runtime(name).run
    target = get_target(name)
    ends = np.array([[127], [-128]], dtype=np.int8)
    for half in range(60):
        for ulps in (-1, 0, 1):
            scale = np.float32(6.0 / (half + 0.5))
            if ulps:
                scale = np.nextafter(scale, np.float32(ulps * np.inf))
            for zero_point in (-128, -127, 0, 5, 6):
                layer = Layer(
                    np.array([[127]], dtype=np.int8),
                    None,
                    np.array([1.0], dtype=np.float32),
                    float(scale),
                    zero_point,
                    Activation.RELU6,
                )
                codes = run(write_fully_connected_model([layer], 1.0, 0), ends)[:, 0]
                lower, upper = activation_codes(target, "relu6", float(scale), zero_point)
                assert codes.tolist() == [upper, lower], (scale, zero_point)


@pytest.mark.parametrize("name", NAMES)
def test_logistic_table(name: str) -> None:
    """All 256 codes, many scales; the runtime's own table must be monotone too."""
    run = runtime(name).run
    target = get_target(name)
    rng = np.random.default_rng(2)
    codes = np.arange(-128, 128, dtype=np.int8)[None]
    scales = np.concatenate((2.0 ** rng.uniform(-16, 2.9, 400), 2.0 ** np.arange(-20, 3)))
    for scale in scales.astype(np.float32).astype(np.float64).tolist():
        zero_point = int(rng.choice([-128, 127, 0, rng.integers(-128, 128)]))
        actual = run(logistic_model(scale, zero_point), codes)[0].astype(np.int64)
        assert (np.diff(actual) >= 0).all()
        np.testing.assert_array_equal(
            logistic_table(target, scale, zero_point), actual, err_msg=f"{scale!r} {zero_point}"
        )

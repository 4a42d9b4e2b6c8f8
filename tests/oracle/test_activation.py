"""Fused activations and LOGISTIC of every runtime."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.models.tflite_writer import Activation, Layer, write_fully_connected_model
from milpq.errors import TargetError
from milpq.rounding.activation import activation_codes
from milpq.rounding.curve_tables import xnnpack_curve
from milpq.rounding.kernels import CURVES, Quantization, UnaryKernel, UnaryKind, unary_table
from milpq.rounding.targets import get_target
from tests.oracle.operators import logistic_model, tanh_model
from tests.oracle.runtimes import runtime

REFUSED = 8
"""LOGISTIC tables of small powers of two that the last place of float32 decides."""


def curve(kind: UnaryKind, scale: float, zero_point: int) -> UnaryKernel:
    """Return an operator with the output that the int8 specification fixes."""
    return UnaryKernel(kind, Quantization(scale, zero_point), CURVES[kind])


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
    """All 256 codes, many scales, powers of two among them; the runtime's own table must be monotone too."""
    run = runtime(name).run
    target = get_target(name)
    rng = np.random.default_rng(2)
    codes = np.arange(-128, 128, dtype=np.int8)[None]
    scales = np.concatenate((2.0 ** rng.uniform(-16, 2.9, 400), 2.0 ** np.arange(-20, 3)))
    refused = 0
    for scale in scales.astype(np.float32).astype(np.float64).tolist():
        zero_point = int(rng.choice([-128, 127, 0, rng.integers(-128, 128)]))
        actual = run(logistic_model(scale, zero_point), codes)[0].astype(np.int64)
        assert (np.diff(actual) >= 0).all()
        try:
            table = unary_table(target, curve("logistic", scale, zero_point))
        except TargetError:
            refused += 1
            continue
        np.testing.assert_array_equal(table, actual, err_msg=f"{scale!r} {zero_point}")
    # Values next to a tie, which the C library decides in float32; in double and in fixed point there are none.
    assert refused <= (0 if name in {"tflm", "litert-xnnpack"} else REFUSED)


@pytest.mark.parametrize("name", ["litert-ref", "litert-nodelegate"])
def test_logistic_tables_that_the_last_place_decides_are_refused(name: str) -> None:
    """Of a small power of two, ``0.5 + x/4`` lies on a tie as far as float32 can tell."""
    with pytest.raises(TargetError, match=r"LOGISTIC.*the machine's C library decides"):
        unary_table(get_target(name), curve("logistic", 2.0**-14, 0))


@pytest.mark.parametrize("name", NAMES)
def test_tanh_table(name: str) -> None:
    """All 256 codes, many scales; some where fixed point and float32 differ, or the two ways to round do."""
    run = runtime(name).run
    target = get_target(name)
    rng = np.random.default_rng(3)
    codes = np.arange(-128, 128, dtype=np.int8)[None]
    drawn = np.concatenate((2.0 ** rng.uniform(-16, 2.9, 400), 2.0 ** np.arange(-20, 3))).astype(np.float32)
    cases = [(scale, int(rng.choice([-128, 127, 0, rng.integers(-128, 128)]))) for scale in drawn.tolist()]
    cases += _between_the_kernels(rng)
    refused = 0
    for scale, zero_point in cases:
        actual = run(tanh_model(scale, zero_point), codes)[0].astype(np.int64)
        assert (np.diff(actual) >= 0).all()
        try:
            table = unary_table(target, curve("tanh", scale, zero_point))
        except TargetError:
            refused += 1
            continue
        np.testing.assert_array_equal(table, actual, err_msg=f"{scale!r} {zero_point}")
    # Values next to a tie, which the C library decides; the fixed point kernels have none.
    assert refused <= (0 if name == "tflm" else 12)


def _between_the_kernels(rng: np.random.Generator) -> list[tuple[float, int]]:
    """Return parameters where the fixed point kernel gives another table than the float32 ones."""
    found: list[tuple[float, int]] = []
    tflm = get_target("tflm")
    for _ in range(6000):
        scale, zero_point = float(np.float32(2.0 ** rng.uniform(-10, 1))), int(rng.integers(-128, 128))
        try:
            table = xnnpack_curve(curve("tanh", scale, zero_point))
        except TargetError:
            found.append((scale, zero_point))
            continue
        if (table != unary_table(tflm, curve("tanh", scale, zero_point))).any():
            found.append((scale, zero_point))
    return found


def test_tanh_needs_what_kernels_state() -> None:
    with pytest.raises(TargetError, match="its TANH is not known"):
        unary_table(get_target("pow2-floor"), curve("tanh", 0.125, 0))
    with pytest.raises(TargetError, match="scale 1/128"):
        unary_table(get_target("tflm"), UnaryKernel("tanh", Quantization(0.125, 0), Quantization(0.5, 0)))
    with pytest.raises(TargetError, match="float32"):
        unary_table(get_target("tflm"), curve("tanh", 0.1, 0))
    with pytest.raises(TargetError, match="below 2"):
        unary_table(get_target("tflm"), curve("tanh", 2.0**-30, 0))

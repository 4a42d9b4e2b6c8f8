"""QUANTIZE operators around every threshold of the input quantizers that claim to be them."""

from __future__ import annotations

import numpy as np
import pytest

from milpq.rounding.input_quantizer import InputQuantizer
from milpq.rounding.targets import get_target
from tests.oracle.operators import quantize_model
from tests.oracle.runtimes import runtime

NAMES = ("tflm", "litert-xnnpack", "litert-ref", "litert-nodelegate")


def around(thresholds: np.ndarray, ulps: int = 3) -> np.ndarray:
    """Return the float32 values within a few places of each threshold."""
    below = above = thresholds.astype(np.float32)
    found = [below]
    for _ in range(ulps):
        below, above = np.nextafter(below, np.float32(-np.inf)), np.nextafter(above, np.float32(np.inf))
        found += [below, above]
    return np.unique(np.concatenate(found))


@pytest.mark.parametrize("name", NAMES)
def test_matches_the_runtime_at_every_threshold(name: str) -> None:
    run = runtime(name).run
    rng = np.random.default_rng(5)
    scales = np.concatenate(
        (2.0 ** rng.uniform(-20, 10, 60), 2.0 ** np.arange(-12, 4), [0.1, 1 / 3, 1 / 255])
    )
    for scale in scales.astype(np.float32).astype(np.float64).tolist():
        zero_point = int(rng.integers(-128, 128))
        rule = get_target(name).input_rounding
        quantizer = InputQuantizer.from_rule(rule, np.array([scale]), np.array([zero_point]), -128, 127)
        x = np.concatenate(
            (
                around(quantizer.thresholds[0]),
                around(np.arange(-300, 300) * scale / 2),
                rng.uniform(-400 * scale, 400 * scale, 500).astype(np.float32),
                np.array([0.0, -0.0, 1e-45, -1e-45, 2.0**29 * scale, -(2.0**29) * scale], dtype=np.float32),
            )
        )
        codes = run(quantize_model(scale, zero_point, len(x)), x[None])[0].astype(np.int64)
        levels = quantizer(x.astype(np.float64)[:, None])[:, 0]
        np.testing.assert_array_equal(codes, levels + zero_point, err_msg=f"{scale!r} {zero_point}")


def test_float32_onnx_runtime() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    rng = np.random.default_rng(6)
    for scale in (2.0 ** rng.uniform(-20, 10, 40)).astype(np.float32).astype(np.float64).tolist():
        zero_point = int(rng.integers(-128, 128))
        graph = helper.make_graph(
            [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])],
            "quantize",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
            [helper.make_tensor_value_info("y", TensorProto.INT8, ["n"])],
            [
                helper.make_tensor("s", TensorProto.FLOAT, [], [scale]),
                helper.make_tensor("z", TensorProto.INT8, [], [zero_point]),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        quantizer = InputQuantizer.from_rule(
            get_target("ort").input_rounding, np.array([scale]), np.array([zero_point]), -128, 127
        )
        x = np.concatenate((around(quantizer.thresholds[0]), around(np.arange(-300, 300) * scale / 2)))
        codes = session.run(None, {"x": x})[0].astype(np.int64)
        np.testing.assert_array_equal(codes, quantizer(x.astype(np.float64)[:, None])[:, 0] + zero_point)

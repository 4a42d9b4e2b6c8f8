"""ONNX Runtime's quantized matrix products against the target `ort`, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from milpq.rounding.requantization import Requantization
from milpq.rounding.targets import get_target

pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper

CHANNELS = 64


def run(
    operator: str, rows: np.ndarray, weights: np.ndarray, bias: np.ndarray, numbers: dict[str, np.ndarray]
) -> np.ndarray:
    """Run one QGemm or QLinearMatMul on rows (n, in) with weights (in, out)."""
    import onnxruntime

    constants = {**numbers, "w": weights}
    inputs = ["x", "sx", "zx", "w", "sw", "zw"]
    if operator == "QGemm":
        constants["b"] = bias
        inputs.append("b")
    node = helper.make_node(
        operator, [*inputs, "sy", "zy"], ["y"], domain="com.microsoft" if operator == "QGemm" else ""
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.INT8, ["n", rows.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.INT8, ["n", weights.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": rows})[0])


@pytest.mark.parametrize("per_channel", [False, True], ids=["per-tensor", "per-channel"])
@pytest.mark.parametrize("operator", ["QGemm", "QLinearMatMul"])
def test_matches_the_runtime(operator: str, per_channel: bool) -> None:
    rng = np.random.default_rng([17, per_channel])
    compared = 0
    for trial in range(20):
        factor = 2.0 ** rng.uniform(-14, -4)
        spread = 2.0 ** rng.uniform(-3, 0, CHANNELS if per_channel else 1)
        input_scale = 2.0 ** rng.uniform(-9, 2)
        if trial % 2:
            factor, spread, input_scale = (
                2.0 ** np.floor(np.log2(value)) for value in (factor, spread, input_scale)
            )
        scales = (spread / 64).astype(np.float32)
        output_scale = np.float32(input_scale / 64 / factor)
        zero_point, output_zero_point = (int(value) for value in rng.integers(-40, 40, 2))
        weights = rng.integers(-8, 9, (24, CHANNELS)).astype(np.int8)
        bias = np.round((rng.integers(-120, 120, CHANNELS) + 0.5) / (factor * spread)).astype(np.int32)
        rows = rng.integers(-128, 128, (100, 24)).astype(np.int8)
        accumulators = (rows.astype(np.int64) - zero_point) @ weights.astype(np.int64)
        if operator == "QGemm":
            accumulators = accumulators + bias
        weight_scale = scales if per_channel else scales[0]
        numbers = {
            "sx": np.array(input_scale, dtype=np.float32),
            "zx": np.array(zero_point, dtype=np.int8),
            "sw": np.array(weight_scale, dtype=np.float32),
            "zw": np.zeros(np.shape(weight_scale), dtype=np.int8),
            "sy": np.array(output_scale, dtype=np.float32),
            "zy": np.array(output_zero_point, dtype=np.int8),
        }
        requantize = get_target("ort").requantizer(
            Requantization(
                "fully_connected",
                float(np.float32(input_scale)),
                np.broadcast_to(scales, CHANNELS).astype(np.float64),
                per_channel,
                float(output_scale),
                output_zero_point,
                -128,
                127,
            )
        )
        codes = requantize(accumulators.T).T
        np.testing.assert_array_equal(run(operator, rows, weights, bias, numbers), codes)
        compared += codes.size
    assert compared >= 100_000

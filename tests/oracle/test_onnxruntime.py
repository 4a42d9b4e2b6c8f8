"""ONNX Runtime's quantized matrix products against the target `ort`, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from milpq.errors import TargetError
from milpq.rounding.activation import CodeRange
from milpq.rounding.kernels import AverageKernel, Quantization, SumKernel
from milpq.rounding.ort_kernels import ort_average, ort_curve, ort_sum
from milpq.rounding.requantization import Requantization
from milpq.rounding.targets import get_target

pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper

CHANNELS = 64
INT8, UINT8 = CodeRange(-128, 127), CodeRange(0, 255)


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


@pytest.mark.parametrize("unsigned", [False, True], ids=["int8", "uint8"])
def test_sums_of_all_pairs_of_codes(unsigned: bool) -> None:
    import onnxruntime

    rng = np.random.default_rng([3, unsigned])
    limits = UINT8 if unsigned else INT8
    dtype, kind = (np.uint8, TensorProto.UINT8) if unsigned else (np.int8, TensorProto.INT8)
    first, second = (part.ravel() for part in np.meshgrid(limits.codes, limits.codes, indexing="ij"))
    exact = 0
    for trial in range(8):
        scales = 2.0 ** rng.uniform(-7, -3, 3)
        if trial % 2:
            scales = 2.0 ** np.floor(np.log2(scales))
        scales = scales.astype(np.float32)
        zero_points = rng.integers(limits.lower + 50, limits.upper - 50, 3).astype(dtype)
        names = ["sa", "za", "sb", "zb", "sc", "zc"]
        values = [part for pair in zip(scales, zero_points, strict=True) for part in pair]
        node = helper.make_node(
            "QLinearAdd", ["a", "sa", "za", "b", "sb", "zb", "sc", "zc"], ["y"], domain="com.microsoft"
        )
        graph = helper.make_graph(
            [node],
            "sum",
            [helper.make_tensor_value_info(name, kind, ["n"]) for name in "ab"],
            [helper.make_tensor_value_info("y", kind, ["n"])],
            [numpy_helper.from_array(np.array(v), name) for v, name in zip(values, names, strict=True)],
        )
        opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = np.asarray(session.run(None, {"a": first.astype(dtype), "b": second.astype(dtype)})[0])
        tensors = [
            Quantization(float(scale), int(zero_point), limits)
            for scale, zero_point in zip(scales, zero_points, strict=True)
        ]
        pair = ort_sum(SumKernel(tensors[0], tensors[1], tensors[2], "none"))
        found = pair.output(pair.first[first - limits.lower] + pair.second[second - limits.lower])
        np.testing.assert_array_equal(found, expected)
        exact += len(found)
    assert exact >= 100_000


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


@pytest.mark.parametrize("unsigned", [False, True], ids=["int8", "uint8"])
def test_windowed_averages_of_exact_scales(unsigned: bool) -> None:
    import onnxruntime

    rng = np.random.default_rng([4, unsigned])
    limits = UINT8 if unsigned else INT8
    dtype, kind = (np.uint8, TensorProto.UINT8) if unsigned else (np.int8, TensorProto.INT8)
    compared = 0
    for trial in range(12):
        scales = np.array([2.0 ** rng.integers(-7, -2), 2.0 ** rng.uniform(-7, -3)], dtype=np.float32)
        if trial % 2:
            scales[1] = scales[0]
        zero_points = rng.integers(limits.lower + 50, limits.upper - 50, 2).astype(dtype)
        size = [int(extent) for extent in rng.integers(1, 4, 2)]
        image = rng.integers(limits.lower, limits.upper + 1, (1, 300, 6, 7)).astype(dtype)
        node = helper.make_node(
            "QLinearAveragePool",
            ["x", "sx", "zx", "sy", "zy"],
            ["y"],
            domain="com.microsoft",
            kernel_shape=size,
        )
        values = [part for pair in zip(scales, zero_points, strict=True) for part in pair]
        graph = helper.make_graph(
            [node],
            "average",
            [helper.make_tensor_value_info("x", kind, image.shape)],
            [helper.make_tensor_value_info("y", kind, None)],
            [
                numpy_helper.from_array(np.array(v), name)
                for v, name in zip(values, ["sx", "zx", "sy", "zy"], strict=True)
            ],
        )
        opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = np.asarray(session.run(None, {"x": image})[0]).ravel()
        windows = np.lib.stride_tricks.sliding_window_view(
            image.astype(np.int64) - zero_points[0], size, (2, 3)
        )
        tensors = [
            Quantization(float(scale), int(zero_point), limits)
            for scale, zero_point in zip(scales, zero_points, strict=True)
        ]
        average = ort_average(AverageKernel("pool", *tensors, "none"), np.array([size[0] * size[1]]))
        np.testing.assert_array_equal(average(windows.sum(axis=(4, 5)).reshape(1, -1))[0], expected)
        compared += len(expected)
    assert compared >= 100_000
    with pytest.raises(TargetError, match="power of two"):
        ort_average(
            AverageKernel("pool", Quantization(0.375, 0), Quantization(0.5, 0), "none"), np.array([4])
        )


@pytest.mark.parametrize("unsigned", [False, True], ids=["int8", "uint8"])
@pytest.mark.parametrize("operator", ["Sigmoid", "Tanh", "QLinearSigmoid"])
def test_curves_of_all_codes(operator: str, unsigned: bool) -> None:
    """All 256 codes, many scales; next to a tie, where the last bit of float32 decides, milpq promises nothing."""
    import onnxruntime

    rng = np.random.default_rng([7, unsigned])
    limits = UINT8 if unsigned else INT8
    kind = np.uint8 if unsigned else np.int8
    codes = limits.codes.astype(kind)[None]
    name = operator.removeprefix("QLinear")
    compared = refused = 0
    while compared < 100:
        scale, result_scale = (
            float(np.float32(2.0 ** rng.uniform(*ends))) for ends in ((-8, -2), (-9, -6.5))
        )
        zero_point, result_zero = (int(rng.integers(limits.lower, limits.upper + 1)) for _ in range(2))
        try:
            table = ort_curve(
                name, Quantization(scale, zero_point, limits), Quantization(result_scale, result_zero, limits)
            )
        except TargetError:
            refused += 1
            continue
        numbers = [np.float32(scale), kind(zero_point), np.float32(result_scale), kind(result_zero)]
        constants = [numpy_helper.from_array(np.array(n), f"c{i}") for i, n in enumerate(numbers)]
        if operator == name:
            nodes = [
                helper.make_node("DequantizeLinear", ["x", "c0", "c1"], ["a"]),
                helper.make_node(name, ["a"], ["b"]),
                helper.make_node("QuantizeLinear", ["b", "c2", "c3"], ["y"]),
            ]
        else:
            nodes = [helper.make_node(operator, ["x", "c0", "c1", "c2", "c3"], ["y"], domain="com.microsoft")]
        tensor = TensorProto.UINT8 if unsigned else TensorProto.INT8
        values = [helper.make_tensor_value_info(n, tensor, [1, 256]) for n in "xy"]
        graph = helper.make_graph(nodes, "curve", values[:1], values[1:], constants)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        np.testing.assert_array_equal(session.run(None, {"x": codes})[0][0], table)
        compared += 1
    assert refused < 20

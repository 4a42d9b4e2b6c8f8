"""Float ONNX models, and what onnxruntime's own quantizer and sessions make of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def perceptron(
    path: Path, sizes: tuple[int, ...], seed: int, *, matmul: bool = False, activation: str = "Relu"
) -> None:
    """Write a float perceptron with an activation between its layers: Gemm, or MatMul and Add."""
    rng = np.random.default_rng(seed)
    nodes, constants, value = [], [], "x"
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        weights = (rng.normal(size=(outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)
        bias = (0.2 * rng.normal(size=outputs)).astype(np.float32)
        stored = np.ascontiguousarray(weights.T) if matmul else weights
        constants += [
            numpy_helper.from_array(stored, f"w{layer}"),
            numpy_helper.from_array(bias, f"b{layer}"),
        ]
        if matmul:
            nodes.append(helper.make_node("MatMul", [value, f"w{layer}"], [f"m{layer}"], f"matmul{layer}"))
            nodes.append(helper.make_node("Add", [f"m{layer}", f"b{layer}"], [f"g{layer}"], f"add{layer}"))
        else:
            inputs_ = [value, f"w{layer}", f"b{layer}"]
            nodes.append(helper.make_node("Gemm", inputs_, [f"g{layer}"], f"gemm{layer}", transB=1))
        value = f"g{layer}"
        if layer < len(sizes) - 2:
            nodes.append(helper.make_node(activation, [value], [f"r{layer}"], f"activation{layer}"))
            value = f"r{layer}"
    save(path, nodes, constants, ["n", sizes[0]], value, ["n", sizes[-1]])


def convolutional(path: Path, seed: int) -> None:
    """Write a float network of images 3×9×8: convolutions (strided, padded, depthwise, dilated) and a Gemm."""
    rng = np.random.default_rng(seed)
    nodes, constants = [], []

    def constant(name: str, *shape: int) -> str:
        values = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 25)
        constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(k: int, shape: tuple[int, ...], **options: object) -> None:
        inputs = ["x" if k == 0 else f"r{k - 1}", constant(f"w{k}", *shape), constant(f"b{k}", shape[0])]
        nodes.append(helper.make_node("Conv", inputs, [f"c{k}"], f"conv{k}", **options))
        nodes.append(helper.make_node("Relu", [f"c{k}"], [f"r{k}"], f"relu{k}"))

    conv(0, (8, 3, 3, 3), strides=[2, 1], pads=[1, 0, 1, 2])
    conv(1, (8, 1, 3, 3), group=8, auto_pad="SAME_UPPER", strides=[1, 2])
    conv(2, (6, 8, 2, 2), dilations=[2, 1])
    nodes.append(helper.make_node("Flatten", ["r2"], ["flat"], "flatten"))
    inputs = ["flat", constant("w3", 6 * 3 * 3, 10), constant("b3", 10)]
    nodes.append(helper.make_node("Gemm", inputs, ["y"], "dense"))
    save(path, nodes, constants, [1, 3, 9, 8], "y", [1, 10])


def residual(path: Path, seed: int) -> None:
    """Write a float network of images 2×7×7: a skip connection, a max pool, a global average, and a Gemm."""
    rng = np.random.default_rng(seed)
    constants: list[onnx.TensorProto] = []

    def constant(name: str, *shape: int) -> str:
        values = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 25)
        constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(name: str, source: str, *shape: int) -> onnx.NodeProto:
        inputs = [source, constant(f"w{name}", *shape), constant(f"b{name}", shape[0])]
        return helper.make_node("Conv", inputs, [name], name, pads=[shape[2] // 2] * 4)

    node = helper.make_node
    nodes = [
        conv("c0", "x", 6, 2, 3, 3),
        node("Relu", ["c0"], ["r0"], "relu0"),
        conv("c1", "r0", 6, 6, 3, 3),
        node("Add", ["c1", "r0"], ["sum"], "skip"),
        node("Relu", ["sum"], ["r1"], "relu1"),
        node("MaxPool", ["r1"], ["largest"], "largest", kernel_shape=[2, 2], pads=[1, 0, 0, 1]),
        node("GlobalAveragePool", ["largest"], ["mean"], "mean"),
        node("Flatten", ["mean"], ["flat"], "flatten"),
        node("Gemm", ["flat", constant("w9", 6, 10), constant("b9", 10)], ["y"], "dense"),
    ]
    save(path, nodes, constants, [1, 2, 7, 7], "y", [1, 10])


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
    shape: list[int | str],
    output: str,
    output_shape: list[int | str],
    kind: int = TensorProto.FLOAT,
    output_kind: int | None = None,
) -> None:
    """Write a graph with input ``x``."""
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(output, output_kind or kind, output_shape)],
        constants,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def quantize(
    source: Path,
    path: Path,
    rows: np.ndarray,
    *,
    qdq: bool = True,
    unsigned: bool = False,
    per_channel: bool = False,
    reduce_range: bool = True,
    options: dict[str, bool] | None = None,
) -> None:
    """Run ``quantize_static`` with calibration rows."""
    from onnxruntime import quantization as q

    class Rows(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{"x": rows.astype(np.float32)}])

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            return next(self.left, None)

    q.quantize_static(
        source,
        path,
        Rows(),
        quant_format=q.QuantFormat.QDQ if qdq else q.QuantFormat.QOperator,
        activation_type=q.QuantType.QUInt8 if unsigned else q.QuantType.QInt8,
        weight_type=q.QuantType.QInt8,
        per_channel=per_channel,
        reduce_range=reduce_range,
        extra_options=options or {},
    )


def run(path: Path, rows: np.ndarray, *, single: bool = False) -> np.ndarray:
    """Run a session with onnxruntime's default options, `single` input by input."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    if single:
        return np.concatenate([np.asarray(session.run(None, {"x": row[None]})[0]) for row in rows])
    return np.asarray(session.run(None, {"x": rows})[0])

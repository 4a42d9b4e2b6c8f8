"""Float ONNX models, and what onnxruntime's own quantizer and sessions make of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def perceptron(path: Path, sizes: tuple[int, ...], seed: int, *, matmul: bool = False) -> None:
    """Write a float perceptron with ReLU between its layers: Gemm, or MatMul and Add."""
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
            nodes.append(helper.make_node("Relu", [value], [f"r{layer}"], f"relu{layer}"))
            value = f"r{layer}"
    save(path, nodes, constants, ["n", sizes[0]], value, ["n", sizes[-1]])


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


def run(path: Path, rows: np.ndarray) -> np.ndarray:
    """Run a session with onnxruntime's default options."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": rows})[0])

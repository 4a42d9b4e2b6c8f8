"""Write float ReLU networks as ONNX graphs of Gemm and Relu nodes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.models.tflite_writer import Activation, FloatLayer

OPSET = 13
IR_VERSION = 8
"""Fixed, so that an upgrade of the onnx package does not change the files."""


def write_onnx_model(layers: Sequence[FloatLayer], name: str) -> bytes:
    """Return the ONNX bytes of `layers`, weights stored (out, in) and used with `transB=1`.

    The input is float32 of shape (batch, in) and the output of shape (batch, out).
    """
    nodes = []
    initializers = []
    value = "input"
    for index, layer in enumerate(layers):
        last = index == len(layers) - 1
        if layer.bias is None or layer.activation is Activation.RELU6:
            raise ValueError("only layers with a bias and NONE or RELU are written")
        initializers.append(numpy_helper.from_array(layer.weights, f"layer{index}.weight"))
        initializers.append(numpy_helper.from_array(layer.bias, f"layer{index}.bias"))
        relu = layer.activation is Activation.RELU
        sums = "output" if last and not relu else f"layer{index}.gemm"
        nodes.append(
            helper.make_node(
                "Gemm",
                [value, f"layer{index}.weight", f"layer{index}.bias"],
                [sums],
                name=f"layer{index}.Gemm",
                transB=1,
            )
        )
        value = sums
        if relu:
            value = "output" if last else f"layer{index}.relu"
            nodes.append(helper.make_node("Relu", [sums], [value], name=f"layer{index}.Relu"))
    graph = helper.make_graph(
        nodes,
        name,
        [_row_info("input", layers[0].weights.shape[1])],
        [_row_info("output", layers[-1].weights.shape[0])],
        initializers,
    )
    model = helper.make_model(
        graph,
        producer_name="milpq",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _row_info(name: str, width: int) -> onnx.ValueInfoProto:
    """Return the description of a float32 tensor of shape (batch, width)."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])

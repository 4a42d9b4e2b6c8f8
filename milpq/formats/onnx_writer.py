"""Write a quantized model of fully connected layers and convolutions as an ONNX graph (QOperator format)."""

# The checker of onnx is partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from milpq.errors import UnsupportedModelError
from milpq.formats._export import ExportLayer, ends_in_sigmoid, export_model
from milpq.network.images import Convolution, Image
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.activation import CODE_LOWER, CODE_UPPER

OPSET: Final = 13
IR_VERSION: Final = 8
"""Fixed, so that an upgrade of the onnx package does not change the files."""

TARGETS: Final = ("ort",)
"""The targets that run such files."""


def onnx_bytes(model: QuantizedModel) -> bytes:
    """Return a model as an ONNX file with float32 input and output.

    QuantizeLinear, one ``com.microsoft.QGemm`` or ``QLinearConv`` a layer, with a Clip of codes where the activation
    needs one, and DequantizeLinear; a final sigmoid that `model.note` tells of follows in float32.  ONNX Runtime rounds
    each layer once, and at every level of graph optimization alike.

    Raises
    ------
    UnsupportedModelError
        It is no chain of int8 layers with int32 biases, or it states the rounding of another runtime; the
        layer is named.
    """
    import onnx
    from onnx import TensorProto, helper

    graph = _Graph()
    scale, zero_point = float(model.input_scale[0]), model.input_zero_point
    export = export_model(model, ".onnx", "channels_first", TARGETS)
    ends = graph.parameters("input", scale, zero_point)
    graph.node("QuantizeLinear", ["input", *ends], "input/codes")
    value = "input/codes"
    image = export.image
    for index, layer in enumerate(export.layers):
        name = f"layer{index}"
        if layer.convolution is None and image is not None:
            graph.node("Flatten", [value], f"{name}/flat")
            value = f"{name}/flat"
        elif layer.convolution is not None and image is None:
            image = layer.convolution.image
            shape = np.array([0, image.channels, *image.spatial], dtype=np.int64)
            graph.node("Reshape", [value, graph.constant(f"{name}/shape", shape)], f"{name}/image")
            value = f"{name}/image"
        image = None if layer.convolution is None else layer.convolution.result
        value, ends = _append(graph, layer, name, value, ends, model.origin)
    logits = "logits" if ends_in_sigmoid(model) else "output"
    graph.node("DequantizeLinear", [value, *ends], logits)
    if logits != "output":
        graph.node("Sigmoid", [logits], "output")
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "quantized",
            [
                helper.make_tensor_value_info(
                    "input", TensorProto.FLOAT, _shape(export.image, len(model.input_scale))
                )
            ],
            [
                helper.make_tensor_value_info(
                    "output", TensorProto.FLOAT, _shape(image, export.layers[-1].size)
                )
            ],
            graph.constants,
        ),
        producer_name="milpq",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)],
    )
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString(deterministic=True))


def _shape(image: Image | None, size: int) -> list[str | int]:
    return ["batch", size] if image is None else ["batch", image.channels, *image.spatial]


def _append(
    graph: _Graph, layer: ExportLayer, name: str, value: str, read: tuple[str, str], origin: str
) -> tuple[str, tuple[str, str]]:
    """Append a layer; return its value and the names of that value's scale and zero point."""
    scales: npt.NDArray[Any] = layer.weight_scales.astype(np.float32)
    zero_points: npt.NDArray[Any] = layer.weight_zero_points
    if len(scales) == 1:
        scales, zero_points = scales.reshape(()), zero_points.reshape(())
    inputs = [
        value,
        *read,
        graph.constant(f"{name}/weights", layer.weights),
        graph.constant(f"{name}/weight_scale", scales),
        graph.constant(f"{name}/weight_zero_point", zero_points),
    ]
    bias = graph.constant(f"{name}/bias", layer.bias)
    gives = graph.parameters(name, layer.output_scale, layer.output_zero_point)
    result = f"{name}/codes"
    if layer.convolution is None:
        graph.gemm([*inputs, bias, *gives], result)
    else:
        if len(np.unique(zero_points)) > 1:
            raise UnsupportedModelError(
                f"{origin}: layer {layer.name!r}: ONNX Runtime takes one weight zero point a convolution; "
                "use symmetric weights"
            )
        graph.convolution([*inputs, *gives, bias], result, layer.convolution)
    if (layer.code_lower, layer.code_upper) != (CODE_LOWER, CODE_UPPER):
        limits = [
            graph.constant(f"{name}/{end}", np.array(code, dtype=np.int8))
            for end, code in (("lower", layer.code_lower), ("upper", layer.code_upper))
        ]
        graph.node("Clip", [result, *limits], f"{name}/clipped")
        result = f"{name}/clipped"
    return result, gives


class _Graph:
    """The nodes and constants of a graph so far."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """Add a constant and return its name."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def parameters(self, name: str, scale: float, zero_point: int) -> tuple[str, str]:
        """Add a scale and a zero point and return their names."""
        return (
            self.constant(f"{name}/scale", np.array(scale, dtype=np.float32)),
            self.constant(f"{name}/zero_point", np.array(zero_point, dtype=np.int8)),
        )

    def node(self, operator: str, inputs: list[str], output: str) -> None:
        """Add an operator of ONNX."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [output], name=output))

    def convolution(self, inputs: list[str], output: str, slides: Convolution) -> None:
        """Add the quantized convolution of ONNX."""
        from onnx import helper

        windows = slides.windows
        self.nodes.append(
            helper.make_node(
                "QLinearConv",
                inputs,
                [output],
                name=output,
                kernel_shape=windows.kernel,
                strides=windows.strides,
                dilations=windows.dilations,
                pads=[pad[end] for end in (0, 1) for pad in windows.padding],
                group=slides.groups,
            )
        )

    def gemm(self, inputs: list[str], output: str) -> None:
        """Add ONNX Runtime's quantized product with weights stored (neurons, inputs)."""
        from onnx import helper

        self.nodes.append(
            helper.make_node("QGemm", inputs, [output], name=output, domain="com.microsoft", transB=1)
        )

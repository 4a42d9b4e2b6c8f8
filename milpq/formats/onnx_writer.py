"""Write a quantized model as an ONNX graph in QOperator format."""

# The checker of onnx is partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from milpq.errors import UnsupportedModelError
from milpq.formats._export import (
    Export,
    ExportClip,
    ExportOperator,
    ExportSum,
    ends_in_sigmoid,
    export_model,
)
from milpq.formats._export_images import ExportJoin, ExportMean, ExportPad, ExportPool, extents
from milpq.formats._export_layers import ExportLayer
from milpq.network.geometry import Layout, Windows
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.activation import CODE_LOWER, CODE_UPPER, activation_codes
from milpq.rounding.kernels import Quantization

LAYOUT: Final[Layout] = "channels_first"
MICROSOFT: Final = "com.microsoft"

OPSET: Final = 13
IR_VERSION: Final = 8
"""Fixed, so that an upgrade of the onnx package does not change the files."""

TARGETS: Final = ("ort",)
"""The targets that run such files."""


def onnx_bytes(model: QuantizedModel) -> bytes:
    """Return a model as an ONNX file with float32 input and output.

    QuantizeLinear, then operators on codes, with a Clip of codes where an activation needs one, and DequantizeLinear; a
    final sigmoid that `model.note` tells of follows in float32.  ONNX Runtime rounds each layer once, and at every
    level of graph optimization alike.  Images lie in it as (1, channels, *spatial), whatever their layout in the model.

    Raises
    ------
    UnsupportedModelError
        A layer is no int8 operator with int32 biases, or it states the rounding of another runtime; the layer is
        named.
    """
    import onnx
    from onnx import TensorProto, helper

    export = export_model(model, ".onnx", LAYOUT, TARGETS)
    writer = _Writer(export, model.origin)
    graph = writer.graph
    result = writer.write()
    logits = "logits" if ends_in_sigmoid(model) else "output"
    graph.node("DequantizeLinear", [result.name, *result.ends], logits)
    if logits != "output":
        graph.node("Sigmoid", [logits], "output")
    given, gives = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in (("input", export.values[0].shape), ("output", result.shape))
    )
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "quantized", [given], [gives], graph.constants),
        producer_name="milpq",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)],
    )
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString(deterministic=True))


@dataclass(frozen=True, slots=True)
class _Given:
    """A tensor of codes: its name, its extents without the batch, and the names of its scale and zero point."""

    name: str
    shape: tuple[int, ...]
    ends: tuple[str, str]


class _Writer:
    """Appends nodes, value by value."""

    def __init__(self, export: Export, origin: str) -> None:
        self.graph = _Graph()
        self.export = export
        self.origin = origin

    def write(self) -> _Given:
        """Append everything between input and output; return the output."""
        given = self.export.values[0]
        ends = self.graph.parameters("input", given.quantization)
        self.graph.node("QuantizeLinear", ["input", *ends], "input/codes")
        values = [_Given("input/codes", given.shape, ends)]
        for index, operator in enumerate(self.export.operators):
            values.append(self.operator(index, operator, [values[source] for source in operator.sources]))
        return values[self.export.output]

    def operator(self, index: int, operator: ExportOperator, reads: list[_Given]) -> _Given:
        """Append an operator and what brings its inputs into shape; return its result."""
        name, graph, result = f"layer{index}", self.graph, f"layer{index}/codes"
        quantization = self.export.values[index + 1].quantization
        where = f"{self.origin}: layer {operator.name!r}"
        if isinstance(operator, ExportLayer):
            made = self.layer(name, operator, reads[0], quantization, where)
            return self.clipped(name, made, operator.code_lower, operator.code_upper)
        if isinstance(operator, ExportPool):
            return self.pool(name, operator, reads[0], quantization, where)
        if isinstance(operator, ExportPad):
            return self.pad(name, operator, reads[0], quantization)
        if isinstance(operator, ExportClip):
            return self.clipped(name, reads[0], operator.code_lower, operator.code_upper)
        if isinstance(operator, ExportMean):
            return self.mean(name, operator, reads[0], quantization)
        gives = graph.parameters(name, quantization)
        if isinstance(operator, ExportJoin):
            parts = [
                self.reshaped(f"{name}/part{number}", read, shape)
                for number, (read, shape) in enumerate(zip(reads, operator.shapes, strict=True))
            ]
            triples = [part for read in parts for part in (read.name, *read.ends)]
            shape = list(operator.shapes[0])
            shape[operator.axis] = sum(extents[operator.axis] for extents in operator.shapes)
            graph.node("QLinearConcat", [*gives, *triples], result, {"axis": operator.axis + 1}, MICROSOFT)
            return _Given(result, tuple(shape), gives)
        read = reads[0]
        if isinstance(operator, ExportSum):
            other = self.reshaped(f"{name}/shaped", reads[1], read.shape)
            inputs = [read.name, *read.ends, other.name, *other.ends, *gives]
            graph.node("QLinearAdd", inputs, result, domain=MICROSOFT)
            return self.clipped(
                name, _Given(result, read.shape, gives), operator.code_lower, operator.code_upper
            )
        if operator.kind == "logistic":
            graph.node("QLinearSigmoid", [read.name, *read.ends, *gives], result, domain=MICROSOFT)
        elif operator.kind in {"tanh", "requantize"}:
            graph.node("DequantizeLinear", [read.name, *read.ends], f"{name}/real")
            real = f"{name}/real"
            if operator.kind == "tanh":
                graph.node("Tanh", [real], f"{name}/tanh")
                real = f"{name}/tanh"
            graph.node("QuantizeLinear", [real, *gives], result)
        else:
            raise UnsupportedModelError(f"{where}: is no operator of ONNX on codes; write .tflite")
        limits = quantization.range
        return self.clipped(name, _Given(result, read.shape, gives), limits.lower, limits.upper)

    def clipped(self, name: str, value: _Given, lower: int, upper: int) -> _Given:
        """Append a Clip of codes, unless they are all of int8."""
        if (lower, upper) == (CODE_LOWER, CODE_UPPER):
            return value
        limits = [
            self.graph.constant(f"{name}/{end}", np.array(code, dtype=np.int8))
            for end, code in (("lower", lower), ("upper", upper))
        ]
        self.graph.node("Clip", [value.name, *limits], f"{name}/clipped")
        return replace(value, name=f"{name}/clipped")

    def reshaped(self, name: str, value: _Given, shape: tuple[int, ...]) -> _Given:
        """Append a Reshape or Flatten, if the value has another shape."""
        if value.shape == shape:
            return value
        if len(shape) == 1:
            self.graph.node("Flatten", [value.name], name)
        else:
            extents = self.graph.constant(f"{name}/shape", np.array([0, *shape], dtype=np.int64))
            self.graph.node("Reshape", [value.name, extents], name)
        return _Given(name, shape, value.ends)

    def layer(self, name: str, layer: ExportLayer, value: _Given, gives: Quantization, where: str) -> _Given:
        """Append a layer with weights."""
        graph, slides, result = self.graph, layer.convolution, f"{name}/codes"
        if slides is None:
            value = self.reshaped(f"{name}/flat", value, (math.prod(value.shape),))
        else:
            value = self.reshaped(f"{name}/image", value, extents(slides.image))
        scales: npt.NDArray[Any] = layer.weight_scales.astype(np.float32)
        zero_points: npt.NDArray[Any] = layer.weight_zero_points
        if len(scales) == 1:
            scales, zero_points = scales.reshape(()), zero_points.reshape(())
        inputs = [
            value.name,
            *value.ends,
            graph.constant(f"{name}/weights", layer.weights),
            graph.constant(f"{name}/weight_scale", scales),
            graph.constant(f"{name}/weight_zero_point", zero_points),
        ]
        bias, ends = graph.constant(f"{name}/bias", layer.bias), graph.parameters(name, gives)
        if slides is None:
            graph.node("QGemm", [*inputs, bias, *ends], result, {"transB": 1}, MICROSOFT)
            return _Given(result, (layer.size,), ends)
        if len(np.unique(zero_points)) > 1:
            raise UnsupportedModelError(
                f"{where}: ONNX Runtime takes one weight zero point a convolution; use symmetric weights"
            )
        options = {**_sliding(slides.windows), "dilations": slides.windows.dilations, "group": slides.groups}
        graph.node("QLinearConv", [*inputs, *ends, bias], result, options)
        return _Given(result, extents(slides.result), ends)

    def pool(self, name: str, pool: ExportPool, value: _Given, gives: Quantization, where: str) -> _Given:
        """Append a pool."""
        image = self.export.values[pool.sources[0]].image
        assert image is not None
        value = self.reshaped(f"{name}/image", value, extents(image))
        windows, result = pool.windows[0], f"{name}/codes"
        if pool.average:
            if any(any(pads) for pads in windows.padding) or math.prod(windows.result) == 1:
                raise UnsupportedModelError(
                    f"{where}: averages with padding, or the whole image in one window, which milpq does not write "
                    "as .onnx; pad by an operator of its own, or use a global average"
                )
            if math.frexp(gives.scale)[0] != 0.5:
                raise UnsupportedModelError(
                    f"{where}: QLinearAveragePool adds float32 numbers, which is exact only on power-of-two scales; "
                    "quantize with --target ort"
                )
            inputs = [value.name, *value.ends, *value.ends]
            self.graph.node("QLinearAveragePool", inputs, result, _sliding(windows), MICROSOFT)
        else:
            self.graph.node("MaxPool", [value.name], result, _sliding(windows))
        made = _Given(result, (image.channels, *windows.result), value.ends)
        codes = activation_codes(None, pool.activation, gives.scale, gives.zero_point)
        return self.clipped(name, made, *codes)

    def mean(self, name: str, mean: ExportMean, value: _Given, gives: Quantization) -> _Given:
        """Append a mean over a whole image."""
        shape = self.export.values[mean.sources[0]].shape
        value = self.reshaped(f"{name}/image", value, shape if len(shape) > 1 else (1, *shape))
        ends = self.graph.parameters(name, gives)
        inputs = [value.name, *value.ends, *ends]
        self.graph.node("QLinearGlobalAveragePool", inputs, f"{name}/codes", domain=MICROSOFT)
        made = _Given(f"{name}/codes", (value.shape[0], *(1 for _ in value.shape[1:])), ends)
        made = self.clipped(name, made, gives.range.lower, gives.range.upper)
        return self.reshaped(f"{name}/flat", made, (made.shape[0],))

    def pad(self, name: str, pad: ExportPad, value: _Given, gives: Quantization) -> _Given:
        """Append a pad of codes."""
        value = self.reshaped(f"{name}/shaped", value, self.export.values[pad.sources[0]].shape)
        padding = ((0, 0), *pad.padding)
        ends = np.array([pair[end] for end in (0, 1) for pair in padding], dtype=np.int64)
        inputs = [
            value.name,
            self.graph.constant(f"{name}/pads", ends),
            self.graph.constant(f"{name}/code", np.array(pad.level + gives.zero_point, dtype=np.int8)),
        ]
        self.graph.node("Pad", inputs, f"{name}/codes")
        shape = tuple(extent + sum(pair) for extent, pair in zip(value.shape, pad.padding, strict=True))
        return _Given(f"{name}/codes", shape, value.ends)


def _sliding(windows: Windows) -> dict[str, object]:
    """Return the attributes that convolutions and pools share."""
    return {
        "kernel_shape": windows.kernel,
        "strides": windows.strides,
        "pads": [pad[end] for end in (0, 1) for pad in windows.padding],
    }


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

    def parameters(self, name: str, codes: Quantization) -> tuple[str, str]:
        """Add a scale and a zero point and return their names."""
        return (
            self.constant(f"{name}/scale", np.array(codes.scale, dtype=np.float32)),
            self.constant(f"{name}/zero_point", np.array(codes.zero_point, dtype=np.int8)),
        )

    def node(
        self,
        operator: str,
        inputs: list[str],
        output: str,
        options: Mapping[str, object] | None = None,
        domain: str | None = None,
    ) -> None:
        """Add an operator, of ONNX or of another domain."""
        from onnx import helper

        made = helper.make_node(operator, inputs, [output], name=output, domain=domain)
        made.attribute.extend(helper.make_attribute(key, value) for key, value in (options or {}).items())
        self.nodes.append(made)

"""Write a quantized model as an int8 `.tflite`."""

# The `tflite` package is generated and untyped, and so is the builder it works on.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import tflite

from milpq.errors import UnsupportedModelError
from milpq.formats._export import (
    Export,
    ExportClip,
    ExportOperator,
    ExportSum,
    ExportUnary,
    ends_in_sigmoid,
    export_model,
)
from milpq.formats._export_images import ExportJoin, ExportMean, ExportPad, ExportPool
from milpq.formats._export_layers import ExportLayer
from milpq.formats._tflite_tables import TableWriter
from milpq.formats._tflite_windows import LAYOUT
from milpq.network.geometry import Windows, same_padding
from milpq.network.images import Image
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.activation import CODE_LOWER, CODE_UPPER, Activation, activation_codes
from milpq.rounding.kernels import Quantization, UnaryKind

TARGETS: Final = ("tflm", "litert-xnnpack", "litert-ref", "litert-nodelegate", "cmsis-single")
"""The targets that run `.tflite` files."""

_PROBABILITIES: Final = Quantization(1.0 / 256.0, -128)
"""The quantization of an int8 LOGISTIC; it gives no other."""

_UNARY: Final[dict[UnaryKind, str]] = {
    "requantize": "QUANTIZE",
    "relu": "RELU",
    "relu6": "RELU6",
    "relu_n1_to_1": "RELU_N1_TO_1",
    "logistic": "LOGISTIC",
    "tanh": "TANH",
}
_CURVES: Final = {"LOGISTIC": _PROBABILITIES, "TANH": Quantization(1.0 / 128.0, 0)}
_CLIPS: Final[dict[Activation, str]] = {"relu": "RELU", "relu6": "RELU6"}


def tflite_bytes(model: QuantizedModel) -> bytes:
    """Return a model as a `.tflite` file with int8 input and output.

    Images lie in it as (1, height, width, channels), input and output too, whatever their layout in the model.  Padding
    that is neither SAME nor VALID becomes a PAD.  A final sigmoid that `model.note` tells of becomes a LOGISTIC.

    Raises
    ------
    UnsupportedModelError
        A layer is no int8 operator with int32 biases and symmetric weights, or it states the rounding of another
        runtime; the layer is named.
    """
    export = export_model(model, ".tflite", LAYOUT, TARGETS)
    return _Writer(export, model).content()


@dataclass(frozen=True, slots=True)
class _Given:
    """A tensor of codes, by index."""

    tensor: int
    shape: tuple[int, ...]
    quantization: Quantization


def _shape(image: Image) -> tuple[int, ...]:
    return (1, *image.spatial, image.channels)


class _Writer:
    """Plans tensors and operators, value by value."""

    def __init__(self, export: Export, model: QuantizedModel) -> None:
        self.tables = TableWriter()
        self.export = export
        self.model = model

    def content(self) -> bytes:
        """Return the finished file."""
        export = self.export
        values = [self.given("input", (1, *export.values[0].shape), export.values[0].quantization)]
        for index, operator in enumerate(export.operators):
            values.append(self.operator(index, operator, [values[source] for source in operator.sources]))
        result = values[export.output]
        if ends_in_sigmoid(self.model):
            made = self.given("logistic", result.shape, _PROBABILITIES)
            self.tables.append("LOGISTIC", [result.tensor], made.tensor)
            result = made
        return self.tables.content(values[0].tensor, result.tensor)

    def operator(self, index: int, operator: ExportOperator, reads: list[_Given]) -> _Given:
        """Plan an operator and what brings its inputs into shape; return its result."""
        name, made = f"layer{index}", self.export.values[index + 1]
        where = f"{self.model.origin}: layer {operator.name!r}"
        result = made.quantization
        if isinstance(operator, ExportLayer):
            return self.layer(name, operator, reads[0], result, where)
        if isinstance(operator, ExportPool):
            return self.pool(name, operator, reads[0], result, where)
        if isinstance(operator, ExportPad):
            return self.pad(name, operator, reads[0])
        if isinstance(operator, ExportMean):
            read = self.export.values[operator.sources[0]]
            value = self.reshaped(f"{name}/image", reads[0], (1, *read.shape))
            axes = np.arange(1, 2 if read.image is None else len(read.shape), dtype=np.int32)
            stated = self.tables.tensor(f"{name}/axes", None, "INT32", None, axes)
            output = self.given(name, (1, made.size), result)
            self.check_whole(result, where)
            self.tables.append(
                "MEAN", [value.tensor, stated], output.tensor, "ReducerOptions", {"KeepDims": 0}
            )
            return output
        if isinstance(operator, ExportJoin):
            parts = [
                self.reshaped(f"{name}/part{number}", read, (1, *shape))
                for number, (read, shape) in enumerate(zip(reads, operator.shapes, strict=True))
            ]
            shape = list(parts[0].shape)
            shape[operator.axis + 1] = sum(part.shape[operator.axis + 1] for part in parts)
            output = self.given(name, tuple(shape), result)
            options = {"Axis": operator.axis + 1}
            tensors = [part.tensor for part in parts]
            self.tables.append("CONCATENATION", tensors, output.tensor, "ConcatenationOptions", options)
            return output
        reads = [self.reshaped(f"{name}/shaped{n}", read, reads[0].shape) for n, read in enumerate(reads)]
        output = self.given(name, reads[0].shape, result)
        tensors = [read.tensor for read in reads]
        if isinstance(operator, ExportSum):
            self.check_codes(operator, result, where)
            self.tables.append("ADD", tensors, output.tensor, "AddOptions", activation=operator.activation)
        elif isinstance(operator, ExportUnary):
            code = _UNARY[operator.kind]
            if result != _CURVES.get(code, result):
                raise UnsupportedModelError(
                    f"{where}: gives a scale or zero point that a .tflite {code} has not; use 8 bits"
                )
            self.check_whole(result, where)
            self.tables.append(code, tensors, output.tensor)
        else:
            self.check_codes(operator, result, where)
            self.tables.append(_CLIPS[operator.activation], tensors, output.tensor)
        return output

    def check_codes(
        self, operator: ExportLayer | ExportSum | ExportClip, result: Quantization, where: str
    ) -> None:
        """Raise UnsupportedModelError unless the codes end where the activation ends them."""
        activation, stated = operator.activation, (operator.code_lower, operator.code_upper)
        meant = activation_codes(None, activation, result.scale, result.zero_point)
        if meant != stated or (isinstance(operator, ExportClip) and activation not in _CLIPS):
            raise UnsupportedModelError(
                f"{where}: its codes end at {stated[0]} and {stated[1]}, but a .tflite with activation {activation} "
                f"ends them at {meant[0]} and {meant[1]}; write the open file (.json)"
            )

    def check_whole(self, result: Quantization, where: str) -> None:
        """Raise UnsupportedModelError unless an operator without activation may give every int8 code."""
        if (result.range.lower, result.range.upper) != (CODE_LOWER, CODE_UPPER):
            raise UnsupportedModelError(f"{where}: its codes are not of 8 bits; write the open file (.json)")

    def layer(self, name: str, layer: ExportLayer, value: _Given, result: Quantization, where: str) -> _Given:
        """Plan a layer with weights."""
        if layer.weight_zero_points.any():
            raise UnsupportedModelError(
                f"{where}: has weight zero points, which no .tflite runtime takes; use symmetric weights"
            )
        self.check_codes(layer, result, where)
        slides = layer.convolution
        if slides is None:
            value = self.reshaped(f"{name}/flat", value, (1, math.prod(value.shape)))
            code, weights, kind = "FULLY_CONNECTED", layer.weights, "FullyConnectedOptions"
            shape, options = (1, layer.size), dict[str, int]()
        else:
            if len(slides.windows.kernel) != 2:
                raise UnsupportedModelError(
                    f"{where}: slides along {len(slides.windows.kernel)} axes, and a .tflite along two; write .onnx"
                )
            if slides.groups > 1 and not slides.is_depthwise:
                raise UnsupportedModelError(
                    f"{where}: has {slides.groups} groups of channels, which not every .tflite runtime computes; "
                    "write .onnx"
                )
            value = self.reshaped(f"{name}/image", value, _shape(slides.image))
            windows, padding = slides.windows, _padding(slides.windows)
            if padding is None:
                padding = tflite.Padding.VALID
                value = self.padded(f"{name}/padded", value, ((0, 0), *windows.padding, (0, 0)))
            code, kind, order = "CONV_2D", "Conv2DOptions", (0, 2, 3, 1)
            options = {
                **_strides(windows, padding),
                "DilationHFactor": windows.dilations[0],
                "DilationWFactor": windows.dilations[1],
            }
            if slides.is_depthwise:
                code, kind, order = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", (1, 2, 3, 0)
                options["DepthMultiplier"] = slides.outputs // slides.groups
            weights, shape = layer.weights.transpose(order), _shape(slides.result)
        scales = layer.weight_scales.astype(np.float32)
        axis = 3 if code == "DEPTHWISE_CONV_2D" else 0
        tables = self.tables
        kernel = tables.tensor(f"{name}/weights", None, "INT8", scales, weights, axis=axis)
        products = np.float32(value.quantization.scale) * scales
        bias = tables.tensor(f"{name}/bias", None, "INT32", products, layer.bias)
        output = self.given(f"{name}/output", shape, result)
        inputs = [value.tensor, kernel, bias]
        tables.append(code, inputs, output.tensor, kind, options, layer.activation)
        return output

    def pool(self, name: str, pool: ExportPool, value: _Given, result: Quantization, where: str) -> _Given:
        """Plan a pool; padding of a max pool that is neither SAME nor VALID becomes a PADV2 of the lowest code."""
        if len(pool.windows[0].kernel) != 2:
            raise UnsupportedModelError(
                f"{where}: slides along one axis, and a .tflite along two; write .onnx"
            )
        image = self.export.values[pool.sources[0]].image
        assert image is not None
        value = self.reshaped(f"{name}/image", value, _shape(image))
        ways = [(windows, _padding(windows)) for windows in pool.windows]
        windows, padding = next((way for way in ways if way[1] is not None), ways[0])
        if padding is None:
            if pool.average:
                raise UnsupportedModelError(
                    f"{where}: its padding is neither SAME nor VALID; pad by an operator of its own, or write the "
                    "open file (.json)"
                )
            padding = tflite.Padding.VALID
            ends = ((0, 0), *windows.padding, (0, 0))
            value = self.padded(f"{name}/padded", value, ends, CODE_LOWER)
        output = self.given(f"{name}/output", (1, *windows.result, image.channels), result)
        options = {
            **_strides(windows, padding),
            "FilterHeight": windows.kernel[0],
            "FilterWidth": windows.kernel[1],
        }
        code = "AVERAGE_POOL_2D" if pool.average else "MAX_POOL_2D"
        self.tables.append(code, [value.tensor], output.tensor, "Pool2DOptions", options, pool.activation)
        return output

    def pad(self, name: str, pad: ExportPad, value: _Given) -> _Given:
        """Plan a pad."""
        shape = (1, *self.export.values[pad.sources[0]].shape)
        value = self.reshaped(f"{name}/shaped", value, shape)
        code = None if pad.level == 0 else pad.level + value.quantization.zero_point
        return self.padded(name, value, ((0, 0), *pad.padding), code)

    def reshaped(self, name: str, value: _Given, shape: tuple[int, ...]) -> _Given:
        """Plan a RESHAPE, if the value has another shape."""
        if value.shape == shape:
            return value
        extents = np.array([-1, *shape[1:]], dtype=np.int32)
        stated = self.tables.tensor(f"{name}/shape", None, "INT32", None, extents)
        result = self.given(name, shape, value.quantization)
        self.tables.append("RESHAPE", [value.tensor, stated], result.tensor)
        return result

    def padded(
        self, name: str, value: _Given, padding: tuple[tuple[int, int], ...], code: int | None = None
    ) -> _Given:
        """Plan a PAD with the zero point, or a PADV2 with a code, of every axis."""
        ends = ((0, 0), *padding)[-len(value.shape) :]
        tables = self.tables
        stated = tables.tensor(f"{name}/padding", None, "INT32", None, np.array(ends, dtype=np.int32))
        shape = tuple(extent + sum(pads) for extent, pads in zip(value.shape, ends, strict=True))
        result, inputs = self.given(name, shape, value.quantization), [value.tensor, stated]
        if code is not None:
            scales = np.array([value.quantization.scale], dtype=np.float32)
            constant = np.array([code], dtype=np.int8)
            zero_point = value.quantization.zero_point
            inputs.append(
                tables.tensor(f"{name}/code", None, "INT8", scales, constant, zero_point=zero_point)
            )
        tables.append("PAD" if code is None else "PADV2", inputs, result.tensor)
        return result

    def given(self, name: str, shape: tuple[int, ...], quantization: Quantization) -> _Given:
        """Plan a tensor of codes."""
        scales = np.array([quantization.scale], dtype=np.float32)
        zero_point = quantization.zero_point
        tensor = self.tables.tensor(name, shape, "INT8", scales, zero_point=zero_point)
        return _Given(tensor, shape, quantization)


def _padding(windows: Windows) -> int | None:
    """Return the padding that a file names, None where it has no name."""
    if windows.padding == same_padding(windows.spatial, windows.kernel, windows.strides, windows.dilations):
        return tflite.Padding.SAME
    return None if any(any(pads) for pads in windows.padding) else tflite.Padding.VALID


def _strides(windows: Windows, padding: int) -> dict[str, int]:
    return {"Padding": padding, "StrideH": windows.strides[0], "StrideW": windows.strides[1]}

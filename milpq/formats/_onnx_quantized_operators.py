"""What each operator of a quantized ONNX graph appends, as ONNX Runtime fuses and executes it.

Between DequantizeLinear and QuantizeLinear an operator is float in the file, and ONNX Runtime from the
optimization level ORT_ENABLE_EXTENDED on (its default is above) runs it as one integer kernel.  Where it would
not, the model is refused, for its result is then another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from milpq.errors import InvalidNetworkError
from milpq.formats._onnx_quantized_images import IMAGE_HANDLERS
from milpq.formats._onnx_quantized_operands import (
    convolution,
    dequantized,
    dequantized_bias,
    dequantized_weights,
    integer_bias,
    operand,
    product,
    weights_of,
)
from milpq.formats._onnx_quantized_values import (
    Codes,
    Dequantized,
    Pending,
    QuantizedStep,
    QValue,
    RealInput,
    Stored,
    requantize_real,
)
from milpq.formats._onnx_shapes import new_shape
from milpq.formats._quantized_builder import Grid

ASYMMETRIC = "quantize activations asymmetrically, so that their zero point is the code of the clamp"


def _quantize(step: QuantizedStep) -> QValue:
    source = step.value(0)
    # TensorProto.INT8, the only other 8-bit type besides the default uint8.
    grid, kind = step.grid(1, 2, "int8" if step.options.get("output_dtype") == 3 else "uint8")
    if isinstance(source, RealInput):
        step.builder.begin(grid, step.where)
        return Codes(0, source.shape, kind, by_quantize=True)
    if isinstance(source, Dequantized):
        codes = source.codes
        if codes.sigmoid and codes.behind is None:
            return replace(codes, behind=grid, kind=kind, by_quantize=True)
        if not codes.sigmoid and step.builder.grid(codes.value) == grid:
            return codes
        value = step.requantized(codes, grid)
        return Codes(value, codes.shape, kind, by_quantize=True)
    if isinstance(source, Pending):
        _check_absorbed(step, source, grid)
        return Codes(source.settle(grid), source.shape, kind, by_quantize=True)
    raise step.unsupported("quantizes a constant or codes")


def _check_absorbed(step: QuantizedStep, source: Pending, grid: Grid) -> None:
    """Raise unless the codes clamp at least as much as the Relu or Clip before them, which is dropped then."""
    # ONNX Runtime's ClipQuantFusion compares in float32 with this tolerance; ReluQuantFusion compares codes.
    tolerance = float(np.finfo(np.float32).eps)
    scale = np.float32(grid.scale)
    lowest = float(scale * np.float32(grid.lower - grid.zero_point))
    highest = float(scale * np.float32(grid.upper - grid.zero_point))
    if source.lower - lowest > tolerance or highest - source.upper > tolerance:
        raise step.unsupported(
            f"clamps {source.operator} to [{source.lower}, {source.upper}], narrower than its codes, which "
            f"ONNX Runtime then computes in float32; {ASYMMETRIC}"
        )


def _dequantize(step: QuantizedStep) -> QValue:
    source = step.value(0)
    if isinstance(source, np.ndarray):
        return _stored(step, source)
    if not isinstance(source, Codes):
        raise step.unsupported("dequantizes what is not quantized")
    grid, kind = step.grid(1, 2, source.kind)
    if source.sigmoid and source.behind == grid:
        return Dequantized(source)
    if kind != source.kind:
        raise step.damaged(f"has a {kind} zero point for {source.kind} codes")
    return Dequantized(step.read_on(source, grid))


def _stored(step: QuantizedStep, codes: npt.NDArray[Any]) -> Stored:
    if codes.dtype.kind not in "iu":
        raise step.damaged("dequantizes a constant that is not of integers")
    scales, zero_points, _ = step.scales(1, 2)
    axis = int(step.options.get("axis", 1))
    if scales.size == 1:
        return Stored(codes, scales.reshape(()), zero_points.reshape(()), 0)
    if step.options.get("block_size", 0) or scales.ndim != 1 or not -codes.ndim <= axis < codes.ndim:
        raise step.unsupported("has scales other than one a tensor or one a channel")
    axis %= codes.ndim
    if len(scales) != codes.shape[axis]:
        raise step.damaged(f"has {len(scales)} scales for {codes.shape[axis]} channels")
    return Stored(codes, scales, zero_points, axis)


def _qlinear_matmul(step: QuantizedStep) -> QValue:
    source = operand(step, 0)
    weights = weights_of(step, 3, axis=1)
    part, shape = product(step, source, weights, None, transposed=False, converted=False)
    grid, kind = step.grid(6, 7, source.kind)
    return Codes(step.builder.linear(part, grid), shape, kind)


def _qgemm(step: QuantizedStep) -> QValue:
    if step.options.get("transA", 0) or step.options.get("alpha", 1.0) != 1.0:
        raise step.unsupported("uses transA or alpha; fold them on export")
    source = operand(step, 0)
    transposed = bool(step.options.get("transB", 0))
    weights = weights_of(step, 3, axis=0 if transposed else 1)
    bias = integer_bias(step, 6)
    part, shape = product(step, source, weights, bias, transposed=transposed, converted=False)
    if not step.has(7):
        return Pending(lambda grid: step.builder.linear(part, grid), shape, step.where)
    grid, kind = step.grid(7, 8, source.kind)
    return Codes(step.builder.linear(part, grid), shape, kind)


def _matmul(step: QuantizedStep) -> QValue:
    source, weights = dequantized(step, 0), dequantized_weights(step, 1)
    part, shape = product(step, source, weights, None, transposed=False, converted=True)
    return Pending(lambda grid: step.builder.linear(part, grid), shape, step.where)


def _gemm(step: QuantizedStep) -> QValue:
    options = step.options
    if options.get("transA", 0) or options.get("alpha", 1.0) != 1.0 or options.get("beta", 1.0) != 1.0:
        raise step.unsupported("uses transA, alpha or beta; fold them on export")
    source, weights = dequantized(step, 0), dequantized_weights(step, 1)
    bias = dequantized_bias(step, 2, source, weights)
    transposed = bool(options.get("transB", 0))
    part, shape = product(step, source, weights, bias, transposed=transposed, converted=True)
    return Pending(lambda grid: step.builder.linear(part, grid), shape, step.where)


def _qlinear_conv(step: QuantizedStep) -> QValue:
    source = operand(step, 0)
    part, shape = convolution(
        step, source, weights_of(step, 3, axis=0), integer_bias(step, 8), converted=False
    )
    grid, kind = step.grid(6, 7, source.kind)
    return Codes(step.builder.linear(part, grid), shape, kind)


def _conv(step: QuantizedStep) -> QValue:
    source, weights = dequantized(step, 0), dequantized_weights(step, 1)
    bias = dequantized_bias(step, 2, source, weights)
    part, shape = convolution(step, source, weights, bias, converted=True)

    def settle(grid: Grid | None) -> int:
        if grid is None:
            raise step.unsupported(
                "is not followed by a QuantizeLinear, so that ONNX Runtime computes it in float32; quantize its result"
            )
        return step.builder.linear(part, grid)

    return Pending(settle, shape, step.where)


def _clamped(step: QuantizedStep, lower: float, upper: float) -> QValue:
    """Return input 0 clamped: absorbed by the QuantizeLinear to come, or a table from codes to codes."""
    source = step.value(0)
    if isinstance(source, Pending):
        return replace(source, lower=max(lower, source.lower), upper=min(upper, source.upper))
    if not isinstance(source, Dequantized):
        raise step.unsupported("clamps what no DequantizeLinear gives")
    codes = step.layer_input(source.codes)
    known = step.builder.grid(codes.value)
    assert known is not None

    def settle(grid: Grid | None) -> int:
        if grid is None:
            raise step.unsupported("is not followed by a QuantizeLinear; quantize its result")
        if grid.zero_point == grid.lower:
            raise step.unsupported(
                "stands between two grids of which the second drops it, and ONNX Runtime merges them; "
                "quantize the layer before it on the second grid"
            )
        # DequantizeLinear, the clamp and QuantizeLinear, each in float32.
        return step.builder.lookup(
            step.name,
            step.where,
            codes.value,
            lambda codes: requantize_real(
                np.clip(
                    (codes - known.zero_point).astype(np.float32) * np.float32(known.scale),
                    np.float32(lower),
                    np.float32(upper),
                ),
                grid,
            ),
            grid,
        )

    return Pending(settle, codes.shape, step.where)


def _relu(step: QuantizedStep) -> QValue:
    return _clamped(step, 0.0, np.inf)


def _clip(step: QuantizedStep) -> QValue:
    ends: list[float] = []
    for position, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        end = step.options.get(name, default)
        if step.has(position):
            given = step.value(position)
            if isinstance(given, Stored):
                given = given.scale * (given.codes.astype(np.int64) - given.zero_point)
            if not isinstance(given, np.ndarray) or given.size != 1:
                raise step.unsupported(f"its {name} is not one constant")
            end = float(given.ravel()[0])
        ends.append(end)
    if not ends[0] < ends[1]:
        raise InvalidNetworkError(f"{step.where}: clips to the empty range {ends}")
    source = step.value(0)
    return _clip_codes(step, source, *ends) if isinstance(source, Codes) else _clamped(step, *ends)


def _clip_codes(step: QuantizedStep, source: Codes, lower: float, upper: float) -> QValue:
    """Return codes clipped as the integers they are: a table from codes to codes of the same grid."""
    source = step.layer_input(source)
    grid = step.builder.grid(source.value)
    assert grid is not None
    value = step.builder.lookup(
        step.name, step.where, source.value, lambda codes: np.clip(codes, lower, upper).astype(np.int64), grid
    )
    return Codes(value, source.shape, source.kind)


def _sigmoid(step: QuantizedStep) -> QValue:
    source = step.value(0)
    if isinstance(source, Pending):
        return Dequantized(Codes(source.settle(None), source.shape, "int8", sigmoid=step.where))
    if isinstance(source, Dequantized):
        return Dequantized(replace(source.codes, sigmoid=step.where))
    raise step.unsupported("reads what no operator before it computes")


def _qlinear_sigmoid(step: QuantizedStep) -> QValue:
    grid, kind = step.grid(3, 4, "uint8")
    return replace(operand(step, 0), sigmoid=step.where, behind=grid, kind=kind)


def _tanh(step: QuantizedStep) -> QValue:
    source = step.value(0)
    if not isinstance(source, Dequantized):
        raise step.unsupported(
            "reads what no DequantizeLinear gives, so that ONNX Runtime computes in float32"
        )
    codes = step.layer_input(source.codes)

    def settle(grid: Grid | None) -> int:
        if grid is None:
            raise step.unsupported("is not followed by a QuantizeLinear; quantize its result")
        return step.curve("Tanh", codes, grid)

    return Pending(settle, codes.shape, step.where)


def _reshaped(operator: str) -> Callable[[QuantizedStep], QValue]:
    def reshape(step: QuantizedStep) -> QValue:
        source = step.value(0)
        shape = new_shape(operator, step, source.shape)
        if isinstance(source, Stored):
            raise step.unsupported("reshapes a dequantized constant; fold it on export")
        if isinstance(source, np.ndarray):
            return source.reshape(shape)
        if isinstance(source, Dequantized):
            return Dequantized(replace(source.codes, shape=shape))
        return replace(source, shape=shape)

    return reshape


def _identity(step: QuantizedStep) -> QValue:
    return step.value(0)


def _constant(step: QuantizedStep) -> QValue:
    value = step.options.get("value")
    if len(step.options) != 1 or not isinstance(value, np.ndarray):
        raise step.unsupported("is not a tensor; store constants as initializers")
    return cast("npt.NDArray[Any]", value)


HANDLERS: Final[dict[tuple[str, str], Callable[[QuantizedStep], QValue]]] = {
    **IMAGE_HANDLERS,
    ("", "Clip"): _clip,
    ("", "Constant"): _constant,
    ("", "Conv"): _conv,
    ("", "DequantizeLinear"): _dequantize,
    ("", "Dropout"): _identity,
    ("", "Flatten"): _reshaped("Flatten"),
    ("", "Gemm"): _gemm,
    ("", "Identity"): _identity,
    ("", "MatMul"): _matmul,
    ("", "QLinearConv"): _qlinear_conv,
    ("", "QLinearMatMul"): _qlinear_matmul,
    ("", "QuantizeLinear"): _quantize,
    ("", "Relu"): _relu,
    ("", "Reshape"): _reshaped("Reshape"),
    ("", "Sigmoid"): _sigmoid,
    ("", "Squeeze"): _reshaped("Squeeze"),
    ("", "Tanh"): _tanh,
    ("", "Unsqueeze"): _reshaped("Unsqueeze"),
    ("com.microsoft", "DequantizeLinear"): _dequantize,
    ("com.microsoft", "QGemm"): _qgemm,
    ("com.microsoft", "QLinearSigmoid"): _qlinear_sigmoid,
    ("com.microsoft", "QuantizeLinear"): _quantize,
}

REMEDIES: Final = {
    "Softmax": "end the network before the Softmax (its inputs, the logits, are what milpq compares)",
    "Mul": "fold constant factors into the weights before quantizing; products of two activations are not read",
    "QLinearMul": "fold constant factors into the weights before quantizing; products of two activations are not read",
    "QLinearSoftmax": "end the network before the Softmax (its inputs, the logits, are what milpq compares)",
}
